"""The record of a run, kept by the coordinator: who answered what, how many bytes, how long. Written after every phase, and while replies
are waited for.

`RunRecord` is what `record.json` holds; `parse` reads one, `Record` is the coordinator's own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.base.printable import printable
from limbeck.protos.messages import Guarantee
from limbeck.server.states import Exclusion, Phase, SiteState, Why, WrongName, why_from_json, why_to_json

# What no run exceeds: a file that says more was not written by one. Seconds since the epoch up to the year 9000.
MAX_STAGES, MAX_COUNT, MAX_BYTES, LAST_TIME = 1000, 1 << 40, 1 << 60, 221_845_392_000
# Characters of any text that is read from a run's files.
TEXT_LENGTH = 1000


def read_json(data: bytes) -> object:
    """JSON of a run's file, its texts made printable, since peers wrote some of them. A number that is not finite is None.

    Raises ValueError or RecursionError where it is no JSON.
    """
    return _printable(json.loads(data, parse_constant=lambda _: None))


def _printable(value: object) -> object:
    match value:
        case str():
            return printable(value, TEXT_LENGTH)
        case list():
            return [_printable(part) for part in value]
        case dict():
            return {printable(name, TEXT_LENGTH): _printable(part) for name, part in value.items()}
    return value


def _phase(value: object) -> Phase:
    if isinstance(value, Phase):
        return value
    if not isinstance(value, str):
        raise ValueError(f"Expected a phase, got {value!r}.")
    return Phase.parse(value)


# Fields of the files, with their bounds.
PhaseField = Annotated[Phase, BeforeValidator(_phase), PlainSerializer(str)]
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
StageNumber = Annotated[int, Field(strict=True, ge=0, lt=MAX_STAGES)]
Size = Annotated[int, Field(strict=True, ge=0, le=MAX_BYTES)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=LAST_TIME)]
Loss = Annotated[float, Field(strict=True, ge=-1e30, le=1e30)]
Text = Annotated[str, Field(strict=True)]


@dataclass(slots=True, kw_only=True)
class ClientRecord:
    """One site.

    state: what became of the last question to it. exclusion: why it was left out of a phase the last time; None if it never was since it
    last agreed or was taught. bytes_up, bytes_down: encoded messages, protobuf included, without the carrier's own framing. label_counts,
    record_count: its releases. guarantee: what it says of its answers; None as long as it said nothing.
    """

    state: SiteState = SiteState.JOINED
    exclusion: Exclusion | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    label_counts: tuple[int, ...] | None = None
    record_count: int | None = None
    guarantee: Guarantee | None = None

    @property
    def status(self) -> str:
        """The state as the file has it: one of the words of 0.1.0, which knew no other for a site that declined, or "absent"."""
        return (SiteState.LEFT_OUT if self.state is SiteState.DECLINED else self.state).value

    @property
    def reason(self) -> str | None:
        """The text of the exclusion, for people."""
        return None if self.exclusion is None else str(self.exclusion)

    def leave_out(self, phase: Phase, why: Why) -> Exclusion:
        """Note that the site is left out of a phase, and return what was noted."""
        self.exclusion = Exclusion(phase, why)
        self.state = self.exclusion.state
        return self.exclusion


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One finished stage. seconds: of answers and of distillation. losses: mean loss per epoch, None where it was not
    finite. at_floor: the share of answers in which each class lies on the wire's floor (`limbeck.protos.floor`); empty where there is none.
    asked_in: the earlier stage whose answers were used again, since nobody would have sent others; None where sites were asked in this one.
    """

    stage: StageNumber
    sparsity: Fraction
    temperature: Seconds
    clients: tuple[Text, ...]
    bytes_up: Size
    bytes_down: Size
    seconds: dict[str, Seconds]
    losses: tuple[Loss | None, ...]
    at_floor: tuple[Fraction, ...] = ()
    asked_in: StageNumber | None = None


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """All of a run's record. clients: by name. seconds: wall clock, by phase. warnings: what is allowed and looks like a mistake."""

    plan_hash: str
    clients: dict[str, ClientRecord] = field(default_factory=dict)
    stages: list[StageRecord] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


