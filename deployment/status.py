"""What a run is doing, read from its folder: plan, record and events. Whatever carries the messages, the coordinator writes these.
Where a SuperLink carries them, what that says stands beside.

The record is written after every phase, events as things happen: so who answered is known after a phase, how many while it lasts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from limbeck.base.errors import DataError, LimbeckError, RunError
from limbeck.base.printable import printable
from limbeck.deployment.superlink_status import NOTE, SuperLinkStatus
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans import accounting
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.protos.messages import Guarantee, Reason
from limbeck.server import checkpoint, distil, student

EVENTS, RECORD, PLAN = "events.jsonl", "record.json", "plan.pb"
# Of a long run's events, the last so many bytes are read.
EVENT_BYTES = 4 << 20
LOG_LINES = 200
PHASES = {"agree": "Sites agree to the plan", "teach": "Sites train their teachers"}
# Of any text that is shown.
TEXT_LENGTH = 1000
# What no run exceeds; a file that says more was not written by one. Seconds since the epoch up to the year 9000.
MAX_STAGES, MAX_BYTES, LAST_TIME = 1000, 1 << 60, 221_845_392_000
# Whole numbers of events, and the most that they can be.
_WHOLE = {
    **dict.fromkeys(("done", "total", "sites", "minimum"), 1 << 40),
    **dict.fromkeys(("stage", "stages", "after_stage"), MAX_STAGES),
}
# Which event leaves a run in which state; the others change none.
STATES = {"start": "running", "paused": "paused", "continued": "running", "stopped": "stopped", "end": "finished"}
_DECLINED = {reason.value for reason in Reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the run. state: "done", "active" or "waiting". done of total: parts that are finished; total 0: not known yet."""

    name: str
    state: str
    done: int = 0
    total: int = 0

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return 1.0 if self.state == "done" else self.done / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One site, as of the last finished phase.

    state: "joined", "answered", "declined" (for a reason of the closed list), "left out" (its reply was none) or "lost". stages: how
    many it answered. guarantee: None as long as unknown.
    """

    name: str
    state: str
    reason: str
    stages: int
    guarantee: str | None
    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatus:
    """One finished stage. accuracy: on the test data given, in [0, 1], or None."""

    number: int
    sparsity: float
    clients: int
    bytes_up: int
    bytes_down: int
    seconds: float
    loss: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the log."""

    time: float
    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What the plan costs each site that trains, by its own terms. sites: that trained under a guarantee. without: names of those that
    answer without one."""

    epsilon: float
    delta: float
    unit: str
    adjacency: str
    sites: int
    without: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A run at one moment. state: "not started", "running", "paused", "stopped" or "finished". plan: None where its file is
    not found. started, newest: seconds since the epoch of the first and the last event. superlink: of Flower, where one carries the run."""

    folder: Path
    name: str
    plan_hash: str
    plan: Plan | None
    state: str
    why: str
    steps: tuple[Step, ...]
    clients: tuple[Client, ...]
    stages: tuple[StageStatus, ...]
    privacy: Privacy | None
    started: float | None
    newest: float | None
    log: tuple[Line, ...]
    superlink: SuperLinkStatus | None = None

    @property
    def active(self) -> Step | None:
        """The step under way."""
        return next((own for own in self.steps if own.state == "active"), None)

    @property
    def counts(self) -> dict[str, int]:
        """Clients by state."""
        return dict(Counter(own.state for own in self.clients))

    @property
    def bytes_up(self) -> int:
        """From all sites, encoded messages."""
        return sum(own.bytes_up for own in self.clients)

    @property
    def bytes_down(self) -> int:
        """To all sites, encoded messages."""
        return sum(own.bytes_down for own in self.clients)


def to_json(own: Status) -> dict[str, Any]:
    """Everything but the plan itself, as JSON values."""
    found = asdict(replace(own, plan=None))
    del found["plan"]
    return {**found, "folder": str(own.folder), "counts": own.counts, "bytes_up": own.bytes_up, "bytes_down": own.bytes_down}


