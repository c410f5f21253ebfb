"""Evidence: noisy class sums of public features, in integers, and scores that are linear in them.

Formal guarantee, under adding or removing one record, whatever the record is and whatever the others are.

1. A record's row depends on that record, the plan and the public inputs alone, to the last bit (`features.compute_each`). It consists of
   integers of L2 norm at most `resolution`, and that is shown in integers: of the constant b and a = floor(sqrt(resolution^2 - b^2)), of
   the balanced features q, in steps of a part of their largest, and r = ceil(|q|), the row has the entries trunc(q_d a / r), of a norm of
   at most |q| a / r <= a, and b. A record that is not finite has the row zero. So the sums move by at most `resolution` in L2.
2. Noise and sums are integers too: S + X with every entry of X from the discrete Gaussian of variance s^2 + 4, and
   s = noise_multiplier * resolution.
3. The Gaussian mechanism Y = S + N(0, s^2 I) has the noise multiplier that the ledger is charged with. Round each entry of Y at random, to
   an integer x with probability proportional to exp(-(x - Y)^2 / 8), which is post-processing. The rounded entry has the probabilities of
   that of S + X but for a factor within 1 +- 3e-34 [D]. Proof, for a sum m: the product exp(-(y - m)^2 / (2 s^2)) exp(-(x - y)^2 / 8)
   integrates over y to a constant times exp(-(x - m)^2 / (2 (s^2 + 4))). By Poisson's summation formula the sum over integers x of
   exp(-(x - y)^2 / 8), by which the second factor is to be divided, is sqrt(8 pi) (1 + 2 sum_k exp(-8 pi^2 k^2) cos(2 pi k y)), k >= 1: a
   constant but for a factor within 1 +- 2.01 exp(-8 pi^2), for every y. So is the sum by which the quotient is normalised, and
   4.1 exp(-8 pi^2) < 3e-34.
4. So the probabilities of all K D entries together are within a factor exp(+-4e-34 K D), and what is (epsilon, delta)-DP as charged is
   (epsilon + 8e-34 K D, delta (1 + 4e-34 K D))-DP as run: at 10^9 entries, by less than 1e-24.
5. Everything after that, in floating point or not, is post-processing of integers.

Shape legend: N records or inputs, D features, K classes, n records at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.client.teachers.stored import write
from limbeck.inputs import covariance, features
from limbeck.inputs.transfer_set import digest
from limbeck.plans.schema import EvidenceTeaching

if TYPE_CHECKING:
    from limbeck.base.progress import Progress
    from limbeck.client.noise import Noise

# Records, or inputs, at a time.
CHUNK = 256
# Bits of a feature as a part of the largest of its record, and of the sum of their squares.
FEATURE_BITS, SQUARE_BITS = 22, 62
# What the variance of the noise is above that of the Gaussian mechanism which it is charged as.
EXTRA_VARIANCE = 4

Whole = NDArray[np.int64]


class Evidence:
    """Scores that are linear in rows of norm 1: balanced features, and a constant."""

    def __init__(self, name: str, balance: features.Balance, constant: float, weight_KD: Tensor) -> None:
        self.features, self.balance, self.constant, self.weight_KD = name, balance, constant, weight_KD

    def log_probabilities(self, x_N: NDArray[np.generic], *, cache: Path | None = None) -> Tensor:
        """(N, K) float32 log-probabilities."""
        return self.scores(x_N, cache=cache).log_softmax(-1).float()

    def scores(self, x_N: NDArray[np.generic], *, cache: Path | None = None) -> Tensor:
        """(N, K) float64 scores, which add up over the sites of a plan."""
        f_ND = features.unit_rows(features.compute(self.features, x_N, cache=cache), self.balance, self.constant)
        return torch.cat([part_nD.double() @ self.weight_KD.T for part_nD in torch.from_numpy(f_ND).split(CHUNK)])

    def save(self, path: Path) -> None:
        """Write it durably."""
        balance = {"mean": torch.from_numpy(self.balance.mean_D), "balance": torch.from_numpy(self.balance.weight_D)}
        settings: dict[str, object] = {"features": self.features, "constant": self.constant}
        write(path, "evidence", settings, balance | {"weight": self.weight_KD})

    @classmethod
    def restore(cls, settings: dict[str, object], tensors: dict[str, Tensor]) -> Evidence:
        """From what `save` wrote."""
        balance = features.Balance(mean_D=tensors["mean"].numpy(), weight_D=tensors["balance"].numpy())
        return cls(str(settings["features"]), balance, float(str(settings["constant"])), tensors["weight"])


def train(
    teaching: EvidenceTeaching,
    x_N: NDArray[np.generic],
    y_N: NDArray[np.int64],
    *,
    classes: int,
    public_x: NDArray[np.generic],
    noise: Noise,
    class_weights: Sequence[float] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """Sum the records' rows by class, add noise, and solve with the public covariance; the guarantee is that of this module.

    A record's class weight, a public constant, multiplies its row; one above 1 counts as 1, as a gradient that is clipped anyway.
    """
    public_ND = features.compute(teaching.features, public_x, cache=cache)
    balance = features.balance(teaching.features, public_ND)
    steps_K = np.array([int(teaching.resolution * min(1.0, weight)) for weight in class_weights or (1.0,) * classes])
    sums_KD = class_sums(teaching, x_N, y_N, balance, steps_K, progress)
    sums_KD += noise.discrete_gaussian(*sums_KD.shape, variance=variance(teaching))
    solved_KD = covariance.solve(
        sums_KD.astype(np.float64),
        features.unit_rows(public_ND, balance, teaching.constant),
        teaching.ridge,
        teaching.noise_to_signal,
        cache=cache,
        key=f"{teaching.features} {teaching.constant.hex()} ".encode() + digest(public_x),
    )
    scale = classes / (teaching.resolution * teaching.normaliser)
    return Evidence(teaching.features, balance, teaching.constant, torch.from_numpy(solved_KD * scale))


def class_sums(
    teaching: EvidenceTeaching,
    x_N: NDArray[np.generic],
    y_N: NDArray[np.int64],
    balance: features.Balance,
    steps_K: Whole,
    progress: Progress | None = None,
) -> Whole:
    """(K, D + 1) sums of the records' rows by class. steps_K: the norm that a row of each class has at most."""
    sums_KD = np.zeros((len(steps_K), len(balance.mean_D) + 1), np.int64)
    for first in range(0, len(x_N), CHUNK):
        part = slice(first, first + CHUNK)
        f_nD = features.balanced(features.compute_each(teaching.features, x_N[part]), balance)
        row_nD = rows(f_nD, teaching.constant, steps_K[y_N[part]])
        for label in np.unique(y_N[part]):
            sums_KD[label] += row_nD[y_N[part] == label].sum(0)
        if progress is not None:
            progress(min(first + CHUNK, len(x_N)), len(x_N))
    return sums_KD


