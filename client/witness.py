"""What a site knows of its privacy ledger apart from the ledger's own files: no ledger is opened that has come less far.

A ledger and its head can be lost together, put back to an older copy together, or left behind when records are moved or copied: what
then is opened would begin again at zero. Three things outside of them say what was spent:

- STATE/ledger.json, written after every row and before anything is done because of it: how far the ledger had come, where it was, and
  which plans this site was charged for.
- The transcript: every line names the entry that allowed it, and how far the ledger had come by then.
- STATE/PLAN/: what a training or a black-box teacher left there.

The first and the transcript's last line are enough at an opening, and cheap: a head fixes all rows before it. Where one of them is
missing, as in a site's folder of limbeck 0.1, the whole transcript and all of the state are compared, once. A ledger may always hold
more than a site knows: it belongs to records, and several sites may share it.

What the owner has declared lost (`limbeck.client.recovery`) is in the ledger, with the transcript's last line by then: what is before
that line is settled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from limbeck.base.errors import LedgerError
from limbeck.base.files import write_durably
from limbeck.client.ledger import Row
from limbeck.client.transcript import Head, Mark, Transcript

NAME = "ledger.json"
# What the ledger calls the training for a plan, that its noise was seeded, and what a black-box teacher answered.
CHARGE, SEEDED, BLACK_BOX_ANSWERS = "teacher", "seeded noise", "answers of a black-box teacher"
WHY_SEEDED = "no DP guarantee: whoever knows the seed can take the noise away"
WHY_BLACK_BOX = "no DP guarantee: limbeck did not train it"
# In a plan's state folder.
PLAN = "plan.pb"  # the accepted offer
TEACHER = "teacher.safetensors"  # what was trained
TAUGHT = "taught.pb"  # the reply that says that it was trained
UNSENT = "taught-unsent.pb"  # the same before it is in the transcript
TRAINING = "training.json"  # which training is under way, or was the last
BLACK_BOX = "black-box"  # what a black-box teacher answered
# How many hexadecimal digits of a plan's hash name its state folder.
DIGITS = 16
RESERVE, DECLARED = "reserve", "declared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What STATE/ledger.json says. path: where the ledger was. plans: hashes of plans that this site was charged for, in hexadecimal,
    to the kind of row that says so."""

    path: Path
    head: Head
    plans: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One plan that transcript or state name as charged for. plan: its hash in hexadecimal, or the first DIGITS of it. kind: of the row
    that must be there. committed: its training may have left."""

    plan: str
    kind: str
    committed: bool
    where: str


class Witness:
    """What the site of this name knows. state: the folder of its plans' states."""

    def __init__(self, site: str, state: Path, transcript: Transcript) -> None:
        self.site, self._state, self._transcript = site, state, transcript

    @property
    def head(self) -> Head | None:
        """How far the ledger had come when it was noted last, or None."""
        noted = self.noted()
        return noted.head if noted is not None else None

    def noted(self) -> Noted | None:
        """What was noted last, or None. Raises LedgerError where it cannot be read."""
        path = self._state / NAME
        try:
            own = json.loads(path.read_bytes())
            return Noted(
                path=Path(own["path"]),
                head=(int(own["rows"]), str(own["hash"])),
                plans={str(plan): str(kind) for plan, kind in own["plans"].items()},
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerError(
                f"Expected what the site knows of its ledger in {path}: {error!r}. Without this file all of the transcript is compared."
            ) from error

    def note(self, rows: Sequence[Row], path: Path) -> None:
        """Know these rows from now on, durably."""
        earlier = self.noted()
        plans = {**(earlier.plans if earlier is not None else {}), **self._charged(rows)}
        own = {"path": str(path.absolute()), "rows": len(rows), "hash": rows[-1][3], "plans": plans}
        write_durably(self._state / NAME, json.dumps(own, indent=1).encode() + b"\n")

    def check(self, rows: Sequence[Row], path: Path) -> None:
        """Raise LedgerError unless these rows hold all that is known; what is noted and the transcript's last line say how far it goes."""
        noted, last = self.noted(), self._transcript.last()
        if noted is None or (last is not None and last.head is None):
            self.check_all(rows, path)
            return
        _check_head(noted.head, rows, path, f"{self._state / NAME}")
        if last is not None and last.head is not None and last.line not in _settled(rows):
            _check_head(last.head, rows, path, f"the transcript's message of {last.time}")

    def check_all(self, rows: Sequence[Row], path: Path) -> None:
        """The same by every line of the transcript and every plan's state, which takes as long as there are lines."""
        if (noted := self.noted()) is not None:
            _check_head(noted.head, rows, path, f"{self._state / NAME}")
        entries = {
            row: json.loads(content).get("plan") for row, kind, content, _ in rows if kind in {"reserve", "free", "declared"}
        }
        settled = _settled(rows)
        open_marks: dict[tuple[int, str], Mark] = {}
        head: tuple[Head, str] | None = None
        for mark in self._transcript.marks():
            if mark.head is not None:
                head = mark.head, mark.time
            if mark.entry is not None:
                open_marks.setdefault((mark.entry, mark.plan_hash.hex()), mark)
            if mark.line in settled:
                open_marks.clear()
                head = None
        for (entry, plan), mark in open_marks.items():
            if entries.get(entry) != plan:
                raise LedgerError(
                    f"Expected entry {entry} of the ledger in {path} to allow {mark.what!r} of {mark.time}, found no such entry."
                    f" {advice(path)}"
                )
        if head is not None:
            _check_head(head[0], rows, path, f"the transcript's message of {head[1]}")
        for named in self._in_state():
            if not _holds(rows, named):
                raise LedgerError(
                    f"Expected a charge for the plan {named.plan} in the ledger in {path}, as {named.where} says, found none."
                    f" {advice(path)}"
                )

    def named(self) -> list[Named]:
        """Every plan that this site knows itself charged for, by what is noted, the transcript or its state. Raises TranscriptError."""
        found: dict[str, Named] = {}
        noted = self.noted()
        from_notes = [
            Named(plan=plan, kind=kind, committed=False, where=str(self._state / NAME))
            for plan, kind in (noted.plans.items() if noted is not None else ())
        ]
        for own in (*from_notes, *self._in_transcript(), *self._in_state()):
            earlier = found.get(own.plan[:DIGITS])
            if earlier is None:
                found[own.plan[:DIGITS]] = own
                continue
            found[own.plan[:DIGITS]] = Named(
                plan=max(earlier.plan, own.plan, key=len),
                # What a teacher without a guarantee answered has no epsilon, whatever else was charged.
                kind=DECLARED if DECLARED in {earlier.kind, own.kind} else RESERVE,
                committed=earlier.committed or own.committed,
                where=earlier.where,
            )
        return list(found.values())

    def _charged(self, rows: Sequence[Row]) -> dict[str, str]:
        found: dict[str, str] = {}
        for _, kind, content, _ in rows:
            if kind in {RESERVE, DECLARED}:
                own = json.loads(content)
                if own.get("site") == self.site and found.get(own["plan"]) != DECLARED:
                    found[own["plan"]] = kind
        return found

    def _in_transcript(self) -> Iterator[Named]:
        found: dict[str, Named] = {}
        for mark in self._transcript.marks():
            if mark.entry is not None:
                plan = mark.plan_hash.hex()
                found.setdefault(plan, Named(plan=plan, kind=RESERVE, committed=True, where=f"the message of {mark.time}"))
        yield from found.values()

    def _in_state(self) -> Iterator[Named]:
        if not self._state.is_dir():
            return
        for folder in sorted(self._state.iterdir()):
            names = {own.name for own in folder.iterdir()} if folder.is_dir() and len(folder.name) == DIGITS else set()
            if names & {TEACHER, TAUGHT, UNSENT, TRAINING}:
                kind = DECLARED if BLACK_BOX in names else RESERVE
                yield Named(plan=folder.name, kind=kind, committed=TAUGHT in names, where=str(folder))


def advice(path: Path) -> str:
    """What an owner can do about a ledger that is not the one, or not as far, as it must be."""
    return (
        f"It is lost, older, or another's, and what was spent must not be spent again. Were the records moved? limbeck ledger move SITE. "
        f"Is there a backup of {path.name}, and a head that was noted? limbeck ledger restore SITE --from BACKUP --head HEAD. Neither? "
        f"limbeck ledger declare-lost SITE. Other records want a site's folder of their own."
    )


def _check_head(head: Head, rows: Sequence[Row], path: Path, where: str) -> None:
    """Nothing was spent in a ledger of one row: that one may be lost."""
    count, last = head
    if count > 1 and (count > len(rows) or rows[count - 1][3] != last):
        raise LedgerError(
            f"Expected the ledger in {path} to have row {count} with hash {last[:16]}, as {where} says, found"
            f" {len(rows)} rows and no such. {advice(path)}"
        )


def _settled(rows: Sequence[Row]) -> set[str]:
    """The transcripts' lines up to which the owner declared a ledger lost."""
    return {json.loads(content).get("transcript", "") for _, kind, content, _ in rows if kind == "lost"}


def _holds(rows: Sequence[Row], named: Named) -> bool:
    """Whether a charge for this plan is there, or the owner has answered for one that nobody can know."""
    for _, kind, content, _ in rows:
        own = json.loads(content)
        if kind in {RESERVE, DECLARED} and own["plan"].startswith(named.plan[:DIGITS]):
            return True
        if kind == "lost" and any(plan.startswith(named.plan[:DIGITS]) for plan in own.get("unknown", [])):
            return True
    return False
