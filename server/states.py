"""What a run, a phase and a site can be in, and why a site is left out: closed types, in this one place.

The coordinator writes them into the run's files, as the text of an enumeration or as the fields of a frozen value; whoever watches a run
or reports on it reads the same types back (`events.parse`, `record.parse`). Nothing is recovered from a sentence, except from files that
0.1.0 wrote, which hold nothing else: `Exclusion.of_0_1_0`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from limbeck.protos.messages import Reason


class RunState(StrEnum):
    """What a run is in, as its newest event says."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"


class SiteState(StrEnum):
    """What became of the last question to a site.

    ABSENT: expected, and not seen since the coordinator started. JOINED: connected, and has not replied yet. DECLINED: for a reason of the
    closed list. LEFT_OUT: its reply was refused. LOST: it did not reply in time.
    """

    ABSENT = "absent"
    JOINED = "joined"
    ANSWERED = "answered"
    DECLINED = "declined"
    LEFT_OUT = "left out"
    LOST = "lost"


class EventKind(StrEnum):
    """The kinds of lines in `events.jsonl`; `limbeck.server.events` has the fields of each."""

    START = "start"
    RESUMED = "resumed"
    PROGRESS = "progress"
    LEFT_OUT = "left out"
    JOINED = "joined"
    STAGE = "stage"
    WARNING = "warning"
    PAUSED = "paused"
    CONTINUED = "continued"
    STOPPED = "stopped"
    END = "end"


class Step(StrEnum):
    """The kinds of phases, in the order of a run; ANSWERS and DISTIL come once per stage."""

    AGREE = "agree"
    TEACH = "teach"
    ANSWERS = "answers"
    DISTIL = "distil"
    EXPORT = "export"


PER_STAGE = frozenset({Step.ANSWERS, Step.DISTIL})


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of a run. stage: its 0-based number where `step` comes once per stage, else None.

    Its text is that of the run's files, which count stages from 1: "answers 3".
    """

    step: Step
    stage: int | None = None

    def __post_init__(self) -> None:
        if (self.stage is not None) != (self.step in PER_STAGE) or (self.stage or 0) < 0:
            raise ValueError(
                f"Expected a stage with {' and '.join(sorted(PER_STAGE))} only, got {self.step} and {self.stage}."
            )

    def __str__(self) -> str:
        return self.step.value if self.stage is None else f"{self.step.value} {self.stage + 1}"

    @classmethod
    def parse(cls, text: str) -> Phase:
        """The phase with this text. Raises ValueError if there is none."""
        step, space, number = text.partition(" ")
        try:
            phase = cls(Step(step), int(number) - 1 if space else None)
        except ValueError:
            raise ValueError(f"Expected a phase, got {text!r}.") from None
        if str(phase) != text:
            raise ValueError(f"Expected a phase, got {text!r}.")
        return phase

    @property
    def title(self) -> str:
        """The phase in words."""
        match self.step:
            case Step.AGREE:
                return "Sites agree to the plan"
            case Step.TEACH:
                return "Sites train their teachers"
            case Step.ANSWERS:
                return f"Stage {(self.stage or 0) + 1}: sites answer"
            case Step.DISTIL:
                return f"Stage {(self.stage or 0) + 1}: the student learns"
            case Step.EXPORT:
                return "The student is exported"
            case _:
                assert_never(self.step)


AGREE, TEACH, EXPORT = Phase(Step.AGREE), Phase(Step.TEACH), Phase(Step.EXPORT)


@dataclass(frozen=True, slots=True)
class DeclinedBySite:
    """The site declined, for a reason of the closed list."""

    reason: Reason

    def __str__(self) -> str:
        return self.reason.value


@dataclass(frozen=True, slots=True)
class RefusedReply:
    """What the site sent was refused. problem: what was wrong with it, printable."""

    problem: str

    def __str__(self) -> str:
        return self.problem


@dataclass(frozen=True, slots=True)
class NoReply:
    """The site did not reply within this time."""

    seconds: float

    def __str__(self) -> str:
        return f"no answer within {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class WrongName:
    """The site gave a name that is not the one in its certificate, or, if `taken`, that another node bears."""

    name: str
    taken: bool = False

    def __str__(self) -> str:
        return f"calls itself {self.name}{', as another node does' if self.taken else ''}"


Why = DeclinedBySite | RefusedReply | NoReply | WrongName


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why a site is left out of a phase. Its text is for people."""

    phase: Phase
    why: Why

    def __str__(self) -> str:
        return f"{self.phase}: {self.why}"

    @property
    def state(self) -> SiteState:
        """What the site is in."""
        match self.why:
            case DeclinedBySite():
                return SiteState.DECLINED
            case NoReply():
                return SiteState.LOST
            case RefusedReply() | WrongName():
                return SiteState.LEFT_OUT

    @classmethod
    def of_0_1_0(cls, text: str) -> Exclusion:
        """An exclusion of which 0.1.0 wrote the text only. Raises ValueError where it is none."""
        phase, colon, why = text.partition(": ")
        if not colon:
            raise ValueError(f"Expected a phase and a reason, got {text!r}.")
        return cls(Phase.parse(phase), why_of_0_1_0(why))


def why_of_0_1_0(text: str) -> Why:
    """A reason of which 0.1.0 wrote the text only."""
    if text in _REASONS:
        return DeclinedBySite(_REASONS[text])
    if late := _NO_REPLY.fullmatch(text):
        return NoReply(float(late[1]))
    if other := _WRONG_NAME.fullmatch(text):
        return WrongName(other[1], taken=other[2] is not None)
    return RefusedReply(text)


def why_to_json(why: Why) -> dict[str, str | float | bool]:
    """A reason as JSON values."""
    match why:
        case DeclinedBySite(reason):
            return {"kind": "declined", "reason": reason.name}
        case RefusedReply(problem):
            return {"kind": "refused reply", "problem": problem}
        case NoReply(seconds):
            return {"kind": "no reply", "seconds": seconds}
        case WrongName(name, taken):
            return {"kind": "wrong name", "name": name, "taken": taken}


def why_from_json(value: object) -> Why:
    """The reason that these JSON values describe. Raises ValueError where they describe none."""
    match value:
        case {"kind": "declined", "reason": str(name)} if name in Reason.__members__:
            return DeclinedBySite(Reason[name])
        case {"kind": "refused reply", "problem": str(problem)}:
            return RefusedReply(problem)
        case {"kind": "no reply", "seconds": int() | float() as seconds} if not isinstance(seconds, bool) and seconds >= 0:
            return NoReply(float(seconds))
        case {"kind": "wrong name", "name": str(name), "taken": bool(taken)}:
            return WrongName(name, taken)
    raise ValueError(f"Expected why a site is left out, got {value!r}.")


_REASONS = {reason.value: reason for reason in Reason}
_NO_REPLY = re.compile(r"no answer within (\d[\d.e+]*|inf) s")
_WRONG_NAME = re.compile(r"calls itself (\S+?)(, as another node does)?")
