"""How good one site's teacher is at epsilon = 1, 3 and 8: `python -m limbeck.simulations.benchmarks.accuracy [OUT.json]`.

One site with 8,000 records of MNIST, 6,000 of Fashion-MNIST or 1,347 digits; linear heads on scattering and HOG features, and the
convolutional net. Real noise, one training each; accuracy on the whole test set (450 digits). Needs `limbeck data get` of the first two.
The schedules below were not searched for on these test sets.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.client import teachers
from limbeck.client.noise import SystemEntropy
from limbeck.protos import accounting
from limbeck.protos.messages import LinearTeaching, NetTeaching, Teaching
from limbeck.simulations import data

PUBLIC = 1000
EPSILONS = (1.0, 3.0, 8.0)
KINDS = ("scattering", "hog", "cnn")


def teaching(kind: str, records: int) -> Teaching:
    """A schedule for a site of about so many records, its noise still to be calibrated."""
    if kind == "cnn":
        # A quarter of a large site per step, half of a small one: at a fixed cost large samples learn more than many steps.
        rate = 0.125 if records > 3000 else 0.5
        return NetTeaching(
            architecture="cnn",
            sampling_rate=rate,
            steps=200,
            learning_rate=2.0,
            momentum=0.9,
            clip=0.1,
            noise_multiplier=1.0,
            normaliser=records * rate * 0.5,
            physical_batch=128,
        )
    return LinearTeaching(
        features=kind,
        feature_norm=4.0,
        steps=60,
        learning_rate=4.0,
        momentum=0.9,
        clip=1.0,
        noise_multiplier=1.0,
        normaliser=float(records),
        average_last=20,
    )


def _digits() -> tuple[NDArray[np.generic], ...]:
    """All 1,797 digits: 1,347 private, 450 to test, none public; the mean of the features is then zero inputs'."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x_N, y_N = (found.images * 255 / 16).round().astype(np.uint8), found.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(y_N))
    private, test = order[:1347], order[1347:]
    return x_N[private], y_N[private], np.zeros((1, 8, 8), np.uint8), x_N[test], y_N[test]


def _images(name: str, private: int) -> tuple[NDArray[np.generic], ...]:
    found = data.load(name, private=private, public=PUBLIC)
    return found.private_x, found.private_y, found.public_x, found.test_x, found.test_y  # type: ignore[return-value]


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    table: dict[str, dict[str, dict[str, float]]] = {}
    sets = {
        "digits (1,347), delta 1e-4": (_digits, 1e-4),
        "MNIST (8,000), delta 1e-5": (lambda: _images("mnist", 8000), 1e-5),
        "Fashion-MNIST (6,000), delta 1e-5": (lambda: _images("fashion-mnist", 6000), 1e-5),
    }
    for name, (read, delta) in sets.items():
        x_N, y_N, public_x, test_x, test_y = read()
        with tempfile.TemporaryDirectory() as folder:
            for kind in KINDS:
                for epsilon in EPSILONS:
                    started = time.perf_counter()
                    own, _ = accounting.calibrate(
                        teaching(kind, len(y_N)), epsilon=epsilon, delta=delta, label_counts_fraction=None
                    )
                    options = {"classes": 10, "public_x": public_x, "noise": SystemEntropy(), "cache": Path(folder)}
                    teacher = teachers.train(own, x_N, y_N.astype(np.int64), **options)  # type: ignore[arg-type]
                    right = teacher.log_probabilities(test_x, cache=Path(folder)).argmax(1).numpy() == test_y
                    table.setdefault(name, {}).setdefault(kind, {})[f"epsilon {epsilon:g}"] = round(
                        100 * float(right.mean()), 1
                    )
                    seconds = time.perf_counter() - started
                    print(name, kind, epsilon, f"{100 * right.mean():.1f} % in {seconds:.0f} s", file=sys.stderr, flush=True)
            _write(table)
    print(json.dumps(table, indent=1))


def _write(table: dict[str, dict[str, dict[str, float]]]) -> None:
    """After every data set, so that what is stopped leaves what it has."""
    result = {
        "command": "python -m limbeck.simulations.benchmarks.accuracy simulations/results/teachers-accuracy.json",
        "machine": f"one core of {os.cpu_count()}, {platform.machine()}, CPU only",
        "what": "test accuracy of one site's teacher, per cent; per record, add-remove-one, noise from the operating system",
        "table": table,
    }
    for out in sys.argv[1:]:
        Path(out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
