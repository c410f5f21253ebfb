"""The privacy ledger of one data set: a SQLite file that outlives runs and processes.

A cost is reserved durably before the first record is read, and committed after; a reservation that was never committed stays
spent: it fails closed. Nothing is updated in place: reserving and committing append rows, each with the SHA-256 of the one before
it, so that a change or a deletion shows. The whole is composed by privacy loss distributions (`limbeck.protos.accounting`).

Identity: a ledger belongs to records, not to a run, a plan or a site. By default it lies beside the records (`Site.ledger`), so all
settings that point at the same file share it; its first row holds the name that the owner gave the records, and a policy with another
name is refused. The name is not derived from the records: a hash of them would change with every new record, and tell of them.

The head: a chain cannot show that its last rows are gone, so LEDGER.head gets a line after every row, durably and before anything is
done because of it, which says how many rows there must be and the hash of the last. What neither can show is that both files were put
back to an older copy together, or that somebody with write access computed chain and head anew: against that, note a head elsewhere
and compare (`limbeck ledger verify --head`), or compare with the transcript, which names entries.

Connections: opening a ledger in write-ahead mode and closing it again makes and removes two files and costs several times what a charge
costs, so a process keeps the connections of ledgers that it has closed, up to a bound, until it forks or ends.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import math
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

from limbeck.operators import check
from limbeck.operators.errors import BudgetError, LedgerError, SettingError
from limbeck.protos import accounting
from limbeck.protos.accounting import Schedule
from limbeck.protos.files import outlives_power_cuts, sync, sync_folder
from limbeck.protos.messages import TEACHINGS, Adjacency, CountNoise, Counts, LabelCounts, RecordCount, Teaching, Unit

_COUNTS: dict[str, type[LabelCounts] | type[RecordCount]] = {"label_counts": LabelCounts, "record_count": RecordCount}
_TABLE = """
CREATE TABLE IF NOT EXISTS ledger (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('open', 'reserve', 'commit', 'free', 'declared')),
    content TEXT NOT NULL,
    hash TEXT NOT NULL
)
"""
_SELECT = "SELECT id, kind, content, hash FROM ledger ORDER BY id"
_IDLE_CONNECTIONS = 64
_HEAD_LINE = 1024  # bytes, more than a line of a head has

Row = tuple[int, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one ledger counts: costs at `delta`, per unit, under this neighbouring relation, of these records."""

    data_set: str
    delta: float
    unit: Unit
    adjacency: Adjacency

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._/-]{1,128}", self.data_set):
            raise SettingError(
                f"Expected data_set of 1 to 128 characters a-z, A-Z, 0-9, '.', '_', '/', '-', got {self.data_set!r}."
            )
        if not 0 < self.delta < 1:
            raise SettingError(f"Expected 0 < delta < 1, got {self.delta!r}.")

    def __str__(self) -> str:
        return f"delta = {self.delta:g}, per {self.unit.value}, {self.adjacency.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget(Terms):
    """What all entries together may cost: epsilon under these terms.

    allow_without_dp: releases without any guarantee are allowed beside; no epsilon holds for the records then.
    """

    epsilon: float
    allow_without_dp: bool = False

    def __post_init__(self) -> None:
        Terms.__post_init__(self)
        check.positive(epsilon=self.epsilon)

    def __str__(self) -> str:
        return f"epsilon = {self.epsilon:g} at {Terms.__str__(self)}"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """A whole ledger as it was read, chain and head checked. head: the hash of its last row."""

    terms: Terms
    entries: tuple[Entry, ...]
    rows: tuple[Row, ...]
    head: str

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """All charges, reserved or committed."""
        return tuple(entry.schedule for entry in self.entries if entry.schedule is not None)

    def spent(self) -> float:
        """Epsilon at the ledger's delta of all charges, reserved or committed, composed; infinite where a release had no guarantee."""
        return _spent(self.entries, self.terms.delta)


