"""What a plan costs a person who has several records: all guarantees of limbeck are for one record, added or removed.

One record moves each noisy sum by at most the clip, so the records of one person move it by at most as many clips. Where records are
sampled, how many of them are in a batch is binomial, and the mechanism a mixture of Gaussians [F: arXiv 2401.10294].
"""

from __future__ import annotations

import math

import numpy as np

from limbeck.base import check
from limbeck.plans import privacy_filter
from limbeck.plans.schema import EvidenceTeaching, LinearTeaching, NetTeaching, Plan, VotesTeaching

# The width of the grid of a privacy loss distribution. Losses of persons are large, and this is quick.
GRID = 5e-3
# Beyond so many records, or so large an epsilon, a figure would mean nothing.
MOST_RECORDS, LARGEST_EPSILON = 64, 500.0
# Of delta, what the comparison of integer and continuous noise may use.
IGNORED = 1e-3


def person_epsilon(plan: Plan, records: int) -> float:
    """The epsilon of a plan at its own delta for adding or removing a person with so many records; infinite if it would mean nothing.

    It is a figure to be told, and nothing is charged by it. The integer noise of counts is taken as the Gaussian that dominates it but for
    a thousandth of delta.
    """
    check.at_least(1, records=records)
    teaching, delta = plan.teaching, plan.privacy.delta
    counts = plan.label_counts or plan.record_count
    # The Gaussian-DP parameters of what is Gaussian add up in squares.
    squared_mu = 0.0
    if counts is not None:
        (mu,) = privacy_filter.discrete_gaussian_mu(counts.noise_std, np.array([IGNORED * delta]))
        squared_mu = (records * float(mu)) ** 2
    match teaching:
        case LinearTeaching():
            squared_mu += teaching.steps * (records / teaching.noise_multiplier) ** 2
        case VotesTeaching():
            # A record is in one sub-teacher, so a person changes as many votes on a query as there are records.
            squared_mu += teaching.queries * (records / teaching.noise_multiplier) ** 2
        case EvidenceTeaching():
            squared_mu += (records / teaching.noise_multiplier) ** 2
        case NetTeaching():
            return _sampled(teaching, records, squared_mu, delta)
    epsilon = privacy_filter.gaussian_epsilon(math.sqrt(squared_mu), delta)
    return epsilon if epsilon <= LARGEST_EPSILON else math.inf


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
