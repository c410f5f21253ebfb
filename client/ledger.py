"""The privacy ledger of one data set: a SQLite file that outlives runs and processes.

A cost is reserved durably before the first record is read, and committed afterwards; a reservation that was never committed
stays spent: the ledger fails closed. Nothing is updated in place: reserving and committing append rows, each with the SHA-256
of the one before it, so that a change or a deletion is detected. What all charges cost together is computed by a privacy
filter, since later plans may depend on what earlier ones released (`limbeck.plans.privacy_filter`); the first row holds the
filter's fixed parameters.

Identity: a ledger belongs to records, not to a run, a plan or a site. By default it lies beside the records (`Site.ledger`), so
all settings that point at the same file share it; its first row holds the name that the owner gave the records, and a policy with
another name is refused. The name is not derived from the records: a hash of them would change with every new record, and reveal
something about them.

The head: a chain cannot show that its last rows are missing, so LEDGER.head gets a line after every row, durably and before
anything is done because of that row: how many rows there must be, and the hash of the last. Neither file can show that both were
replaced by an older copy together, or are missing together. That is detected by what a site keeps apart from them
(`limbeck.client.witness`), which is compared whenever a site opens its ledger. A head noted elsewhere is a third witness
(`limbeck ledger verify --head`).

One output per charge: `commit` happens once for a reservation, in a transaction, before anything trained is sent, and names the
training. So of several trainings under one charge (the first was interrupted, or two processes train at once) at most one leaves.

Lost charges: `limbeck.client.recovery` writes what the owner states about them into the ledger as an epsilon of its own. It adds
to that of all other charges, which are then composed at half of delta; the owner's number holds at the other half (basic
composition).

Connections: opening a ledger in write-ahead mode and closing it again creates and removes two files and costs several times as
much as a charge, so a process keeps the connections of ledgers that it has closed, up to a limit, until it forks or ends.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from limbeck.base import check
from limbeck.base.errors import BudgetError, LedgerError, SettingError
from limbeck.base.files import outlives_power_cuts, sync, sync_folder, write_durably
from limbeck.plans import accounting, privacy_filter, second_opinion
from limbeck.plans.accounting import Schedule
from limbeck.plans.schema import TEACHINGS, Adjacency, CountNoise, Counts, LabelCounts, RecordCount, Teaching, Unit
from limbeck.plans.second_opinion import Opinion

_COUNTS: dict[str, type[LabelCounts] | type[RecordCount]] = {"label_counts": LabelCounts, "record_count": RecordCount}
KINDS = ("open", "reserve", "commit", "free", "declared", "lost")
_TABLE = f"""
CREATE TABLE IF NOT EXISTS ledger (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ({", ".join(f"'{kind}'" for kind in KINDS)})),
    content TEXT NOT NULL,
    hash TEXT NOT NULL
)
"""
_SELECT = "SELECT id, kind, content, hash FROM ledger ORDER BY id"
_IDLE_CONNECTIONS = 64
_HEAD_LINE = 1024  # bytes, more than any line of a head has
# Every operation reads all rows: with this many it takes about a second. A plan and each of its stages take a row or two.
MAX_ROWS = 50_000

Row = tuple[int, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one ledger counts: costs at `delta`, per unit, under this neighbouring relation, for these records."""

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

    allow_without_dp: whether releases without any guarantee are allowed as well; no epsilon holds for the records then.
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
    """One charge, release or loss.

    state: "reserved" or "committed" for a charge, "free" for a release that costs nothing, "declared" for a release without a
        guarantee, whose epsilon is infinite, "lost" for what the owner states that charges cost which no ledger holds any more.
    why: the reason of a release or a loss.
    schedule: the schedule of a charge.
    site: the site by whose settings it was charged; empty in entries by limbeck 0.1.
    training: which of the trainings under this charge was committed; empty if there was only one.
    epsilon: the epsilon of a loss.
    """

    id: int
    time: str
    plan_hash: bytes
    what: str
    state: str
    why: str | None
    schedule: Schedule | None
    site: str = ""
    training: str = ""
    epsilon: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """A whole ledger as read, with chain and head checked. head: the hash of its last row."""

    terms: Terms
    entries: tuple[Entry, ...]
    rows: tuple[Row, ...]
    head: str

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """All charges, reserved or committed."""
        return tuple(entry.schedule for entry in self.entries if entry.schedule is not None)

    def spent(self) -> float:
        """Epsilon of all charges, reserved or committed, at the ledger's delta: the value that a budget limits.

        It holds whatever later plans depended on (`limbeck.plans.privacy_filter`), and is infinite after a release without a guarantee.
        """
        return _spent(self.entries, self.terms.delta)

    def charged(self, more: tuple[Schedule, ...] = ()) -> float:
        """Epsilon of all charges, with these as well, whatever was released without a guarantee: what a budget limits that allows that."""
        lost = math.fsum(entry.epsilon or 0.0 for entry in self.entries)
        return _composed(privacy_filter.spent, (*self.schedules, *more), lost, self.terms.delta)

    def spent_if_fixed(self) -> float:
        """The same had all plans been fixed in advance, by privacy loss distributions. No budget limits this value."""
        lost = math.fsum(entry.epsilon or 0.0 for entry in self.entries)
        return math.inf if self.declared else _composed(privacy_filter.if_fixed, self.schedules, lost, self.terms.delta)

    def opinion(self) -> Opinion:
        """What another accountant says of the charges together, had they been fixed: without what the owner states was lost."""
        return second_opinion.of(self.schedules, self._delta_of_charges)

    def disagreement(self) -> str:
        """A warning if that accountant contradicts the one that decides, or an empty text."""
        return self.opinion().disagreement(accounting.epsilon(self.schedules, self._delta_of_charges))

    @property
    def _delta_of_charges(self) -> float:
        """Half of delta is for what was lost, if anything was."""
        return self.terms.delta / 2 if any(entry.epsilon for entry in self.entries) else self.terms.delta

    @property
    def declared(self) -> bool:
        """Whether something was released without a guarantee."""
        return any(entry.state == "declared" for entry in self.entries)


