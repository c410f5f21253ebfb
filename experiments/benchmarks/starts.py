"""Which teachers a scenario to start from should have: `python -m limbeck.experiments.benchmarks.starts OUT.json [DATA ...]`. One core.

`limbeck data look` writes a scenario for a file that nobody has seen. Here files are written from public data, none of those that
docs/own-data.md measures unseen, with a column of sites, and what that scenario says is carried out with linear heads and with evidence:
each site trains, answers travel through the codec and are pooled, and a student learns from the pool in one stage. Of the newsgroups, which
need `limbeck data get newsgroups`, the published test set is not used.

- alike: all classes at all sites, as chance has it.
- apart: records in the order of their classes, cut into as many pieces as there are sites.
- uneven: as alike, but one site has six times the records of the others. Linear heads are then weighted by numbers of records; these are
  taken without noise here, and cost their share of epsilon.

A seed decides who has which record and which of them are public; noise is from the operating system. Accuracy on the file's own test part
in per cent, of the sites' teachers on average, of the mean of their answers, and of the student: mean and deviation over the seeds,
and that of the differences seed by seed.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import datasets

from limbeck.base.files import write_durably
from limbeck.client import teachers
from limbeck.client.noise import SystemEntropy
from limbeck.experiments import students
from limbeck.experiments.benchmarks import in_process, runner
from limbeck.experiments.benchmarks.rare import received
from limbeck.inputs.tables import Table
from limbeck.plans.schema import Pooling
from limbeck.server import distil, pooling
from limbeck.simulations import data, scenario
from limbeck.simulations.data import starter
from limbeck.simulations.data.settings import DataSettings

SEEDS = (1, 2, 3, 4, 5)
EPSILONS = (1.0, 3.0)
SPREADS = ("alike", "apart", "uneven")
KINDS: tuple[starter.Kind, ...] = ("linear", "evidence")
# Records of the large site in terms of the others'.
LARGE = 6.0
POSTS = 2_400
Labels = NDArray[np.int64]
Figures = dict[str, float]
# An array, or texts.
Inputs = NDArray[np.generic] | Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Records, and how they are written to a file with their labels and sites. sites: how many."""

    sites: int
    read: Callable[[], tuple[Inputs, Labels]]
    write: Callable[[Path, Inputs, Labels, Labels], DataSettings]


