"""Nets trained through Opacus beside other teachers: `python -m limbeck.experiments.benchmarks.kinds OUT.json [SCENARIO ...]`. One core.

The scenarios that ship with nets: `fashion-cnn`, and `heart-net` (needs `limbeck data get heart-disease`). On the same records, sites,
public inputs, epsilon and seeds, each site trains the scenario's net by Opacus and by book-keeping, a linear teacher on the schedule
that docs/teachers.md gives for sites of that size, and an evidence teacher whose constants follow from public facts. Noise from the
operating system. A seed decides who holds which record.

- one site, pool: test accuracy in per cent of the teachers alone, on average, and of the mean of their answers at the plan's temperature,
  over all classes; mean and standard deviation over the seeds.
- seconds: of a processor, for one site's training without the features of its public inputs.

Rows are written seed by seed; what is in OUT already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.base.files import write_durably
from limbeck.client import teachers
from limbeck.client.noise import SystemEntropy
from limbeck.client.settings import Gradients
from limbeck.experiments.benchmarks import in_process, runner
from limbeck.plans import accounting, second_opinion
from limbeck.simulations import data, partition, scenario
from limbeck.simulations.scenario import Scenario

SEEDS = (1, 2, 3, 4, 5)
Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A teacher instead of a scenario's own. changes: of its settings."""

    changes: tuple[str, ...] = ()
    by: Gradients = "opacus"


NETS = {"net, Opacus": Way(), "net, book-keeping": Way(by="book-keeping")}
# Of docs/teachers.md for sites of so many records, and of `heart-natural`.
LINEAR = {
    "fashion-cnn": (
        "features=scattering",
        "feature_norm=8.0",
        "steps=100",
        "average_last=50",
        "learning_rate=1.2",
        "normaliser=1500.0",
    ),
    "heart-net": (
        "features=rows",
        "feature_norm=2.0",
        "steps=40",
        "average_last=20",
        "learning_rate=2.0",
        "normaliser=140.0",
    ),
}
EVIDENCE = {"fashion-cnn": ("features=scattering", "normaliser=1500.0"), "heart-net": ("features=rows", "normaliser=140.0")}


def ways(name: str) -> dict[str, Way]:
    """What is compared on a scenario."""
    linear = ("kind=linear", "clip=1.0", *LINEAR[name])
    evidence = ("kind=evidence", *EVIDENCE[name])
    return {
        **NETS,
        "linear": Way(changes=tuple(f"teacher.{each}" for each in linear)),
        "evidence": Way(changes=(*(f"teacher.{each}" for each in evidence), "stages.temperature=auto")),
    }


def run(own: Scenario, by: Gradients, cache: Path) -> Figures:
    """All sites of one run."""
    dataset = data.load_settings(own.data, seed=own.run.seed)
    parts = _divided(own, dataset)
    private_x = in_process.private_inputs(dataset)
    plan = in_process.plan_of(own, dataset, sites=len(parts), cache=cache)
    alone, seconds, answers = [], [], []
    for rows in parts:
        started = time.process_time()
        teacher = teachers.train(
            plan.teaching,
            private_x[rows],
            dataset.private_y[rows],
            classes=plan.classes,
            public_x=dataset.public_x,
            noise=SystemEntropy(),
            cache=cache,
            gradients_by=by,
        )
        seconds.append(time.process_time() - started)
        log_p_NK = teacher.log_probabilities(dataset.test_x)
        alone.append(_accuracy(log_p_NK, dataset.test_y))
        answers.append((log_p_NK / plan.stages[0].temperature).softmax(-1))
    schedules = ((plan.teaching, plan.counts),)
    return {
        "one site": statistics.mean(alone),
        "pool": _accuracy(torch.stack(answers).mean(0), dataset.test_y),
        "seconds": statistics.mean(seconds),
        "epsilon, PLD": round(accounting.epsilon(schedules, plan.privacy.delta), 4),
        "epsilon, PRV": round(second_opinion.of(schedules, plan.privacy.delta).epsilon or float("nan"), 4),
    }


def _divided(own: Scenario, dataset: data.DataSet) -> partition.Parts:
    if own.partition_kind == "natural":
        assert dataset.groups is not None
        return partition.Natural(groups_N=dataset.groups)(dataset.private_y, own.partition.clients, own.run.seed)
    return partition.Iid()(dataset.private_y, own.partition.clients or 0, own.run.seed)


def _accuracy(p_NK: torch.Tensor, y_N: NDArray[np.int64]) -> float:
    return 100 * float((p_NK.argmax(1).numpy() == y_N).mean())


def summary(seeds: dict[str, Figures]) -> dict[str, object]:
    """Mean and standard deviation over seeds."""
    found = list(seeds.values())
    spread = {
        name: f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"
        for name in ("one site", "pool")
        for values in [[each[name] for each in found]]
    }
    return {**spread, "seconds": float(f"{statistics.median(each['seconds'] for each in found):.2g}")}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("scenarios", nargs="*", default=[*LINEAR], help="default: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, dict[str, dict[str, Figures]]] = {}
    if options.out.exists():
        table = json.loads(options.out.read_text(encoding="utf-8"))["seeds"]
    with tempfile.TemporaryDirectory() as folder:
        for name in options.scenarios:
            for seed in SEEDS:
                for way, one in ways(name).items():
                    seeds = table.setdefault(name, {}).setdefault(way, {})
                    if str(seed) not in seeds:
                        own = scenario.load(name, [f"run.seed={seed}", "pooling.kind=mean", *one.changes])
                        seeds[str(seed)] = run(own, one.by, Path(folder))
                        print(name, way, seed, seeds[str(seed)], flush=True)
                        _write(table, options.out)


def _write(table: dict[str, dict[str, dict[str, Figures]]], out: Path) -> None:
    means = {name: {way: summary(seeds) for way, seeds in found.items()} for name, found in table.items()}
    write_durably(out, runner.encode("kinds", runner.one_core(), {"table": means, "seeds": table}).encode())


if __name__ == "__main__":
    main()
