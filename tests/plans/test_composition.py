"""Composed at once, privacy losses are never below the exact composition, and agree with dp-accounting's own."""

from __future__ import annotations

import math
from dataclasses import replace

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant, pld_pmf
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given
from hypothesis import strategies as st

from helpers.plans import LINEAR, NET
from limbeck.plans import accounting, composition
from limbeck.plans.schema import Teaching

SAMPLED = replace(NET, steps=100)
Parts = list[tuple[list[float], int, int, float]]

parts = st.lists(
    st.tuples(
        st.lists(st.integers(0, 9), min_size=1, max_size=12)
        .filter(any)
        .map(lambda weights: [w / sum(weights) for w in weights]),
        st.integers(-8, 8),
        st.integers(1, 12),
        st.sampled_from([0.0, 1e-9, 1e-3]),
    ),
    min_size=1,
    max_size=4,
)


def pmf(probs: list[float], lowest: int, infinite: float) -> pld_pmf.DensePLDPmf:
    return pld_pmf.DensePLDPmf(0.1, lowest, np.array(probs) * (1 - infinite), infinite, True)


def exact(parts: Parts) -> tuple[int, np.ndarray, float]:
    """Lowest loss, probabilities and infinite mass, by one convolution after the other in extended precision, nothing cut off."""
    probs_L, lowest, finite = np.ones(1, np.longdouble), 0, 1.0
    for probs, low, count, infinite in parts:
        for _ in range(count):
            probs_L = np.convolve(probs_L, np.array(probs, np.longdouble) * (1 - infinite))
            lowest, finite = lowest + low, finite * (1 - infinite)
    return lowest, probs_L, 1 - finite


def exact_delta(parts: Parts, epsilon: float) -> float:
    lowest, probs, infinite = exact(parts)
    excess = 1 - np.exp(epsilon - 0.1 * (lowest + np.arange(len(probs), dtype=np.longdouble)))
    return float((np.maximum(excess, 0) * probs).sum()) + infinite


@given(parts, st.floats(-5, 30))
def test_a_composition_is_never_below_the_exact_one_and_hardly_above(parts: Parts, epsilon: float) -> None:
    composed = composition.compose([(pmf(probs, low, infinite), count) for probs, low, count, infinite in parts])
    delta = exact_delta(parts, epsilon)
    assert delta - 1e-15 <= composed.get_delta_for_epsilon(epsilon) <= delta * (1 + 1e-9) + 1e-11


@given(parts, st.floats(-5, 30), st.sampled_from([0.3, 0.1, 1e-2, 1e-4]))
def test_whatever_is_cut_off_counts_as_infinite_loss(parts: Parts, epsilon: float, tail: float) -> None:
    """With a bound so loose that much is cut off, the guarantee stands: below the window losses are rounded up, above they are infinite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition, "TAIL", tail)
        composed = composition.compose([(pmf(probs, low, infinite), count) for probs, low, count, infinite in parts])
    assert composed.get_delta_for_epsilon(epsilon) >= exact_delta(parts, epsilon) - 1e-15


def test_the_window_is_much_smaller_than_all_losses_that_could_be() -> None:
    one = pmf([0.25, 0.5, 0.25], -1, 0.0)
    composed = composition.compose([(one, 10_000)])
    # A standard deviation of sqrt(5,000): 8 of them on each side hold all but 1e-15.
    assert 2 * 7.9 * math.sqrt(5000) < composed.size < 2 * 9 * math.sqrt(5000)


def test_a_hundred_different_sampled_schedules_agree_with_the_pld_accountant() -> None:
    schedules: list[tuple[Teaching, None]] = [
        (replace(SAMPLED, noise_multiplier=9 + index / 10), None) for index in range(100)
    ]
    schedules += [(replace(LINEAR, noise_multiplier=40.0), None)]
    accountant = PLDAccountant(
        neighboring_relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3
    )
    for schedule in schedules:
        accountant.compose(accounting.event(*schedule))
    for delta in (1e-5, 1e-8):
        computed, expected = accounting.epsilon(tuple(schedules), delta), accountant.get_epsilon(delta)
        assert expected * 0.999 <= computed <= expected * 1.001


def test_what_spans_a_thousand_nats_is_infinite_loss_and_not_composed() -> None:
    one = pld.from_gaussian_mechanism(1.0, value_discretization_interval=1e-3)
    composed = composition.compose([(one._pmf_remove, 10_000)])
    assert (composed.size, composed._infinity_mass) == (1, 1.0)
    assert composed.get_delta_for_epsilon(5000.0) == 1.0