def read(path: Path, *, with_head: bool = True) -> Book:
    """Read a ledger without writing to it, even on a read-only file system.

    with_head: also compare with the ledger's head. Without it only the chain is checked, as for a copy whose head was noted elsewhere.

    Raises: LedgerError if there is no trustworthy ledger.
    """
    if not path.is_file():
        raise LedgerError(f"Expected a privacy ledger at {path}, found none.")
    # Read before the rows: whatever it counts is among rows that are read after it.
    head_before = read_head(path) if with_head else None
    try:
        rows = _read_rows(path)
    except (sqlite3.DatabaseError, OSError) as error:
        raise LedgerError(f"Expected a privacy ledger in {path}: {error}.") from error
    head = verify(rows, path)
    if with_head:
        _check_head(rows, head_before, path)
    if not rows:
        raise LedgerError(f"Expected a privacy ledger in {path}, found one that was never opened.")
    return Book(terms=terms(rows, path), entries=tuple(_entries(rows)), rows=tuple(rows), head=head)


def _read_rows(path: Path) -> list[Row]:
    """All rows. In write-ahead mode even a reader needs a file beside the ledger: if none can be created, a copy is read."""
    try:
        return _select(path.resolve())
    except sqlite3.OperationalError:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "ledger"
            for suffix in ("-wal", ""):
                source = path.resolve().with_name(path.resolve().name + suffix)
                if not suffix or source.exists():
                    shutil.copyfile(source, copy.with_name(copy.name + suffix))
            return _select(copy)


def _select(path: Path) -> list[Row]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60)) as db:
        return db.execute(_SELECT).fetchall()


