"""Advice for plans is a function of public values, within the bounds of plans, and grows with what it should grow with."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.plans import PLAN
from limbeck.base.errors import SettingError
from limbeck.plans import advice
from limbeck.plans.checks import check_plan
from limbeck.plans.schema import EvidenceTeaching, LinearTeaching, TopK
from limbeck.plans.settings import TeacherSettings


@given(
    records=st.integers(1, 10**9),
    dimensions=st.integers(1, 10**6),
    classes=st.integers(2, 1000),
    epsilon=st.floats(0.1, 10),
)
def test_whatever_the_rows_the_schedule_is_one_that_a_plan_may_have(
    records: int, dimensions: int, classes: int, epsilon: float
) -> None:
    teacher = advice.rows_schedule(
        records_per_site=records, dimensions=dimensions, classes=classes, epsilon=epsilon, delta=1e-5
    )
    fields = {name: getattr(teacher, name) for name in LinearTeaching.__dataclass_fields__ if name != "noise_multiplier"}
    check_plan(replace(PLAN, teaching=LinearTeaching(noise_multiplier=1.0, **fields)))


def test_where_noise_rules_steps_are_few_and_they_grow_with_records_and_epsilon() -> None:
    def advised(records: int, epsilon: float = 1.0) -> TeacherSettings:
        return advice.rows_schedule(records_per_site=records, dimensions=30, classes=2, epsilon=epsilon, delta=1e-5)

    assert [advised(records).steps for records in (100, 599, 600, 5000)] == [20, 20, 60, 60]
    assert advised(100).learning_rate < advised(200).learning_rate == advised(100, 2.0).learning_rate
    assert advised(1000).learning_rate < advised(2000).learning_rate
    assert advised(10**6).learning_rate == advice.ROWS_LARGEST_STEP
    assert advised(140).normaliser == 140


@pytest.mark.parametrize("name", ["records_per_site", "dimensions", "classes", "epsilon", "delta"])
def test_impossible_values_are_refused_by_name(name: str) -> None:
    values = {"records_per_site": 100.0, "dimensions": 30, "classes": 2, "epsilon": 1.0, "delta": 1e-5}
    with pytest.raises(SettingError, match=f"Expected {name}"):
        advice.rows_schedule(**(values | {name: 0}))  # type: ignore[arg-type]


EVIDENCE = EvidenceTeaching(
    features="rows", constant=0.3, normaliser=100.0, ridge=0.01, noise_multiplier=2.0, resolution=1 << 16
)


def test_advice_names_the_other_kind_and_what_decides_between_them() -> None:
    (of_linear,), (of_evidence,) = advice.teacher(PLAN.teaching), advice.teacher(EVIDENCE)
    assert 'choose teacher.kind = "evidence"' in of_linear
    assert 'choose "linear"' in of_evidence
    for sentence in (of_linear, of_evidence):
        assert "labels" in sentence
        assert "of the records' own kind" in sentence


@pytest.mark.parametrize(
    ("sites", "k", "classes", "said"), [(50, 3, 10, True), (49, 3, 10, False), (50, 10, 10, False), (50, 3, 100, False)]
)
def test_many_sites_are_advised_to_send_all_of_a_few_classes(sites: int, k: int, classes: int, said: bool) -> None:
    plan = replace(PLAN, teaching=EVIDENCE, truncation=TopK(k=k), classes=classes, minimum_clients=sites)
    assert any("release.k" in sentence for sentence in advice.of_plan(plan)) == said


def test_the_rarer_a_class_the_softer_the_answers_and_the_less_the_others_count() -> None:
    found = [advice.rows_balance([1 - rarest, rarest]) for rarest in (0.5, 0.06, 0.02, 0.002, 0.0)]
    hot = [balance.temperature for balance in found]
    assert hot == sorted(hot)
    assert (hot[0], hot[-1]) == (1.0, advice.ROWS_TEMPERATURE)
    assert [balance.class_weights for balance in found] == [None] * 3 + [(advice.COMMON_WEIGHT, 1.0)] * 2


@pytest.mark.parametrize("shares", [[], [1.0], [0.5, -0.1], [0.5, 1.1], [0.5, math.nan]])
def test_shares_that_are_none_get_no_advice(shares: list[float]) -> None:
    with pytest.raises(SettingError, match="Expected the shares"):
        advice.rows_balance(shares)
