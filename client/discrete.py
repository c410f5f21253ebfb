"""Integers from the discrete Gaussian and the discrete Laplace distribution, sampled exactly [F: arXiv 2004.00010].

Exact sampling leaves nothing in the low bits of a release, so the mechanism that runs is the one that is accounted for. Running time
depends on the draws, not on the data. `gaussian` draws one integer and uses integers throughout. `gaussians` draws many: it compares random
words with probabilities in float64 whose errors are bounded, and where a bound leaves a decision open, decides it exactly.

Shape legend: M proposals.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from limbeck.base import check
from limbeck.base.errors import SettingError

Below = Callable[[int], int]
Words = Callable[[int], NDArray[np.uint64]]

# Proposals made at a time.
CHUNK = 1 << 18
WORD = 64
# The largest width of a block, as a power of 2: with it, float64 holds every integer in the first 64 blocks.
WIDEST = 46
# What float64 may be wrong by: the logarithm of a probability by MARGIN for each unit of its terms and of 8 more, and a probability besides
# by LEAST_MARGIN. Every operation is off by at most 2^-53 of its result, and numpy's exponential by a few times that: a fourth would do.
MARGIN, LEAST_MARGIN = 2.0**-48, 2.0**-60
# Decimal digits with which a decision that is still open is first made, and how many more each time: 64 bits are 19.3 digits.
FIRST_DIGITS, MORE_DIGITS = 40, 20


def gaussians(words: Words, n: int, variance: Fraction) -> NDArray[np.int64]:
    """(n,) independent integers x with probability proportional to exp(-x^2 / (2 variance)), exactly.

    - words: draws that many uniform words of 64 bits, from a cryptographic source.
    - variance: > 0, with a root of at most 2^46.

    Rejection sampling. Integers lie in blocks of a width of 2^b, counted outwards from 0 on either side. A side, a place within a block and
    the number v of the block, with probability 2^-(v + 1), come from random bits alone, and make a proposal x. It is taken if a uniform
    number in [0, 1) is below 2^v exp(-x^2 / (2 variance)) / bound, which is at most 1 since v 2^b <= |x| [D]: about every second time.

    Raises: SettingError for a variance that is not in its range.
    """
    envelope = _envelope(variance)
    out, filled = np.empty(n, np.int64), 0
    while filled < n:
        x_M = _accepted(words, min(CHUNK, 2 * (n - filled) + WORD), envelope)[: n - filled]
        out[filled : filled + len(x_M)] = x_M
        filled += len(x_M)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Envelope:
    """What `gaussians` proposes by. bits: b, of a block's width 2^b. bound: not below 2^v exp(-x^2 / (2 variance)) for any x."""

    variance: Fraction
    bits: int
    bound: Fraction


def _envelope(variance: Fraction) -> _Envelope:
    if not 0 < variance <= Fraction(4) ** WIDEST:
        raise SettingError(f"Expected variance in (0, 4^{WIDEST}], got {float(variance)!r}.")
    sigma = math.sqrt(variance)
    bits = max(0, math.frexp(sigma)[1] - 1)
    # With v <= |x| / 2^b the exponent is largest at |x| = variance ln 2 / 2^b. Far more is added than float64 is wrong by.
    bound = math.exp((sigma * math.log(2) / 2**bits) ** 2 / 2) * (1 + 2.0**-20)
    return _Envelope(variance=variance, bits=bits, bound=Fraction(bound))


def _accepted(words: Words, proposals: int, envelope: _Envelope) -> NDArray[np.int64]:
    """Those of so many proposals that are taken, in their order."""
    places_M, geometric_M, chance_M = words(proposals), words(proposals), words(proposals)
    block_M = _trailing_zeros(words, geometric_M)
    far_M = block_M >= WORD
    magnitude_M = (block_M << envelope.bits) + (places_M & np.uint64((1 << envelope.bits) - 1)).astype(np.int64)
    x_M = np.where(places_M >> np.uint64(WORD - 1), -magnitude_M - 1, magnitude_M)
    with np.errstate(under="ignore"):
        half_square_M = (x_M / math.sqrt(envelope.variance)) ** 2 / 2
        p_M = np.exp(block_M * math.log(2) - half_square_M - math.log(envelope.bound))
        margin_M = p_M * ((half_square_M + block_M + 8) * MARGIN) + LEAST_MARGIN
    u_M = chance_M * 2.0**-WORD
    taken_M = u_M < p_M - margin_M
    for index in np.flatnonzero(far_M | (abs(u_M - p_M) <= margin_M)).tolist():
        taken_M[index] = _decide(words, int(chance_M[index]), int(x_M[index]), int(block_M[index]), envelope)
    return x_M[taken_M]


def _trailing_zeros(words: Words, word_M: NDArray[np.uint64]) -> NDArray[np.int64]:
    """How many zero bits precede the first one, in words that go on for ever: v with probability 2^-(v + 1)."""
    # The lowest bit that is set, a power of 2, is exact in float64.
    lowest_M = word_M & (~word_M + np.uint64(1))
    zeros_M = (np.frexp(lowest_M.astype(np.float64))[1] - 1).astype(np.int64)
    for index in np.flatnonzero(word_M == 0).tolist():
        zeros, word = 0, 0
        while not word:
            zeros, word = zeros + WORD, int(words(1)[0])
        zeros_M[index] = zeros + (word & -word).bit_length() - 1
    return zeros_M


def _decide(words: Words, number: int, x: int, block: int, envelope: _Envelope) -> bool:
    """Whether a uniform number in [0, 1) that begins with the 64 bits of `number` is below the probability of taking x, exactly."""
    bits, digits = WORD, FIRST_DIGITS
    half_square = Fraction(x * x) / (2 * envelope.variance)
    while True:
        low, high = (2**block * each / envelope.bound for each in _exp_bounds(half_square, digits))
        if number + 1 <= low * 2**bits:
            return True
        if number >= high * 2**bits:
            return False
        number, bits, digits = (number << WORD) + int(words(1)[0]), bits + WORD, digits + MORE_DIGITS


def _exp_bounds(gamma: Fraction, digits: int) -> tuple[Fraction, Fraction]:
    """Two numbers with exp(-gamma) between them, gamma >= 0, about 10^-digits of it apart.

    Python's decimal numbers round a quotient as they are told, and an exponential to the nearest number.
    """
    context = decimal.Context(prec=digits, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)
    numerator, denominator = Decimal(gamma.numerator), Decimal(gamma.denominator)
    ends = []
    for rounding in (decimal.ROUND_CEILING, decimal.ROUND_FLOOR):
        context.rounding = rounding
        ends.append(context.exp(context.divide(numerator, denominator).copy_negate()))
    return Fraction(context.next_minus(ends[0])), Fraction(context.next_plus(ends[1]))


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