def begun(path: Path) -> bool:
    """Whether there is a ledger, valid or not. What a crash left before the first row does not count."""
    if not path.exists():
        return False
    try:
        return bool(_read_rows(path)) or read_head(path) is not None
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error) or read_head(path) is not None
    except (sqlite3.DatabaseError, OSError):
        return True


def intact(path: Path) -> list[Row]:
    """The leading rows of a ledger, as far as the chain of hashes holds, whatever its head says; none if it cannot be read at all."""
    try:
        rows = _read_rows(path) if path.is_file() else []
    except (sqlite3.DatabaseError, OSError):
        return []
    kept: list[Row] = []
    for row in rows:
        if row[0] != len(kept) + 1 or row[3] != _link(kept[-1][3] if kept else "", *row[:3]):
            break
        kept.append(row)
    return kept


def verify(rows: list[Row], path: Path) -> str:
    """Check the chain of hashes and return the last.

    Raises LedgerError if a row was changed, moved or removed, or is of a kind that this version does not know and may be a charge.
    """
    previous = ""
    for index, (row, kind, content, stored) in enumerate(rows, start=1):
        if kind not in KINDS:
            raise LedgerError(
                f"Expected row {index} of the ledger in {path} to be of a kind out of {', '.join(KINDS)}, got {kind!r}: a newer"
                " version of limbeck may have written it."
            )
        if row != index or stored != _link(previous, row, kind, content):
            raise LedgerError(f"Expected row {index} of the ledger in {path} as it was written, found it changed.")
        previous = stored
    return previous


class Knowledge(Protocol):
    """What is known about a ledger apart from its files, as by `limbeck.client.witness.Witness`."""

    @property
    def site(self) -> str:
        """The site by whose settings charges are made."""

    @property
    def head(self) -> tuple[int, str] | None:
        """How far the ledger had come when it was last noted, or None."""

    def check(self, rows: Sequence[Row], path: Path) -> None:
        """Raise LedgerError unless these rows contain everything that is known about the ledger."""

    def note(self, rows: Sequence[Row], path: Path) -> None:
        """Remember these rows, durably."""


