"""Calibration of a student: one temperature, by which its logits are divided, fitted by log-loss on labelled public inputs [F: 1706.04599].

The student reproduces answers that sites softened, so its probabilities are too cautious. Labels of public inputs say by how much; no
private record has any part in it, and the order of the classes of an input stays.

In a run the labelled inputs are usually those that the student learnt from. Its targets were pooled answers and no labels, so it is hardly
more right on them than on others (docs/students.md has the measurement): all of them fit a better temperature than the few that could be
held out. Where a temperature is not better than 1 beyond what chance explains, there is none.

Shape legend: N inputs, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError
from limbeck.server import scores
from limbeck.server.card import Calibration

# As many labelled inputs at least: fewer say nothing about a temperature.
LEAST = 20
# Bounds of a temperature; beyond them a student is wrong in another way.
LOWEST, HIGHEST = 0.05, 20.0
# Half the 95 % quantile of the chi-square distribution with one degree of freedom: what a likelihood ratio gains by chance, in nats.
CHANCE = 1.92
# Below it, a probability of float32 has lost its logarithm.
TINY = 1e-37

Probabilities = NDArray[np.floating]


def sharpen(p_NK: Probabilities, temperature: float) -> NDArray[np.float64]:
    """Probabilities of the same logits, divided by a temperature: p^(1/T), scaled to sum 1. The order within a row stays."""
    if temperature == 1:
        return p_NK.astype(np.float64)
    logit_NK = np.log(np.maximum(p_NK.astype(np.float64), TINY)) / temperature
    power_NK = np.exp(logit_NK - logit_NK.max(1, keepdims=True))
    return np.asarray(power_NK / power_NK.sum(1, keepdims=True))


def fit(p_NK: Probabilities, y_N: NDArray[np.integer], *, held_out: bool, what: str) -> Calibration | None:
    """The temperature with the least log-loss; None where none is better than 1 beyond chance.

    - p_NK: probabilities of the student without a temperature. y_N: labels from 0 to K - 1.
    - held_out: whether no part of the student has been trained on these inputs.
    - what: the labelled inputs, for the card, such as "the run's own public inputs".

    Raises: DataError if the labels do not fit, or there are fewer than 20.
    """
    from scipy.optimize import minimize_scalar

    if len(y_N) < LEAST:
        raise DataError(f"Expected at least {LEAST} labelled public inputs to calibrate a student, got {len(y_N)}.")
    before = scores.score(p_NK, y_N)

    def loss(log_temperature: float) -> float:
        own_N = sharpen(p_NK, float(np.exp(log_temperature)))[np.arange(len(y_N)), y_N]
        return float(-np.log(np.maximum(own_N, TINY)).mean())

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-4})
    if len(y_N) * (loss(0.0) - float(found.fun)) < CHANCE:
        return None
    # As the graph holds it.
    temperature = float(np.float32(np.exp(found.x)))
    after = scores.score(sharpen(p_NK, temperature), y_N)
    return Calibration(
        temperature=temperature,
        inputs=len(y_N),
        held_out=held_out,
        how=f"It is the temperature with the least log-loss on {what}.",
        log_loss=(before.log_loss, after.log_loss),
        error=(before.calibration_error, after.calibration_error),
    )
