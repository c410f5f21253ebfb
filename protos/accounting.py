"""What a plan's schedule costs: its mechanisms as dp-accounting events, composed by privacy loss distributions.

Public arithmetic on public constants; both sides do it. Neighbours differ by adding or removing one record; unit: record.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any

from limbeck.operators import check
from limbeck.operators.errors import SettingError
from limbeck.protos.messages import LabelCounts, LinearTeaching, NetTeaching, Teaching

DISCRETISATION = 1e-3
HIGHEST_NOISE = 1e6
Schedule = tuple[Teaching, LabelCounts | None]


def event(teaching: Teaching, label_counts: LabelCounts | None) -> Any:
    """The DpEvent of one training and, where there is one, one label histogram."""
    import dp_accounting as dp

    noisy = dp.GaussianDpEvent(teaching.noise_multiplier)
    match teaching:
        case LinearTeaching():
            training = dp.SelfComposedDpEvent(noisy, teaching.steps)
        case NetTeaching():
            training = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(teaching.sampling_rate, noisy), teaching.steps)
    # A histogram has L2 sensitivity 1 under add/remove of one record, so its noise multiplier is its standard deviation.
    return training if label_counts is None else dp.ComposedDpEvent([training, dp.GaussianDpEvent(label_counts.noise_std)])


@lru_cache(maxsize=1024)
def epsilon(schedules: tuple[Schedule, ...], delta: float) -> float:
    """The epsilon at `delta` of all schedules together, by the PLD accountant, rounded up by its discretisation.

    Unit: record. Adjacency: add or remove one.
    """
    if not 0 < delta < 1:
        raise SettingError(f"Expected 0 < delta < 1, got {delta!r}.")
    if not schedules:
        return 0.0
    import dp_accounting as dp
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(
        neighboring_relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=DISCRETISATION
    )
    for schedule in schedules:
        accountant.compose(event(*schedule))
    return float(accountant.get_epsilon(delta))


def calibrate(teaching: Teaching, *, epsilon: float, delta: float, label_counts_fraction: float | None) -> Schedule:
    """The least noise with which training, and a label histogram if a fraction is given, cost at most `epsilon` at `delta`.

    label_counts_fraction: in (0, 1), the histogram's share of the squared Gaussian-DP parameter mu of the whole. Noise multipliers are
    rounded up to 4 significant digits, so an error is towards privacy. Raises SettingError where no noise is enough.
    """
    check.positive(epsilon=epsilon)
    if not 0 < delta < 1:
        raise SettingError(f"Expected 0 < delta < 1, got {delta!r}.")
    label_counts = None
    if label_counts_fraction is not None:
        if not 0 < label_counts_fraction < 1:
            raise SettingError(f"Expected 0 < label_counts_fraction < 1, got {label_counts_fraction!r}.")
        mu = gaussian_mu(epsilon, delta)
        label_counts = LabelCounts(noise_std=_round_up(1 / (mu * math.sqrt(label_counts_fraction))))
    low, high = 0.01, 0.02
    while _cost(replace(teaching, noise_multiplier=high), label_counts, delta) > epsilon:
        low, high = high, high * 2
        if high > HIGHEST_NOISE:
            raise SettingError(f"Expected a schedule that some noise makes cost epsilon = {epsilon}, found none.")
    while high / low > 1.0005:
        middle = math.sqrt(low * high)
        if _cost(replace(teaching, noise_multiplier=middle), label_counts, delta) > epsilon:
            low = middle
        else:
            high = middle
    return replace(teaching, noise_multiplier=_round_up(high)), label_counts


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


def _cost(teaching: Teaching, label_counts: LabelCounts | None, delta: float) -> float:
    # Below this no accountant needs asking; it also keeps the search away from settings whose distributions are huge.
    if teaching.noise_multiplier < 0.3 and not isinstance(teaching, LinearTeaching):
        return math.inf
    if isinstance(teaching, LinearTeaching) and math.sqrt(teaching.steps) / teaching.noise_multiplier > 30:
        return math.inf
    return epsilon(((teaching, label_counts),), delta)


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def _round_up(x: float) -> float:
    scale = 10.0 ** (3 - math.floor(math.log10(x)))
    return math.ceil(x * scale) / scale