class Ledger:
    """The ledger in a file, as a context manager.

    path: the file; created if missing.
    budget: the limit of all charges, and the terms that the ledger must have.
    known: what must be in the ledger; checked at every opening, and told about every row.

    Raises: LedgerError if the file is not a ledger, was tampered with or truncated, lacks what is known about it, or counts other
    records, another unit, relation or delta than the budget.
    """

    def __init__(self, path: Path, budget: Budget, known: Knowledge | None = None) -> None:
        self.budget = budget
        self._path, self._known = path, known
        if known is not None and not path.exists():
            # Before a new ledger is created.
            known.check([], path)
        self._db = _connect(path)
        self._opened = _identity(path.absolute())
        try:
            # Opening an existing ledger writes nothing, and so waits for nobody.
            if not (rows := self._rows()):
                with self._transaction() as rows:
                    if not rows:
                        self._append(rows, "open", _opening(budget))
            if (written := terms(rows, path)) != (wanted := _only_terms(budget)):
                raise LedgerError(
                    f"Expected a ledger of {wanted.data_set!r} ({wanted}) in {path}, found {written.data_set!r} ({written})."
                )
            if known is not None and known.head is None:
                with self._transaction() as rows:
                    known.note(rows, path)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _keep(self._path, self._opened, self._db)

    def charge_of(self, plan_hash: bytes, what: str) -> Entry | None:
        """The newest charge for a plan, or None."""
        charges = [
            entry
            for entry in _entries(self._rows())
            if entry.schedule and (entry.plan_hash, entry.what) == (plan_hash, what)
        ]
        return charges[-1] if charges else None

    def check(self, teaching: Teaching, counts: Counts | None) -> None:
        """Raise BudgetError if this charge would be refused now; nothing is charged."""
        self._require(self._rows(), (teaching, counts))

    def reserve(self, plan_hash: bytes, what: str, teaching: Teaching, counts: Counts | None) -> int:
        """Charge durably, before any record is read, and return the entry's id. Raises BudgetError, with nothing charged."""
        with self._transaction() as rows:
            self._require(rows, (teaching, counts))
            self._require_room(rows)
            schedule = _schedule_to_json((teaching, counts))
            return self._append(rows, "reserve", {"plan": plan_hash.hex(), "what": what, "schedule": schedule})

    def commit(self, entry: int, training: str = "") -> None:
        """Record that a reservation was used, once and for all. Only then may anything trained under it be sent.

        training: which training used it.

        Raises: LedgerError if there is no open reservation with this id.
        """
        with self._transaction() as rows:
            states = {each.id: each.state for each in _entries(rows)}
            if states.get(entry) != "reserved":
                raise LedgerError(f"Expected an open reservation {entry} to commit, found {states.get(entry, 'none')}.")
            self._append(rows, "commit", {"entry": entry, **({"training": training} if training else {})})

    def record_free(self, plan_hash: bytes, what: str, why: str) -> int:
        """Record a release that costs nothing, and why; returns the entry's id. One entry is enough: a second call finds it."""
        with self._transaction() as rows:
            for entry in _entries(rows):
                if (entry.state, entry.plan_hash, entry.what) == ("free", plan_hash, what):
                    return entry.id
            self._require_room(rows)
            return self._append(rows, "free", {"plan": plan_hash.hex(), "what": what, "why": why})

    def check_declared(self) -> None:
        """Raise BudgetError if releases without a guarantee are not allowed; nothing is recorded."""
        if not self.budget.allow_without_dp:
            raise BudgetError(
                f"Expected a release within the budget of {self.budget}, got one without a guarantee: its epsilon is infinite. "
                "Only the owner can allow that, by allow_without_dp = true."
            )

    def declare(self, plan_hash: bytes, what: str, why: str) -> int:
        """Record, before anything is released, that a run releases answers without any guarantee; returns the entry's id.

        From then on no epsilon holds. One entry covers a run: a second call finds it.

        Raises: BudgetError if such releases are not allowed.
        """
        with self._transaction() as rows:
            self.check_declared()
            for entry in _entries(rows):
                if (entry.state, entry.plan_hash, entry.what) == ("declared", plan_hash, what):
                    return entry.id
            self._require_room(rows)
            return self._append(rows, "declared", {"plan": plan_hash.hex(), "what": what, "why": why})

    def head(self) -> tuple[int, str]:
        """The number of rows, and the hash of the last."""
        rows = self._rows()
        return len(rows), rows[-1][3]

    def spent(self) -> float:
        """Epsilon of all charges, reserved or committed, at the budget's delta, by the filter.

        Infinite once something was released without a guarantee.
        """
        return _spent(tuple(_entries(self._rows())), self.budget.delta)

    def entries(self) -> list[Entry]:
        """All charges and free releases, oldest first."""
        return list(_entries(self._rows()))

    def _rows(self, *, alone: bool = False) -> list[Row]:
        """All rows, with chain, head and everything known about them checked. alone: nobody else can write meanwhile."""
        rows = self._checked_rows()
        if self._known is None:
            return rows
        try:
            self._known.check(rows, self._path)
        except LedgerError:
            if alone:
                raise
            # Another process may have added rows, and noted them, since they were read here.
            with held(self._path):
                rows = self._checked_rows()
                self._known.check(rows, self._path)
        return rows

    def _checked_rows(self) -> list[Row]:
        # The head first: whatever it counts is among rows that are read after it.
        head = read_head(self._path)
        try:
            rows: list[Row] = self._db.execute(_SELECT).fetchall()
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"Expected a readable ledger: {error}.") from error
        verify(rows, self._path)
        _check_head(rows, head, self._path)
        return rows

    def _check_place(self) -> None:
        """Raise LedgerError if the file was moved: it must not be written to under its old name."""
        if _identity(self._path.absolute()) != self._opened:
            raise LedgerError(f"Expected the ledger in {self._path} to stay in its place, found it moved or removed.")

    def _require_room(self, rows: list[Row]) -> None:
        if len(rows) >= MAX_ROWS:
            raise LedgerError(f"Expected a ledger of fewer than {MAX_ROWS} rows in {self._path}, got {len(rows)}.")

    def _require(self, rows: list[Row], charge: Schedule) -> None:
        # With the owner's consent the budget limits the charges alone; without it, what is spent exceeds any budget.
        declared = next((entry for entry in _entries(rows) if entry.state == "declared"), None)
        if declared is not None and not self.budget.allow_without_dp:
            raise BudgetError(
                f"Expected a ledger in which every release has a guarantee, found entry {declared.id} without one ({declared.what}): "
                f"epsilon is infinite, and the budget is {self.budget}."
            )
        charges, lost = (*_schedules(rows), charge), _lost(rows)
        cost = _composed(privacy_filter.spent, charges, lost, self.budget.delta)
        if cost > self.budget.epsilon:
            fixed = _composed(privacy_filter.if_fixed, charges, lost, self.budget.delta)
            raise BudgetError(
                f"Expected all charges together within a budget of {self.budget}, got epsilon = {cost:.4g} with this one, whatever later "
                f"plans depend on (had all plans been fixed beforehand: {fixed:.4g})."
            )

    def _append(self, rows: list[Row], kind: str, content: dict[str, object]) -> int:
        if self._known is not None and kind in {"reserve", "declared"}:
            content = {**content, "site": self._known.site}
        rows.append(next_row(rows, kind, content))
        self._db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?)", rows[-1])
        return len(rows)

    @contextmanager
    def _transaction(self) -> Iterator[list[Row]]:
        """The rows, checked. All or nothing, and one process at a time: a charge is added to exactly the rows that were checked.

        The head follows the commit. If the process is killed in between, the ledger holds one row more than the head says, which
        is allowed and repaired by the next row; nothing was done because of that row yet.
        """
        self._check_place()
        with head_path(self._path).open("a+b") as head:
            fcntl.flock(head, fcntl.LOCK_EX)
            self._check_place()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                rows = self._rows(alone=True)
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
                if self._known is not None:
                    self._known.note(rows, self._path)


