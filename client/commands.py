"""`limbeck policy`, `limbeck ledger`, `limbeck transcript`: for a data owner, or an officer who acts for one, to inspect and decide."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.base.errors import DataError, LedgerError, SettingError, TranscriptError
from limbeck.base.printable import plain_console

if TYPE_CHECKING:
    from rich.console import Console

    from limbeck.client import ledger as ledgers
    from limbeck.client.transcript import Sent
    from limbeck.plans.schema import Plan
    from limbeck.protos.messages import Share

policy_app = typer.Typer(
    help="""What a plan may ask of this site.

    \b
    Examples:
      limbeck policy init site/policy.toml
      limbeck policy check plan.pb site
    """,
    no_args_is_help=True,
)
ledger_app = typer.Typer(
    help="""What was spent of a data set's privacy budget.

    \b
    Examples:
      limbeck ledger show site
      limbeck ledger verify site
    """,
    no_args_is_help=True,
)
transcript_app = typer.Typer(
    help="""Every byte that left a site.

    \b
    Examples:
      limbeck transcript show site
      limbeck transcript show site --message 2
    """,
    no_args_is_help=True,
)

REFUSED = 1
ROWS = 10

PolicyPath = Annotated[Path, typer.Argument(metavar="POLICY", help="A policy.toml, or a site's folder.")]
LedgerPath = Annotated[Path, typer.Argument(metavar="LEDGER", help="A ledger's file, or a site's folder.")]


@policy_app.command("check")
def check_policy(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan's file, plan.pb.")], policy: PolicyPath
) -> None:
    """Say whether a policy allows a plan, and if not, which of its rules refuse it (exit status 1).

    For a site's folder, the ledger must exist and contain everything that the site's transcript and state record as spent. How much of the
    budget is left is shown by `limbeck ledger show`.

    \b
    Examples:
      limbeck policy check plan.pb policy.toml
      limbeck policy check plan.pb federation/sites/north
    """
    from limbeck.client import policy as policies
    from limbeck.client.site import Site
    from limbeck.plans import accounting, second_opinion
    from limbeck.protos import plan_file

    if policy.is_dir():
        Site(policy).account.check()
    console, offer, rules = plain_console(), plan_file.read(plan), policies.read(_policy_path(policy))
    asked = offer.plan
    broken = list(rules.broken_rules(asked, offer.author))
    schedules = ((asked.teaching, asked.counts),)
    cost, opinion = accounting.epsilon(schedules, rules.budget.delta), second_opinion.of(schedules, rules.budget.delta)
    if cost > rules.budget.epsilon:
        broken.append(f"budget.epsilon = {rules.budget.epsilon:g}: the plan alone costs {cost:.4g}")
    console.print(
        f"Plan {asked.name!r}, {'signed by ' + offer.author.hex() if offer.author else 'not signed'}.", soft_wrap=True
    )
    console.print(
        f"It costs epsilon = {cost:.4g} at delta = {rules.budget.delta:g}, per {rules.budget.unit}, {rules.budget.adjacency}."
        f" {opinion.sentence}.",
        soft_wrap=True,
    )
    if doubt := opinion.disagreement(cost):
        console.print(doubt, style="bold red", highlight=False, markup=False, soft_wrap=True)
    for rule in broken:
        console.print(f"refused by {rule}", soft_wrap=True, highlight=False, markup=False)
    if broken:
        raise typer.Exit(REFUSED)
    console.print("allowed")


@policy_app.command("init")
def init_policy(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("policy.toml"),
) -> None:
    """Write a policy to edit, with every rule explained. As written it accepts nobody's plan. Never overwrites a file.

    \b
    Examples:
      limbeck policy init
      limbeck policy init federation/sites/north/policy.toml
    """
    from limbeck.client import policy as policies

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(policies.TEMPLATE)
    except FileExistsError:
        raise SettingError(f"Expected no file at {path} yet, found one; it was left as it is.") from None
    print(path)


@policy_app.command("explain")
def explain_policy(policy: PolicyPath) -> None:
    """Say in sentences what a policy allows to leave the site at most, and what that may cost.

    \b
    Examples:
      limbeck policy explain policy.toml
      limbeck policy explain federation/sites/north
    """
    from limbeck.client import policy as policies

    for line in policies.explain(policies.read(_policy_path(policy))):
        print(line)


@ledger_app.command("show")
def show_ledger(
    path: LedgerPath, as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False
) -> None:
    """List the entries and what they cost, each alone and all together. Writes nothing.

    \b
    Examples:
      limbeck ledger show federation/sites/north
      limbeck ledger show records.npz.ledger --json
    """
    from limbeck.base.listing import listing
    from limbeck.client import ledger as ledgers
    from limbeck.plans import second_opinion

    book = ledgers.read(_ledger_path(path))
    if as_json:
        print(json.dumps({name: value for name, value in _describe(book).items() if name not in {"head", "rows"}}, indent=1))
        return
    console = plain_console()
    rows = []
    for entry in book.entries:
        epsilon = _epsilon_alone(entry, book)
        alone = "NO GUARANTEE" if entry.state == "declared" else "0" if epsilon is None else f"{epsilon:.4g}"
        opinion = second_opinion.of((entry.schedule,), book.terms.delta).figure if entry.schedule else ""
        when, plan = seconds_of(entry.time), entry.plan_hash.hex()[:12]
        rows.append([str(entry.id), when, plan, entry.what, entry.state, alone, opinion, entry.why or ""])
    headers = ["entry", "time (UTC)", "plan", "what", "state", "epsilon", "by PRV", "why"]
    listing(console, headers, rows, wrap="what", below=["why"], right=["entry", "epsilon", "by PRV"])
    console.print(
        f"The epsilon of an entry is what it costs alone, at {book.terms}. By PRV: a second opinion, which decides nothing.",
        soft_wrap=True,
    )
    for line in cost_in_words(book):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for doubt in _disagreements(book):
        console.print(doubt, style="bold red", highlight=False, markup=False, soft_wrap=True)


def seconds_of(time: str) -> str:
    """A time of a ledger or transcript, ISO 8601 in UTC, to the second and without its zone."""
    from datetime import UTC, datetime

    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def cost_in_words(book: ledgers.Book) -> list[str]:
    """What a ledger's charges cost together, in the two senses that this can have."""
    from limbeck.plans import privacy_filter

    if book.declared:
        line = f"Records {book.terms.data_set!r}: epsilon is infinite, at any delta: something without a guarantee was released."
        charged = privacy_filter.spent(book.schedules, book.terms.delta)
        return [line, f"The charges alone come to epsilon = {charged:.4g} at {book.terms}."] if book.schedules else [line]
    spent = book.spent()
    return [
        f"Records {book.terms.data_set!r}: epsilon = {spent:.4g} spent in all at {book.terms}: what the budget is held to.",
        "It holds whatever later plans depend on (by a privacy filter; a single plan by PLD).",
        f"Had all plans been fixed beforehand: epsilon = {book.spent_if_fixed():.4g} at {book.terms}, composed by PLD.",
        *([f"{book.opinion().sentence}, for the charges together, had they been fixed."] if book.schedules else []),
    ]


