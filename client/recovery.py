"""What an owner can do about a ledger that is not where it must be, or behind: move it, restore it, or declare it lost.

None of this gives budget back. Nothing is deleted: a file in the place of a ledger is put aside under another name.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.base.errors import LedgerError, LimbeckError, SettingError
from limbeck.client import ledger as ledgers
from limbeck.client.ledger import Row, Terms
from limbeck.client.site import Site
from limbeck.client.witness import BLACK_BOX, BLACK_BOX_ANSWERS, CHARGE, DECLARED, DIGITS, PLAN, WHY_BLACK_BOX, Named
from limbeck.plans.schema import Plan
from limbeck.protos import codec


def move(site: Site, source: Path | None = None) -> tuple[Path, Path]:
    """Move the ledger of records that were moved to where the site looks for it now; returns the old and the new path.

    Called again after a crash, it completes what it began.

    source: where the ledger is; by default where the site last noted it.

    Raises: LedgerError, with both files unchanged, if the source cannot be trusted, lacks what the site knows, or the target holds
    entries.
    """
    _check_stopped(site)
    noted, target = site.witness.noted(), site.ledger
    source = source or (noted.path if noted is not None else None)
    if source is None:
        raise LedgerError(f"Expected --from: {site.name} does not know where its ledger was.")
    if source.exists() and target.exists() and source.samefile(target):
        raise LedgerError(f"Expected a ledger elsewhere to move to {target}, found that it is there.")
    if not ledgers.head_path(source).is_file():
        raise LedgerError(f"Expected a privacy ledger and its head at {source}, found none.")
    with ledgers.held(source):
        rows = list(ledgers.read(source).rows)
        _check_terms(site, rows, source)
        site.witness.check_all(rows, source)
        there = list(ledgers.read(target).rows) if ledgers.begun(target) else []
        begun = not there and ledgers.read_head(target) == (len(rows), rows[-1][3])
        if not there and not begun and ledgers.read_head(target) is not None:
            raise LedgerError(f"Expected no ledger at {target} yet, found the head of one: it is lost, not moved.")
        if len(there) > 1 and there[: len(rows)] != rows:
            raise LedgerError(
                f"Expected no entries in a ledger at {target} yet, found {len(there)} rows: two accounts cannot be made one. Move the"
                " records away from it, or declare one lost (limbeck ledger declare-lost)."
            )
        if len(there) < 2:
            _replace(target, rows, "unused")
        ledgers.put_aside(source, "moved")
    site.witness.note(max(rows, there, key=len), target)
    return source, target


def restore(site: Site, backup: Path, head: str) -> Path | None:
    """Put a backup in the place of a ledger that is lost or broken; returns where the old files went, None if there were none.

    backup: a copy of the ledger. It must go at least as far as `head`, and as far as site and transcript know.
    head: the ledger's head, as noted outside this machine.

    Raises: LedgerError if the backup does not go that far, or if the ledger in place holds rows that the backup lacks.
    """
    _check_stopped(site)
    rows = list(ledgers.read(backup, with_head=False).rows)
    _check_terms(site, rows, backup)
    if head not in {row[3] for row in rows}:
        raise LedgerError(
            f"Expected the head {head} among the {len(rows)} rows of {backup}, found none: it is older, or another's."
            " If there is no newer one: limbeck ledger declare-lost SITE --from BACKUP."
        )
    site.witness.check_all(rows, backup)
    there = ledgers.intact(site.ledger)
    if rows[: len(there)] != there:
        raise LedgerError(
            f"Expected {backup} to be a later state of the ledger in {site.ledger}, found other rows: it holds what the backup lacks."
        )
    aside = _replace(site.ledger, rows, "before-restore")
    site.witness.note(rows, site.ledger)
    return aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What declaring a ledger lost would write.

    rows: the whole new ledger.
    kept: how many of the rows are old.
    charged: plans that the site knows and that the ledger lacked.
    unknown: plans whose cost nobody can state, because the plan is missing too.
    """

    rows: list[Row]
    kept: int
    charged: list[str]
    unknown: list[str]


