"""The filter's epsilon holds whatever later plans depend on: a choice by earlier answers gets past a sum, never past the filter."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dp_accounting.pld import pld_pmf
from dp_accounting.pld import privacy_loss_distribution as pld
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, optimize, stats

from helpers.plans import LINEAR, NET
from limbeck.base.errors import SettingError
from limbeck.plans import accounting, composition, privacy_filter
from limbeck.plans.accounting import Schedule
from limbeck.plans.schema import LabelCounts, LinearTeaching, NetTeaching, RecordCount, VotesTeaching

DELTA = 1e-5
VOTES = VotesTeaching(
    teachers=20, queries=50, features="pixels", feature_norm=4, steps=5, learning_rate=1, momentum=0, noise_multiplier=60
)
SLACK_S = np.array([1e-6, 1e-8, 1e-12])
Array = NDArray[np.float64]


def gaussian_curve(epsilon: float, mu: float) -> float:
    """delta(epsilon) of the Gaussian mechanism [F: arXiv 1805.06530], by scipy."""
    above, below = stats.norm.logcdf(mu / 2 - epsilon / mu), stats.norm.logcdf(-mu / 2 - epsilon / mu)
    return float(math.exp(above) - math.exp(epsilon + below))


def reference_curve(epsilon: float, mu: float, slack: float) -> float:
    """delta(epsilon) of a Gaussian mechanism beside a disclosure of that chance."""
    return slack + (1 - slack) * gaussian_curve(epsilon, mu)


# Gaussian mechanisms


@pytest.mark.parametrize(("epsilon", "sigma"), [(1.0, 3.730632), (0.1, 30.0747), (8.0, 0.609)])
def test_the_gaussian_mechanism_costs_what_the_analytic_gaussian_mechanism_says(epsilon: float, sigma: float) -> None:
    """Against its exact curve by scipy, and the calibration of arXiv 1805.06530: noise 3.7306 for epsilon = 1 at delta = 1e-5."""
    computed = privacy_filter.gaussian_epsilon(1 / sigma, DELTA)
    exact = optimize.brentq(lambda epsilon: gaussian_curve(epsilon, 1 / sigma) - DELTA, 0, 100)
    assert exact <= computed * (1 + 1e-9) <= exact * (1 + 1e-6)
    if epsilon == 1.0:
        assert computed == pytest.approx(1.0, abs=1e-5)


def test_gaussian_charges_add_their_squared_mu_and_only_the_split_of_delta_is_lost() -> None:
    schedules: tuple[Schedule, ...] = (
        (replace(LINEAR, noise_multiplier=40.0), None),
        (replace(LINEAR, noise_multiplier=25.0), None),
        (VOTES, None),
        (replace(NET, sampling_rate=1.0, noise_multiplier=20.0), None),
    )
    squared = LINEAR.steps / 40**2 + LINEAR.steps / 25**2 + VOTES.queries / 60**2 + NET.steps / 20**2
    computed = privacy_filter.epsilon(schedules, DELTA)
    left = (DELTA - 1e-6) / (1 - 1e-6)
    assert computed == pytest.approx(optimize.brentq(lambda e: gaussian_curve(e, math.sqrt(squared)) - left, 0, 9), rel=1e-9)
    assert 1 < computed / accounting.epsilon(schedules, DELTA) < 1.01


# What a charge is compared with dominates it


def discrete_gaussian_curve(sigma: float, epsilon: float) -> float:
    """delta(epsilon) of the discrete Gaussian against itself moved by 1, summed over the integers."""
    reach = math.ceil(13 * sigma) + 5
    p = np.exp(-(np.arange(-reach, reach + 1, dtype=np.float64) ** 2) / (2 * sigma**2))
    p /= math.fsum(p)
    return math.fsum(np.maximum(p[:-1] - math.exp(epsilon) * p[1:], 0.0))


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.0, 6.2, 20.0, 49.0, 51.0, 300.0, 1e4])
def test_the_discrete_gaussian_is_dominated_and_hardly_overcharged(sigma: float) -> None:
    mu_S = privacy_filter.discrete_gaussian_mu(sigma, SLACK_S)
    for mu, slack in zip(mu_S, SLACK_S, strict=True):
        for epsilon in np.linspace(0, 7, 60 if sigma < 100 else 6) * mu:
            curve = discrete_gaussian_curve(sigma, float(epsilon))
            assert curve <= reference_curve(float(epsilon), mu * (1 + 1e-9), slack) + 1e-15
    # It is somewhat dearer than the Gaussian of its scale; by how much is bounded by rounding that Gaussian of a smaller variance.
    assert np.all(mu_S * sigma >= 1 - 1.5e-4)
    assert np.all(mu_S * sigma <= (1.7 if sigma < 1 else 1 + 0.05 / sigma**2 if sigma <= 50 else 1 + 2 / sigma**2))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 6.2])
def test_the_discrete_gaussian_needs_more_than_its_scale(sigma: float) -> None:
    """Were the Gaussian of the same scale taken instead, or a little less than what was found, it would not dominate."""
    (mu,) = privacy_filter.discrete_gaussian_mu(sigma, np.array([1e-12]))
    for less in (1 / sigma, mu * 0.9999):
        assert discrete_gaussian_curve(sigma, 0.0) > reference_curve(1e-12, float(less), 1e-12)


def sampled_step_curves(rate: float, noise: float, epsilon: float) -> tuple[float, float]:
    """delta(epsilon >= 0) of one sampled step with the record taken away, in closed form, and added, by integration."""
    removed = rate * gaussian_curve(math.log1p(math.expm1(epsilon) / rate), 1 / noise)

    def density(x: float) -> float:
        other = (1 - rate) * stats.norm.pdf(x, 0, noise) + rate * stats.norm.pdf(x, 1, noise)
        return float(max(0.0, stats.norm.pdf(x, 0, noise) - math.exp(epsilon) * other))

    return removed, integrate.quad(density, -12 * noise, 12 * noise + 1, limit=400, epsabs=1e-13)[0]


@pytest.mark.parametrize(("rate", "noise"), [(0.5, 2.0), (0.1, 1.2), (0.01, 0.7), (0.2, 30.0)])
def test_one_sampled_step_is_dominated(rate: float, noise: float) -> None:
    mu_S = privacy_filter.sampled_mu(rate, noise, 1, SLACK_S)
    for epsilon in np.linspace(0, 7, 10) * rate / noise:
        for curve in sampled_step_curves(rate, noise, float(epsilon)):
            for mu, slack in zip(mu_S, SLACK_S, strict=True):
                assert curve <= reference_curve(float(epsilon), float(mu) * (1 + 1e-4), slack) + 1e-12


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.1, 1.2, 20), (0.01, 0.9, 300), (0.3, 6.0, 50)])
def test_many_sampled_steps_are_dominated_and_hardly_overcharged(rate: float, noise: float, steps: int) -> None:
    """Against dp-accounting's own composition, on another grid."""
    mu_S = privacy_filter.sampled_mu(rate, noise, steps, SLACK_S)
    composed = pld.from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=7e-4).self_compose(steps)
    ratios = []
    for mu, slack in zip(mu_S, SLACK_S, strict=True):
        for epsilon in np.linspace(0, 12, 100) * rate / noise * math.sqrt(steps):
            if (curve := composed.get_delta_for_epsilon(float(epsilon))) > slack:
                ratios.append(reference_curve(float(epsilon), float(mu), slack) / curve)
    assert 0.999 < min(ratios) < 1.1