@ledger_app.command("verify")
def verify_ledger(
    path: LedgerPath,
    head: Annotated[
        str | None, typer.Option(help="A head noted earlier. If the ledger no longer contains it, rows were removed.")
    ] = None,
) -> None:
    """Check the hash chain and its head, and print the head for you to note elsewhere.

    For a site's folder, also check that every entry named by its transcript is still in the ledger.

    \b
    Examples:
      limbeck ledger verify federation/sites/north
      limbeck ledger verify records.npz.ledger --head 5c1e...
    """
    from limbeck.client import ledger as ledgers
    from limbeck.client.site import Site

    book = ledgers.read(_ledger_path(path))
    if head is not None and head not in {sha256 for *_, sha256 in book.rows}:
        raise LedgerError(
            f"Expected the head {head} among {len(book.rows)} rows, found none: the ledger is not a later state of that one."
        )
    if path.is_dir():
        Site(path).account.check(every_line=True)
    print(f"{len(book.rows)} rows, head {book.head}")


def backup(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A site's folder. Its daemon may be running.")],
    out: Annotated[
        Path, typer.Option(metavar="PATH", help="The folder to make, or a file that ends in .tar, .tar.gz or .tgz.")
    ],
) -> None:
    """Copy a site's ledger, its head and its transcript together, check the copy, and print the head for you to note elsewhere.

    The copy is of one moment, also while the daemon runs. Nothing is overwritten, and neither records nor keys are copied. To use it:
    `limbeck ledger restore`, which refuses a backup that is older than what was spent.

    \b
    Examples:
      limbeck backup federation/sites/north --out /backup/north-2026-03-01
      limbeck backup federation/sites/north --out /backup/north.tar.gz
    """
    from datetime import UTC, datetime

    from limbeck.client import backup as backups
    from limbeck.client.site import Site

    made = backups.make(Site(site), out, now=datetime.now(UTC))
    print(f"{made.path}: a ledger of {len(made.book.rows)} rows and {made.messages} messages, read again and found whole.")
    for line in cost_in_words(made.book)[:1]:
        print(line)
    print(
        "Note the head where this machine cannot write; without it nobody can tell later whether this backup is the newest:"
    )
    print(made.book.head)