_Identity = tuple[int, int]
_idle: dict[Path, tuple[_Identity, sqlite3.Connection]] = {}


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that nothing else uses: a kept one if it is to the file that is there now. Raises LedgerError."""
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


def _keep(path: Path, identity: _Identity | None, db: sqlite3.Connection) -> None:
    """Keep a connection for the next opening, and close the one kept longest if there are too many."""
    path = path.absolute()
    if identity is None or identity != _identity(path) or path in _idle:
        db.close()
        return
    _idle[path] = identity, db
    if len(_idle) > _IDLE_CONNECTIONS and (oldest := _idle.pop(next(iter(_idle)), None)) is not None:
        oldest[1].close()


def _identity(path: Path) -> _Identity | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def close_idle() -> None:
    """Close the kept connections: what they wrote is then in the ledgers' own files. Also at a fork: a child must not use its parent's."""
    while _idle:
        _idle.popitem()[1][1].close()


os.register_at_fork(before=close_idle)
atexit.register(close_idle)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep others from writing to the ledger in this file, which may be read meanwhile."""
    try:
        head = head_path(path).open("rb")
    except FileNotFoundError:
        yield
        return
    with head:
        fcntl.flock(head, fcntl.LOCK_SH)
        yield


def head_path(path: Path) -> Path:
    """The file that says how far a ledger has come."""
    return path.with_name(path.name + ".head")