def test_a_charge_takes_the_time_that_its_disclosures_take() -> None:
    """Three equal charges share the process: a third of mu^2 each, and of the disclosures that a tenth of delta pays for."""
    disclosed = DELTA / 10
    for schedule in (NET, replace(NET, sampling_rate=0.01, steps=30, noise_multiplier=0.8)):
        epsilon = privacy_filter.epsilon(((schedule, None),) * 3, DELTA)
        mu = optimize.brentq(lambda value, at=epsilon: reference_curve(at, value, disclosed) - DELTA, 0.01, 20)
        a_third = 1 - (1 - disclosed) ** (1 / 3)
        (needed,) = privacy_filter.sampled_mu(
            schedule.sampling_rate, schedule.noise_multiplier, schedule.steps, np.array([a_third])
        )
        # A part is rounded to eight a decade, and mu hardly depends on it.
        assert needed <= mu / math.sqrt(3) <= 1.01 * needed


def test_a_single_sampled_plan_costs_at_least_its_privacy_losses() -> None:
    for schedule in (NET, replace(NET, sampling_rate=0.5, steps=2, noise_multiplier=3.0)):
        assert privacy_filter.epsilon(((schedule, None),), DELTA) >= 0.999 * accounting.epsilon(((schedule, None),), DELTA)


