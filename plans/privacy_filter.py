"""A privacy filter: what charges cost together when each plan may be chosen after seeing what earlier ones released.

Composing privacy loss distributions (`limbeck.plans.accounting.epsilon`) is right only for plans that were all fixed beforehand. A
coordinator that waits for the first student and then picks the second plan by it can do better: with sampled nets a sum of 3 became 3.15
(`tests/plans/test_privacy_filter.py` plays that attack). That natural filter is invalid for trade-off functions in general
[F: arXiv 2602.06756]. For Gaussian mechanisms it is valid [F: arXiv 2210.17520, and 2209.15596], and the proof carries over to anything
that a fixed process dominates, which is how this filter counts.

Formal guarantee. Fix a budget (epsilon, delta). Let a *reference process* run on a clock from 0 to 1 and tell a bit b, whether the record
is there, in two independent ways: a Brownian motion with drift b mu and unit variance, and a Poisson process of rate lambda that discloses
b at its first point. Run for a time c it is exactly as good at telling b as one Gaussian mechanism of parameter mu sqrt(c) together with a
disclosure that happens with the chance 1 - exp(-lambda c); write R_c for the trade-off function of that pair [F: arXiv 1905.02383].

1. A charge costs the least time c at which R_c lies below its own trade-off function, in both directions of the relation add-remove-one.
   R_c is symmetric, so one direction implies the other.
2. The filter admits a charge while all times together are at most 1. Then everything released is (epsilon, delta)-DP, whoever chooses
   the plans and whatever they depend on [D]: by Blackwell's theorem [F: arXiv 1905.02383, theorem 2] each mechanism is a randomised
   function of a piece of the process of length c. Cut the next piece from where the last one ended. Lengths depend on earlier outputs,
   that is on the process up to there, and the increments after that are independent of it, so each output has exactly the distribution
   that it should have. All outputs are then a randomised function of the process up to time 1, whose trade-off function is R_1.
3. mu is chosen so that R_1 is (epsilon, delta)-DP: with s = 1 - exp(-lambda), the share of delta that disclosures take, and H the curve of
   the Gaussian mechanism, s + (1 - s) H(epsilon; mu) = delta. delta is split once, DISCLOSED to s, before anything is charged.

For Gaussian mechanisms c = 1 / (noise mu)^2, without loss: only the split costs, 0.6 per cent at epsilon = 3. Poisson-sampled steps and the
discrete Gaussian are compared with R_c at every breakpoint of their own piecewise linear curves. Between two breakpoints a curve is a
chord and R_c, which is convex, lies below its chords: so breakpoints are enough. Losses too rare to matter are covered by disclosures. Of a
sampled net nothing to speak of is lost if it has tens of steps; a plan of few rare steps is far from a Gaussian and is overcharged.

Single charge. A ledger of one charge was not adaptive: its plan was fixed before its first record was read, so the privacy loss
distribution holds for it, and is what is charged. The two rules are valid together [D]: the first plan is chosen before any answer. If its
time is at most 1, all that is ever admitted is admitted by the filter, since times only add up. If it is above 1, no second charge is
admitted, whatever is answered; only the first plan runs, and its own curve holds.

What an epsilon of several charges means: a budget of that epsilon, had it been set beforehand, would have admitted them. The guarantee
is that of the budget. A greater budget admits whatever a smaller one did, so raising it later gives the guarantee of the greater one.

Unit: record. Adjacency: add or remove one.

Shape legend: S slacks, chances of disclosure at which a charge is compared; J breakpoints; C different charges.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, ndtri

from limbeck.base.errors import SettingError
from limbeck.plans import accounting, composition
from limbeck.plans.accounting import LARGEST_MU, SMALLEST_SAMPLED_NOISE, DiscreteGaussian, Schedule

# The share of delta that goes to disclosures.
DISCLOSED = 0.1
# Written into a ledger when it is opened, so that what its budget is held to never changes under it.
FIXED = {"kind": "gaussian-and-disclosures", "version": 1, "disclosed": DISCLOSED}
# Parts of the clock at which charges are compared: 10^0 to 10^-12, eight a decade. A charge is rounded up to the next.
PARTS_S: NDArray[np.float64] = 10.0 ** (-np.arange(97) / 8)
# Breakpoints kept of a curve: chords between more of them would make mu smaller by about 2e-4 of it.
BREAKPOINTS = 200
# The interval of a sampled mechanism's losses, as a part of one step's standard deviation, and how many there may be: that bounds time and
# memory, whatever a plan asks.
FINENESS, LOSSES, LARGEST_LOSS = 0.1, 1e5, 500.0
# Above this noise the discrete Gaussian is bounded by a formula instead of breakpoint by breakpoint.
DISCRETE_BY_FORMULA = 50.0
# Least mu of anything sampled: below, double precision cannot tell its curve from that of nothing. 10^7 of them use up a budget of 3.
LEAST_SAMPLED_MU, LEAST_INTERVAL = 1e-4, 1e-7
# Covers the rounding of double precision in what is compared.
ROUNDING = 1 + 1e-4

Array = NDArray[np.float64]
Charge = tuple[Any, int]


def spent(schedules: tuple[Schedule, ...], delta: float) -> float:
    """The epsilon at `delta` that a budget is held to: of one charge by its own privacy loss distribution, of several by the filter.

    Unit: record. Adjacency: add or remove one. Infinite where there is hardly any noise. Raises SettingError where delta is not in (0, 1).
    """
    return if_fixed(schedules, delta) if len(schedules) < 2 else epsilon(schedules, delta)


def if_fixed(schedules: tuple[Schedule, ...], delta: float) -> float:
    """The epsilon at `delta` had all plans been fixed before the first record was read: by privacy loss distributions composed.

    Never above the filter's, which holds then too: a distribution is rounded up to its grid, and can be above where little is lost in all.
    """
    return min(accounting.epsilon(schedules, delta), epsilon(schedules, delta))


@lru_cache(maxsize=1024)
def epsilon(schedules: tuple[Schedule, ...], delta: float) -> float:
    """The least epsilon for which the filter at (epsilon, delta) admits all schedules, each chosen by whatever earlier ones released.

    Unit: record. Adjacency: add or remove one. Infinite where there is hardly any noise. Raises SettingError where delta is not in (0, 1).
    """
    if not 0 < delta < 1:
        raise SettingError(f"Expected 0 < delta < 1, got {delta!r}.")
    gaussian, charges = 0.0, Counter[Charge]()
    for schedule in schedules:
        for charge, uses in _charges(schedule):
            if charge is None:
                gaussian += uses
            else:
                charges[charge] += int(uses)
    if not schedules:
        return 0.0
    disclosed = DISCLOSED * delta
    squared_CS = np.array([_squared_mu(leaf, steps, disclosed) for leaf, steps in charges]).reshape(-1, len(PARTS_S))
    uses_C = np.array(list(charges.values()), np.float64)

    def time(squared_mu: float) -> float:
        return gaussian / squared_mu + float(uses_C @ np.maximum(squared_CS / squared_mu, PARTS_S).min(1))

    low, high = gaussian or 1e-30, LARGEST_MU**2
    if gaussian > high or not time(high) <= 1:
        return math.inf
    if not charges:
        high = gaussian
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if time(middle) > 1 else (low, middle)
    return gaussian_epsilon(math.sqrt(high), (delta - disclosed) / (1 - disclosed))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon >= 0 at `delta` of the Gaussian mechanism of sensitivity 1 and noise 1/mu, rounded up by 1e-12 of it.

    Inverts delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu) [F: arXiv 1805.06530, theorem 8].
    """

    def excess(epsilon: float) -> float:
        above, below = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
        return float(np.exp(above) - np.exp(below)) - delta

    low, high = 0.0, mu * (mu / 2 + 40)
    if excess(low) <= 0:
        return 0.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def _charges(schedule: Schedule) -> Iterator[tuple[Charge | None, float]]:
    """The mechanisms of a schedule that are compared one by one, and how often each; of Gaussian ones, None and the sum of mu^2."""
    import dp_accounting as dp

    for leaf, count in accounting.leaves(accounting.event(*schedule), 1):
        match leaf:
            case dp.GaussianDpEvent():
                yield None, count / leaf.noise_multiplier**2
            case dp.PoissonSampledDpEvent(event=dp.GaussianDpEvent()) if leaf.sampling_probability == 1:
                yield None, count / leaf.event.noise_multiplier**2
            case DiscreteGaussian():
                yield (leaf, 1), count
            case dp.PoissonSampledDpEvent(event=dp.GaussianDpEvent()):
                # The steps of one plan are fixed with it: they are composed before they are compared.
                yield (leaf, count), 1
            case _:
                raise SettingError(f"Expected a mechanism out of (sampled) Gaussian and discrete Gaussian, got {leaf}.")