def read(path: Path) -> Book:
    """Read a ledger without writing to it. Raises LedgerError where there is none or it cannot be trusted."""
    if not path.is_file():
        raise LedgerError(f"Expected a privacy ledger at {path}, found none.")
    head_then = _read_head(path)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as db:
            rows = db.execute(_SELECT).fetchall()
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"Expected a privacy ledger in {path}: {error}.") from error
    head = verify(rows, path)
    _check_head(rows, head_then, path)
    if not rows:
        raise LedgerError(f"Expected a privacy ledger in {path}, found one that was never opened.")
    return Book(terms=_terms(rows, path), entries=tuple(_entries(rows)), rows=tuple(rows), head=head)


def verify(rows: list[Row], path: Path) -> str:
    """Check the chain of hashes; returns the last. Raises LedgerError where a row was changed, moved or removed."""
    previous = ""
    for index, (row, kind, content, found) in enumerate(rows, start=1):
        if row != index or found != _link(previous, row, kind, content):
            raise LedgerError(f"Expected row {index} of the ledger in {path} as it was written, found it changed.")
        previous = found
    return previous


class Ledger:
    """The ledger in a file, as a context manager.

    Raises LedgerError where the file is no ledger, was tampered with or cut, or counts other records, another unit, relation or delta
    than the budget.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self.budget = budget
        self._path = path
        self._db = _connect(path)
        try:
            # Opening one that is there writes nothing, and so waits for nobody.
            if not (rows := self._rows()):
                with self._transaction() as rows:
                    if not rows:
                        self._append(rows, "open", _terms_to_json(budget))
            if (found := _terms(rows, path)) != (wanted := _only_terms(budget)):
                raise LedgerError(
                    f"Expected a ledger of {wanted.data_set!r} ({wanted}) in {path}, found {found.data_set!r} ({found})."
                )
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _keep(self._path, self._db)

    def check(self, teaching: Teaching, counts: Counts | None) -> None:
        """Raise BudgetError if this charge would be refused now; charges nothing."""
        self._require(self._rows(), (teaching, counts))

    def reserve(self, plan_hash: bytes, what: str, teaching: Teaching, counts: Counts | None) -> int:
        """Charge durably, before any record is read; returns the entry's id. Raises BudgetError with nothing charged."""
        with self._transaction() as rows:
            self._require(rows, (teaching, counts))
            schedule = _schedule_to_json((teaching, counts))
            return self._append(rows, "reserve", {"plan": plan_hash.hex(), "what": what, "schedule": schedule})

    def commit(self, entry: int) -> None:
        """Note that what was reserved was used. Raises LedgerError where there is no open reservation of this id."""
        with self._transaction() as rows:
            states = {own.id: own.state for own in _entries(rows)}
            if states.get(entry) != "reserved":
                raise LedgerError(f"Expected an open reservation {entry} to commit, found {states.get(entry, 'none')}.")
            self._append(rows, "commit", {"entry": entry})

    def record_free(self, plan_hash: bytes, what: str, why: str) -> int:
        """Note a release that costs nothing, and why it does not; returns the entry's id."""
        with self._transaction() as rows:
            return self._append(rows, "free", {"plan": plan_hash.hex(), "what": what, "why": why})

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
        with self._transaction() as rows:
            self.check_declared()
            for own in _entries(rows):
                if (own.state, own.plan_hash, own.what) == ("declared", plan_hash, what):
                    return own.id
            return self._append(rows, "declared", {"plan": plan_hash.hex(), "what": what, "why": why})

    def spent(self) -> float:
        """Epsilon at the budget's delta of all charges, reserved or committed; infinite once something without a guarantee was released."""
        return _spent(tuple(_entries(self._rows())), self.budget.delta)

    def entries(self) -> list[Entry]:
        """All charges and free releases, oldest first."""
        return list(_entries(self._rows()))

    def _rows(self) -> list[Row]:
        """All rows, chain and head checked."""
        # The head first: whatever it counts is in rows that are read after it.
        head = _read_head(self._path)
        try:
            rows: list[Row] = self._db.execute(_SELECT).fetchall()
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"Expected a readable ledger: {error}.") from error
        verify(rows, self._path)
        _check_head(rows, head, self._path)
        return rows

    def _require(self, rows: list[Row], charge: Schedule) -> None:
        # With the owner's leave, charges are held to the budget among themselves; without it, what is spent is past any budget.
        declared = next((own for own in _entries(rows) if own.state == "declared"), None)
        if declared is not None and not self.budget.allow_without_dp:
            raise BudgetError(
                f"Expected a ledger of releases with a guarantee, found entry {declared.id} without one ({declared.what}): "
                f"epsilon is infinite, and the budget is {self.budget}."
            )
        cost = accounting.epsilon((*_schedules(rows), charge), self.budget.delta)
        if cost > self.budget.epsilon:
            raise BudgetError(
                f"Expected all charges together within a budget of {self.budget}, got epsilon = {cost:.4g} with this one."
            )

    def _append(self, rows: list[Row], kind: str, content: dict[str, object]) -> int:
        row, previous = len(rows) + 1, rows[-1][3] if rows else ""
        text = json.dumps({**content, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}, sort_keys=True)
        rows.append((row, kind, text, _link(previous, row, kind, text)))
        self._db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?)", rows[-1])
        return row

    @contextmanager
    def _transaction(self) -> Iterator[list[Row]]:
        """The rows, checked. All or nothing, and one process at a time: what is checked is what is charged against.

        The head follows the commit. Killed in between, the ledger holds one row more than the head says, which is allowed and mended by
        the next row; nothing was done because of that row yet.
        """
        with head_path(self._path).open("a+b") as head:
            fcntl.flock(head, fcntl.LOCK_EX)
            self._db.execute("BEGIN IMMEDIATE")
            try:
                rows = self._rows()
                known = len(rows)
                yield rows
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            if len(rows) > known:
                _append_head(head.fileno(), rows)
                if not known:
                    sync_folder(self._path.parent)


