"""Integers from the discrete Gaussian and the discrete Laplace distribution, drawn exactly: no float takes part [F: arXiv 2004.00010].

Exact sampling leaves nothing in the low bits of a release, so what is accounted is what runs. Running time depends on the draws, not
on the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from limbeck.base import check

Below = Callable[[int], int]


def gaussian(below: Below, sigma: float) -> int:
    """One integer x with probability proportional to exp(-x^2 / (2 sigma^2)) (algorithm 3 there).

    below: a uniform integer in [0, n), from a cryptographic source. sigma: > 0, taken as the exact rational that the float is.
    """
    check.positive(sigma=sigma)
    variance = Fraction(sigma) ** 2
    scale = math.floor(sigma) + 1
    while True:
        x = laplace(below, scale)
        if _bernoulli_exp(below, (abs(x) - variance / scale) ** 2 / (2 * variance)):
            return x


def laplace(below: Below, scale: int) -> int:
    """One integer x with probability proportional to exp(-|x| / scale), scale a whole number >= 1 (algorithm 2 there)."""
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
    """True with probability exp(-gamma), gamma >= 0 (algorithm 1 there)."""
    for _ in range(math.floor(gamma)):
        if not _bernoulli_exp_small(below, Fraction(1)):
            return False
    return _bernoulli_exp_small(below, gamma - math.floor(gamma))


def _bernoulli_exp_small(below: Below, gamma: Fraction) -> bool:
    k = 1
    while below(gamma.denominator * k) < gamma.numerator:
        k += 1
    return k % 2 == 1
