"""Many integers from the discrete Gaussian at once: exactly its probabilities, whatever float64 leaves open."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from limbeck.base.errors import SettingError
from limbeck.client import discrete
from limbeck.client.noise import SystemEntropy, UnsafeSeeded

# A sound sampler fails a test of this level once in a thousand million runs.
LEVEL = 1e-9
SIGMAS = [0.1, 0.5, 1.0, 4.3, 63.9, 64.0, 1e3, 1e5, 1e7, 2.0**46]
sigmas = st.floats(math.log(0.05), math.log(2.0**46)).map(math.exp)


def drawn(sigma: float, n: int) -> NDArray[np.int64]:
    return SystemEntropy().discrete_gaussian(n, variance=Fraction(sigma) ** 2)


class Script:
    """Words that are told; then zeros."""

    def __init__(self, *words: int) -> None:
        self.words, self.asked = list(words), 0

    def __call__(self, n: int) -> NDArray[np.uint64]:
        self.asked += n
        given, self.words = self.words[:n], self.words[n:]
        return np.array(given + [0] * (n - len(given)), np.uint64)


def chance(x: int, block: int, envelope: discrete._Envelope) -> mpmath.mpf:
    """Of taking x, with 100 digits."""
    variance, bound = (mpmath.mpf(own.numerator) / own.denominator for own in (envelope.variance, envelope.bound))
    return mpmath.mpf(2) ** block * mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * variance)) / bound


def block_of(x: int, envelope: discrete._Envelope) -> int:
    return (x if x >= 0 else -x - 1) >> envelope.bits


@pytest.fixture(autouse=True)
def _digits() -> Iterator[None]:
    with mpmath.workdps(100):
        yield


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.3, 20.0])
def test_every_integer_has_its_own_probability(sigma: float) -> None:
    found, n = Counter(drawn(sigma, 400_000).tolist()), 400_000
    reach = int(40 * sigma) + 2
    weight = {x: math.exp(-x * x / 2 / sigma**2) for x in range(-reach, reach + 1)}
    expected = {x: n * own / sum(weight.values()) for x, own in weight.items()}
    common = [x for x, own in expected.items() if own >= 5]
    rare = n - sum(expected[x] for x in common)
    seen = [found[x] for x in common]
    if rare > 5:
        assert stats.chisquare([*seen, n - sum(seen)], [*(expected[x] for x in common), rare]).pvalue > LEVEL
    else:
        assert stats.chisquare(seen, [expected[x] * sum(seen) / (n - rare) for x in common]).pvalue > LEVEL
        assert n - sum(seen) <= stats.poisson.isf(LEVEL, max(rare, 1e-300))


@pytest.mark.parametrize("sigma", [100.0, 1e3, 1e7, 1e12])
def test_a_wide_one_is_normal_in_the_large_and_even_in_its_last_bits(sigma: float) -> None:
    x_n = drawn(sigma, 300_000)
    assert stats.kstest((x_n + np.linspace(-0.5, 0.5, len(x_n))) / sigma, "norm").pvalue > LEVEL
    # Floating-point noise of this size leaves the last bits as they are.
    assert stats.chisquare(np.bincount(x_n % 16, minlength=16)).pvalue > LEVEL
    # Of its tails nothing is cut.
    assert abs(x_n).max() > 4 * sigma
    assert abs(np.corrcoef(x_n[1:], x_n[:-1])[0, 1]) < 6 / math.sqrt(len(x_n))


def test_it_is_the_distribution_of_the_sampler_that_uses_no_floats() -> None:
    below = UnsafeSeeded(1).below
    for sigma in (0.8, 37.5):
        slow = [discrete.gaussian(below, sigma) for _ in range(1500)]
        assert stats.ks_2samp(slow, drawn(sigma, 60_000)).pvalue > LEVEL


@pytest.mark.parametrize("sigma", SIGMAS)
def test_decided_one_by_one_and_exactly_the_same_integers_are_drawn(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a margin that leaves every decision open."""
    fast = UnsafeSeeded(5).discrete_gaussian(300, variance=Fraction(sigma) ** 2)
    decided: list[bool] = []
    own = discrete._decide

    def noted(*arguments: object) -> bool:
        decided.append(own(*arguments))  # type: ignore[arg-type]
        return decided[-1]

    monkeypatch.setattr(discrete, "_decide", noted)
    monkeypatch.setattr(discrete, "MARGIN", 1e9)
    monkeypatch.setattr(discrete, "LEAST_MARGIN", 1.0)
    assert np.array_equal(UnsafeSeeded(5).discrete_gaussian(300, variance=Fraction(sigma) ** 2), fast)
    assert sum(decided) >= 300
    assert 0.1 < np.mean(decided) < 0.9


@given(sigma=sigmas, place=st.floats(-9, 9))
@example(sigma=1.0, place=1.0)
@settings(max_examples=100)
def test_float64_is_wrong_by_far_less_than_its_margin_and_no_chance_is_above_one(sigma: float, place: float) -> None:
    """A proposal that is decided by its margin: with a uniform number just outside of it, and just inside."""
    envelope = discrete._envelope(Fraction(sigma) ** 2)
    x = round(place * sigma)
    block = block_of(x, envelope)
    p = chance(x, block, envelope)
    assert 0 < p <= 1
    half_square = (x / math.sqrt(envelope.variance)) ** 2 / 2
    found = np.exp(block * math.log(2) - half_square - math.log(envelope.bound))
    margin = found * ((half_square + block + 8) * discrete.MARGIN) + discrete.LEAST_MARGIN
    assert abs(found - p) < margin / 4
    assert margin < 1e-10


