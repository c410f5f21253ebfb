"""What a site knows about its privacy ledger apart from the ledger's own files: a ledger that is behind is never opened.

A ledger and its head can be lost together, be replaced by an older copy together, or be left behind when records are moved or copied:
the ledger opened then would start again at zero. Three things outside of them say what was spent:

- STATE/ledger.json, written after every row and before anything is done because of it: how far the ledger had come, where it was, and
  which plans this site was charged for.
- The transcript: every line names the entry that allowed it, and how far the ledger had come by then.
- STATE/PLAN/: what a training or a black-box teacher left there.

The first and the transcript's last line are enough at an opening, and cheap: a head determines all rows before it. If one of them is
missing, as in a site's folder of limbeck 0.1, the whole transcript and all of the state are compared, once. A ledger may always hold
more than a site knows: it belongs to records, and several sites may share it.

What the owner has declared lost (`limbeck.client.recovery`) is in the ledger, together with the transcript's last line at that time:
everything before that line is settled.
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
# The ledger's names for the training of a plan, for seeded noise, and for the answers of a black-box teacher.
CHARGE, SEEDED, BLACK_BOX_ANSWERS = "teacher", "seeded noise", "answers of a black-box teacher"
WHY_SEEDED = "no DP guarantee: whoever knows the seed can take the noise away"
WHY_BLACK_BOX = "no DP guarantee: limbeck did not train it"
# Files in a plan's state folder.
PLAN = "plan.pb"  # the accepted offer
TEACHER = "teacher.safetensors"  # the trained teacher
TAUGHT = "taught.pb"  # the reply after training
UNSENT = "taught-unsent.pb"  # the same before it is in the transcript
TRAINING = "training.json"  # the training in progress, or the last one
BLACK_BOX = "black-box"  # the answers of a black-box teacher
# The first hexadecimal digits of a plan's hash are the name of its state folder.
DIGITS = 16
RESERVE, DECLARED = "reserve", "declared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What STATE/ledger.json says.

    path: where the ledger was.
    head: how far it had come.
    plans: from the hexadecimal hash of each plan that this site was charged for to the kind of row that says so.
    """

    path: Path
    head: Head
    plans: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One plan for which transcript or state say that the site was charged.

    plan: its hexadecimal hash, or the first DIGITS of it.
    kind: the kind of row that must be in the ledger.
    committed: whether its training may have left.
    where: what says so, for messages.
    """

    plan: str
    kind: str
    committed: bool
    where: str


class Witness:
    """What the site with this name knows. state: the folder with the state of its plans."""

    def __init__(self, site: str, state: Path, transcript: Transcript) -> None:
        self.site, self._state, self._transcript = site, state, transcript

    @property
    def head(self) -> Head | None:
        """How far the ledger had come when it was last noted, or None."""
        noted = self.noted()
        return noted.head if noted is not None else None

    def noted(self) -> Noted | None:
        """What was last noted, or None. Raises LedgerError if it cannot be read."""
        path = self._state / NAME
        try:
            stored = json.loads(path.read_bytes())
            return Noted(
                path=Path(stored["path"]),
                head=(int(stored["rows"]), str(stored["hash"])),
                plans={str(plan): str(kind) for plan, kind in stored["plans"].items()},
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerError(
                f"Expected what the site knows about its ledger in {path}: {error!r}. Without this file the whole transcript is compared."
            ) from error

    def note(self, rows: Sequence[Row], path: Path) -> None:
        """Remember these rows, durably."""
        earlier = self.noted()
        plans = {**(earlier.plans if earlier is not None else {}), **self._charged(rows)}
        content = {"path": str(path.absolute()), "rows": len(rows), "hash": rows[-1][3], "plans": plans}
        write_durably(self._state / NAME, json.dumps(content, indent=1).encode() + b"\n")

    def check(self, rows: Sequence[Row], path: Path) -> None:
        """Raise LedgerError unless these rows contain all that is known, by the noted state and the transcript's last line."""
        noted, last = self.noted(), self._transcript.last()
        if noted is None or (last is not None and last.head is None):
            self.check_all(rows, path)
            return
        _check_head(noted.head, rows, path, f"{self._state / NAME}")
        if last is not None and last.head is not None and last.line not in _settled(rows):
            _check_head(last.head, rows, path, f"the transcript's message of {last.time}")

    def check_all(self, rows: Sequence[Row], path: Path) -> None:
        """The same by every line of the transcript and the state of every plan; the time is proportional to the number of lines."""
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
        """Every plan that this site was charged for, by the noted state, the transcript or the plans' states. Raises TranscriptError."""
        plans: dict[str, Named] = {}
        noted = self.noted()
        from_notes = [
            Named(plan=plan, kind=kind, committed=False, where=str(self._state / NAME))
            for plan, kind in (noted.plans.items() if noted is not None else ())
        ]
        for each in (*from_notes, *self._in_transcript(), *self._in_state()):
            earlier = plans.get(each.plan[:DIGITS])
            if earlier is None:
                plans[each.plan[:DIGITS]] = each
                continue
            plans[each.plan[:DIGITS]] = Named(
                plan=max(earlier.plan, each.plan, key=len),
                # Answers of a teacher without a guarantee have no epsilon, whatever else was charged.
                kind=DECLARED if DECLARED in {earlier.kind, each.kind} else RESERVE,
                committed=earlier.committed or each.committed,
                where=earlier.where,
            )
        return list(plans.values())

    def _charged(self, rows: Sequence[Row]) -> dict[str, str]:
        kinds: dict[str, str] = {}
        for _, kind, content, _ in rows:
            if kind in {RESERVE, DECLARED}:
                entry = json.loads(content)
                if entry.get("site") == self.site and kinds.get(entry["plan"]) != DECLARED:
                    kinds[entry["plan"]] = kind
        return kinds

    def _in_transcript(self) -> Iterator[Named]:
        plans: dict[str, Named] = {}
        for mark in self._transcript.marks():
            if mark.entry is not None:
                plan = mark.plan_hash.hex()
                plans.setdefault(plan, Named(plan=plan, kind=RESERVE, committed=True, where=f"the message of {mark.time}"))
        yield from plans.values()

    def _in_state(self) -> Iterator[Named]:
        if not self._state.is_dir():
            return
        for folder in sorted(self._state.iterdir()):
            names = {file.name for file in folder.iterdir()} if folder.is_dir() and len(folder.name) == DIGITS else set()
            if names & {TEACHER, TAUGHT, UNSENT, TRAINING}:
                kind = DECLARED if BLACK_BOX in names else RESERVE
                yield Named(plan=folder.name, kind=kind, committed=TAUGHT in names, where=str(folder))


