"""What a plan's schedule costs: its mechanisms as dp-accounting events, composed by its privacy loss distributions.

This is valid for one plan, and for several that were all fixed before the first was answered. When later plans may depend on earlier
answers, `limbeck.plans.privacy_filter` decides what a budget admits.

Public arithmetic on public constants, done by both sides. Neighbours differ by adding or removing one record; unit: record.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from limbeck.base import check
from limbeck.base.errors import SettingError
from limbeck.plans import composition
from limbeck.plans.schema import Counts, EvidenceTeaching, LabelCounts, LinearTeaching, NetTeaching, Teaching, VotesTeaching

DISCRETISATION = 1e-3
HIGHEST_NOISE = 1e6
# Beyond these, privacy loss distributions are huge and epsilon is in the hundreds, which is reported as infinite. LARGEST_MU is also the
# largest standard deviation of the sum of all losses, which bounds the time and memory of composing sampled steps.
LARGEST_MU = 30.0
SMALLEST_SAMPLED_NOISE = 0.3
# Ratios of noise: to which calibration bisects, and within which it knows the crossing beforehand; secants for the latter.
PRECISION, CLOSE = 1.0005, 1.0003
MOST_SECANTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerCounts:
    """Label counts with floating-point Gaussian noise, as 0.1.0 offered them: a charge in an old ledger, which still counts.

    No plan can ask for them. noise_std: in records.
    """

    noise_std: float


Schedule = tuple[Teaching, Counts | FormerCounts | None]


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """An event: the discrete Gaussian of this scale on an integer of sensitivity 1. dp-accounting has its loss, but no event."""

    sigma: float


def event(teaching: Teaching, counts: Counts | FormerCounts | None) -> Any:
    """The DpEvent of one training and of the noisy counts, if any."""
    import dp_accounting as dp

    noisy = dp.GaussianDpEvent(teaching.noise_multiplier)
    match teaching:
        case LinearTeaching():
            training = dp.SelfComposedDpEvent(noisy, teaching.steps)
        case NetTeaching():
            training = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(teaching.sampling_rate, noisy), teaching.steps)
        case VotesTeaching():
            # Training is without noise; what is released is one noisy histogram of votes per query, L2 sensitivity sqrt(2) each.
            training = dp.SelfComposedDpEvent(noisy, teaching.queries)
        case EvidenceTeaching():
            # One release of integers, no steps: post-processing of this mechanism but for a factor of 1 +- 1e-33 per sum
            # (`limbeck.client.discrete`), which moves an epsilon by less than 1e-24 with 10^9 sums.
            training = noisy
    return training if counts is None else dp.ComposedDpEvent([training, _counts_event(counts)])


def _counts_event(counts: Counts | FormerCounts) -> Any:
    """Adding or removing one record changes one count by 1: the histogram's sensitivity is 1, in L2 and in L1."""
    import dp_accounting as dp

    if isinstance(counts, FormerCounts):
        return dp.GaussianDpEvent(counts.noise_std)
    return DiscreteGaussian(counts.noise_std)


def counts_epsilon(counts: Counts, delta: float) -> float:
    """The epsilon at `delta` of the noisy counts alone; unit: record, adjacency: add or remove one."""
    return _epsilon_of(_counts_event(counts), delta)


@lru_cache(maxsize=1024)
def epsilon(schedules: tuple[Schedule, ...], delta: float) -> float:
    """The epsilon at `delta` of all schedules together, by privacy loss distributions, rounded up by their discretisation.

    It holds if they were all fixed beforehand, but not for plans that were chosen by what earlier ones released.
    Unit: record. Adjacency: add or remove one. Infinite if there is hardly any noise.
    """
    import dp_accounting as dp

    return _epsilon_of(dp.ComposedDpEvent([event(*schedule) for schedule in schedules]), delta)


