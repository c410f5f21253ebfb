"""What is allowed and looks like a mistake is said in a sentence that names it; what looks right is not remarked upon."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.plans import LINEAR, NET, PLAN
from limbeck.plans import doubts
from limbeck.plans.schema import Plan

GENERATOR = np.random.default_rng(0)
ROWS = GENERATOR.normal(size=(400, 8)).astype(np.float32)
BYTES = GENERATOR.integers(0, 256, (400, 8, 8), np.uint8)


@pytest.mark.parametrize("x_N", [ROWS, BYTES, (BYTES / 255).astype(np.float32), BYTES.reshape(400, 64)])
def test_ordinary_inputs_and_plans_raise_no_doubts(x_N: NDArray[np.generic]) -> None:
    assert doubts.of_inputs(PLAN, x_N) == ()
    assert doubts.of_plan(PLAN) == ()


@pytest.mark.parametrize(
    ("x_N", "said"),
    [
        (ROWS[:99], "99 public inputs for 10 classes"),
        (np.concatenate([ROWS, ROWS[:60]]), "60 of 460 public inputs repeat others"),
        (ROWS * 1e-4 + 5, "nearly the same: no number deviates by more than 0.0001"),
        (ROWS * 100, "take numbers as they are, and expect them about 1 in size"),
        (BYTES // 16, "no pixel is above 15: white is 255, or 1"),
        ((BYTES // 16).astype(np.float32), "no pixel is above 15: white is 255, or 1"),
        (BYTES.reshape(400, 64).astype(np.int64), "rows of whole numbers from 0 to 255 are taken as numbers"),
    ],
)
def test_inputs_that_look_like_a_mistake_are_named(x_N: NDArray[np.generic], said: str) -> None:
    assert any(said in sentence for sentence in doubts.of_inputs(PLAN, x_N))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (replace(PLAN, classes=1001), "classes = 1001: is that their number?"),
        (replace(PLAN, privacy=replace(PLAN.privacy, delta=1e-3)), "expected far less than 1 / 300"),
        (replace(PLAN, teaching=NET, privacy=replace(PLAN.privacy, delta=1e-3)), "expected far less than 1 / 640"),
        (replace(PLAN, class_weights=(1.0,) * 9 + (20.0,)), "Give rare classes 1 and common ones less"),
    ],
)
def test_plans_that_look_like_a_mistake_are_named(plan: Plan, said: str) -> None:
    assert any(said in sentence for sentence in doubts.of_plan(plan))
    small = replace(PLAN, teaching=replace(LINEAR, normaliser=50.0), class_weights=(0.1,) * 9 + (1.0,))
    assert doubts.of_plan(small) == ()


@pytest.mark.parametrize(
    ("y_N", "said"),
    [
        (np.arange(400) % 3, "classes = 10: the labels of the public inputs have only 3 values (0, 1, 2)"),
        (np.arange(400) % 11, "classes = 10: the labels of the public inputs have 11 values"),
        (np.array([*"abcdefghix"] * 40), "none of the plan's classes: x"),
        (np.array([*"abcdefghij"] * 40), None),
        (np.arange(400) % 10, None),
        (np.arange(400) % 10 * 1.0, None),
        (np.zeros(400), None),
        (np.zeros((400, 2)), None),
    ],
)
def test_labels_of_public_inputs_that_do_not_go_with_the_classes_are_named(
    y_N: NDArray[np.generic], said: str | None
) -> None:
    sentences = doubts.of_labels(replace(PLAN, class_names=tuple("abcdefghij")), y_N)
    assert (said is None and not sentences) or any(str(said) in sentence for sentence in sentences)
