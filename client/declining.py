"""Why a site declines: the table of which public reason is given for which error, at which step of a handler.

The coordinator is told a reason out of a closed list and nothing else, because the text of an error may speak of records; that text stays
in the site's own log. An error that a step does not list becomes `Reason.FAILED`, where the handler ends (`limbeck.client.app`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum

from limbeck.base.errors import (
    BudgetError,
    DataError,
    LedgerError,
    LimbeckError,
    PolicyError,
    SettingError,
    TeacherError,
)
from limbeck.protos.messages import Reason


class Step(Enum):
    """What a site is doing when an error occurs."""

    POLICY = "asking the policy about a plan"
    ACCOUNT = "comparing the ledger with what the site knows was spent"
    CHARGE = "charging a plan, or noting that an answer is free"
    NOISE = "opening the source of noise"
    DECLARATION = "declaring a release without a guarantee"
    ENCODING = "comparing the encoding of the records with the plan's"
    TRANSFER_SET = "reading the public inputs"
    PLAN = "comparing the plan with the public inputs"
    CUSTOM_PLAN = "comparing a plan for the site's own net with the public inputs"
    RECORDS = "looking for the records, or reading them"
    TRAINING = "training the teacher"
    BLACK_BOX = "asking the black-box teacher"
    RANGE = "finding room for another range of answers"


# The first kind of error that fits decides.
REASONS: Mapping[Step, Mapping[type[Exception], Reason]] = {
    Step.POLICY: {PolicyError: Reason.POLICY, SettingError: Reason.POLICY},
    Step.ACCOUNT: {LedgerError: Reason.FAILED, SettingError: Reason.DATA},
    Step.CHARGE: {LedgerError: Reason.FAILED, BudgetError: Reason.BUDGET},
    Step.NOISE: {SettingError: Reason.DATA},
    Step.DECLARATION: {LedgerError: Reason.FAILED, BudgetError: Reason.POLICY},
    Step.ENCODING: {DataError: Reason.ENCODING},
    Step.TRANSFER_SET: {DataError: Reason.TRANSFER_SET},
    Step.PLAN: {SettingError: Reason.PLAN, DataError: Reason.PLAN},
    Step.CUSTOM_PLAN: {SettingError: Reason.POLICY, DataError: Reason.POLICY},
    Step.RECORDS: {DataError: Reason.DATA, SettingError: Reason.DATA},
    # torch raises the last two.
    Step.TRAINING: {
        LimbeckError: Reason.TEACHING_FAILED,
        RuntimeError: Reason.TEACHING_FAILED,
        ValueError: Reason.TEACHING_FAILED,
    },
    Step.BLACK_BOX: {
        LedgerError: Reason.FAILED,
        BudgetError: Reason.POLICY,
        TeacherError: Reason.TEACHER,
        SettingError: Reason.TEACHER,
        DataError: Reason.TEACHER,
    },
    Step.RANGE: {LimbeckError: Reason.PLAN},
}


class Decline(Exception):
    """Leaves a handler with a public reason. Its cause, if there is one, is for the site's log."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


@contextmanager
def during(step: Step) -> Iterator[None]:
    """Decline with the reason that REASONS gives an error of this step; any other error is raised as it is."""
    try:
        yield
    except Exception as error:
        reason = next((reason for kind, reason in REASONS[step].items() if isinstance(error, kind)), None)
        if reason is None:
            raise
        raise Decline(reason) from error