SitePath = Annotated[Path, typer.Argument(metavar="SITE", help="A site's folder. Its daemon must not be running.")]


@ledger_app.command("move")
def move_ledger(
    site: SitePath,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="LEDGER", help="Where the ledger is now; default: where the site last used it."),
    ] = None,
) -> None:
    """Move the ledger to where the site now looks for it, after its records were moved or renamed.

    The ledger is moved, not copied, so that there is one account. The file in the old place is renamed, so that nothing more is charged
    there.

    \b
    Examples:
      mv data.csv new/data.csv    # and set records in site.toml
      limbeck ledger move federation/sites/north
      limbeck ledger move federation/sites/north --from data.csv.ledger
    """
    from limbeck.client import recovery
    from limbeck.client.site import Site

    old, new = recovery.move(Site(site), source)
    print(f"{old} is now {new}.")


@ledger_app.command("restore")
def restore_ledger(
    site: SitePath,
    backup: Annotated[Path, typer.Option("--from", metavar="BACKUP", help="A copy of the ledger.")],
    head: Annotated[str, typer.Option(help="The head noted elsewhere, as `limbeck ledger verify` printed it.")],
) -> None:
    """Replace a lost or broken ledger by a backup, provided that the backup is as recent as everything else that is known.

    The backup must contain the head that was noted outside of this machine, every entry that the site's transcript and state name, and
    every row that can still be read of the ledger in place, which is renamed.

    \b
    Examples:
      limbeck ledger restore federation/sites/north \\
        --from /backup/records.npz.ledger --head 5c1e...
    """
    from limbeck.client import recovery
    from limbeck.client.site import Site

    aside = recovery.restore(Site(site), backup, head)
    print(f"Restored{f'; what was there is {aside}' if aside is not None else ''}.")