def loss(site: Site, epsilon: float, why: str, backup: Path | None = None) -> Loss:
    """What declaring the ledger lost would write; nothing is written yet.

    Everything that transcript and state name is charged, in addition to what an intact ledger, or a backup of it, still holds.

    epsilon: what everything else cost, as the owner states, at half of the ledger's delta.
    why: the owner's reason.
    backup: an older copy of the ledger.

    Raises: LedgerError if epsilon is 0 and the cost of a plan unknown.
    """
    if not 0 <= epsilon < float("inf"):
        raise SettingError(f"Expected epsilon >= 0 and finite, got {epsilon!r}.")
    if not why.strip():
        raise SettingError("Expected a reason (--why), got none.")
    kept = _best(site, backup)
    rows = kept or [ledgers.first_row(_terms(site))]
    kept_count = len(rows)
    known = {json.loads(content)["plan"][:DIGITS] for _, kind, content, _ in rows if kind in {"reserve", "declared"}}
    charged, unknown = [], []
    for named in site.witness.named():
        if named.plan[:DIGITS] in known:
            continue
        plan = _plan(site, named)
        if plan is None:
            unknown.append(named.plan)
            continue
        _charge(rows, plan, named, site)
        charged.append(codec.plan_hash(plan).hex())
    if unknown and not epsilon:
        raise LedgerError(
            f"Expected an epsilon for {len(unknown)} plans that {site.name} was charged for and no longer holds"
            f" ({', '.join(plan_hash[:DIGITS] for plan_hash in unknown)}), got 0: say what they can have cost at most."
        )
    last = site.transcript.last()
    content: dict[str, object] = {
        "what": f"what was in the ledger of {site.name} and is lost",
        "epsilon": epsilon,
        "why": why,
        "site": site.name,
        "transcript": last.line if last is not None else "",
        "unknown": unknown,
    }
    if not _declared(rows, content):
        rows.append(ledgers.next_row(rows, "lost", content))
    return Loss(rows=rows, kept=kept_count, charged=charged, unknown=unknown)


def declare_lost(site: Site, assessed: Loss) -> Path | None:
    """Write the result of `loss` in the place of the ledger; returns where the old files went, None if there were none."""
    _check_stopped(site)
    aside = _replace(site.ledger, assessed.rows, "before-loss")
    site.witness.note(assessed.rows, site.ledger)
    return aside


def _best(site: Site, backup: Path | None) -> list[Row]:
    """The rows that can be trusted: those of the ledger in its place or of a backup, whichever continues the other."""
    there = ledgers.intact(site.ledger)
    if there:
        _check_terms(site, there, site.ledger)
    if backup is None:
        return there
    rows = list(ledgers.read(backup, with_head=False).rows)
    _check_terms(site, rows, backup)
    longer, shorter = (rows, there) if len(rows) >= len(there) else (there, rows)
    if longer[: len(shorter)] != shorter:
        raise LedgerError(
            f"Expected {backup} and {site.ledger} to be states of one ledger, found other rows: only one can be continued."
        )
    return longer


def _declared(rows: Sequence[Row], content: dict[str, object]) -> bool:
    """Whether this loss is already in the ledger, as after a crash."""
    for _, kind, text, _ in rows:
        written = json.loads(text)
        if kind == "lost" and {name: written.get(name) for name in content} == content:
            return True
    return False


def _charge(rows: list[Row], plan: Plan, named: Named, site: Site) -> None:
    """Append again what a plan was charged for: its training, a declaration that no guarantee holds, or both."""
    plan_hash = codec.plan_hash(plan)
    if named.kind == DECLARED:
        content: dict[str, object] = {
            "plan": plan_hash.hex(),
            "what": BLACK_BOX_ANSWERS,
            "why": WHY_BLACK_BOX,
            "site": site.name,
        }
        rows.append(ledgers.next_row(rows, "declared", content))
    if not (site.state(plan_hash) / BLACK_BOX).is_dir():
        rows.append(ledgers.charge_row(rows, plan_hash, CHARGE, (plan.teaching, plan.counts), site.name))
        if named.committed:
            rows.append(ledgers.next_row(rows, "commit", {"entry": len(rows)}))


def _plan(site: Site, named: Named) -> Plan | None:
    """The plan with this hash, if the site still holds it."""
    path = site.states / named.plan[:DIGITS] / PLAN
    try:
        plan = codec.decode_offer(path.read_bytes()).plan
    except (OSError, LimbeckError):
        return None
    return plan if codec.plan_hash(plan).hex().startswith(named.plan) else None


def _terms(site: Site) -> Terms:
    budget = site.budget
    return Terms(data_set=budget.data_set, delta=budget.delta, unit=budget.unit, adjacency=budget.adjacency)


def _check_terms(site: Site, rows: Sequence[Row], path: Path) -> None:
    written, wanted = ledgers.terms(rows, path), _terms(site)
    if written != wanted:
        raise LedgerError(
            f"Expected a ledger of {wanted.data_set!r} ({wanted}), as the policy says, in {path}, found {written.data_set!r} ({written})."
        )


def _replace(path: Path, rows: Sequence[Row], suffix: str) -> Path | None:
    """Put aside what is in the place of a ledger, and write one with these rows there; returns where the old files went.

    In between there is a head and no ledger, or nothing: a site that knows what was spent refuses both.
    """
    aside = None
    if path.exists() or ledgers.head_path(path).exists():
        aside = ledgers.put_aside(path, suffix)
    ledgers.write(path, rows)
    return aside


def _check_stopped(site: Site) -> None:
    """Raise SettingError if the site's daemon is running: it would continue with the ledger that it has open."""
    if not site.daemon_lock.exists():
        return
    with site.daemon_lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingError(f"Expected the site in {site.folder} to be stopped, found its daemon running.") from None
