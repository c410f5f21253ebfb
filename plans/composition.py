"""Many privacy loss distributions composed at once: one product of transforms instead of one convolution after another.

The distributions of single uses come from dp-accounting, which composes them use by use and mechanism by mechanism. The result is a sum of
independent losses, so its transform is the product of all transforms, each to the power of its number of uses: 100 different schedules cost
one inverse transform, not 100 compositions.

Formal guarantee: the result is never below the exact composition of the distributions given [D]. Losses outside the window are bounded by
Chernoff's inequality over all mechanisms together and counted as infinite; what wraps around from below the window ends up above where it
was; the transforms' rounding errors, bounded to first order, are counted as infinite too.

Shape legend: L losses of a distribution, R orders of a moment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

# Mass that may lie outside the window, on each side; dp-accounting uses the same bound.
TAIL = 1e-15
# Orders of Chernoff's bound, in standard deviations of the composed loss: any order is right, one near 8 is best for a tail of TAIL.
ORDERS = 8.0 * 2.0 ** np.arange(-7, 8)
BLOCK = 1 << 20
# Losses of a composed distribution: at a grid of 1e-3 these span 1,000 nats, so epsilon is in the thousands. It is then reported as
# infinite, which no plan may claim, and costs neither time nor memory.
LONGEST = 1 << 20

Pmf = Any
Used = tuple[Pmf, int]


def compose(used: Sequence[Used]) -> Pmf:
    """The distribution of the sum of losses, each pmf as often as it is used.

    used: at least one of dp-accounting's pmfs of a single use, all pessimistic and on one grid, with numbers of uses.
    """
    from dp_accounting.pld import pld_pmf

    dense = [(pmf.to_dense_pmf(), count) for pmf, count in used]
    if len(dense) == 1 and dense[0][1] == 1:
        return dense[0][0]
    # dp-accounting has no public access to a pmf's numbers; its version is pinned.
    probs = [(np.asarray(pmf._probs, np.float64), count) for pmf, count in dense]
    offset = sum(pmf._lower_loss * count for pmf, count in dense)
    low, high = _window(probs)
    grid = dense[0][0]._discretization
    if high - low >= LONGEST:
        return pld_pmf.DensePLDPmf(grid, 0, np.zeros(1), 1.0, True)
    length = fft.next_fast_len(max(high - low + 1, *(len(p_L) for p_L, _ in probs)), real=True)
    spectrum = np.ones(length // 2 + 1, np.complex128)
    for p_L, count in probs:
        spectrum *= fft.rfft(p_L, length) ** count
    # Index i of the result holds losses low + i; everything is counted from `low` on, modulo the length.
    summed_L = np.roll(fft.irfft(spectrum, length), -(low % length))[: high - low + 1]
    # A transform is off by log2(length) roundings of its largest value, 1; a power by its exponent times that, and times its angle.
    roundings = sum(count for _, count in probs) * (math.log2(length) + math.pi)
    rounding = np.finfo(np.float64).eps * roundings * math.sqrt(length) * float(np.linalg.norm(summed_L))
    survives = sum(count * math.log1p(-min(pmf._infinity_mass, 1 - 1e-16)) for pmf, count in dense)
    infinite = min(1.0, -math.expm1(survives) + 2 * TAIL + rounding)
    return pld_pmf.DensePLDPmf(grid, offset + low, np.maximum(summed_L, 0), infinite, True)


def deviation(used: Sequence[Used]) -> float:
    """The standard deviation of the sum of finite losses, with which the time and memory of `compose` grow."""
    return math.sqrt(
        sum(
            count * _variance(np.asarray(pmf.to_dense_pmf()._probs, np.float64)) * pmf._discretization**2
            for pmf, count in used
        )
    )


def _window(probs: Sequence[tuple[NDArray[np.float64], int]]) -> tuple[int, int]:
    """First and last index of the sum that have to be kept: the mass beyond each is at most TAIL.

    Chernoff: P(S >= s) <= exp(K(r) - r s) for every r > 0, with K the sum of the logarithmic moments; likewise below for r < 0.
    """
    variance = sum(count * _variance(p_L) for p_L, count in probs)
    last = sum((len(p_L) - 1) * count for p_L, count in probs)
    if variance == 0:
        return 0, last
    order_R: NDArray[np.float64] = np.asarray(ORDERS / math.sqrt(variance), np.float64)
    up_R, down_R = np.zeros(len(order_R)), np.zeros(len(order_R))
    for p_L, count in probs:
        up_R += count * _log_moments(p_L, order_R)
        down_R += count * _log_moments(p_L, -order_R)
    high = float(np.min((up_R - math.log(TAIL)) / order_R))
    low = float(np.max((math.log(TAIL) - down_R) / order_R))
    return max(0, math.floor(low)), min(last, math.ceil(high))


def _variance(p_L: NDArray[np.float64]) -> float:
    index_L, mass = np.arange(len(p_L)), float(p_L.sum())
    if mass <= 0:
        return 0.0
    mean = float(index_L @ p_L) / mass
    return float((index_L - mean) ** 2 @ p_L) / mass


def _log_moments(p_L: NDArray[np.float64], order_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """log sum_i p_i exp(r i) for every order r."""
    index_L = np.flatnonzero(p_L > 0)
    log_L = np.log(p_L[index_L])
    log_moment_R = np.empty(len(order_R))
    step = max(1, BLOCK // len(index_L))
    for first in range(0, len(order_R), step):
        exponent_RL = np.outer(order_R[first : first + step], index_L) + log_L
        most_R = exponent_RL.max(1)
        log_moment_R[first : first + step] = most_R + np.log(np.exp(exponent_RL - most_R[:, None]).sum(1))
    return log_moment_R