class TestData:
    """Public labelled inputs on which students are measured: an NPZ file with x (N, ...) and y (N,). Nothing else is done with them.

    Raises DataError where the file has none.
    """

    __test__ = False

    def __init__(self, path: Path) -> None:
        x_N, y_N = read_arrays(path, "x", "y")
        if not len(x_N) or y_N.shape != (len(x_N),) or y_N.dtype.kind not in "iu":
            raise DataError(
                f"Expected inputs x (N, ...) and whole labels y (N,) in {path}, got {x_N.shape} and {y_N.shape}."
            )
        self._x, self._y = torch.from_numpy(x_N), torch.from_numpy(y_N.astype("int64"))
        self._known: dict[tuple[str, int], float] = {}

    def accuracy(self, folder: Path, plan: Plan, stage: int) -> float | None:
        """Of a stage's student, in [0, 1]; None where its checkpoint cannot be read. Measured once per checkpoint."""
        path = checkpoint.path_of(folder / "checkpoints", stage)
        try:
            key = (str(path), path.stat().st_mtime_ns)
        except OSError:
            return None
        if key not in self._known:
            found = checkpoint.load(path)
            if found is None:
                return None
            model = student.build(plan.student.architecture, tuple(self._x.shape[1:]), plan.classes, plan.public_seed)
            model.load_state_dict(found.weights)
            with torch.no_grad():
                self._known[key] = float((distil.predict(model, self._x).argmax(1) == self._y).double().mean())
        return self._known[key]


def locate(folder: Path) -> Path:
    """The folder with a run's events: `folder` itself, or the newest in it. Raises RunError where there is none."""
    if any((folder / name).exists() for name in (EVENTS, RECORD, NOTE)):
        return folder
    found = [path for name in (EVENTS, NOTE) for pattern in (f"*/{name}", f"*/*/{name}") for path in folder.glob(pattern)]
    if not found:
        raise RunError(f"Expected the folder of a run, with {EVENTS} and {RECORD}, at {folder}, found none.")
    return max(found, key=lambda own: own.stat().st_mtime).parent


