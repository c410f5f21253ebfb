"""The privacy ledger of one data set: a SQLite file that outlives runs and processes.

A cost is reserved durably before the first record is read, and committed after; a reservation that was never committed stays
spent: it fails closed. Nothing is updated in place: reserving and committing append rows, each with the SHA-256 of the one before
it, so that a change or a deletion shows. The whole is composed by privacy loss distributions (`limbeck.protos.accounting`).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from limbeck.operators import check
from limbeck.operators.errors import BudgetError, LedgerError, SettingError
from limbeck.protos import accounting
from limbeck.protos.accounting import Schedule
from limbeck.protos.messages import Adjacency, LabelCounts, LinearTeaching, NetTeaching, Teaching, Unit

_MECHANISMS: dict[str, type[LinearTeaching] | type[NetTeaching]] = {"linear": LinearTeaching, "net": NetTeaching}
_TABLE = """
CREATE TABLE IF NOT EXISTS ledger (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('open', 'reserve', 'commit', 'free')),
    content TEXT NOT NULL,
    hash TEXT NOT NULL
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What all entries together may cost: epsilon at delta, per unit, under this neighbouring relation."""

    epsilon: float
    delta: float
    unit: Unit
    adjacency: Adjacency

    def __post_init__(self) -> None:
        check.positive(epsilon=self.epsilon)
        if not 0 < self.delta < 1:
            raise SettingError(f"Expected 0 < delta < 1, got {self.delta!r}.")

    def __str__(self) -> str:
        return f"epsilon = {self.epsilon:g} at delta = {self.delta:g}, per {self.unit.value}, {self.adjacency.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One charge or free release. state: "reserved", "committed" or "free". why: of a free one. schedule: of a charge."""

    id: int
    time: str
    plan_hash: bytes
    what: str
    state: str
    why: str | None
    schedule: Schedule | None


class Ledger:
    """The ledger in a file, as a context manager.

    Raises LedgerError where the file is no ledger, was tampered with, or counts another unit, relation or delta than the budget.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self.budget = budget
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"Expected a privacy ledger in {path}: {error}.") from error
        self._path = path
        with self._transaction():
            rows = self.verify()
            terms = {"unit": budget.unit.value, "adjacency": budget.adjacency.value, "delta": budget.delta}
            if not rows:
                self._append("open", terms)
            elif json.loads(rows[0][2]) != {**terms, "time": json.loads(rows[0][2]).get("time")}:
                raise LedgerError(f"Expected a ledger of {terms} in {path}, found one of {rows[0][2]}.")

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._db.close()

    def check(self, teaching: Teaching, label_counts: LabelCounts | None) -> None:
        """Raise BudgetError if this charge would be refused now; charges nothing."""
        self._require(self._schedules(), (teaching, label_counts))

    def reserve(self, plan_hash: bytes, what: str, teaching: Teaching, label_counts: LabelCounts | None) -> int:
        """Charge durably, before any record is read; returns the entry's id. Raises BudgetError with nothing charged."""
        with self._transaction():
            self._require(self._schedules(), (teaching, label_counts))
            return self._append(
                "reserve", {"plan": plan_hash.hex(), "what": what, "schedule": _schedule_to_json((teaching, label_counts))}
            )

    def commit(self, entry: int) -> None:
        """Note that what was reserved was used. Raises LedgerError where there is no open reservation of this id."""
        with self._transaction():
            states = {own.id: own.state for own in self.entries()}
            if states.get(entry) != "reserved":
                raise LedgerError(f"Expected an open reservation {entry} to commit, found {states.get(entry, 'none')}.")
            self._append("commit", {"entry": entry})

    def record_free(self, plan_hash: bytes, what: str, why: str) -> int:
        """Note a release that costs nothing, and why it does not; returns the entry's id."""
        with self._transaction():
            return self._append("free", {"plan": plan_hash.hex(), "what": what, "why": why})

    def spent(self) -> float:
        """Epsilon at the budget's delta of all charges, reserved or committed."""
        return accounting.epsilon(self._schedules(), self.budget.delta)

    def entries(self) -> list[Entry]:
        """All charges and free releases, oldest first."""
        rows = self.verify()
        committed = {json.loads(content)["entry"] for _, kind, content, _ in rows if kind == "commit"}
        found = []
        for row, kind, content, _ in rows:
            own = json.loads(content)
            if kind in {"reserve", "free"}:
                state = "free" if kind == "free" else "committed" if row in committed else "reserved"
                schedule = _schedule_from_json(own["schedule"]) if kind == "reserve" else None
                found.append(
                    Entry(
                        id=row,
                        time=own["time"],
                        plan_hash=bytes.fromhex(own["plan"]),
                        what=own["what"],
                        state=state,
                        why=own.get("why"),
                        schedule=schedule,
                    )
                )
        return found

    def verify(self) -> list[tuple[int, str, str, str]]:
        """Check the chain of hashes and return the raw rows. Raises LedgerError where a row was changed, moved or removed."""
        try:
            rows = self._db.execute("SELECT id, kind, content, hash FROM ledger ORDER BY id").fetchall()
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"Expected a readable ledger: {error}.") from error
        previous = ""
        for index, (row, kind, content, found) in enumerate(rows, start=1):
            expected = _link(previous, row, kind, content)
            if row != index or found != expected:
                raise LedgerError(f"Expected row {index} of the ledger in {self._path} as it was written, found it changed.")
            previous = found
        return rows

    def _require(self, schedules: tuple[Schedule, ...], charge: Schedule) -> None:
        total = accounting.epsilon((*schedules, charge), self.budget.delta)
        if total > self.budget.epsilon:
            spent = accounting.epsilon(schedules, self.budget.delta)
            raise BudgetError(
                f"Expected a charge within the budget of {self.budget}, got one that makes it {total:.4g} with {spent:.4g} spent."
            )

    def _schedules(self) -> tuple[Schedule, ...]:
        return tuple(own.schedule for own in self.entries() if own.schedule is not None)

    def _append(self, kind: str, content: dict[str, object]) -> int:
        row, previous = self._db.execute(
            "SELECT coalesce(max(id), 0) + 1, (SELECT hash FROM ledger ORDER BY id DESC) FROM ledger"
        ).fetchone()
        text = json.dumps({**content, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}, sort_keys=True)
        self._db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?)", (row, kind, text, _link(previous or "", row, kind, text)))
        return int(row)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, and one process at a time: what is checked is what is charged against."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _link(previous: str, row: int, kind: str, content: str) -> str:
    return hashlib.sha256(json.dumps([previous, row, kind, content]).encode()).hexdigest()


def _schedule_to_json(schedule: Schedule) -> dict[str, object]:
    teaching, label_counts = schedule
    name = next(name for name, kind in _MECHANISMS.items() if isinstance(teaching, kind))
    return {"teaching": {"kind": name, **asdict(teaching)}, "label_counts": asdict(label_counts) if label_counts else None}


def _schedule_from_json(content: dict[str, dict[str, object] | None]) -> Schedule:
    own = dict(content["teaching"] or {})
    try:
        teaching = _MECHANISMS[str(own.pop("kind"))](**own)  # type: ignore[arg-type]
        counts = content["label_counts"]
        return teaching, LabelCounts(**counts) if counts else None  # type: ignore[arg-type]
    except (KeyError, TypeError) as error:
        raise LedgerError(f"Expected a schedule this version of limbeck knows, found {content}.") from error