def _epsilon_of(composed: Any, delta: float) -> float:
    """dp-accounting's privacy loss distributions of single mechanisms, composed all at once (`limbeck.plans.composition`).

    Gaussian mechanisms compose exactly to one with 1/sigma^2 = sum 1/sigma_i^2, so any number of them is one distribution. This only
    reduces rounding, which is always upwards.
    """
    import dp_accounting as dp
    from dp_accounting.pld import privacy_loss_distribution as pld

    if not 0 < delta < 1:
        raise SettingError(f"Expected 0 < delta < 1, got {delta!r}.")
    squared_mu, others = 0.0, Counter[Any]()
    for leaf, count in leaves(composed, 1):
        if isinstance(leaf, dp.GaussianDpEvent):
            squared_mu += count / leaf.noise_multiplier**2
        else:
            others[leaf] += count
    if squared_mu > LARGEST_MU**2:
        return math.inf
    used: list[tuple[Any, int]] = []
    if squared_mu:
        used.append((pld.from_gaussian_mechanism(squared_mu**-0.5, value_discretization_interval=DISCRETISATION), 1))
    for leaf, count in others.items():
        if isinstance(leaf, DiscreteGaussian):
            if math.sqrt(count) / leaf.sigma > LARGEST_MU:
                return math.inf
        elif isinstance(leaf, dp.PoissonSampledDpEvent) and isinstance(leaf.event, dp.GaussianDpEvent):
            if leaf.event.noise_multiplier < SMALLEST_SAMPLED_NOISE:
                return math.inf
        else:
            raise SettingError(f"Expected a mechanism out of (sampled) Gaussian and discrete Gaussian, got {leaf}.")
        used.append((_once(leaf), count))
    if not used:
        return 0.0
    # For a Gaussian mechanism this is mu itself.
    if composition.deviation([(one._pmf_remove, count) for one, count in used]) > LARGEST_MU * (1 + 1e-6):
        return math.inf
    removed = composition.compose([(one._pmf_remove, count) for one, count in used])
    if all(one._symmetric for one, _ in used):
        return float(removed.get_epsilon_for_delta(delta))
    added = composition.compose([(one._pmf_add, count) for one, count in used])
    return max(float(pmf.get_epsilon_for_delta(delta)) for pmf in (removed, added))


def leaves(composed: Any, count: int) -> Iterator[tuple[Any, int]]:
    """The mechanisms of an event, each with its number of uses."""
    import dp_accounting as dp

    if isinstance(composed, dp.ComposedDpEvent):
        for part in composed.events:
            yield from leaves(part, count)
    elif isinstance(composed, dp.SelfComposedDpEvent):
        yield from leaves(composed.event, count * composed.count)
    else:
        yield composed, count