def advice(path: Path) -> str:
    """What an owner can do about a ledger that is not the expected one, or behind."""
    return (
        f"It is lost, older, or another's, and what was spent must not be spent again. Were the records moved? limbeck ledger move SITE. "
        f"Is there a backup of {path.name}, and a head that was noted? limbeck ledger restore SITE --from BACKUP --head HEAD. Neither? "
        f"limbeck ledger declare-lost SITE. Other records need a site folder of their own."
    )


def _check_head(head: Head, rows: Sequence[Row], path: Path, where: str) -> None:
    """Raise LedgerError unless the rows reach this head. In a ledger of one row nothing was spent: that one may be lost."""
    count, last = head
    if count > 1 and (count > len(rows) or rows[count - 1][3] != last):
        raise LedgerError(
            f"Expected the ledger in {path} to have row {count} with hash {last[:16]}, as {where} says, found"
            f" {len(rows)} rows without it. {advice(path)}"
        )


def _settled(rows: Sequence[Row]) -> set[str]:
    """The transcript's lines up to which the owner declared a ledger lost."""
    return {json.loads(content).get("transcript", "") for _, kind, content, _ in rows if kind == "lost"}


def _holds(rows: Sequence[Row], named: Named) -> bool:
    """Whether a charge for this plan is there, or the owner has accounted for one that nobody can know."""
    for _, kind, content, _ in rows:
        entry = json.loads(content)
        if kind in {RESERVE, DECLARED} and entry["plan"].startswith(named.plan[:DIGITS]):
            return True
        if kind == "lost" and any(plan.startswith(named.plan[:DIGITS]) for plan in entry.get("unknown", [])):
            return True
    return False
