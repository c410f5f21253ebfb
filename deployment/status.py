"""What a run is doing, read from its folder: plan, record and events. Whatever carries the messages, the coordinator writes these.
Where a SuperLink carries them, its own account stands beside.

Events are written as things happen. The record is written after every phase, and while replies are waited for at most a second after one
came, so what became of each site is right within a second, also in a pause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from enum import Enum, StrEnum
from functools import lru_cache
from pathlib import Path
from typing import assert_never

from limbeck.base.errors import LimbeckError, RunError
from limbeck.base.printable import printable
from limbeck.deployment.superlink_status import NOTE, SuperLinkStatus
from limbeck.deployment.tested import TestData, Tested
from limbeck.plans import accounting
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.protos.messages import Guarantee
from limbeck.server import events, record
from limbeck.server.events import (
    Continued,
    Ended,
    Joined,
    LeftOut,
    Line,
    Paused,
    Progress,
    Resumed,
    StageFinished,
    Started,
    Stopped,
    Unknown,
    Warned,
)
from limbeck.server.record import TEXT_LENGTH, ClientRecord, RunRecord, StageRecord
from limbeck.server.scores import Scores
from limbeck.server.states import AGREE, EXPORT, TEACH, Phase, RunState, SiteState, Step

EVENTS, RECORD, PLAN = "events.jsonl", "record.json", "plan.pb"
# Only this many bytes at the end of a long run's events are read.
EVENT_BYTES = 4 << 20
LOG_LINES = 200


class PhaseState(StrEnum):
    """How far a phase is."""

    DONE = "done"
    ACTIVE = "active"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStatus:
    """One phase of the run. done of total: parts that are finished; total 0: not known yet."""

    phase: Phase
    state: PhaseState
    done: int = 0
    total: int = 0

    @property
    def name(self) -> str:
        """The phase as the run's files have it."""
        return str(self.phase)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One site.

    state: what became of the last question to it.
    reason: why it was last left out of a phase; empty if it was not.
    stages: how many it answered.
    guarantee: None as long as unknown.
    """

    name: str
    state: SiteState
    reason: str
    stages: int
    guarantee: Guarantee | None
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatus:
    """One finished stage. accuracy, scores: on the test data given, or None."""

    number: int
    sparsity: float
    clients: int
    bytes_up: int
    bytes_down: int
    seconds: float
    loss: float | None
    accuracy: float | None
    scores: Scores | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of the log. time: seconds since the epoch."""

    time: float
    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What the plan costs each site that trains, by its own terms.

    sites: how many have trained under a guarantee and answered. without: the names of those that answer without one.
    """

    epsilon: float
    delta: float
    unit: str
    adjacency: str
    sites: int
    without: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A run at one moment.

    plan: None where its file is not found. why: the reason for a pause or a stop, else empty. started, newest: seconds since the epoch of
    the first and the last event. superlink: Flower's, where one carries the run. warnings: what is allowed and looks like a mistake.
    tested: the test data given; None without.
    """

    folder: Path
    name: str
    plan_hash: str
    plan: Plan | None
    state: RunState
    why: str
    steps: tuple[PhaseStatus, ...]
    clients: tuple[Client, ...]
    stages: tuple[StageStatus, ...]
    privacy: Privacy | None
    started: float | None
    newest: float | None
    log: tuple[LogLine, ...]
    superlink: SuperLinkStatus | None = None
    warnings: tuple[str, ...] = ()
    tested: Tested | None = None

    @property
    def active(self) -> PhaseStatus | None:
        """The phase under way."""
        return next((step for step in self.steps if step.state is PhaseState.ACTIVE), None)

    @property
    def counts(self) -> dict[SiteState, int]:
        """Clients by state."""
        return dict(Counter(client.state for client in self.clients))

    @property
    def bytes_up(self) -> int:
        """From all sites, encoded messages."""
        return sum(client.bytes_up for client in self.clients)

    @property
    def bytes_down(self) -> int:
        """To all sites, encoded messages."""
        return sum(client.bytes_down for client in self.clients)


def to_json(run: Status) -> dict[str, object]:
    """Everything but the plan itself, as JSON values."""
    values = {field.name: _plain(getattr(run, field.name)) for field in fields(run) if field.name != "plan"}
    return {**values, "counts": _plain(run.counts), "bytes_up": run.bytes_up, "bytes_down": run.bytes_down}


