"""Variants of students differ from the scenario's in what they name alone, and every one may be planned."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from helpers.plans import PLAN
from limbeck.experiments import students
from limbeck.plans import checks
from limbeck.server import student


@pytest.mark.parametrize("name", students.VARIANTS)
def test_every_variant_is_a_student_that_a_plan_may_have(name: str) -> None:
    varied = students.settings_of(name, PLAN.student, "pixels")
    assert {key for key, value in asdict(varied).items() if value != asdict(PLAN.student)[key]} <= set(
        students.VARIANTS[name]
    )
    plan = replace(PLAN, student=varied)
    checks.check_plan(plan)
    student.rehearse(plan, np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8))
