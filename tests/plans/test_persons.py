"""What a person of several records costs: as much as accounting says for one, and as group privacy bounds it for more."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from helpers.plans import PLAN
from limbeck.base.errors import SettingError
from limbeck.plans import accounting, schema
from limbeck.plans.persons import person_epsilon

NET = schema.NetTeaching(
    architecture="mlp",
    sampling_rate=0.2,
    steps=40,
    learning_rate=1.0,
    momentum=0.0,
    clip=1.0,
    noise_multiplier=3.0,
    normaliser=100.0,
    physical_batch=64,
)
ALONE = replace(PLAN, label_counts=None)
SAMPLED = replace(ALONE, teaching=NET)
VOTES = schema.VotesTeaching(
    teachers=10,
    queries=20,
    features="rows",
    feature_norm=1.0,
    steps=5,
    learning_rate=1.0,
    momentum=0.0,
    noise_multiplier=20.0,
)


EVIDENCE = replace(
    ALONE,
    teaching=schema.EvidenceTeaching(
        features="rows", constant=0.3, normaliser=50.0, ridge=0.1, noise_multiplier=3.0, resolution=1 << 16
    ),
)


def charged(plan: schema.Plan) -> float:
    return accounting.epsilon(((plan.teaching, plan.label_counts),), plan.privacy.delta)


@pytest.mark.parametrize("plan", [PLAN, ALONE, SAMPLED, EVIDENCE, replace(ALONE, teaching=VOTES)])
def test_a_person_with_one_record_costs_what_a_record_costs(plan: schema.Plan) -> None:
    assert person_epsilon(plan, 1) == pytest.approx(charged(plan), rel=2e-2)


@pytest.mark.parametrize("plan", [PLAN, SAMPLED, EVIDENCE])
def test_more_records_cost_more_and_no_more_than_group_privacy_allows(plan: schema.Plan) -> None:
    costs = [person_epsilon(plan, records) for records in (1, 2, 4)]
    assert costs == sorted(costs)
    assert costs[1] > 1.5 * costs[0]
    # A mechanism that is (e, d)-DP per record is (m e, (e^(m e) - 1) / (e^e - 1) d)-DP for m records.
    for records in (2, 4):
        epsilon = charged(plan)
        delta = math.expm1(records * epsilon) / math.expm1(epsilon) * plan.privacy.delta
        if delta < 1:
            looser = replace(plan, privacy=replace(plan.privacy, delta=delta))
            assert person_epsilon(looser, records) <= records * epsilon * 1.01


def test_sampling_every_record_in_every_step_is_the_gaussian_mechanism_of_a_group() -> None:
    always = replace(SAMPLED, teaching=replace(NET, sampling_rate=1.0, noise_multiplier=30.0))
    assert isinstance(ALONE.teaching, schema.LinearTeaching)
    linear = replace(ALONE, teaching=replace(ALONE.teaching, steps=40, noise_multiplier=30.0))
    assert person_epsilon(always, 3) == pytest.approx(person_epsilon(linear, 3), rel=2e-2)


def test_a_figure_that_would_mean_nothing_is_infinite_and_less_than_a_record_is_none() -> None:
    assert person_epsilon(SAMPLED, 1000) == math.inf
    assert person_epsilon(PLAN, 100_000) == math.inf
    with pytest.raises(SettingError, match="Expected records >= 1, got 0"):
        person_epsilon(PLAN, 0)