def variance(teaching: EvidenceTeaching) -> Fraction:
    """Of the noise on every sum, exactly."""
    return (Fraction(teaching.noise_multiplier) * teaching.resolution) ** 2 + EXTRA_VARIANCE


def rows(f_nD: NDArray[np.float32], constant: float, steps_n: Whole) -> Whole:
    """(n, D + 1) rows of integers of an L2 norm of at most steps_n, >= 0: in the direction of the features, and a share of the norm.

    Every operation on floats is on one number, or finds the largest, so that no row depends on others. Squares are summed in integers.
    """
    finite_n1 = np.isfinite(f_nD).all(1, keepdims=True)
    wide_nD = np.where(finite_n1, f_nD, 0).astype(np.float64)
    most_n1 = abs(wide_nD).max(1, keepdims=True)
    bits = min(FEATURE_BITS, (SQUARE_BITS - f_nD.shape[1].bit_length()) // 2)
    part_nD = np.trunc(wide_nD / np.where(most_n1 > 0, most_n1, 1) * 2.0**bits).astype(np.int64)
    square_n1 = (part_nD * part_nD).sum(1, keepdims=True)
    length_n1 = np.ceil(np.sqrt(square_n1.astype(np.float64))).astype(np.int64)
    # The root is rounded, perhaps below what is wanted.
    length_n1 += length_n1 * length_n1 < square_n1
    constant_n = [int(constant * steps) for steps in steps_n.tolist()]
    left_n = [math.isqrt(steps * steps - share * share) for steps, share in zip(steps_n.tolist(), constant_n, strict=True)]
    whole_nD = np.sign(part_nD) * (abs(part_nD) * np.array(left_n, np.int64)[:, None] // np.maximum(length_n1, 1))
    return np.concatenate([whole_nD, np.array(constant_n, np.int64)[:, None]], 1) * finite_n1
