"""How linear teachers on rows of tables should be trained: `python -m limbeck.experiments.benchmarks.rows [OUT.json]`.

It chooses the constants of `limbeck.plans.advice.rows_schedule`. Of four real tables (breast cancer, wine, digits as rows of 64 numbers,
heart disease; the last needs `limbeck data get heart-disease`) a third is put aside as a test set. The choice is made on the rest, as on
published records with labels: on one part of it a site trains, with noise, at two numbers of records and three epsilons; accuracy on the
other part decides. Five seeds decide who is where, and the noise. The test set is looked at once, by the rule that was chosen.

Of all constants, the one with the best mean accuracy is taken, after the accuracy of each case was divided by the best of that case, so
that easy tables count as much as hard ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.client import teachers
from limbeck.client.noise import UnsafeSeeded
from limbeck.inputs.encodings import TableEncoding
from limbeck.inputs.tables import Table
from limbeck.plans import accounting, advice
from limbeck.plans.schema import LinearTeaching
from limbeck.plans.settings import TeacherSettings
from limbeck.simulations import data

SEEDS = (1, 2, 3, 4, 5)
EPSILONS = (1.0, 3.0, 8.0)
DELTA = 1e-4
# Of the part that is not the test set: who is a record of the site, by its share; the rest decides.
SHARES = (0.25, 0.75)
NORMS = (1.0, 2.0, 4.0)
STEPS = (20, 60)
RATES = tuple(2.0**power for power in range(-5, 6, 2))
# Rules: below so many records times epsilon the fewer steps, then the more; in each, a step of records * epsilon / unit, at most `largest`.
FEW = (0.0, 400.0, 600.0, 800.0, 1200.0, 2000.0, math.inf)
UNITS = tuple(10 ** (power / 8) for power in range(16, 33))
LARGEST = (1.0, 2.0, 4.0)

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """One table under one seed: a site's records, those that decide, and the test set. Rows are standardised by the site's and the deciding
    rows together, without labels, as a public encoding does."""

    classes: int
    x_N: Rows
    y_N: Labels
    held_x: Rows
    held_y: Labels
    test_x: Rows
    test_y: Labels


@cache
def _table(name: str) -> tuple[Rows, Labels]:
    """All rows and labels, in the order of the source."""
    if name == "heart disease":
        found = data.load("heart-disease")
        assert isinstance(found.private_x, Table)
        assert isinstance(found.encoding, TableEncoding)
        x_N = np.concatenate([found.encoding(found.private_x), found.public_x, found.test_x])
        y_N = np.concatenate([found.private_y, found.public_y, found.test_y])
    else:
        from sklearn import datasets

        load = {"breast cancer": datasets.load_breast_cancer, "wine": datasets.load_wine, "digits": datasets.load_digits}
        bundle = load[name]()
        x_N, y_N = bundle.data, bundle.target
    return np.asarray(x_N, np.float32), np.asarray(y_N, np.int64)


TABLES = ("breast cancer", "wine", "digits", "heart disease")


def split(name: str, share: float, seed: int) -> Split:
    """The table, cut: the same third is the test set whatever the seed."""
    x_N, y_N = _table(name)
    order = np.random.default_rng(0).permutation(len(y_N))
    test, rest = np.split(order, [len(order) // 3])
    rest = np.random.default_rng(seed).permutation(rest)
    mean_D, deviation_D = x_N[rest].mean(0), x_N[rest].std(0)
    x_N = ((x_N - mean_D) / np.where(deviation_D > 0, deviation_D, 1)).astype(np.float32)
    site, held = np.split(rest, [int(share * len(rest))])
    return Split(
        classes=int(y_N.max()) + 1,
        x_N=x_N[site],
        y_N=y_N[site],
        held_x=x_N[held],
        held_y=y_N[held],
        test_x=x_N[test],
        test_y=y_N[test],
    )


@cache
def _noise(steps: int, epsilon: float) -> float:
    """The noise multiplier of so many steps; next to none for an infinite epsilon."""
    if math.isinf(epsilon):
        return 1e-9
    own = LinearTeaching(
        features="rows",
        feature_norm=1.0,
        steps=steps,
        learning_rate=1.0,
        momentum=0.9,
        clip=1.0,
        noise_multiplier=1.0,
        normaliser=1.0,
        average_last=1,
    )
    taught, _ = accounting.calibrate(own, epsilon=epsilon, delta=DELTA, label_counts_fraction=None)
    return taught.noise_multiplier


def trained(own: Split, *, norm: float, steps: int, rate: float, epsilon: float, seed: int) -> teachers.Teacher:
    """A teacher of the site's records."""
    teaching = LinearTeaching(
        features="rows",
        feature_norm=norm,
        steps=steps,
        learning_rate=rate,
        momentum=0.9,
        clip=1.0,
        noise_multiplier=_noise(steps, epsilon),
        normaliser=float(len(own.y_N)),
        average_last=steps // 2,
    )
    return teachers.train(teaching, own.x_N, own.y_N, classes=own.classes, public_x=own.held_x, noise=UnsafeSeeded(seed))