def read(folder: Path, test: TestData | None = None, superlink: SuperLinkStatus | None = None) -> Status:
    """The run in `folder`, which `locate` found. superlink: what its SuperLink says. Raises RunError where its record cannot be read."""
    events = list(_events(folder / EVENTS))
    record = _record(folder / RECORD)
    start: dict[str, Any] = next((own for own in reversed(events) if own["kind"] == "start"), {})
    plan_hash = str(record.get("plan_hash") or start.get("plan", ""))
    plan = _plan(folder, plan_hash)
    since = _since(events)
    state, why = _state(since)
    if superlink is not None and superlink.failed and state != "finished":
        # A server app that was killed has left no event.
        state, why = "stopped", f"The SuperLink says {superlink.state}: {superlink.details}"
    recorded = record.get("stages", [])
    clients = tuple(_client(name, own, recorded) for name, own in sorted(record.get("clients", {}).items()))
    stages = tuple(
        StageStatus(
            number=own["stage"] + 1,
            sparsity=own["sparsity"],
            clients=len(own["clients"]),
            bytes_up=own["bytes_up"],
            bytes_down=own["bytes_down"],
            seconds=sum(own["seconds"].values()),
            loss=own["losses"][-1] if own["losses"] else None,
            accuracy=test.accuracy(folder, plan, own["stage"]) if test is not None and plan is not None else None,
        )
        for own in recorded
    )
    total = len(plan.stages) if plan is not None else int(start.get("stages", len(stages)))
    return Status(
        folder=folder,
        name=plan.name if plan is not None else folder.resolve().name,
        plan_hash=plan_hash,
        plan=plan,
        state=state,
        why=why,
        steps=tuple(_steps(since, total, len(stages), state)),
        clients=clients,
        stages=stages,
        privacy=_privacy(plan, clients) if plan is not None else None,
        started=events[0]["time"] if events else None,
        newest=events[-1]["time"] if events else None,
        log=tuple(_log(events))[-LOG_LINES:],
        superlink=superlink,
    )


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """Lines that are events. The last may be torn while it is written, and a crash may leave one in the middle: those are no JSON."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - EVENT_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            own = _parse(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(own, dict) and _is_event(own):
            yield own


def _is_event(own: dict[str, Any]) -> bool:
    """Whether every field that is read here is what it has to be."""
    return (
        isinstance(own.get("kind"), str)
        and _within(own.get("time"), 0, LAST_TIME)
        and all(_within(own[name], -1, most) and isinstance(own[name], int) for name, most in _WHOLE.items() if name in own)
        and _within(own.get("sparsity", 0), 0, 1)
        and _are_texts(own.get("clients", []))
    )


def _record(path: Path) -> dict[str, Any]:
    try:
        found = _parse(path.read_bytes())
        _check_record(found)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunError(f"Expected a run's record in {path}: {printable(repr(error))}.") from error
    return dict(found)


def _check_record(found: Any) -> None:
    """Raise ValueError, KeyError, TypeError or AttributeError where a field that is read here is not what it has to be."""
    told = [found["plan_hash"]]
    for own in found["clients"].values():
        told += [own["status"], own.get("reason") or "", own.get("guarantee") or ""]
        _require(_is_size(own["bytes_up"]) and _is_size(own["bytes_down"]), "bytes of a site")
    for own in found["stages"]:
        _require(isinstance(own["stage"], int) and _within(own["stage"], 0, MAX_STAGES - 1), "the number of a stage")
        _require(_within(own["sparsity"], 0, 1), "the sparsity of a stage")
        _require(_are_texts(own["clients"]), "names of sites")
        _require(_is_size(own["bytes_up"]) and _is_size(own["bytes_down"]), "bytes of a stage")
        _require(all(_within(value, 0, LAST_TIME) for value in own["seconds"].values()), "seconds")
        _require(all(value is None or _within(value, -1e30, 1e30) for value in own["losses"]), "losses")
    _require(_are_texts(told), "texts")


def _require(right: bool, what: str) -> None:
    if not right:
        raise ValueError(f"other {what} than there can be")


def _parse(data: bytes) -> Any:
    """JSON, its texts made printable: peers wrote some of them. What is no finite number is None."""
    return _shown(json.loads(data, parse_constant=lambda _: None))


def _shown(value: Any) -> Any:
    match value:
        case str():
            return printable(value, TEXT_LENGTH)
        case list():
            return [_shown(part) for part in value]
        case dict():
            return {_shown(name): _shown(part) for name, part in value.items()}
    return value


def _within(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and _within(value, 0, MAX_BYTES)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


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


def _since(events: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The events of the last start; a run that was resumed has several."""
    starts = [index for index, own in enumerate(events) if own["kind"] == "start"]
    return events[starts[-1] :] if starts else events