def test_infinite_losses_are_covered_by_disclosures_or_not_at_all() -> None:
    p_L = stats.norm.pdf(np.linspace(-4, 4, 801))
    pmf = pld_pmf.DensePLDPmf(1e-3, -300, p_L / p_L.sum() * (1 - 1e-7), 1e-7, True)
    slack_S = np.array([1e-6, 1.01e-7, 0.99e-7])
    mu_S = privacy_filter._mu_above(*privacy_filter._chords(pmf, slack_S.min()), slack_S)
    assert 0 < mu_S[0] < mu_S[1] < 2
    assert mu_S[2] == math.inf


# An attacker that chooses the second plan by what the first one lost


class Losses:
    """The privacy loss distribution of a net's plan, with the record taken away or added; composed on a grid of 1e-3.

    Rounded up, or down where it is not `pessimistic`: what an attack is at least worth must not be owed to rounding.
    """

    def __init__(self, teaching: NetTeaching, *, pessimistic: bool, added: bool) -> None:
        one = pld.from_gaussian_mechanism(
            teaching.noise_multiplier,
            sampling_prob=teaching.sampling_rate,
            value_discretization_interval=1e-3,
            pessimistic_estimate=pessimistic,
            use_connect_dots=pessimistic,
        )
        pmf = one._pmf_add if added else one._pmf_remove
        composed = composition.compose([(pmf, teaching.steps)]).to_dense_pmf()
        self.p_L: Array = np.asarray(composed._probs, np.float64)
        self.loss_L: Array = (composed._lower_loss + np.arange(len(self.p_L))) * 1e-3
        self.infinite = float(composed._infinity_mass) if pessimistic else 0.0

    def curve(self, epsilon_N: Array) -> Array:
        """delta(epsilon), (N,)."""
        p_above = np.append(np.cumsum(self.p_L[::-1])[::-1], 0.0)
        q_above = np.append(np.cumsum((self.p_L * np.exp(-self.loss_L))[::-1])[::-1], 0.0)
        index_N = np.searchsorted(self.loss_L, epsilon_N, side="right")
        delta_N: Array = self.infinite + p_above[index_N] - np.exp(epsilon_N) * q_above[index_N]
        return delta_N


def adaptive_epsilon(first: NetTeaching, options: list[NetTeaching], *, pessimistic: bool, added: bool = False) -> float:
    """The exact epsilon at DELTA of: run `first`, look at its privacy loss l, run the option that gives most from there.

    delta(epsilon) = E over l of the first under P of max over options of delta_option(epsilon - l): a choice by l is the best there is.
    """
    earlier = Losses(first, pessimistic=pessimistic, added=added)
    later = [Losses(option, pessimistic=pessimistic, added=added) for option in options]

    def excess(epsilon: float) -> float:
        best_L = np.max([each.curve(epsilon - earlier.loss_L) for each in later], axis=0)
        return float(earlier.infinite + earlier.p_L @ best_L) - DELTA

    return float(optimize.brentq(excess, 0.1, 20, xtol=1e-5))


def calibrated(cost: Any, first: NetTeaching, rate: float, steps: int, budget: float) -> NetTeaching:
    """The second plan of these steps with the least noise that `cost` lets into the budget."""
    low, high = 0.3, 60.0
    while high / low > 1.002:
        middle = math.sqrt(low * high)
        second = replace(NET, sampling_rate=rate, steps=steps, noise_multiplier=middle)
        low, high = (middle, high) if cost(((first, None), (second, None)), DELTA) > budget else (low, middle)
    return replace(NET, sampling_rate=rate, steps=steps, noise_multiplier=high)


# Many mild steps, few strong ones, and one that hardly ever meets the record but then tells all.
OPTIONS = [(1.0, 1), (0.01, 100), (0.003, 50)]


