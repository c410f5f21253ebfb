"""The privacy ledger of one data set: a SQLite file that outlives runs and processes.

A cost is reserved durably before the first record is read, and committed after; a reservation that was never committed stays
spent: it fails closed. Nothing is updated in place: reserving and committing append rows, each with the SHA-256 of the one before
it, so that a change or a deletion shows. The whole is composed by privacy loss distributions (`limbeck.protos.accounting`).
"""

from __future__ import annotations

import hashlib
import json
import math
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
from limbeck.protos.messages import Adjacency, CnnTeaching, LabelCounts, LinearTeaching, Teaching, Unit

_MECHANISMS: dict[str, type[LinearTeaching] | type[CnnTeaching]] = {"linear": LinearTeaching, "cnn": CnnTeaching}
_TABLE = """
CREATE TABLE IF NOT EXISTS ledger (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('open', 'reserve', 'commit', 'free', 'declared')),
    content TEXT NOT NULL,
    hash TEXT NOT NULL
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What all entries together may cost: epsilon at delta, per unit, under this neighbouring relation.

    allow_without_dp: releases without any guarantee are allowed beside; no epsilon holds for the records then.
    """

    epsilon: float
    delta: float
    unit: Unit
    adjacency: Adjacency
    allow_without_dp: bool = False

    def __post_init__(self) -> None:
        check.positive(epsilon=self.epsilon)
        if not 0 < self.delta < 1:
            raise SettingError(f"Expected 0 < delta < 1, got {self.delta!r}.")

    def __str__(self) -> str:
        return f"epsilon = {self.epsilon:g} at delta = {self.delta:g}, per {self.unit.value}, {self.adjacency.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One charge or release. state: "reserved" or "committed" of a charge, "free" of a release that costs nothing, "declared" of one
    without a guarantee, whose epsilon is infinite. why: of a release. schedule: of a charge."""

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

    def check_declared(self) -> None:
        """Raise BudgetError if releases without a guarantee are not allowed; notes nothing."""
        if not self.budget.allow_without_dp:
            raise BudgetError(
                f"Expected a release within the budget of {self.budget}, got one without a guarantee: its epsilon is infinite. "
                "Only the owner can allow that, by allow_without_dp = true."
            )

    def declare(self, plan_hash: bytes, what: str, why: str) -> int:
        """Note, before anything is released, that a run releases answers without any guarantee; returns the entry's id.

        From then on no epsilon holds. One entry covers a run: a second call finds it. Raises BudgetError where it is not allowed.
        """
        with self._transaction():
            self.check_declared()
            for own in self.entries():
                if (own.state, own.plan_hash, own.what) == ("declared", plan_hash, what):
                    return own.id
            return self._append("declared", {"plan": plan_hash.hex(), "what": what, "why": why})

    def spent(self) -> float:
        """Epsilon at the budget's delta of all charges, reserved or committed; infinite once something without a guarantee was released."""
        if self._declared():
            return math.inf
        return accounting.epsilon(self._schedules(), self.budget.delta)

    def entries(self) -> list[Entry]:
        """All charges and free releases, oldest first."""
        rows = self.verify()
        committed = {json.loads(content)["entry"] for _, kind, content, _ in rows if kind == "commit"}
        found = []
        for row, kind, content, _ in rows:
            own = json.loads(content)
            if kind in {"reserve", "free", "declared"}:
                state = kind if kind != "reserve" else "committed" if row in committed else "reserved"
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

    def _declared(self) -> list[Entry]:
        return [own for own in self.entries() if own.state == "declared"]

    def _require(self, schedules: tuple[Schedule, ...], charge: Schedule) -> None:
        # With the owner's leave, charges are held to the budget among themselves; without it, what is spent is past any budget.
        if not self.budget.allow_without_dp and (declared := self._declared()):
            raise BudgetError(
                f"Expected a ledger of releases with a guarantee, found entry {declared[0].id} without one ({declared[0].what}): "
                f"epsilon is infinite, and the budget is {self.budget}."
            )
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