def _append_head(descriptor: int, rows: list[Row]) -> None:
    """Append a line. A line torn by a crash counted nothing, and is replaced."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _HEAD_LINE, max(0, size - _HEAD_LINE))
    os.ftruncate(descriptor, size - len(tail.rpartition(b"\n")[2]))
    os.write(descriptor, _head_line(rows))
    sync(descriptor)


def read_head(path: Path) -> tuple[int, str] | None:
    """How many rows there must be, and the hash of the last of them; None if no line was written yet."""
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
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise LedgerError(f"Expected rows and hash of a ledger's head in {head_path(path)}: {error}.") from error


def _check_head(rows: list[Row], head: tuple[int, str] | None, path: Path) -> None:
    """Raise LedgerError unless the ledger goes at least as far as its head says. Only a ledger of one row may lack a head: it is new."""
    if head is None:
        if len(rows) > 1:
            raise LedgerError(f"Expected a head in {head_path(path)} beside a ledger of {len(rows)} rows, found none.")
        return
    count, last = head
    if not 1 <= count <= len(rows) or rows[count - 1][3] != last:
        raise LedgerError(
            f"Expected the ledger in {path} to have {count} rows with head {last[:16]}, found {len(rows)}: rows are gone."
        )


def next_row(rows: Sequence[Row], kind: str, content: dict[str, object]) -> Row:
    """The row that follows these, with the present time."""
    row, previous = len(rows) + 1, rows[-1][3] if rows else ""
    text = json.dumps({**content, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}, sort_keys=True)
    return row, kind, text, _link(previous, row, kind, text)


def first_row(terms: Terms) -> Row:
    """The row with which a ledger of these terms begins."""
    return next_row([], "open", _opening(terms))


def _opening(terms: Terms) -> dict[str, object]:
    """The content of the first row: the terms, and the fixed parameters of the privacy filter."""
    return {**_terms_to_json(terms), "filter": privacy_filter.FIXED}


def charge_row(rows: Sequence[Row], plan_hash: bytes, what: str, schedule: Schedule, site: str) -> Row:
    """A reservation that follows these rows, for something already spent; its cost is not checked."""
    content: dict[str, object] = {"plan": plan_hash.hex(), "what": what, "site": site}
    content["schedule"] = _schedule_to_json(schedule)
    return next_row(rows, "reserve", content)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Create a ledger of these rows, whole or not at all. Raises LedgerError if there is one already.

    The head comes first: a head without its ledger is refused, so a crash in between cannot leave a ledger that lacks rows.
    """
    if path.exists():
        raise LedgerError(f"Expected no ledger at {path} yet, found one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(head_path(path), _head_line(rows))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / "ledger"
        with closing(sqlite3.connect(temporary, isolation_level=None)) as db:
            db.execute(_TABLE)
            db.execute("BEGIN")
            db.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?)", rows)
            db.execute("COMMIT")
        with temporary.open("rb") as file:
            sync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise LedgerError(f"Expected no ledger at {path} yet, found one.") from None
    sync_folder(path.parent)