def _plain(value: object) -> object:
    match value:
        case PhaseStatus():
            return {"name": value.name, "state": value.state.value, "done": value.done, "total": value.total}
        case Enum():
            return value.value
        case Path():
            return str(value)
        case Scores():
            return value.model_dump(mode="json")
        case list() | tuple():
            return [_plain(part) for part in value]
        case dict():
            return {_plain(key): _plain(part) for key, part in value.items()}
        case _ if is_dataclass(value):
            return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def locate(folder: Path) -> Path:
    """The folder with a run's events: `folder` itself, or the newest in it. Raises RunError if there is none."""
    if any((folder / name).exists() for name in (EVENTS, RECORD, NOTE)):
        return folder
    newest = [path for name in (EVENTS, NOTE) for pattern in (f"*/{name}", f"*/*/{name}") for path in folder.glob(pattern)]
    if not newest:
        raise RunError(f"Expected the folder of a run, with {EVENTS} and {RECORD}, at {folder}, found none.")
    return max(newest, key=lambda path: path.stat().st_mtime).parent


def read(folder: Path, test: TestData | None = None, superlink: SuperLinkStatus | None = None) -> Status:
    """The run in `folder`, which `locate` found. superlink: what its SuperLink says. Raises RunError where its record cannot be read."""
    lines = _lines(folder / EVENTS)
    recorded = _record(folder / RECORD)
    start = next((line.event for line in reversed(lines) if isinstance(line.event, Started)), None)
    plan_hash = recorded.plan_hash or (start.plan if start is not None else "")
    plan = _plan(folder, plan_hash)
    since = _since(lines)
    state, why = _state(since)
    if superlink is not None and superlink.failed and state is not RunState.FINISHED:
        # A server app that was killed has left no event.
        state, why = RunState.STOPPED, f"The SuperLink says {superlink.state}: {superlink.details}"
    clients = tuple(_client(name, client, recorded.stages) for name, client in sorted(recorded.clients.items()))
    measured = [
        test.scores(folder, plan, stage.stage) if test is not None and plan is not None else None
        for stage in recorded.stages
    ]
    stages = tuple(
        StageStatus(
            number=stage.stage + 1,
            sparsity=stage.sparsity,
            clients=len(stage.clients),
            bytes_up=stage.bytes_up,
            bytes_down=stage.bytes_down,
            seconds=sum(stage.seconds.values()),
            loss=stage.losses[-1] if stage.losses else None,
            accuracy=own.accuracy if own is not None else None,
            scores=own,
        )
        for stage, own in zip(recorded.stages, measured, strict=True)
    )
    total = len(plan.stages) if plan is not None else start.stages if start is not None else len(stages)
    return Status(
        folder=folder,
        name=plan.name if plan is not None else folder.resolve().name,
        plan_hash=plan_hash,
        plan=plan,
        state=state,
        why=why,
        steps=tuple(_phases(since, total, len(stages), state)),
        clients=clients,
        stages=stages,
        privacy=_privacy(plan, clients) if plan is not None else None,
        started=lines[0].time if lines else None,
        newest=lines[-1].time if lines else None,
        log=tuple(text for line in lines for text in _log(line))[-LOG_LINES:],
        superlink=superlink,
        warnings=tuple(recorded.warnings),
        tested=test.tested(plan) if test is not None and plan is not None else None,
    )


def _lines(path: Path) -> list[Line]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - EVENT_BYTES))
            return list(events.read(file.read().splitlines()))
    except FileNotFoundError:
        return []


def _record(path: Path) -> RunRecord:
    try:
        return record.read(path)
    except FileNotFoundError:
        return RunRecord(plan_hash="")


def _plan(folder: Path, plan_hash: str) -> Plan | None:
    """The plan of this hash, beside the run or in a folder above it."""
    for parent in (folder, *folder.absolute().parents[:3]):
        try:
            data = (parent / PLAN).read_bytes()
        except OSError:
            continue
        try:
            plan = codec.decode_offer(data).plan
        except LimbeckError:
            continue
        if codec.plan_hash(plan).hex() == plan_hash:
            return plan
    return None


def _since(lines: Sequence[Line]) -> Sequence[Line]:
    """The events of the last start; a run that was resumed has several."""
    starts = [index for index, line in enumerate(lines) if isinstance(line.event, Started)]
    return lines[starts[-1] :] if starts else lines


def _state(since: Sequence[Line]) -> tuple[RunState, str]:
    """The state, and why the run waits or has ended."""
    if not since:
        return RunState.NOT_STARTED, ""
    for line in reversed(since):
        match line.event:
            case Started() | Continued():
                return RunState.RUNNING, ""
            case Paused(phase=phase, sites=sites, minimum=minimum):
                return RunState.PAUSED, f"{phase.title}: {sites} of at least {minimum} sites"
            case Stopped(reason=reason):
                return RunState.STOPPED, reason
            case Ended():
                return RunState.FINISHED, ""
            case Resumed() | Progress() | LeftOut() | Joined() | StageFinished() | Warned() | Unknown():
                continue
            case _:
                assert_never(line.event)
    return RunState.RUNNING, ""


