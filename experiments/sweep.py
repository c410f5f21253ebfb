"""What privacy costs in accuracy: `python -m limbeck.experiments.sweep SCENARIO --epsilons 1 3 8 --seeds 1 2 3 --out FILE`.

Runs a scenario at every epsilon and seed, and once per seed without privacy. No plan can ask for the latter, because sites refuse it, so
the baseline is computed only here, outside the protocol: the same code trains the same teachers with zeros in place of noise (and with
clipping), and answers, pool and student are the same. A sweep that was stopped continues when it is started again with the same file.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from limbeck.base.files import write_durably
from limbeck.client import release, teachers
from limbeck.client.noise import SystemEntropy
from limbeck.client.site import Site
from limbeck.inputs.transfer_set import read_arrays
from limbeck.protos import codec
from limbeck.server import distil, pruning, student
from limbeck.server.pooling import Pool
from limbeck.simulations import prepare, run
from limbeck.simulations.measure import Truth
from limbeck.simulations.scenario import Scenario, load

NAMES = ("teacher_mean", "teacher_best", "pool_on_test", "pool_on_public", "student")


class NoNoise(SystemEntropy):
    """Zeros in place of noise; sampling is unchanged. For baselines only: nothing trained with it is private."""

    label = "none"

    def gaussian(self, *shape: int, std: float) -> Tensor:
        """Zeros."""
        return torch.zeros(shape)


def private(scenario: Scenario, folder: Path) -> dict[str, float]:
    """One run of the real apps. Accuracies in per cent."""
    measured = run.simulate(scenario, folder, console=Console(quiet=True))
    alone = [100 * accuracy for accuracy in measured.teacher_accuracies]
    plan_hash = codec.plan_hash(prepare.read_prepared(folder)[1])
    scores, truth = [], Truth(folder)
    for settings in sorted((folder / "sites").glob("*/site.toml")):
        site = Site(settings.parent)
        teacher = teachers.load(site.state(plan_hash) / "teacher.safetensors", factory=site.factory)
        scores.append(teacher.log_probabilities(truth.test_x, cache=folder / "cache").exp())
    return {
        "teacher_mean": statistics.mean(alone),
        "teacher_best": max(alone),
        "pool_on_test": _accuracy(torch.stack(scores).mean(0), truth.test_y),
        "pool_on_public": math.nan if measured.pool.accuracy is None else 100 * measured.pool.accuracy,
        "student": 100 * measured.student.accuracy,
    }


def without_privacy(scenario: Scenario, folder: Path) -> dict[str, float]:
    """The same without noise, in this process. Pooling is the plain mean, because a weighted one would need label counts."""
    plan = prepare.prepare(scenario, folder)
    truth = Truth(folder)
    (x_N,) = read_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    trained = []
    for settings in sorted((folder / "sites").glob("*/site.toml")):
        site = Site(settings.parent)
        own_x, own_y = site.records.read(plan.classes, x_N)
        options = {
            "classes": plan.classes,
            "public_x": x_N,
            "noise": NoNoise(),
            "class_weights": plan.class_weights,
            "cache": site.cache,
            "factory": site.factory,
        }
        trained.append(teachers.train(plan.teaching, own_x, own_y, **options))  # type: ignore[arg-type]
    scores = [teacher.log_probabilities(truth.test_x, cache=folder / "cache").exp() for teacher in trained]
    answers = [teacher.log_probabilities(x_N, cache=folder / "cache") for teacher in trained]
    model = student.build(plan.student.architecture, x_N.shape[1:], plan.classes, plan.public_seed)
    masks, targets_NK = pruning.Masks.ones(model), torch.zeros(0)
    for index, stage in enumerate(plan.stages):
        pool = Pool(samples=plan.samples, classes=plan.classes)
        for log_p_NK in answers:
            pool.add(release.answers(log_p_NK, plan, stage.temperature, NoNoise()))
        targets_NK = pool.result()
        distil.distil_stage(
            model,
            masks,
            torch.from_numpy(x_N),
            targets_NK,
            stage=index,
            sparsity=stage.sparsity,
            temperature=stage.temperature,
            student=plan.student,
            seed=plan.public_seed,
            device=torch.device("cpu"),
        )
    alone = [_accuracy(each, truth.test_y) for each in scores]
    return {
        "teacher_mean": statistics.mean(alone),
        "teacher_best": max(alone),
        "pool_on_test": _accuracy(torch.stack(scores).mean(0), truth.test_y),
        "pool_on_public": _accuracy(targets_NK, truth.public_y),
        "student": _accuracy(distil.predict(model, torch.from_numpy(truth.test_x)), truth.test_y),
    }


def _accuracy(scores_NK: Tensor, y_N: NDArray[np.generic]) -> float:
    return 100 * float((scores_NK.argmax(1).numpy() == y_N).mean())


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 3.0, 8.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the scenario's settings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = _finished(options.out)
    for seed in options.seeds:
        for epsilon in [*options.epsilons, None]:
            key = f"seed {seed}, " + (f"epsilon {epsilon:g}" if epsilon else "without privacy")
            if key in runs:
                continue
            overrides = [*options.set, f"run.seed={seed}", "student.dense_control=false"]
            scenario = load(options.scenario, overrides + ([f"privacy.epsilon={epsilon}"] if epsilon else []))
            with tempfile.TemporaryDirectory() as folder:
                runs[key] = (private if epsilon else without_privacy)(scenario, Path(folder) / "run")
            print(key, {name: round(value, 1) for name, value in runs[key].items()}, flush=True)
            # Written after every run, so that a sweep that is stopped can continue.
            write_durably(options.out, (json.dumps(_result(options, runs), indent=1) + "\n").encode())


def _finished(path: Path) -> dict[str, dict[str, float]]:
    """Runs that an earlier sweep into this file has finished."""
    return dict(json.loads(path.read_text(encoding="utf-8")).get("runs", {})) if path.exists() else {}


def _result(options: argparse.Namespace, runs: dict[str, dict[str, float]]) -> dict[str, object]:
    """The table of all runs so far, and the runs themselves."""
    scenario = load(options.scenario, options.set)
    which = " ".join([options.scenario, *(["--set", *options.set] if options.set else [])])
    seeds, epsilons = " ".join(map(str, options.seeds)), " ".join(f"{value:g}" for value in options.epsilons)
    by_key: dict[str, list[dict[str, float]]] = {}
    for key, row in sorted(runs.items()):
        by_key.setdefault(key.partition(", ")[2], []).append(row)
    return {
        "command": f"python -m limbeck.experiments.sweep {which} --epsilons {epsilons} --seeds {seeds} --out {options.out}",
        "what": "test accuracy in per cent, mean and spread (standard deviation) over seeds; the pool also on the public inputs",
        "delta": scenario.privacy.delta,
        "unit": "record",
        "adjacency": "add-remove-one",
        "noise": scenario.privacy.noise,
        "table": {
            key: {
                name: {
                    "mean": round(statistics.mean(row[name] for row in rows), 2),
                    "spread": round(statistics.stdev(row[name] for row in rows), 2) if len(rows) > 1 else None,
                }
                for name in NAMES
            }
            for key, rows in by_key.items()
        },
        "runs": dict(sorted(runs.items())),
    }


if __name__ == "__main__":
    main()