def _table(path: Path, x_ND: Inputs, y_N: Labels, site_N: Labels) -> DataSettings:
    assert isinstance(x_ND, np.ndarray)
    with (path / "records.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        columns = [f"measure {place}" for place in range(x_ND.shape[1])]
        rows.writerow([*columns, "label", "site"])
        rows.writerows([*x, f"class {y}", f"site {s}"] for x, y, s in zip(x_ND.tolist(), y_N, site_N, strict=True))
    return DataSettings(table=str(path / "records.csv"), label="label", site="site")


def _texts(path: Path, texts: Inputs, y_N: Labels, site_N: Labels) -> DataSettings:
    with (path / "records.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "site"])
        rows.writerows([text, f"class {y}", f"site {s}"] for text, y, s in zip(texts, y_N, site_N, strict=True))
    return DataSettings(texts=str(path / "records.csv"), label="label", site="site")


def _images(path: Path, x_NHW: Inputs, y_N: Labels, site_N: Labels) -> DataSettings:
    assert isinstance(x_NHW, np.ndarray)
    np.savez(path / "records.npz", x=x_NHW, y=y_N, site=site_N)
    return DataSettings(arrays=str(path / "records.npz"), label="y", site="site")


def _bundled(name: str) -> Callable[[], tuple[Inputs, Labels]]:
    def read() -> tuple[Inputs, Labels]:
        bundle = getattr(datasets, f"load_{name}")()
        return bundle.data, bundle.target.astype(np.int64)

    return read


def _digits() -> tuple[Inputs, Labels]:
    bundle = datasets.load_digits()
    return (bundle.images * 15).astype(np.uint8), bundle.target.astype(np.int64)


def _posts() -> tuple[Inputs, Labels]:
    """The class of a post is the hierarchy of its newsgroup, such as "comp" or "talk"."""
    found = data.load("newsgroups", private=POSTS)
    assert isinstance(found.private_x, Table)
    hierarchies = [name.partition(".")[0] for name in found.class_names]
    number = {name: place for place, name in enumerate(sorted(set(hierarchies)))}
    texts = [text or "" for text in found.private_x.texts("text")]
    return texts, np.array([number[hierarchies[label]] for label in found.private_y])


SOURCES = {
    "breast cancer, rows": Source(sites=4, read=_bundled("breast_cancer"), write=_table),
    "wine, rows": Source(sites=3, read=_bundled("wine"), write=_table),
    "digits, images": Source(sites=10, read=_digits, write=_images),
    "newsgroups, texts": Source(sites=8, read=_posts, write=_texts),
}


def sites_of(y_N: Labels, count: int, spread: str, seed: int) -> Labels:
    """(N,) which site has each record, from 0 on. spread: one of SPREADS."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(y_N))
    if spread == "apart":
        order = order[np.argsort(y_N[order], kind="stable")]
    sizes = np.ones(count)
    if spread == "uneven":
        sizes[-1] = LARGE
    cuts = (np.cumsum(sizes)[:-1] / sizes.sum() * len(y_N)).round().astype(int)
    site_N = np.zeros(len(y_N), np.int64)
    for site, rows in enumerate(np.split(order, cuts)):
        site_N[rows] = site
    return site_N


def reached(settings: DataSettings, kind: starter.Kind, epsilon: float, seed: int, folder: Path) -> Figures:
    """What the scenario to start from comes to, with teachers of a kind. folder: for features of images."""
    start, dataset = starter.start(settings, epsilon=epsilon, seed=seed, teachers=kind)
    own = scenario.parse({**start.settings, "run": {**start.settings.get("run", {}), "seed": seed}})
    assert dataset.groups is not None
    parts = [np.flatnonzero(dataset.groups == site) for site in range(int(dataset.groups.max()) + 1)]
    parts = [rows for rows in parts if len(rows) >= own.partition.minimum]
    private_x = in_process.private_inputs(dataset)
    made = in_process.plan_of(own, dataset, sites=len(parts), cache=folder)
    plan = replace(made, stages=made.stages[-1:])
    counted = plan.pooling is Pooling.RECORD_COUNTS
    weights = pooling.record_weights([len(rows) for rows in parts]) if counted else [1.0] * len(parts)
    pool, on_test = pooling.Pool(samples=plan.samples, classes=plan.classes), torch.zeros(len(dataset.test_y), plan.classes)
    alone = []
    for rows, weight in zip(parts, weights, strict=True):
        teacher = teachers.train(
            plan.teaching,
            private_x[rows],
            dataset.private_y[rows],
            classes=plan.classes,
            public_x=dataset.public_x,
            noise=SystemEntropy(),
            cache=folder,
            class_weights=plan.class_weights,
        )
        answers = received(teacher.log_probabilities(dataset.public_x), plan).answers
        pool.add(answers, weights_K=torch.full((plan.classes,), weight))
        log_p_NK = teacher.log_probabilities(dataset.test_x)
        alone.append(_accuracy(log_p_NK, dataset.test_y))
        on_test += weight * (log_p_NK / plan.stages[0].temperature).softmax(-1)
    model = students.trained(plan, torch.from_numpy(np.array(dataset.public_x)), pool.result(), cache=folder)
    return {
        "one site": statistics.mean(alone),
        "pool": _accuracy(on_test, dataset.test_y),
        "student": _accuracy(distil.predict(model, torch.from_numpy(np.array(dataset.test_x))), dataset.test_y),
    }


def _accuracy(p_NK: torch.Tensor, y_N: Labels) -> float:
    return 100 * float((p_NK.argmax(1).numpy() == y_N).mean())


# By data, spread and epsilon, then by kind and seed.
Runs = dict[str, dict[str, dict[str, Figures]]]


def summary(runs: Runs) -> dict[str, dict[str, str]]:
    """Mean and standard deviation of every cell, and of the differences, evidence less linear."""
    table: dict[str, dict[str, str]] = {}
    for cell, by_kind in runs.items():
        table[cell] = {
            f"{kind}, {name}": _spread([each[name] for each in seeds.values()])
            for kind, seeds in by_kind.items()
            for name in ("one site", "pool", "student")
        }
        heads, others = by_kind.get("linear", {}), by_kind.get("evidence", {})
        for name in ("pool", "student"):
            differences = [others[seed][name] - heads[seed][name] for seed in heads if seed in others]
            table[cell][f"difference, {name}"] = _spread(differences)
    return table


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else "not yet"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("data", nargs="*", default=[*SOURCES], help="default: all")
    parser.add_argument("--spreads", nargs="+", choices=SPREADS, default=SPREADS)
    parser.add_argument("--epsilons", nargs="+", type=float, default=EPSILONS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs: Runs = json.loads(options.out.read_text(encoding="utf-8"))["seeds"] if options.out.exists() else {}
    for name in options.data:
        source = SOURCES[name]
        x_N, y_N = source.read()
        for seed in SEEDS:
            for spread in options.spreads:
                with tempfile.TemporaryDirectory() as folder:
                    settings = source.write(Path(folder), x_N, y_N, sites_of(y_N, source.sites, spread, seed))
                    for epsilon in options.epsilons:
                        for kind in KINDS:
                            seeds = runs.setdefault(f"{name}, {spread}, ε = {epsilon:g}", {}).setdefault(kind, {})
                            if str(seed) not in seeds:
                                started = time.perf_counter()
                                seeds[str(seed)] = reached(settings, kind, epsilon, seed, Path(folder) / "cache")
                                seconds = time.perf_counter() - started
                                print(name, spread, epsilon, kind, seed, seeds[str(seed)], f"{seconds:.0f} s", flush=True)
                                _write(runs, options.out)


def _write(runs: Runs, out: Path) -> None:
    write_durably(out, runner.encode("starts", runner.one_core(), {"table": summary(runs), "seeds": runs}).encode())


if __name__ == "__main__":
    main()