def test_a_sum_of_privacy_losses_is_passed_by_an_attacker_that_chooses_later_plans() -> None:
    """Every option fits a budget of 3 by the sum, but not the choice among them: the rule before this filter. The filter refuses each."""
    options = [calibrated(accounting.epsilon, NET, rate, steps, 3.0) for rate, steps in OPTIONS]
    for option in options:
        assert 2.97 < accounting.epsilon(((NET, None), (option, None)), DELTA) <= 3.0
        assert privacy_filter.spent(((NET, None), (option, None)), DELTA) > 3.0
    assert adaptive_epsilon(NET, options[:1], pessimistic=False) <= 3.0
    assert adaptive_epsilon(NET, options, pessimistic=False) > 3.14


@pytest.mark.parametrize(
    "first", [replace(NET, noise_multiplier=1.6), replace(NET, sampling_rate=0.01, steps=200, noise_multiplier=0.8)]
)
def test_the_filter_is_passed_by_no_choice_of_later_plans(first: NetTeaching) -> None:
    """The same attack against the filter, every option as strong as it admits, with the record taken away and added."""
    options = [calibrated(privacy_filter.spent, first, rate, steps, 3.0) for rate, steps in OPTIONS]
    for option in options:
        assert 2.9 < privacy_filter.spent(((first, None), (option, None)), DELTA) <= 3.0
    assert 2.5 < adaptive_epsilon(first, options, pessimistic=True) <= 3.0
    assert adaptive_epsilon(first, options, pessimistic=True, added=True) <= 3.0


# Rules that hold for all charges

