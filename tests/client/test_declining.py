"""An error that a step expects has one public reason, and no other error is taken for it."""

from __future__ import annotations

import pytest

from limbeck.base.errors import BudgetError, DataError, LedgerError, SettingError
from limbeck.client.declining import REASONS, Decline, Step, during
from limbeck.protos.messages import Reason

LISTED = [(step, kind) for step in Step for kind in REASONS[step]]


@pytest.mark.parametrize(("step", "kind"), LISTED, ids=lambda each: getattr(each, "__name__", str(each)))
def test_an_error_that_a_step_lists_is_declined_with_its_reason_and_keeps_its_cause(
    step: Step, kind: type[Exception]
) -> None:
    error = kind("patient 17")
    with pytest.raises(Decline) as caught, during(step):
        raise error
    assert caught.value.reason is REASONS[step][kind]
    assert caught.value.__cause__ is error
    assert "patient" not in str(caught.value)


@pytest.mark.parametrize("step", Step)
def test_an_error_that_a_step_does_not_list_is_raised_as_it_is(step: Step) -> None:
    error = KeyError("unforeseen")
    with pytest.raises(KeyError) as caught, during(step):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("step", "kind", "reason"),
    [
        (Step.CHARGE, BudgetError, Reason.BUDGET),
        (Step.DECLARATION, BudgetError, Reason.POLICY),
        (Step.ACCOUNT, LedgerError, Reason.FAILED),
        (Step.ENCODING, DataError, Reason.ENCODING),
        (Step.TRANSFER_SET, DataError, Reason.TRANSFER_SET),
        (Step.RECORDS, DataError, Reason.DATA),
        (Step.PLAN, DataError, Reason.PLAN),
        (Step.CUSTOM_PLAN, DataError, Reason.POLICY),
        # A SettingError is a ValueError too.
        (Step.TRAINING, SettingError, Reason.TEACHING_FAILED),
        (Step.BLACK_BOX, SettingError, Reason.TEACHER),
        # Its owner has not allowed it: how much is left of the budget is not what the coordinator hears.
        (Step.BLACK_BOX, BudgetError, Reason.POLICY),
        (Step.BLACK_BOX, LedgerError, Reason.FAILED),
    ],
)
def test_the_same_error_means_another_reason_at_another_step(step: Step, kind: type[Exception], reason: Reason) -> None:
    with pytest.raises(Decline) as caught, during(step):
        raise kind("x")
    assert caught.value.reason is reason