def _phases(since: Sequence[Line], stages: int, finished: int, state: RunState) -> Iterator[PhaseStatus]:
    """Agree, teach, every stage's answers and student, export."""
    of_stages = [[Phase(Step.ANSWERS, stage), Phase(Step.DISTIL, stage)] for stage in range(stages)]
    phases = [AGREE, TEACH, *(phase for pair in of_stages for phase in pair), EXPORT]
    newest = {line.event.phase: line.event for line in since if isinstance(line.event, Progress)}
    reached = max((index for index, phase in enumerate(phases) if phase in newest), default=-1)
    # What was finished before this start is not done again.
    over = {phase for pair in of_stages[:finished] for phase in pair}
    active = state in {RunState.RUNNING, RunState.PAUSED}
    for index, phase in enumerate(phases):
        progress = newest.get(phase)
        done, total = (progress.done, progress.total) if progress is not None else (0, 0)
        if state is RunState.FINISHED or phase in over or index < reached or (total and done >= total):
            yield PhaseStatus(phase=phase, state=PhaseState.DONE, done=done, total=total)
        else:
            now = PhaseState.ACTIVE if active else PhaseState.WAITING
            yield PhaseStatus(phase=phase, state=now, done=done, total=total)
            active = False


def _client(name: str, client: ClientRecord, stages: Sequence[StageRecord]) -> Client:
    return Client(
        name=name,
        state=client.state,
        reason="" if client.exclusion is None else str(client.exclusion),
        stages=sum(name in stage.clients for stage in stages),
        guarantee=client.guarantee,
        bytes_up=client.bytes_up,
        bytes_down=client.bytes_down,
    )


_WITHOUT = (Guarantee.NONE, Guarantee.SEEDED)


def _privacy(plan: Plan, clients: Sequence[Client]) -> Privacy:
    terms = plan.privacy
    return Privacy(
        epsilon=_cost(plan),
        delta=terms.delta,
        unit=terms.unit.value,
        adjacency=terms.adjacency.value,
        sites=sum(client.stages > 0 and client.guarantee is Guarantee.RECORD_DP for client in clients),
        without=tuple(client.name for client in clients if client.guarantee in _WITHOUT),
    )


@lru_cache(maxsize=8)
def _cost(plan: Plan) -> float:
    return accounting.epsilon(((plan.teaching, plan.counts),), plan.privacy.delta)


def _log(line: Line) -> Iterator[LogLine]:
    """An event as sentences. Of progress, only beginnings, ends and what went wrong."""

    def say(text: str, *, warning: bool = False) -> LogLine:
        return LogLine(time=line.time, text=text, warning=warning)

    match line.event:
        case Started(plan=plan):
            yield say(f"started, plan {plan[:16]}")
        case Resumed(after_stage=stage):
            yield say(f"goes on after stage {stage + 1}")
        case Progress() as progress:
            if progress.why is not None:
                yield say(f"{progress.phase.title}: a site is left out: {progress.why}", warning=True)
            if text := _milestone(progress):
                yield say(f"{progress.phase.title}: {text}")
        case LeftOut(site=site, phase=phase, why=why):
            yield say(f"{phase.title}: {site} is left out: {why}", warning=True)
        case Joined(site=site, stage=stage):
            yield say(f"{site} takes part from stage {stage + 1} on")
        case StageFinished(stage=stage, clients=clients, sparsity=sparsity):
            yield say(f"stage {stage + 1} is finished: {len(clients)} sites, {sparsity:.1%} sparse")
        case Paused(sites=sites, minimum=minimum):
            yield say(f"paused: {sites} of at least {minimum} sites", warning=True)
        case Warned(text=text):
            yield say(text, warning=True)
        case Continued(sites=sites):
            yield say(f"goes on with {sites} sites")
        case Stopped(reason=reason):
            yield say(f"stopped: {reason}", warning=True)
        case Ended():
            yield say("finished")
        case Unknown(kind=kind, facts=facts):
            told = ", ".join(f"{key} {value}" for key, value in facts.items())
            yield say(printable(f"{kind}{': ' if told else ''}{told}", TEXT_LENGTH))
        case _:
            assert_never(line.event)


def _milestone(progress: Progress) -> str:
    sites = progress.phase.step is not Step.DISTIL
    if progress.done == 0 and sites:
        return f"{progress.total} asked"
    if progress.done == progress.total:
        return f"all {progress.total} have replied" if sites else f"trained, {progress.total} epochs"
    return ""


def clock(time: float) -> str:
    """Local time of day."""
    return f"{datetime.fromtimestamp(time):%H:%M:%S}"


def duration(seconds: float) -> str:
    """As people say it."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(count: float) -> str:
    """Bytes, decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