class Record:
    """The coordinator's own record, at `path`. One that is there already is continued.

    Raises RunError where the file is there but belongs to another plan or cannot be read.
    """

    def __init__(self, path: Path, plan_hash: bytes) -> None:
        self._path, self._content = path, RunRecord(plan_hash=plan_hash.hex())
        if path.exists():
            self._content = read(path)
            if self.plan_hash != plan_hash.hex():
                raise RunError(f"Expected plan {plan_hash.hex()[:16]} in {path}, found a run of plan {self.plan_hash[:16]}.")

    @property
    def plan_hash(self) -> str:
        """Hexadecimal digits of the plan's hash."""
        return self._content.plan_hash

    @property
    def clients(self) -> dict[str, ClientRecord]:
        """The sites, by name."""
        return self._content.clients

    @property
    def stages(self) -> list[StageRecord]:
        """The finished stages, in order."""
        return self._content.stages

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds, by phase."""
        return self._content.seconds

    @property
    def warnings(self) -> list[str]:
        """What is allowed and looks like a mistake, each once."""
        return self._content.warnings

    def client(self, site: str) -> ClientRecord:
        """The entry of a site, made if need be."""
        return self.clients.setdefault(site, ClientRecord())

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Add wall-clock seconds to a phase; a resumed run's add up."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def save(self) -> None:
        """Write it durably."""
        write_durably(self._path, json.dumps(_to_json(self._content), indent=1).encode())


def read(path: Path) -> RunRecord:
    """The record in a file. Raises FileNotFoundError if there is none, RunError if it cannot be read."""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"Expected a run's record in {path}: {printable(error)}.") from error


def parse(data: bytes) -> RunRecord:
    """The record that these bytes are, of this version or of 0.1.0. Raises ValueError or RecursionError where they are none."""
    stored = _ON_DISK.validate_python(read_json(data))
    return RunRecord(
        plan_hash=stored.plan_hash,
        clients={name: _client(client) for name, client in stored.clients.items()},
        stages=list(stored.stages),
        seconds=stored.seconds,
        warnings=list(stored.warnings),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClientOnDisk:
    """One site as the file has it.

    0.1.0 wrote no `exclusion`, and knows four values of `status`; so what is declined stands as left out there. reason: the text of the
    exclusion, for people.
    """

    status: SiteState
    reason: Text | None = None
    bytes_up: Size
    bytes_down: Size
    label_counts: tuple[int, ...] | None = None
    record_count: int | None = None
    guarantee: Guarantee | None = None
    exclusion: dict[str, Text | float | bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnDisk:
    plan_hash: Text
    clients: dict[Text, _ClientOnDisk]
    stages: tuple[StageRecord, ...]
    seconds: dict[Text, Seconds]
    warnings: tuple[Text, ...] = ()


_ON_DISK = TypeAdapter(_OnDisk)


def _client(stored: _ClientOnDisk) -> ClientRecord:
    exclusion = _exclusion(stored)
    state = stored.status
    if state is SiteState.LEFT_OUT and exclusion is not None:
        state = exclusion.state
    if exclusion is not None and isinstance(exclusion.why, WrongName):
        # 0.1.0 went on calling a site answered whose name another one had.
        state = SiteState.LEFT_OUT
    return ClientRecord(
        state=state,
        exclusion=exclusion,
        bytes_up=stored.bytes_up,
        bytes_down=stored.bytes_down,
        label_counts=stored.label_counts,
        record_count=stored.record_count,
        guarantee=stored.guarantee,
    )


def _exclusion(stored: _ClientOnDisk) -> Exclusion | None:
    """Where the text is another than that of the data, 0.1.0 has gone on with the run, and the text is newer."""
    if stored.reason is None:
        return None
    if stored.exclusion is not None:
        exclusion = Exclusion(_phase(stored.exclusion.get("phase")), why_from_json(stored.exclusion))
        if str(exclusion) == stored.reason:
            return exclusion
    return Exclusion.of_0_1_0(stored.reason)


def _to_json(record: RunRecord) -> dict[str, object]:
    clients = {name: _client_to_json(client) for name, client in record.clients.items()}
    stages = [asdict(stage) for stage in record.stages]
    return {
        "plan_hash": record.plan_hash,
        "clients": clients,
        "stages": stages,
        "seconds": record.seconds,
        "warnings": record.warnings,
    }


def _client_to_json(client: ClientRecord) -> dict[str, object]:
    fields: dict[str, object] = {
        "status": client.status,
        "reason": client.reason,
        "bytes_up": client.bytes_up,
        "bytes_down": client.bytes_down,
        "label_counts": client.label_counts,
        "record_count": client.record_count,
        "guarantee": None if client.guarantee is None else client.guarantee.value,
    }
    if client.exclusion is not None:
        fields["exclusion"] = {"phase": str(client.exclusion.phase), **why_to_json(client.exclusion.why)}
    return fields