@lru_cache(maxsize=1024)
def _once(leaf: Any) -> Any:
    """The privacy loss distribution of one use of a (sampled) mechanism."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    if isinstance(leaf, DiscreteGaussian):
        return pld.from_discrete_gaussian_mechanism(
            leaf.sigma, value_discretization_interval=DISCRETISATION, use_connect_dots=True
        )
    return pld.from_gaussian_mechanism(
        leaf.event.noise_multiplier, sampling_prob=leaf.sampling_probability, value_discretization_interval=DISCRETISATION
    )


def calibrate(
    teaching: Teaching, *, epsilon: float, delta: float, label_counts_fraction: float | None, counts: Counts | None = None
) -> tuple[Teaching, Counts | None]:
    """The least noise with which training, and noisy counts if a fraction is given, cost at most `epsilon` at `delta`.

    - teaching: the schedule; its noise multiplier is replaced.
    - label_counts_fraction: in (0, 1), the counts' share of the squared Gaussian-DP parameter mu of the whole.
    - counts: which counts, with any noise; by default a label histogram.

    Noise multipliers are rounded up to 4 significant digits, so an error favours privacy. Raises SettingError if no noise is enough.
    """
    check.positive(epsilon=epsilon)
    if not 0 < delta < 1:
        raise SettingError(f"Expected 0 < delta < 1, got {delta!r}.")
    if label_counts_fraction is None:
        counts = None
    if label_counts_fraction is not None:
        if not 0 < label_counts_fraction < 1:
            raise SettingError(f"Expected 0 < label_counts_fraction < 1, got {label_counts_fraction!r}.")
        mu = gaussian_mu(epsilon, delta)
        kind = counts or LabelCounts(noise_std=1.0)
        counts = replace(kind, noise_std=_round_up(1 / (mu * math.sqrt(label_counts_fraction))))
    search = _Search(
        lambda noise: _cost(replace(teaching, noise_multiplier=noise), counts, delta),
        epsilon,
        first=_likely_noise(teaching, epsilon, delta, label_counts_fraction or 0.0),
    )
    return replace(teaching, noise_multiplier=_round_up(_least_noise(search, epsilon))), counts


def _least_noise(too_little: Callable[[float], bool], epsilon: float) -> float:
    """The least noise that is not too little for `epsilon`, by bisection, at most PRECISION times as much as it could be."""
    low, high = 0.01, 0.02
    while too_little(high):
        low, high = high, high * 2
        if high > HIGHEST_NOISE:
            raise SettingError(
                f"Expected a schedule that costs epsilon = {epsilon} with enough noise, got one that costs more with any."
            )
    while high / low > PRECISION:
        middle = math.sqrt(low * high)
        if too_little(middle):
            low = middle
        else:
            high = middle
    return high


class _Search:
    """Says whether an amount of noise is too little for `epsilon`, from as few costs as it can: more noise never costs more.

    - cost: of an amount of noise.
    - first: an amount that is likely to be nearly right; from there, secants in logarithms close in from both sides.
    """

    def __init__(self, cost: Callable[[float], float], epsilon: float, *, first: float) -> None:
        self._cost, self._epsilon = cost, epsilon
        self._least, self._most = 0.0, math.inf
        former: tuple[float, float] | None = None
        noise, slope = first, -1.0
        for _ in range(MOST_SECANTS):
            if self._most <= self._least * CLOSE:
                return
            noise = min(max(noise, self._least * 1.0001, 1e-2), self._most / 1.0001, HIGHEST_NOISE)
            found = self._ask(noise)
            if not 0 < found < math.inf:
                noise *= 2 if found else 0.5
                continue
            at = (math.log(noise), math.log(found))
            if former is not None and at[0] != former[0] and at[1] != former[1]:
                slope = min(-0.1, (at[1] - former[1]) / (at[0] - former[0]))
            former = at
            # Beyond the crossing by a little, so that the next cost lies on its other side.
            beyond = CLOSE**0.4 if found > epsilon else CLOSE**-0.4
            noise = math.exp(at[0] + (math.log(epsilon) - at[1]) / slope) * beyond

    def __call__(self, noise: float) -> bool:
        if self._least < noise < self._most:
            self._ask(noise)
        return noise <= self._least

    def _ask(self, noise: float) -> float:
        found = self._cost(noise)
        if found > self._epsilon:
            self._least = max(self._least, noise)
        else:
            self._most = min(self._most, noise)
        return found


def _likely_noise(teaching: Teaching, epsilon: float, delta: float, fraction: float) -> float:
    """About the noise multiplier of this epsilon, of which the counts take a fraction: exact for steps on all records, and for sampled ones
    by the central limit, mu = q sqrt(T (e^(1/sigma^2) - 1)) [F: arXiv 1911.11607]."""
    import dp_accounting as dp

    squared_mu = gaussian_mu(epsilon, delta) ** 2 * (1 - fraction)
    ((leaf, uses),) = leaves(event(teaching, None), 1)
    if isinstance(leaf, dp.PoissonSampledDpEvent):
        return 1 / math.sqrt(math.log1p(squared_mu / (uses * leaf.sampling_probability**2)))
    return math.sqrt(uses / squared_mu)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The mu whose Gaussian mechanism (sensitivity 1, noise 1/mu) is exactly (epsilon, delta)-DP.

    delta = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu) [F: arXiv 1805.06530, theorem 8].
    """
    low, high = 1e-6, 100.0
    while high - low > 1e-9:
        mu = (low + high) / 2
        if _normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * _normal(-mu / 2 - epsilon / mu) > delta:
            high = mu
        else:
            low = mu
    return low


def _cost(teaching: Teaching, counts: Counts | None, delta: float) -> float:
    return epsilon(((teaching, counts),), delta)


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def _round_up(x: float) -> float:
    scale = 10.0 ** (3 - math.floor(math.log10(x)))
    return math.ceil(x * scale) / scale