def _state(since: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """The state, and why the run waits or has ended."""
    turning = [own for own in since if own["kind"] in STATES]
    if not since:
        return "not started", ""
    if not turning:
        return "running", ""
    last = turning[-1]
    if last["kind"] == "paused":
        return "paused", f"{title(str(last.get('phase')))}: {last.get('sites')} sites of at least {last.get('minimum')}"
    return STATES[last["kind"]], str(last.get("reason") or "")


def _steps(since: Sequence[dict[str, Any]], stages: int, finished: int, state: str) -> Iterator[Step]:
    """Agree, teach, every stage's answers and student, export."""
    names = [
        "agree",
        "teach",
        *(f"{kind} {stage + 1}" for stage in range(stages) for kind in ("answers", "distil")),
        "export",
    ]
    progress: dict[str, tuple[int, int]] = {}
    for own in since:
        if own["kind"] == "progress":
            progress[str(own.get("phase"))] = int(own.get("done", 0)), int(own.get("total", 0))
    reached = max((index for index, name in enumerate(names) if name in progress), default=-1)
    # What was finished before this start is not done again.
    over = {f"{kind} {stage + 1}" for stage in range(finished) for kind in ("answers", "distil")}
    active = state in {"running", "paused"}
    for index, name in enumerate(names):
        done, total = progress.get(name, (0, 0))
        if state == "finished" or name in over or index < reached or (total and done >= total):
            yield Step(name=name, state="done", done=done, total=total)
        else:
            yield Step(name=name, state="active" if active else "waiting", done=done, total=total)
            active = False


def _client(name: str, own: dict[str, Any], stages: Sequence[dict[str, Any]]) -> Client:
    reason, state = str(own.get("reason") or ""), str(own["status"])
    if state == "left out" and reason.partition(": ")[2] in _DECLINED:
        state = "declined"
    return Client(
        name=name,
        state=state,
        reason=reason,
        stages=sum(name in stage["clients"] for stage in stages),
        guarantee=own.get("guarantee"),
        bytes_up=int(own["bytes_up"]),
        bytes_down=int(own["bytes_down"]),
    )


_WITHOUT = (Guarantee.NONE.value, Guarantee.SEEDED.value)


def _privacy(plan: Plan, clients: Sequence[Client]) -> Privacy:
    own = plan.privacy
    taught = [client for client in clients if client.stages]
    return Privacy(
        epsilon=_cost(plan),
        delta=own.delta,
        unit=own.unit.value,
        adjacency=own.adjacency.value,
        sites=sum(client.guarantee == Guarantee.RECORD_DP.value for client in taught),
        without=tuple(client.name for client in clients if client.guarantee in _WITHOUT),
    )


@lru_cache(maxsize=8)
def _cost(plan: Plan) -> float:
    return accounting.epsilon(((plan.teaching, plan.counts),), plan.privacy.delta)


def _log(events: Sequence[dict[str, Any]]) -> Iterator[Line]:
    """Events as sentences. Of progress, only beginnings, ends and what went wrong."""
    for own in events:
        time = float(own["time"])
        match own["kind"]:
            case "start":
                yield Line(time=time, text=f"started, plan {str(own.get('plan', ''))[:16]}")
            case "resumed":
                yield Line(time=time, text=f"goes on after stage {int(own.get('after_stage', -1)) + 1}")
            case "progress":
                yield from _progress_lines(own, time)
            case "stage":
                clients, sparsity = own.get("clients", []), float(own.get("sparsity", 0))
                yield Line(
                    time=time,
                    text=f"stage {int(own.get('stage', 0)) + 1} is finished: {len(clients)} sites, {sparsity:.1%} sparse",
                )
            case "end":
                yield Line(time=time, text="finished")
            case "paused":
                yield Line(
                    time=time, text=f"paused: {own.get('sites')} sites of at least {own.get('minimum')}", warning=True
                )
            case "continued":
                yield Line(time=time, text=f"goes on with {own.get('sites')} sites")
            case "stopped":
                yield Line(time=time, text=f"stopped: {own.get('reason')}", warning=True)
            case kind:
                facts = ", ".join(f"{key} {value}" for key, value in own.items() if key not in {"kind", "time"})
                yield Line(time=time, text=printable(f"{kind}{': ' if facts else ''}{facts}", TEXT_LENGTH))


def _progress_lines(own: dict[str, Any], time: float) -> Iterator[Line]:
    name, done, total = str(own.get("phase")), own.get("done"), own.get("total")
    sites = not name.startswith("distil")
    if own.get("reason"):
        yield Line(time=time, text=f"{title(name)}: a site is left out: {own['reason']}", warning=True)
    if done == 0 and sites:
        yield Line(time=time, text=f"{title(name)}: {total} asked")
    elif done == total:
        yield Line(time=time, text=f"{title(name)}: {f'all {total} have replied' if sites else f'trained, {total} epochs'}")


def title(phase: str) -> str:
    """A phase in words."""
    kind, _, stage = phase.partition(" ")
    return PHASES.get(kind) or {
        "answers": f"Stage {stage}: sites answer",
        "distil": f"Stage {stage}: the student learns",
        "export": "The student is exported",
    }.get(kind, phase)


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
