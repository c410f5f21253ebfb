"""Integers from the discrete Gaussian and the discrete Laplace distribution, sampled exactly, without floats [F: arXiv 2004.00010].

Exact sampling leaves nothing in the low bits of a release, so the mechanism that runs is the one that is accounted for. Running time
depends on the draws, not on the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from limbeck.base import check

Below = Callable[[int], int]


def gaussian(below: Below, sigma: float) -> int:
    """One integer x with probability proportional to exp(-x^2 / (2 sigma^2)) (algorithm 3 of the paper).

    below: draws a uniform integer in [0, n), from a cryptographic source.
    sigma: > 0, taken as the exact rational number that the float represents.
    """
    check.positive(sigma=sigma)
    variance = Fraction(sigma) ** 2
    scale = math.floor(sigma) + 1
    while True:
        x = laplace(below, scale)
        if _bernoulli_exp(below, (abs(x) - variance / scale) ** 2 / (2 * variance)):
            return x


def laplace(below: Below, scale: int) -> int:
    """One integer x with probability proportional to exp(-|x| / scale), scale an integer >= 1 (algorithm 2 of the paper)."""
    check.within(1, 2**62, scale=scale)
    while True:
        rest = below(scale)
        if not _bernoulli_exp(below, Fraction(rest, scale)):
            continue
        whole = 0
        while _bernoulli_exp(below, Fraction(1)):
            whole += 1
        x, negative = rest + scale * whole, below(2)
        if not (negative and x == 0):
            return -x if negative else x


def _bernoulli_exp(below: Below, gamma: Fraction) -> bool:
    """True with probability exp(-gamma), gamma >= 0 (algorithm 1 of the paper)."""
    for _ in range(math.floor(gamma)):
        if not _bernoulli_exp_small(below, Fraction(1)):
            return False
    return _bernoulli_exp_small(below, gamma - math.floor(gamma))


def _bernoulli_exp_small(below: Below, gamma: Fraction) -> bool:
    k = 1
    while below(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1