def put_aside(path: Path, why: str) -> Path:
    """Rename a ledger, its head and SQLite's files beside it to NAME.why-TIME and return the new path; nothing is deleted."""
    close_idle()
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.{why}-{now}")
    # The ledger first: whatever remains without it is refused.
    for suffix in ("", "-wal", "-shm", ".head"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(aside.with_name(aside.name + suffix))
    sync_folder(path.parent)
    return aside


def _head_line(rows: Sequence[Row]) -> bytes:
    return json.dumps({"rows": len(rows), "hash": rows[-1][3]}).encode() + b"\n"


def _link(previous: str, row: int, kind: str, content: str) -> str:
    # Unambiguous: the hash has 64 digits or none, and neither the number nor the kind contains a space.
    return hashlib.sha256(f"{previous} {row} {kind} {content}".encode()).hexdigest()


def _terms_to_json(terms: Terms) -> dict[str, object]:
    return {
        name: value.value if isinstance(value := getattr(terms, name), Enum) else value
        for name in (field.name for field in fields(Terms))
    }


def _only_terms(budget: Budget) -> Terms:
    return Terms(data_set=budget.data_set, delta=budget.delta, unit=budget.unit, adjacency=budget.adjacency)


def terms(rows: Sequence[Row], path: Path) -> Terms:
    """What the first row says that this ledger counts. Raises LedgerError if it says nothing of the kind, or names another filter."""
    opening = json.loads(rows[0][2])
    # A ledger of version 0.1.0 names no filter: from now on it is held to this one.
    if (fixed := opening.get("filter", privacy_filter.FIXED)) != privacy_filter.FIXED:
        raise LedgerError(f"Expected a ledger held to the filter {privacy_filter.FIXED} in {path}, found {fixed}.")
    try:
        return Terms(
            data_set=opening["data_set"],
            delta=opening["delta"],
            unit=Unit(opening["unit"]),
            adjacency=Adjacency(opening["adjacency"]),
        )
    except (KeyError, ValueError) as error:
        raise LedgerError(f"Expected the terms of a ledger in the first row of {path}, found {rows[0][2]}.") from error


def _entries(rows: list[Row]) -> Iterator[Entry]:
    commits = (json.loads(content) for _, kind, content, _ in rows if kind == "commit")
    committed = {commit["entry"]: commit.get("training", "") for commit in commits}
    for row, kind, content, _ in rows:
        if kind in {"reserve", "free", "declared", "lost"}:
            values = json.loads(content)
            yield Entry(
                id=row,
                time=values["time"],
                plan_hash=bytes.fromhex(values.get("plan", "")),
                what=values["what"],
                state=kind if kind != "reserve" else "committed" if row in committed else "reserved",
                why=values.get("why"),
                schedule=_schedule_from_json(values["schedule"]) if kind == "reserve" else None,
                site=values.get("site", ""),
                training=committed.get(row, ""),
                epsilon=float(values["epsilon"]) if kind == "lost" else None,
            )


def _spent(entries: tuple[Entry, ...], delta: float) -> float:
    if any(entry.state == "declared" for entry in entries):
        return math.inf
    schedules = tuple(entry.schedule for entry in entries if entry.schedule is not None)
    return _composed(privacy_filter.spent, schedules, math.fsum(entry.epsilon or 0.0 for entry in entries), delta)


def _composed(
    rule: Callable[[tuple[Schedule, ...], float], float], schedules: tuple[Schedule, ...], lost: float, delta: float
) -> float:
    """Epsilon at delta, by this rule, of these charges and of what the owner states was lost; the latter holds at half of delta.

    The sum also holds if plans depend on what was lost: basic composition is adaptive.
    """
    return rule(schedules, delta) if not lost else lost + rule(schedules, delta / 2)


def _lost(rows: list[Row]) -> float:
    return math.fsum(float(json.loads(content)["epsilon"]) for _, kind, content, _ in rows if kind == "lost")


def _schedules(rows: list[Row]) -> tuple[Schedule, ...]:
    return tuple(_schedule_from_json(json.loads(content)["schedule"]) for _, kind, content, _ in rows if kind == "reserve")


def _schedule_to_json(schedule: Schedule) -> dict[str, object]:
    teaching, counts = schedule
    name = next(name for name, kind in TEACHINGS.items() if isinstance(teaching, kind))
    content: dict[str, object] = {"teaching": {"kind": name, **asdict(teaching)}, "counts": None}
    if counts is not None:
        kind = next(name for name, kind in _COUNTS.items() if isinstance(counts, kind))
        values = {key: value.value if isinstance(value, Enum) else value for key, value in asdict(counts).items()}
        content["counts"] = {"kind": kind, **values}
    return content


def _schedule_from_json(content: dict[str, Any]) -> Schedule:
    try:
        constants = dict(content["teaching"])
        teaching = TEACHINGS[constants.pop("kind")](**constants)
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
        raise LedgerError(f"Expected a schedule that this version of limbeck knows, found {content}.") from error