def accuracy(teacher: teachers.Teacher, x_N: Rows, y_N: Labels) -> float:
    """In per cent, the mean over classes, so that a rare class counts as much as a common one."""
    found = teacher.log_probabilities(x_N).argmax(1).numpy()
    return 100 * float(np.mean([(found[y_N == label] == label).mean() for label in np.unique(y_N)]))


# A case: table, share, epsilon. A setting: norm, steps, rate.
Case = tuple[str, float, float]
Setting = tuple[float, int, float]


def search(tables: tuple[str, ...], kept: Path | None = None) -> dict[Case, dict[Setting, float]]:
    """Mean accuracy of every setting in every case, on the part that decides.

    kept: a file for all of them, written after each table; what is there already is not trained again.
    """
    found: dict[Case, dict[Setting, float]] = {}
    if kept is not None and kept.exists():
        for (name, share, epsilon), accuracies in json.loads(kept.read_text(encoding="utf-8")):
            found[name, share, epsilon] = {(norm, steps, rate): mean for (norm, steps, rate), mean in accuracies}
    for name, share in itertools.product(tables, SHARES):
        if (name, share, EPSILONS[0]) in found or (name == "digits" and share > SHARES[0]):
            # 900 records of 64 numbers in ten classes would take as long as all the rest.
            continue
        started = time.perf_counter()
        splits = {seed: split(name, share, seed) for seed in SEEDS}
        for epsilon, norm, steps, rate in itertools.product(EPSILONS, NORMS, STEPS, RATES):
            mean = statistics.mean(
                accuracy(trained(own, norm=norm, steps=steps, rate=rate, epsilon=epsilon, seed=seed), own.held_x, own.held_y)
                for seed, own in splits.items()
            )
            found.setdefault((name, share, epsilon), {})[norm, steps, rate] = mean
        if kept is not None:
            kept.write_text(json.dumps([[case, list(own.items())] for case, own in found.items()]), encoding="utf-8")
        print(name, share, f"{time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return found


def ratio(case: Case) -> float:
    """Records times epsilon."""
    name, share, epsilon = case
    return len(split(name, share, SEEDS[0]).y_N) * epsilon


def scored(accuracies: dict[Setting, float], norm: float, steps: int, rate: float) -> float:
    """Accuracy as a share of the best setting's; between two rates, their weighted mean."""
    place = math.log(min(max(rate, RATES[0]), RATES[-1]) / RATES[0]) / math.log(RATES[1] / RATES[0])
    low = min(int(place), len(RATES) - 2)
    one, two = accuracies[norm, steps, RATES[low]], accuracies[norm, steps, RATES[low + 1]]
    return (one + (place - low) * (two - one)) / max(accuracies.values())


def rules(found: dict[Case, dict[Setting, float]]) -> list[dict[str, float]]:
    """The rules, best first, each with the units that are best for it. share: of the best setting's accuracy, the mean over cases."""
    ratios = {case: ratio(case) for case in found}
    results = []
    for norm, few, largest in itertools.product(NORMS, FEW, LARGEST):
        total, units = 0.0, []
        for steps, cases in (
            (STEPS[0], [case for case in found if ratios[case] < few]),
            (STEPS[1], [case for case in found if ratios[case] >= few]),
        ):
            best, unit = max(
                (sum(scored(found[case], norm, steps, min(ratios[case] / unit, largest)) for case in cases), unit)
                for unit in UNITS
            )
            total += best
            units.append(round(unit))
        results.append(
            {
                "share": round(total / len(found), 4),
                "feature_norm": norm,
                "few steps below records * epsilon": few if math.isfinite(few) else 1e9,
                f"unit of {STEPS[0]} steps": units[0],
                f"unit of {STEPS[1]} steps": units[1],
                "largest step": largest,
            }
        )
    return sorted(results, key=lambda rule: -rule["share"])


def advised(found: dict[Case, dict[Setting, float]]) -> float:
    """The share of the best setting's accuracy that the rule of `plans.advice` reaches, the mean over cases."""
    shares = []
    for (name, share, epsilon), accuracies in found.items():
        own = split(name, share, SEEDS[0])
        rule = _rule(own, epsilon)
        shares.append(scored(accuracies, rule.feature_norm, rule.steps, rule.learning_rate))
    return round(statistics.mean(shares), 4)


def _rule(own: Split, epsilon: float) -> TeacherSettings:
    return advice.rows_schedule(
        records_per_site=len(own.y_N), dimensions=own.x_N.shape[1], classes=own.classes, epsilon=epsilon, delta=DELTA
    )


def _best(accuracies: dict[Setting, float]) -> Setting:
    return max(accuracies, key=lambda setting: accuracies[setting])


def tested(name: str, share: float, epsilon: float) -> tuple[float, float]:
    """Mean and deviation over seeds of the advised schedule's balanced accuracy on the test set."""
    values = []
    for seed in SEEDS:
        own = split(name, share, seed)
        rule = _rule(own, epsilon if math.isfinite(epsilon) else 1e3)
        teacher = trained(
            own, norm=rule.feature_norm, steps=rule.steps, rate=rule.learning_rate, epsilon=epsilon, seed=100 + seed
        )
        values.append(accuracy(teacher, own.test_x, own.test_y))
    return round(statistics.mean(values), 1), round(statistics.stdev(values), 1)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--kept", type=Path, help="A file for the accuracy of every setting.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = search(TABLES, options.kept)
    result = {
        "command": "python -m limbeck.experiments.benchmarks.rows experiments/results/rows.json",
        "machine": f"one core of {os.cpu_count()}, {platform.machine()}, CPU only",
        "what": "balanced accuracy in per cent, one site's linear teacher on rows of a table; delta = 1e-4, per record, add-remove-one;"
        " seeded noise, five seeds",
        "chosen on the part that decides": {
            "best rules": rules(found)[:8],
            "the rule of plans/advice.py, share": advised(found),
            "best setting of each case": {
                f"{name}, {share:g} of the rest, epsilon {epsilon:g}": {
                    "records * epsilon": round(ratio((name, share, epsilon))),
                    **dict(zip(("feature_norm", "steps", "rate"), _best(own), strict=True)),
                    "accuracy": round(max(own.values()), 1),
                }
                for (name, share, epsilon), own in found.items()
            },
        },
        "test set, rule of plans/advice.py, mean and deviation": {
            f"{name} ({len(split(name, 0.75, 1).y_N)} records)": {
                "none" if math.isinf(epsilon) else f"epsilon {epsilon:g}": tested(name, 0.75, epsilon)
                for epsilon in (*EPSILONS, math.inf)
            }
            for name in TABLES
        },
    }
    text = json.dumps(result, indent=1) + "\n"
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