SCHEDULES: list[Schedule] = [
    (replace(LINEAR, noise_multiplier=30.0), None),
    (replace(LINEAR, noise_multiplier=60.0), LabelCounts(noise_std=40.0)),
    (replace(LINEAR, noise_multiplier=300.0), RecordCount(noise_std=15.0)),
    (VOTES, None),
    (replace(NET, noise_multiplier=3.0), None),
    (replace(NET, noise_multiplier=30.0, sampling_rate=0.01), RecordCount(noise_std=9.0)),
    (replace(NET, noise_multiplier=0.8, sampling_rate=0.01, steps=100), None),
]
charges = st.lists(st.sampled_from(SCHEDULES), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(first=charges, more=charges)
def test_more_charges_never_cost_less_and_never_less_than_if_all_had_been_fixed(
    first: list[Schedule], more: list[Schedule]
) -> None:
    few, many = tuple(first), (*first, *more)
    assert privacy_filter.spent(few, DELTA) < privacy_filter.spent(many, DELTA)
    for charges_so_far in (few, many):
        assert 0 < privacy_filter.if_fixed(charges_so_far, DELTA) <= privacy_filter.spent(charges_so_far, DELTA)
    # The filter's bound holds for fixed plans too, so that what is said of them is never above it by more than a grid's rounding.
    assert accounting.epsilon(many, DELTA) <= 1.02 * privacy_filter.epsilon(many, DELTA)


@settings(max_examples=20, deadline=None)
@given(charged=charges, seed=st.randoms(use_true_random=False))
def test_neither_order_nor_repeats_of_charges_matter_to_their_sum(charged: list[Schedule], seed: Any) -> None:
    other = list(charged)
    seed.shuffle(other)
    assert privacy_filter.epsilon(tuple(other), DELTA) == pytest.approx(
        privacy_filter.epsilon(tuple(charged), DELTA), rel=1e-9
    )


@pytest.mark.parametrize(("kind", "fraction"), [(LINEAR, 0.05), (NET, None)])
def test_a_single_plan_calibrated_by_pld_fits_its_budget(kind: LinearTeaching | NetTeaching, fraction: float | None) -> None:
    epsilon = 3.0
    schedule = accounting.calibrate(kind, epsilon=epsilon, delta=DELTA, label_counts_fraction=fraction)
    assert 0.98 * epsilon <= privacy_filter.spent((schedule,), DELTA) <= epsilon
    assert privacy_filter.spent((schedule,), DELTA) == pytest.approx(accounting.epsilon((schedule,), DELTA), rel=1e-2)
    # A second charge, however mild, and what is held to the budget is the filter over both.
    both = (schedule, SCHEDULES[2])
    assert privacy_filter.spent(both, DELTA) == privacy_filter.epsilon(both, DELTA) > epsilon


@pytest.mark.parametrize("teaching", [LINEAR, NET, VOTES])
def test_counts_beside_any_teacher_are_charged(teaching: LinearTeaching | NetTeaching | VotesTeaching) -> None:
    plain = (replace(teaching, noise_multiplier=50.0), None)
    counted = (plain[0], RecordCount(noise_std=3.0))
    alone = privacy_filter.epsilon(((replace(teaching, noise_multiplier=1e5), RecordCount(noise_std=3.0)),), DELTA)
    assert privacy_filter.epsilon((counted,), DELTA) > max(alone * 0.999, 1.05 * privacy_filter.epsilon((plain,), DELTA))


def test_five_plans_of_a_typical_net_cost_hardly_more_than_if_they_had_been_fixed() -> None:
    schedule = accounting.calibrate(replace(NET, steps=100), epsilon=1.0, delta=DELTA, label_counts_fraction=None)
    together = (schedule,) * 5
    assert privacy_filter.spent(together, DELTA) < 1.05 * accounting.epsilon(together, DELTA)


def test_no_schedule_costs_nothing_and_hardly_any_noise_infinitely_much() -> None:
    assert privacy_filter.spent((), DELTA) == privacy_filter.epsilon((), DELTA) == 0
    much = replace(NET, sampling_rate=0.5, noise_multiplier=0.31, steps=10**5)
    for teaching in (replace(LINEAR, noise_multiplier=1e-6), replace(NET, noise_multiplier=0.01), much):
        assert privacy_filter.epsilon(((teaching, None),), DELTA) == math.inf
        assert privacy_filter.spent(((LINEAR, None), (teaching, None)), DELTA) == math.inf


def test_the_work_that_a_plan_can_ask_for_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps whose losses would be a distribution over millions of values are never composed: they cost infinitely much anyway."""
    monkeypatch.setattr(composition, "compose", lambda _: pytest.fail("composed"))
    assert np.all(privacy_filter.sampled_mu(0.5, 0.31, 10**5, SLACK_S) == math.inf)


@pytest.mark.filterwarnings("error")
def test_losses_whose_odds_are_no_double_count_as_infinite() -> None:
    p_L = np.full(3, 1 / 3)
    pmf = pld_pmf.DensePLDPmf(400.0, 0, p_L, 0.0, True)
    mu_S = privacy_filter._mu_above(*privacy_filter._chords(pmf, SLACK_S.min()), SLACK_S)
    assert np.all(mu_S == math.inf)


@pytest.mark.parametrize(("wrong", "right"), [(math.nan, 0.5), (0.1, math.nan), (math.nan, math.nan)])
def test_a_curve_that_is_no_number_costs_infinitely_much(
    wrong: float, right: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    mu_N = privacy_filter._mu_above(np.array([0.1, wrong]), np.array([0.2, right]), SLACK_S)
    assert np.all(np.isnan(mu_N))
    privacy_filter._squared_mu.cache_clear()
    privacy_filter.epsilon.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(privacy_filter, "sampled_mu", lambda *_: np.full(len(privacy_filter.PARTS_S), math.nan))
        assert privacy_filter.epsilon(((NET, None),), DELTA) == math.inf
    privacy_filter._squared_mu.cache_clear()
    privacy_filter.epsilon.cache_clear()


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_a_delta_that_is_no_chance_is_refused(delta: float) -> None:
    with pytest.raises(SettingError, match="Expected 0 < delta < 1"):
        privacy_filter.epsilon(((LINEAR, None),), delta)


def test_a_mechanism_that_is_not_known_is_never_taken_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    import dp_accounting as dp

    for leaf in (dp.PoissonSampledDpEvent(0.01, dp.NonPrivateDpEvent()), dp.NonPrivateDpEvent(), dp.LaplaceDpEvent(2.0)):
        with monkeypatch.context() as patch:
            patch.setattr(accounting, "event", lambda *_, event=leaf: dp.ComposedDpEvent([dp.GaussianDpEvent(50.0), event]))
            privacy_filter.epsilon.cache_clear()
            with pytest.raises(SettingError, match="Expected a mechanism out of"):
                privacy_filter.epsilon(((LINEAR, None),), DELTA)
    privacy_filter.epsilon.cache_clear()