@ledger_app.command("declare-lost")
def declare_ledger_lost(
    site: SitePath,
    epsilon: Annotated[
        float,
        typer.Option(
            help="What everything that transcript and state do not name may have cost, at half of the budget's delta; 0 if nothing."
        ),
    ],
    why: Annotated[str, typer.Option(help="What happened, for whoever reads the ledger later.")],
    backup: Annotated[
        Path | None,
        typer.Option("--from", metavar="BACKUP", help="An older copy of the ledger, whose rows are kept."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Start a new ledger after a loss: everything that is known stays charged, and you declare a cost for what is not.

    Every plan that the site's transcript or state names stays charged. EPSILON is written into the new ledger with WHY, permanently, and
    adds to everything else. If you cannot tell what else was spent, declare your whole budget: then nothing more is released. Each site
    that shares the ledger runs this command too, for what that site knows.

    \b
    Examples:
      limbeck ledger declare-lost federation/sites/north --epsilon 0 \\
        --why "disk replaced; one run only, see the transcript"
    """
    from rich.console import Console

    from limbeck.client import recovery
    from limbeck.client.site import Site

    opened, console = Site(site), Console()
    loss = recovery.loss(opened, epsilon, why, backup)
    for line in (
        f"Kept: {loss.kept} rows.",
        f"Charged, as transcript and state name them: {len(loss.charged)} plans{_list(loss.charged)}.",
        f"Named, but nobody can say what they cost: {len(loss.unknown)} plans{_list(loss.unknown)}.",
        f"Charged on your word for everything else: epsilon = {epsilon:g}. {why}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not yes:
        typer.confirm("This cannot be undone. Write it?", abort=True)
    aside = recovery.declare_lost(opened, loss)
    print(f"Written to {opened.ledger}{f'; what was there is {aside}' if aside is not None else ''}.")


def _list(plans: list[str]) -> str:
    return f" ({', '.join(plan[:12] for plan in plans)})" if plans else ""


@ledger_app.command("export")
def export_ledger(path: LedgerPath) -> None:
    """Print everything as JSON: terms, entries, raw rows with their hashes, and what is spent.

    \b
    Examples:
      limbeck ledger export federation/sites/north > ledger.json
    """
    from limbeck.client import ledger as ledgers

    print(json.dumps(_describe(ledgers.read(_ledger_path(path))), indent=1))


@transcript_app.command("show")
def show_transcript(
    path: Annotated[Path, typer.Argument(metavar="TRANSCRIPT", help="A transcript's file, or a site's folder.")],
    message: Annotated[int | None, typer.Option(help="Decode this message, counted from 1.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="The file of its plan; default: the plan that the site accepted.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check lengths, SHA-256 hashes and the chain of files.")
    ] = False,
) -> None:
    """List what left a site, message by message, or decode one message.

    \b
    Examples:
      limbeck transcript show federation/sites/north
      limbeck transcript show federation/sites/north --message 3
      limbeck transcript show federation/sites/north --verify
    """
    from limbeck.base.listing import listing
    from limbeck.client.site import Site
    from limbeck.client.transcript import Transcript

    console = plain_console()
    sent = list(Site(path).transcript if path.is_dir() else Transcript(path))
    if verify:
        print(f"{len(sent)} messages, {sum(len(each.data) for each in sent)} bytes, all as they were written")
        return
    if message is not None:
        if not 1 <= message <= len(sent):
            raise TranscriptError(f"Expected a message from 1 to {len(sent)}, got {message}.")
        _show_message(console, sent[message - 1], path, plan)
        return
    rows = []
    for number, each in enumerate(sent, start=1):
        entry = "as before" if each.again else "-" if each.entry is None else str(each.entry)
        when, plan_digits = seconds_of(each.time), each.plan_hash.hex()[:12]
        rows.append([str(number), when, each.what, plan_digits, str(len(each.data)), entry])
    headers = ["message", "time (UTC)", "what", "plan", "bytes", "entry"]
    listing(console, headers, rows, wrap="what", right=["message", "bytes", "entry"])
    console.print(
        "The entry is the ledger's that allowed a message; '-' contains nothing derived from records.", soft_wrap=True
    )
    if path.is_dir() and (files := Site(path).refusals.files()):
        console.print(f"Refusals of plans that were never accepted: the last of them are in {files[-1]}.", soft_wrap=True)


def _show_message(console: Console, sent: Sent, path: Path, plan_path: Path | None) -> None:
    from limbeck.client.site import Site
    from limbeck.client.witness import PLAN
    from limbeck.protos import codec, plan_file
    from limbeck.protos.messages import Share, Taught

    if plan_path is None and path.is_dir():
        plan_path = Site(path).state(sent.plan_hash) / PLAN
    if plan_path is None:
        raise SettingError("Expected --plan with a transcript's file, got none: a message is decoded under its plan.")
    plan = plan_file.read(plan_path).plan if plan_path.exists() else None
    if plan is None or codec.plan_hash(plan) != sent.plan_hash:
        raise DataError(f"Expected the plan {sent.plan_hash.hex()[:16]} in {plan_path}, found none or another.")
    reply = codec.decode_stored_reply(sent.data, plan=plan, expecting=codec.implied_request(sent.data, plan))
    console.print(f"{sent.time}  {sent.what}  {len(sent.data)} bytes", highlight=False)
    match reply:
        case Share():
            _show_share(console, reply, plan)
        case Taught(label_counts=None, record_count=None):
            console.print("The teacher is ready; nothing about the records is in this message.")
        case Taught():
            console.print(f"Noisy counts: {reply.record_count if reply.label_counts is None else list(reply.label_counts)}")
        case _:
            console.print("Nothing about the records is in this message.")


def _show_share(console: Console, share: Share, plan: Plan) -> None:
    from limbeck.base.listing import listing

    rows, answers = [], share.answers
    for row in range(min(ROWS, len(answers))):
        ids, p = answers.ids_Nk[row].tolist(), answers.p_Nk[row].tolist()
        kept = "  ".join(f"{label}: {value:.3f}" for label, value in zip(ids, p, strict=True) if value > 0)
        rows.append([str(share.first + row), f"{float(answers.tail_N[row]):.3f}", kept])
    listing(
        console,
        ["public input", "the rest", "classes and probabilities"],
        rows,
        wrap="classes and probabilities",
        right=["public input"],
    )
    console.print(
        f"{len(answers)} answers, at temperature {plan.stages[share.stage].temperature:g}; the first {min(ROWS, len(answers))} are shown.",
        soft_wrap=True,
    )


def _epsilon_alone(entry: ledgers.Entry, book: ledgers.Book) -> float | None:
    """What an entry costs by itself; None if it is free or no epsilon holds."""
    from limbeck.plans import accounting

    return accounting.epsilon((entry.schedule,), book.terms.delta) if entry.schedule else entry.epsilon


def _disagreements(book: ledgers.Book) -> list[str]:
    """Where the second accountant contradicts the one that decides, of each charge and of all together."""
    from limbeck.plans import accounting, second_opinion

    found = []
    for entry in book.entries:
        if entry.schedule:
            schedules, delta = (entry.schedule,), book.terms.delta
            doubt = second_opinion.of(schedules, delta).disagreement(accounting.epsilon(schedules, delta))
            found += [f"Entry {entry.id}: {doubt}"] if doubt else []
    together = book.disagreement()
    return [*found, f"All charges: {together}"] if together else found


def _describe(book: ledgers.Book) -> dict[str, object]:
    """A ledger as JSON values."""
    from limbeck.plans import privacy_filter, second_opinion

    entries = [
        {
            "id": entry.id,
            "time": entry.time,
            "plan": entry.plan_hash.hex(),
            "what": entry.what,
            "state": entry.state,
            "why": entry.why,
            "epsilon_alone": _epsilon_alone(entry, book),
            "second_opinion": second_opinion.of((entry.schedule,), book.terms.delta).values if entry.schedule else None,
        }
        for entry in book.entries
    ]
    terms = {name: value.value if isinstance(value, Enum) else value for name, value in asdict(book.terms).items()}
    rows = [
        {"id": row, "kind": kind, "content": json.loads(content), "hash": sha256} for row, kind, content, sha256 in book.rows
    ]
    spent, fixed = book.spent(), book.spent_if_fixed()
    return {
        "terms": terms,
        "filter": privacy_filter.FIXED,
        # JSON has no infinity: null if a release had no guarantee, so that no epsilon holds. The second value holds if all plans were fixed
        # beforehand, and is composed by PLD.
        "spent_epsilon": spent if math.isfinite(spent) else None,
        "spent_epsilon_if_fixed": fixed if math.isfinite(fixed) else None,
        # Of the charges alone; it decides nothing.
        "second_opinion": book.opinion().values,
        "disagreements": _disagreements(book),
        "entries": entries,
        "head": book.head,
        "rows": rows,
    }


def _policy_path(path: Path) -> Path:
    from limbeck.client.site import Site

    return Site(path).policy_path if path.is_dir() else path


def _ledger_path(path: Path) -> Path:
    from limbeck.client.site import Site

    return Site(path).ledger if path.is_dir() else path
