"""What a run is doing, as lines of JSON in its folder: whoever wants to watch reads the file, whatever carries the messages.

Every line has the event's kind, the time in seconds since the epoch, and the fields of one of the classes here. `reason` is text for
people; `why` is the same as data, and is absent from what 0.1.0 wrote.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, PlainSerializer, TypeAdapter

from limbeck.base.files import patiently
from limbeck.server.record import Count, PhaseField, Seconds, StageNumber, StageRecord, Text, read_json
from limbeck.server.states import EventKind, Why, why_from_json, why_of_0_1_0, why_to_json


def _why(value: object) -> Why | None:
    if value is None or isinstance(value, Why):
        return value
    return why_of_0_1_0(value) if isinstance(value, str) else why_from_json(value)


WhyField = Annotated[Why, BeforeValidator(_why), PlainSerializer(why_to_json)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The coordinator starts, or starts again. plan: hexadecimal digits of its hash. stages: how many the plan has."""

    kind: ClassVar = EventKind.START
    plan: Text
    stages: StageNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The run goes on after a stage, of which there is a checkpoint."""

    kind: ClassVar = EventKind.RESUMED
    after_stage: StageNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`done` of `total` parts of a phase are finished. why: a site was just left out of it, for this; else None."""

    kind: ClassVar = EventKind.PROGRESS
    phase: PhaseField
    done: Count
    total: Count
    why: WhyField | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Answers that had come could not be pooled."""

    kind: ClassVar = EventKind.LEFT_OUT
    site: Text
    phase: PhaseField
    why: WhyField


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A site that came late takes part from a stage on."""

    kind: ClassVar = EventKind.JOINED
    site: Text
    stage: StageNumber


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished(StageRecord):
    """A stage is finished; its fields are those of the record."""

    kind: ClassVar = EventKind.STAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something that is allowed and looks like a mistake. It is in the record too."""

    kind: ClassVar = EventKind.WARNING
    text: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """Fewer sites than the plan's minimum are left in a phase: the run waits for more."""

    kind: ClassVar = EventKind.PAUSED
    phase: PhaseField
    sites: Count
    minimum: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued:
    """A pause is over."""

    kind: ClassVar = EventKind.CONTINUED
    phase: PhaseField
    sites: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The coordinator ends before the run does."""

    kind: ClassVar = EventKind.STOPPED
    reason: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The run is finished."""

    kind: ClassVar = EventKind.END


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """An event of a kind that this version does not know, of a later one."""

    kind: str
    facts: dict[str, object]


Event = Started | Resumed | Progress | LeftOut | Joined | StageFinished | Warned | Paused | Continued | Stopped | Ended
_ADAPTERS: dict[EventKind, TypeAdapter[Event]] = {one.kind: TypeAdapter(one) for one in Event.__args__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the file. time: seconds since the epoch."""

    time: float
    event: Event | Unknown


class Events:
    """Appends one line per event to `path`.

    A line that an earlier process could not finish, because it was killed or the disk was full, is dropped.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        if path.exists():
            with path.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)

    def __call__(self, event: Event) -> None:
        line = json.dumps({"kind": event.kind.value, "time": round(time.time(), 3), **_facts(event)})
        with patiently(lambda: self._path.open("a", encoding="utf-8")) as file:
            file.write(line + "\n")


def _facts(event: Event) -> dict[str, object]:
    facts: dict[str, object] = _ADAPTERS[event.kind].dump_python(event)
    if isinstance(event, Progress | LeftOut):
        # For people, and for readers of 0.1.0.
        facts["reason"] = None if event.why is None else str(event.why)
        if event.why is None:
            del facts["why"]
    return facts


def parse(line: bytes) -> Line | None:
    """The event that a line holds, of this version or of 0.1.0, or None where it holds none: the last one may be torn while it is written,
    and a crash may leave a torn one in the middle."""
    try:
        fields = read_json(line)
        if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
            return None
        when = _TIME.validate_python(fields.get("time"))
        if fields["kind"] not in _KINDS:
            facts = {key: value for key, value in fields.items() if key not in {"kind", "time"}}
            return Line(time=when, event=Unknown(kind=fields["kind"], facts=facts))
        if fields.get("why") is None and "reason" in fields:
            fields["why"] = fields["reason"]
        return Line(time=when, event=_ADAPTERS[EventKind(fields["kind"])].validate_python(fields))
    except (ValueError, RecursionError):
        return None


_TIME = TypeAdapter(Seconds)
_KINDS = frozenset(EventKind)


def read(lines: Iterable[bytes]) -> Iterator[Line]:
    """The events in lines of the file."""
    return (line for line in map(parse, lines) if line is not None)
