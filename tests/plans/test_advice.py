"""Advice for plans is a function of public values, within the bounds of plans, and grows with what it should grow with."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.plans import PLAN
from limbeck.base.errors import SettingError
from limbeck.plans import advice
from limbeck.plans.checks import check_plan
from limbeck.plans.schema import LinearTeaching


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


def test_more_records_or_a_larger_epsilon_allow_larger_steps_and_more_weights_smaller_ones() -> None:
    def step(records: int = 200, dimensions: int = 30, epsilon: float = 1.0) -> float:
        return advice.rows_schedule(
            records_per_site=records, dimensions=dimensions, classes=2, epsilon=epsilon, delta=1e-5
        ).learning_rate

    assert step() < step(records=400)
    assert step(epsilon=2.0) == step(records=400)
    assert step(dimensions=300) < step()


@pytest.mark.parametrize("name", ["records_per_site", "dimensions", "classes", "epsilon", "delta"])
def test_impossible_values_are_refused_by_name(name: str) -> None:
    values = {"records_per_site": 100.0, "dimensions": 30, "classes": 2, "epsilon": 1.0, "delta": 1e-5}
    with pytest.raises(SettingError, match=f"Expected {name}"):
        advice.rows_schedule(**(values | {name: 0}))  # type: ignore[arg-type]