@given(sigma=sigmas, place=st.floats(-6, 6), more=st.integers(0, 3))
@settings(max_examples=60)
def test_a_number_that_agrees_with_the_chance_in_all_its_bits_is_decided_by_further_ones(
    sigma: float, place: float, more: int
) -> None:
    """Against mpmath: 64 bits of the chance itself, then 64 (more + 1) further ones, the last of them off by one."""
    envelope = discrete._envelope(Fraction(sigma) ** 2)
    x = round(place * sigma)
    block = block_of(x, envelope)
    bits = int(mpmath.floor(chance(x, block, envelope) * mpmath.mpf(2) ** (64 * (more + 2))))
    if not 0 < bits < 2 ** (64 * (more + 2)) - 1:
        return
    for off, taken in ((-1, True), (1, False)):
        words = [(bits + off) >> (64 * at) & (2**64 - 1) for at in reversed(range(more + 2))]
        script = Script(*words[1:])
        assert discrete._decide(script, words[0], x, block, envelope) is taken
        # What differs only far down takes that many words.
        assert script.asked >= (
            more + 1 if words[:-1] == [bits >> (64 * at) & (2**64 - 1) for at in range(more + 1, 0, -1)] else 0
        )


@given(gamma=st.fractions(0, 5000), digits=st.integers(20, 60))
def test_bounds_of_an_exponential_hold_it_between_them(gamma: Fraction, digits: int) -> None:
    low, high = (mpmath.mpf(end.numerator) / end.denominator for end in discrete._exp_bounds(gamma, digits))
    exact = mpmath.exp(-mpmath.mpf(gamma.numerator) / gamma.denominator)
    assert low < exact < high
    assert (high - low) / exact < mpmath.mpf(10) ** (5 - digits)


def test_a_block_is_far_with_the_chance_of_as_many_zero_bits() -> None:
    words = UnsafeSeeded(1)._words(100_000)
    zeros = discrete._trailing_zeros(Script(), words)
    assert zeros.tolist() == [(int(word) & -int(word)).bit_length() - 1 for word in words]
    script = Script(0, 1 << 5)
    assert discrete._trailing_zeros(script, np.array([0, 8], np.uint64)).tolist() == [64 + 64 + 5, 3]
    assert script.asked == 2


def test_far_blocks_are_decided_exactly() -> None:
    """Proposals beyond 64 blocks, where float64 would not hold the place, are taken only by a number of that many zero bits."""
    envelope = discrete._envelope(Fraction(1))
    for number, zeros, taken in ((1, 0, False), (0, 500, True)):
        script = Script(*[0] * zeros)
        assert discrete._decide(script, number, 70, 70, envelope) is taken
    # Side and place, 0 zeros in the word of the block and then one more, chance.
    script = Script(0, 0, 5, 1)
    assert discrete._accepted(script, 1, envelope).tolist() == []
    assert script.asked == 4


@pytest.mark.parametrize("variance", [Fraction(0), Fraction(-1), Fraction(4) ** 46 + 1])
def test_a_variance_out_of_range_is_refused(variance: Fraction) -> None:
    with pytest.raises(SettingError, match="Expected variance in"):
        SystemEntropy().discrete_gaussian(3, variance=variance)


def test_shapes_are_kept_and_no_numbers_is_a_number_of_them() -> None:
    assert SystemEntropy().discrete_gaussian(3, 7, variance=Fraction(9)).shape == (3, 7)
    assert SystemEntropy().discrete_gaussian(0, variance=Fraction(9)).shape == (0,)


@pytest.mark.parametrize("multiplier", [0.75, 3.0])
def test_a_gaussian_rounded_at_random_has_the_probabilities_of_the_discrete_one(multiplier: float) -> None:
    """The lemma of `limbeck.client.teachers.evidence` with its constant, by an integral over the Gaussian with 50 digits.

    The trapezoidal rule errs by far less than 1e-40 on a function that is analytic and falls this fast.
    """
    with mpmath.workdps(50):
        variance, kernel, fine = mpmath.mpf(multiplier) ** 2, mpmath.mpf(4), 16
        reach = 60
        of_y = {
            place: sum(mpmath.exp(-((x - mpmath.mpf(place) / fine) ** 2) / (2 * kernel)) for x in range(-reach, reach + 1))
            for place in range(fine)
        }
        all_x = sum(mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * (variance + kernel))) for x in range(-reach, reach + 1))
        constant = mpmath.sqrt(2 * mpmath.pi * kernel)
        assert max(abs(own / constant - 1) for own in of_y.values()) < 2.01 * mpmath.exp(-8 * mpmath.pi**2)
        for x in (0, 1, 5):
            rounded = sum(
                mpmath.exp(-((mpmath.mpf(place) / fine) ** 2) / (2 * variance))
                * mpmath.exp(-((x - mpmath.mpf(place) / fine) ** 2) / (2 * kernel))
                / of_y[place % fine]
                for place in range(-reach * fine, reach * fine + 1)
            ) / (fine * mpmath.sqrt(2 * mpmath.pi * variance))
            discretely = mpmath.exp(-(mpmath.mpf(x) ** 2) / (2 * (variance + kernel))) / all_x
            assert abs(rounded / discretely - 1) < mpmath.mpf("3e-34")