_Identity = tuple[int, int]
_idle: dict[Path, tuple[_Identity, sqlite3.Connection]] = {}


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that nothing else uses: one kept from before if it is to the file that is there now. Raises LedgerError."""
    path = path.absolute()
    if (kept := _idle.pop(path, None)) is not None:
        identity, db = kept
        if identity == _identity(path):
            _set_durability(db)
            return db
        db.close()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        _set_durability(db)
        db.execute(_TABLE)
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"Expected a privacy ledger in {path}: {error}.") from error
    return db


def _set_durability(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA synchronous = {'FULL' if outlives_power_cuts() else 'OFF'}")


def _keep(path: Path, db: sqlite3.Connection) -> None:
    """Keep a connection for the next time, and close the one kept longest if there are too many."""
    path = path.absolute()
    identity = _identity(path)
    if identity is None or path in _idle:
        db.close()
        return
    _idle[path] = identity, db
    if len(_idle) > _IDLE_CONNECTIONS and (oldest := _idle.pop(next(iter(_idle)), None)) is not None:
        oldest[1].close()


def _identity(path: Path) -> _Identity | None:
    try:
        own = path.stat()
    except FileNotFoundError:
        return None
    return own.st_dev, own.st_ino


def close_idle() -> None:
    """Close the connections kept: what they wrote is then in the ledgers' own files. At a fork too: a child must not use its parent's."""
    while _idle:
        _idle.popitem()[1][1].close()


os.register_at_fork(before=close_idle)
atexit.register(close_idle)


def head_path(path: Path) -> Path:
    """The file that says how far a ledger has come."""
    return path.with_name(path.name + ".head")


def _append_head(descriptor: int, rows: list[Row]) -> None:
    """One more line. A line torn by a crash counted nothing, and makes way."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _HEAD_LINE, max(0, size - _HEAD_LINE))
    os.ftruncate(descriptor, size - len(tail.rpartition(b"\n")[2]))
    os.write(descriptor, json.dumps({"rows": len(rows), "hash": rows[-1][3]}).encode() + b"\n")
    sync(descriptor)