@lru_cache(maxsize=4096)
def _squared_mu(leaf: Any, steps: int, disclosed: float) -> Array:
    """The least mu^2 with which a Gaussian mechanism and a disclosure dominate this one; (S,), for chances of a disclosure in PARTS_S."""
    slack_S = -np.expm1(PARTS_S * math.log1p(-disclosed))
    if isinstance(leaf, DiscreteGaussian):
        mu_S = discrete_gaussian_mu(leaf.sigma, slack_S)
    elif leaf.event.noise_multiplier < SMALLEST_SAMPLED_NOISE:
        mu_S = np.full(len(slack_S), math.inf)
    else:
        mu_S = sampled_mu(leaf.sampling_probability, leaf.event.noise_multiplier, steps, slack_S)
    return mu_S**2 * ROUNDING


def discrete_gaussian_mu(sigma: float, slack_S: Array) -> Array:
    """mu (S,) of Gaussian mechanisms that, with a disclosure of chance slack_S, dominate the discrete Gaussian of scale `sigma` moved by 1.

    Up to a scale of 50, at each breakpoint: the test "at least k + 1" is right with probability P(X >= k) and wrong with P(X >= k + 1).
    Above, by randomised rounding of a Gaussian of variance sigma^2 - s^2 with a discrete kernel of variance s^2 [D]: its output has the
    wanted probabilities but for a factor within 1 +- 4.02 exp(-2 pi^2 s^2), by Poisson's summation formula, and that little is disclosed.
    """
    if sigma > DISCRETE_BY_FORMULA:
        kernel_S = np.maximum(1.0, np.log(4.02 / slack_S) / (2 * math.pi**2))
        return 1 / np.sqrt(sigma**2 - kernel_S)
    index_J = np.arange(math.ceil(12 * sigma) + 4)
    mass_J = np.exp(-(index_J**2) / (2 * sigma**2))
    # The other half of the integers mirrors this one.
    mass_J /= 2 * mass_J.sum() - 1
    least_J = np.cumsum(mass_J[::-1])[::-1]
    return _mu_above(least_J[1:], least_J[:-1], slack_S)


