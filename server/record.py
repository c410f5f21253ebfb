"""The record of a run, kept by the coordinator: who answered what, how many bytes, how long. Written after every step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably


class ClientRecord(TypedDict):
    """One site. Bytes are encoded messages, protobuf included, without the carrier's own framing. guarantee: what the site said of its
    answers, "record-dp" or "none"; None as long as it said nothing."""

    status: str
    reason: str | None
    bytes_up: int
    bytes_down: int
    label_counts: list[int] | None
    record_count: int | None
    guarantee: str | None


class StageRecord(TypedDict):
    """One finished stage. seconds: of answers and of distillation. losses: mean loss per epoch."""

    stage: int
    sparsity: float
    temperature: float
    clients: list[str]
    bytes_up: int
    bytes_down: int
    seconds: dict[str, float]
    losses: list[float]


class Record:
    """`record.json` in the coordinator's folder; a resumed run goes on with the one it finds.

    Raises RunError where the file is there but belongs to another plan or cannot be read.
    """

    def __init__(self, path: Path, plan_hash: bytes) -> None:
        self._path = path
        self.plan_hash = plan_hash.hex()
        self.clients: dict[str, ClientRecord] = {}
        self.stages: list[StageRecord] = []
        self.seconds: dict[str, float] = {}
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                self.clients, self.stages, self.seconds = found["clients"], found["stages"], found["seconds"]
                other = found["plan_hash"]
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"Expected a run's record in {path}: {error}.") from error
            if other != self.plan_hash:
                raise RunError(f"Expected plan {self.plan_hash[:16]} in {path}, found a run of plan {other[:16]}.")

    def client(self, site: str) -> ClientRecord:
        """The entry of a site, made if need be."""
        fresh = ClientRecord(
            status="joined", reason=None, bytes_up=0, bytes_down=0, label_counts=None, record_count=None, guarantee=None
        )
        return self.clients.setdefault(site, fresh)

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Add wall-clock seconds to a phase; a resumed run's add up."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def save(self) -> None:
        """Write it durably."""
        content = {"plan_hash": self.plan_hash, "clients": self.clients, "stages": self.stages, "seconds": self.seconds}
        write_durably(self._path, json.dumps(content, indent=1).encode())
