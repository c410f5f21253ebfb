"""How good one site's teacher is at epsilon = 1, 3 and 8: `python -m limbeck.experiments.benchmarks.accuracy [OUT.json] [--only NAME]`.

One site with 8,000 records of MNIST, 6,000 or 20,000 of Fashion-MNIST, or 1,347 digits; linear heads on scattering and HOG features,
and the convolutional net. Real noise; accuracy on the whole test set (450 digits, the mean over five splits and trainings). Needs
`limbeck data get` of the first two; MNIST, brought to 8 x 8, is also the public data of the digits.

The schedules are public constants. Those of linear heads were chosen on digits split by other seeds than those reported and on images
of the other sets that are not tested on here; how far a step goes, a site's number of records and epsilon say. A site that chooses among
schedules by its own results has to pay for each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.client import teachers
from limbeck.client.noise import SystemEntropy
from limbeck.plans import accounting
from limbeck.plans.schema import LinearTeaching, NetTeaching, Teaching
from limbeck.simulations import data

PUBLIC = 1000
EPSILONS = (1.0, 3.0, 8.0)
KINDS = ("scattering", "hog", "cnn")
# Private inputs and labels, public inputs, test inputs and labels.
Split = tuple[NDArray[np.generic], NDArray[np.int64], NDArray[np.generic], NDArray[np.generic], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """A schedule of DP-SGD, noise apart."""

    sampling_rate: float
    steps: int
    learning_rate: float


# Linear heads: the norm of features, and the records times epsilon that call for a step of 1. Where noise rules, steps have to be small;
# where it does not, the optimum is worth going to, and steps beyond LARGEST_STEP only swing.
LINEAR = {"scattering": (8.0, 10_000.0), "hog": (4.0, 16_000.0)}
LARGEST_STEP = 4.0
# Nets, by records times epsilon: up to so much, this schedule.
NET = (
    (2_500.0, Net(sampling_rate=0.5, steps=50, learning_rate=2.0)),
    (9_000.0, Net(sampling_rate=0.5, steps=100, learning_rate=2.0)),
    (math.inf, Net(sampling_rate=0.5, steps=200, learning_rate=2.0)),
)


def teaching(kind: str, records: int, epsilon: float) -> Teaching:
    """A schedule for a site of about so many records at this epsilon, its noise still to be calibrated."""
    if kind == "cnn":
        net = next(schedule for most, schedule in NET if records * epsilon <= most)
        return NetTeaching(
            architecture="cnn",
            sampling_rate=net.sampling_rate,
            steps=net.steps,
            learning_rate=net.learning_rate,
            momentum=0.9,
            clip=0.1,
            noise_multiplier=1.0,
            normaliser=records * net.sampling_rate,
            physical_batch=128,
        )
    norm, unit = LINEAR[kind]
    return LinearTeaching(
        features=kind,
        feature_norm=norm,
        steps=100,
        learning_rate=min(records * epsilon / unit, LARGEST_STEP),
        momentum=0.9,
        clip=1.0,
        noise_multiplier=1.0,
        normaliser=float(records),
        average_last=50,
    )


def _digits(seed: int) -> Split:
    """All 1,797 digits: 1,347 private, 450 to test; public are 1,000 images of MNIST, their middle brought to 8 x 8."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bundled = load_digits()
    x_N, y_N = (bundled.images * 255 / 16).round().astype(np.uint8), bundled.target.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(y_N))
    private, test = order[:1347], order[1347:]
    middle = data.load("mnist", private=1, public=PUBLIC).public_x[:, 4:24, 4:24]
    public_x = np.stack([np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BOX)) for image in middle])
    return x_N[private], y_N[private], public_x, x_N[test], y_N[test]


def _images(name: str, private: int) -> Split:
    loaded = data.load(name, private=private, public=PUBLIC)
    return loaded.private_x, loaded.private_y, loaded.public_x, loaded.test_x, loaded.test_y  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """A private data set and how often it is split and trained on. read: from a seed."""

    read: Callable[[int], Split]
    delta: float
    seeds: tuple[int, ...]


SETS = {
    "digits (1,347), delta 1e-4": Set(read=_digits, delta=1e-4, seeds=(11, 12, 13, 14, 15)),
    "MNIST (8,000), delta 1e-5": Set(read=lambda _: _images("mnist", 8000), delta=1e-5, seeds=(1,)),
    "Fashion-MNIST (6,000), delta 1e-5": Set(read=lambda _: _images("fashion-mnist", 6000), delta=1e-5, seeds=(1,)),
    "Fashion-MNIST (20,000), delta 1e-5": Set(read=lambda _: _images("fashion-mnist", 20000), delta=1e-5, seeds=(1,)),
}


def accuracy(kind: str, epsilon: float, data_set: Set, split: Split, cache: Path) -> float:
    """In per cent, of one teacher with real noise."""
    x_N, y_N, public_x, test_x, test_y = split
    schedule, _ = accounting.calibrate(
        teaching(kind, len(y_N), epsilon), epsilon=epsilon, delta=data_set.delta, label_counts_fraction=None
    )
    options = {"classes": 10, "public_x": public_x, "noise": SystemEntropy(), "cache": cache}
    teacher = teachers.train(schedule, x_N, y_N.astype(np.int64), **options)  # type: ignore[arg-type]
    return 100 * float((teacher.log_probabilities(test_x, cache=cache).argmax(1).numpy() == test_y).mean())


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--only", default="", help="Sets whose names begin so; rows of others that are in OUT stay.")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, dict[str, dict[str, float]]] = {}
    if options.out is not None and options.out.exists():
        table = json.loads(options.out.read_text(encoding="utf-8"))["table"]
    for name, data_set in SETS.items():
        if not name.startswith(options.only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            splits = [data_set.read(seed) for seed in data_set.seeds]
            for kind in options.kinds:
                for epsilon in EPSILONS:
                    started = time.perf_counter()
                    mean = statistics.mean(accuracy(kind, epsilon, data_set, split, Path(folder)) for split in splits)
                    table.setdefault(name, {}).setdefault(kind, {})[f"epsilon {epsilon:g}"] = round(mean, 1)
                    seconds = time.perf_counter() - started
                    print(name, kind, epsilon, f"{mean:.1f} % in {seconds:.0f} s", file=sys.stderr, flush=True)
                    if options.out is not None:
                        _write(table, options.out)
    print(json.dumps(table, indent=1))


def _write(table: dict[str, dict[str, dict[str, float]]], out: Path) -> None:
    """After every row, so that what is stopped leaves what it has."""
    result = {
        "command": "python -m limbeck.experiments.benchmarks.accuracy experiments/results/teachers-accuracy.json",
        "machine": f"one core of {os.cpu_count()}, {platform.machine()}, CPU only",
        "what": "test accuracy of one site's teacher, per cent; per record, add-remove-one, noise from the operating system; digits: "
        "mean of five splits, others: one training",
        "table": table,
    }
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