def sampled_mu(rate: float, noise: float, steps: int, slack_S: Array) -> Array:
    """Likewise (S,) for so many steps of a Gaussian mechanism on Poisson samples, composed by their privacy loss distribution."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    deviation = rate * math.sqrt(math.expm1(min(1 / noise**2, 100.0)))
    widest = math.log1p(rate * math.expm1(min(10 / noise + 1 / (2 * noise**2), 100.0)))
    coarser = max(widest, deviation * math.sqrt(steps)) / LOSSES
    interval = min(accounting.DISCRETISATION, max(FINENESS * deviation, coarser, LEAST_INTERVAL))
    one = pld.from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=interval)
    if composition.deviation([(one._pmf_remove, steps)]) > LARGEST_MU:
        return np.full(len(slack_S), math.inf)
    mu_S = np.full(len(slack_S), LEAST_SAMPLED_MU)
    for pmf in (one._pmf_remove, one._pmf_add):
        mu_S = np.maximum(mu_S, _mu_above(*_chords(composition.compose([(pmf, steps)]), slack_S.min()), slack_S))
    return mu_S


def _chords(pmf: Any, least: float) -> tuple[Array, Array]:
    """Breakpoints (J,), wrong and right, of a trade-off function not above that of a privacy loss distribution, for losses of 0 and more.

    The curve H(epsilon) = sum over losses l > epsilon of p_l (1 - e^(epsilon - l)), and the infinite ones, is convex in e^epsilon: chords
    between some of its points lie above it. A chord is right - wrong e^epsilon. least: a mass that does not matter.
    """
    dense = pmf.to_dense_pmf()
    p_L = np.asarray(dense._probs, np.float64)
    first = int(dense._lower_loss)
    if first > 0:
        p_L, first = np.concatenate([np.zeros(first), p_L]), 0
    loss_L = (first + np.arange(len(p_L))) * dense._discretization
    p_above_L = dense._infinity_mass + _sums_above(p_L)
    q_above_L = _sums_above(p_L * np.exp(-loss_L))
    start = max(0, min(-first, len(p_L) - 1))
    # Losses past LARGEST_LOSS are of no use to any budget, and their odds are no double any more: what is above counts as infinite.
    last = min(int(np.count_nonzero(p_above_L > least)), int(np.count_nonzero(loss_L < LARGEST_LOSS)) - 1, len(p_L) - 1)
    some = np.unique(np.linspace(start, max(start, last), BREAKPOINTS).astype(np.int64))
    odds_J = np.exp(loss_L[some])
    curve_J = p_above_L[some] - odds_J * q_above_L[some]
    wrong_J = np.maximum(0.0, curve_J[:-1] - curve_J[1:]) / np.diff(odds_J)
    right_J = curve_J[:-1] + odds_J[:-1] * wrong_J
    # Past the last point the curve is no higher than there.
    return np.append(wrong_J, 0.0), np.append(right_J, curve_J[-1])


def _sums_above(p_L: Array) -> Array:
    return np.append(np.cumsum(p_L[:0:-1])[::-1], 0.0)


def _mu_above(wrong_J: Array, right_J: Array, slack_S: Array) -> Array:
    """The least mu (S,) with which a Gaussian mechanism and a disclosure of chance slack_S are as good a test at every breakpoint.

    With the chance s it is never wrong; else it is right with Phi(Phi^-1(wrong) + mu).
    """
    kept_S = 1 - slack_S[:, None]
    wrong_SJ, right_SJ = wrong_J / kept_S, np.minimum((right_J - slack_S[:, None]) / kept_S, 1.0)
    # What is no number is needed, and then makes the charge infinite.
    needed_SJ = ~((right_SJ <= 0) | (wrong_SJ >= 1))
    mu_SJ = ndtri(np.where(needed_SJ, right_SJ, 0.5)) - ndtri(np.where(needed_SJ, wrong_SJ, 0.5))
    mu_S: Array = mu_SJ.max(1, initial=0.0)
    return mu_S
