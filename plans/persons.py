"""What a plan costs a person who has several records: all guarantees of limbeck are for one record, added or removed.

One record moves each noisy sum by at most the clip, so the records of one person move it by at most as many clips. Where records are
sampled, how many of them are in a batch is binomial, and the mechanism a mixture of Gaussians [F: arXiv 2401.10294].
"""

from __future__ import annotations

import math

from limbeck.base import check
from limbeck.plans.schema import LinearTeaching, NetTeaching, Plan, VotesTeaching

# The width of the grid of a privacy loss distribution. Losses of persons are large, and this is quick.
GRID = 5e-3
# Beyond so many records, or so large an epsilon, a figure would mean nothing.
MOST_RECORDS, LARGEST_EPSILON = 64, 500.0


def person_epsilon(plan: Plan, records: int) -> float:
    """The epsilon of a plan at its own delta for adding or removing a person with so many records; infinite if it would mean nothing.

    The integer noise of counts is taken as continuous here: this is a figure to be told, and nothing is charged by it.
    """
    check.at_least(1, records=records)
    teaching, delta = plan.teaching, plan.privacy.delta
    counts = plan.label_counts or plan.record_count
    # The Gaussian-DP parameters of what is Gaussian add up in squares.
    squared_mu = (records / counts.noise_std) ** 2 if counts is not None else 0.0
    match teaching:
        case LinearTeaching():
            squared_mu += teaching.steps * (records / teaching.noise_multiplier) ** 2
        case VotesTeaching():
            # A record is in one sub-teacher, so a person changes as many votes on a query as there are records.
            squared_mu += teaching.queries * (records / teaching.noise_multiplier) ** 2
        case NetTeaching():
            return _sampled(teaching, records, squared_mu, delta)
    return _gaussian_epsilon(math.sqrt(squared_mu), delta)


def _sampled(teaching: NetTeaching, records: int, squared_mu: float, delta: float) -> float:
    if records > MOST_RECORDS:
        return math.inf
    from dp_accounting.pld import privacy_loss_distribution as pld

    rate = teaching.sampling_rate
    shares = [math.comb(records, count) * rate**count * (1 - rate) ** (records - count) for count in range(records + 1)]
    step = pld.from_mixture_gaussian_mechanism(
        teaching.noise_multiplier, list(range(records + 1)), shares, value_discretization_interval=GRID
    )
    whole = step.self_compose(teaching.steps)
    if squared_mu:
        whole = whole.compose(pld.from_gaussian_mechanism(1 / math.sqrt(squared_mu), value_discretization_interval=GRID))
    epsilon = float(whole.get_epsilon_for_delta(delta))
    return epsilon if epsilon <= LARGEST_EPSILON else math.inf


def _gaussian_epsilon(mu: float, delta: float) -> float:
    """The least epsilon at which a mechanism with this Gaussian-DP parameter is (epsilon, delta)-DP [F: arXiv 1805.06530, theorem 8]."""
    low, high = 0.0, LARGEST_EPSILON
    if _delta(mu, high) > delta:
        return math.inf
    while high - low > 1e-6 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(mu, middle) > delta else (low, middle)
    return high


def _delta(mu: float, epsilon: float) -> float:
    return _normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * _normal(-mu / 2 - epsilon / mu)


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2