def _read_head(path: Path) -> tuple[int, str] | None:
    """How many rows there must be, and the hash of the last of them; None where no line was written yet."""
    try:
        with head_path(path).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2 * _HEAD_LINE))
            lines = file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        if not whole:
            return None
        head = json.loads(whole[-1])
        return int(head["rows"]), str(head["hash"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"Expected rows and hash of a ledger's head in {head_path(path)}: {error}.") from error


def _check_head(rows: list[Row], head: tuple[int, str] | None, path: Path) -> None:
    """Raise LedgerError unless the ledger goes at least as far as its head says. Only a ledger of one row may lack one: it is new."""
    if head is None:
        if len(rows) > 1:
            raise LedgerError(f"Expected a head in {head_path(path)} beside a ledger of {len(rows)} rows, found none.")
        return
    count, last = head
    if not 1 <= count <= len(rows) or rows[count - 1][3] != last:
        raise LedgerError(
            f"Expected the ledger in {path} to have {count} rows with head {last[:16]}, found {len(rows)}: rows are gone."
        )


def _link(previous: str, row: int, kind: str, content: str) -> str:
    # Unambiguous: the hash has 64 digits or none, the number and the kind hold no space.
    return hashlib.sha256(f"{previous} {row} {kind} {content}".encode()).hexdigest()


def _terms_to_json(terms: Terms) -> dict[str, object]:
    return {
        name: value.value if isinstance(value := getattr(terms, name), Enum) else value
        for name in (field.name for field in fields(Terms))
    }


def _only_terms(budget: Budget) -> Terms:
    return Terms(data_set=budget.data_set, delta=budget.delta, unit=budget.unit, adjacency=budget.adjacency)


def _terms(rows: list[Row], path: Path) -> Terms:
    own = json.loads(rows[0][2])
    try:
        return Terms(
            data_set=own["data_set"], delta=own["delta"], unit=Unit(own["unit"]), adjacency=Adjacency(own["adjacency"])
        )
    except (KeyError, ValueError) as error:
        raise LedgerError(f"Expected the terms of a ledger in the first row of {path}, found {rows[0][2]}.") from error


def _entries(rows: list[Row]) -> Iterator[Entry]:
    committed = {json.loads(content)["entry"] for _, kind, content, _ in rows if kind == "commit"}
    for row, kind, content, _ in rows:
        if kind in {"reserve", "free", "declared"}:
            own = json.loads(content)
            yield Entry(
                id=row,
                time=own["time"],
                plan_hash=bytes.fromhex(own["plan"]),
                what=own["what"],
                state=kind if kind != "reserve" else "committed" if row in committed else "reserved",
                why=own.get("why"),
                schedule=_schedule_from_json(own["schedule"]) if kind == "reserve" else None,
            )


def _spent(entries: tuple[Entry, ...], delta: float) -> float:
    if any(entry.state == "declared" for entry in entries):
        return math.inf
    return accounting.epsilon(tuple(entry.schedule for entry in entries if entry.schedule is not None), delta)


def _schedules(rows: list[Row]) -> tuple[Schedule, ...]:
    return tuple(_schedule_from_json(json.loads(content)["schedule"]) for _, kind, content, _ in rows if kind == "reserve")


def _schedule_to_json(schedule: Schedule) -> dict[str, object]:
    teaching, counts = schedule
    name = next(name for name, kind in TEACHINGS.items() if isinstance(teaching, kind))
    found: dict[str, object] = {"teaching": {"kind": name, **asdict(teaching)}, "counts": None}
    if counts is not None:
        kind = next(name for name, kind in _COUNTS.items() if isinstance(counts, kind))
        own = {key: value.value if isinstance(value, Enum) else value for key, value in asdict(counts).items()}
        found["counts"] = {"kind": kind, **own}
    return found


def _schedule_from_json(content: dict[str, Any]) -> Schedule:
    try:
        own = dict(content["teaching"])
        teaching = TEACHINGS[own.pop("kind")](**own)
        if content["counts"] is None:
            return teaching, None
        counts = dict(content["counts"])
        kind = _COUNTS[counts.pop("kind")]
        if counts.get("noise") == "gaussian":
            return teaching, accounting.FormerCounts(noise_std=counts["noise_std"])
        if "noise" in counts:
            counts["noise"] = CountNoise(counts["noise"])
        return teaching, kind(**counts)
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"Expected a schedule this version of limbeck knows, found {content}.") from error
