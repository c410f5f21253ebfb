"""The checks of a site: its certificate and the way to the coordinator, its policy, ledger, transcript, records and files."""

from __future__ import annotations

import math
import os
import ssl
import stat
from datetime import datetime, timedelta
from pathlib import Path

from limbeck.base.errors import CertificateError, DataError, LimbeckError, SettingError
from limbeck.base.files import OTHERS
from limbeck.base.findings import Finding, Findings, Outcome, fail, ok, warn
from limbeck.base.printable import printable
from limbeck.client import policy as policies
from limbeck.client import proxy, records
from limbeck.client.examination import structure
from limbeck.client.settings import FILE as SITE_SETTINGS
from limbeck.client.site import Site
from limbeck.client.witness import PLAN
from limbeck.deployment.certificates import Role
from limbeck.deployment.doctor import connection, shared
from limbeck.deployment.doctor.checks import Examination, Side, check
from limbeck.deployment.doctor.connection import Reach
from limbeck.deployment.doctor.shared import CLOCK_TOLERANCE
from limbeck.inputs import encoders
from limbeck.plans import accounting
from limbeck.protos import codec

BUDGET_NEARLY_SPENT = 0.9
PLANS_SHOWN = 5
CHANGED_PLAN_ADVICE = (
    "Somebody or something changed it. The site answers nothing under it until the coordinator offers the author's copy again, which is"
    " then written anew. Find out what happened; do not copy or sign a plan here by hand."
)
PLACEHOLDER_DATA_SET = "our-records"
_INCIDENT_ADVICE = (
    "Stop, keep the files as they are, and find out what happened: docs/operate.md, 'When something is wrong'."
)


@check("certificate")
def certificate(site: Site, examination: Examination) -> Findings:
    """Whether the site's certificate and key are good for the link."""
    link = site.settings.link
    if link is None:
        yield warn(
            f"No table [link] in {site.folder / SITE_SETTINGS}.",
            "Nothing to do if Flower carries this site's messages; `limbeck site run` needs it.",
        )
        return
    yield from shared.key_pair(site.folder, link.ca, link.certificate, link.key, Role.SITE, site.name, examination.now)


@check("proxy", advice='Correct the variable, or link.proxy in site.toml ("none": always directly).')
def way(site: Site, examination: Examination) -> Findings:
    """By which way the daemon dials the coordinator, and which variable decided on it. Nothing is dialled."""
    link = site.settings.link
    if link is None:
        return
    yield ok(f"dials {proxy.route(link.address, link.proxy)}; a service has an environment of its own")
    given = [name for name in proxy.EXCEPTIONS if name in os.environ]
    if len({os.environ[name] for name in given}) > 1:
        yield warn(
            f"{' and '.join(given)} differ: {given[0]} counts, the others are not read.",
            "Give them the same value, or unset all but one.",
        )
    if os.environ.get("HTTP_PROXY") and not any(os.environ.get(name) for name in proxy.PROXIES):
        yield warn("HTTP_PROXY is set and not read: in a server's environment a peer can set it.", "Set https_proxy.")


@check("coordinator", network=True)
def coordinator(site: Site, examination: Examination) -> Findings:
    """Whether the coordinator is reached as the daemon would reach it, accepts the site's certificate, and agrees on the time."""
    link, now, seconds = site.settings.link, examination.now, examination.seconds
    if link is None:
        return
    host = link.address.rpartition(":")[0].strip("[]")
    route = proxy.route(link.address, link.proxy)
    context = connection.context(site.folder / link.ca)
    try:
        context.load_cert_chain(site.folder / link.certificate, site.folder / link.key)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"Expected a certificate and its key for a connection to {link.address}: {error}.") from error
    greeting = connection.greet(context, route, link.server_name or host, seconds, certified=True)
    yield greeting.finding
    if greeting.reach is not Reach.ANSWERED:
        return
    ahead = connection.clock_ahead(site.folder, link, route, now, seconds)
    if ahead is None:
        return
    difference = f"{abs(ahead.total_seconds()):.0f} s {'ahead of' if ahead > timedelta(0) else 'behind'} the coordinator's"
    if abs(ahead) > CLOCK_TOLERANCE:
        yield warn(
            f"This machine's clock is {difference}.",
            "Set the one that is wrong by NTP (timedatectl set-ntp true): certificates end by the one, and begin by the other.",
            check="clock",
        )
    else:
        yield ok(f"{difference}, within {CLOCK_TOLERANCE}", check="clock")


@check("policy", advice="Write one (limbeck policy init) or correct it; until then every plan is refused.")
def policy(site: Site, examination: Examination) -> Findings:
    """Whose plans the owner allows, and what they may cost."""
    rules = site.policy()
    budget = rules.budget
    costs = f"at most epsilon = {budget.epsilon:g} at delta = {budget.delta:g} in all, per {budget.unit}, {budget.adjacency}"
    if isinstance(rules, policies.UnsafePermissive):
        yield warn(
            f"{rules.name!r} is UnsafePermissive: any plan by anybody, {costs}",
            "For simulations only: write a policy (limbeck policy init).",
        )
        return
    authors, answers = rules.plans.authors, rules.answers
    who = "plans by anybody" if authors == "any" else f"plans by {len(authors)} authors"
    yield ok(f"{rules.name!r} allows {who}, {costs}; answers of {answers.max_bits} bits, {answers.max_k} classes")
    if not authors:
        yield warn("It accepts nobody's plan.", "Put the public keys of plan authors you trust into plans.authors.")
    if authors == "any":
        yield warn("It accepts plans that nobody signed.", "List the public keys of plan authors you trust.")
    if rules.data_set == PLACEHOLDER_DATA_SET:
        yield warn(f"The records are named {rules.data_set!r}.", "Name them once, before the first plan.")
    if rules.allows_without_dp:
        yield warn("It allows answers without any privacy guarantee.", "Nothing to do if the owner means that.")


@check("ledger", advice=_INCIDENT_ADVICE)
def ledger(site: Site, examination: Examination) -> Findings:
    """Whether the ledger is intact and holds all that the site knows was spent, and what is left of the budget."""
    budget, now = site.budget, examination.now
    book = site.account.check(every_line=True)
    if book is None:
        yield ok(f"None yet at {site.ledger}: nothing was spent")
        return
    if (book.terms.data_set, book.terms.delta) != (budget.data_set, budget.delta):
        raise SettingError(
            f"Expected a ledger of {budget.data_set!r} at delta = {budget.delta:g}, as the policy says,"
            f" found one of {book.terms.data_set!r} at {book.terms.delta:g}."
        )
    newest = max((datetime.fromisoformat(entry.time) for entry in book.entries), default=now)
    if newest - now > CLOCK_TOLERANCE:
        yield fail(
            f"The ledger's last entry is of {newest:%Y-%m-%d %H:%M:%S} UTC, in the future.", "Set the clock.", check="clock"
        )
    spent = book.spent()
    if not math.isfinite(spent):
        yield warn(
            "Answers without any guarantee were released: no epsilon holds for these records.",
            "limbeck ledger show says when and why.",
        )
        return
    nearly = spent >= BUDGET_NEARLY_SPENT * budget.epsilon
    opinion = f"; {book.opinion().sentence}" if book.schedules else ""
    yield Finding(
        outcome=Outcome.WARN if nearly else Outcome.OK,
        found=f"{len(book.rows)} rows, intact; epsilon = {spent:.4g} of {budget.epsilon:g} spent at {book.terms}"
        f" (had all plans been fixed beforehand: {book.spent_if_fixed():.4g}{opinion}); head {book.head[:16]}",
        advice="Little is left: plans will be declined for their cost." if nearly else "",
    )
    if doubt := book.disagreement():
        yield warn(doubt, "Take part in nothing before you know why.")
    reserved = [entry.id for entry in book.entries if entry.state == "reserved"]
    if reserved:
        yield warn(
            f"Reserved and not committed: {', '.join(map(str, reserved))}. The training is under way, or failed: its cost is spent,"
            " and it may be done again under the same charge."
        )


@check("transcript", advice=_INCIDENT_ADVICE)
def transcript(site: Site, examination: Examination) -> Findings:
    """Whether everything that was sent is still written down, and how much room is left for more."""
    kept, bound = site.transcript, site.settings.transcript_total_bytes
    messages, size = len(list(kept)), sum(path.stat().st_size for path in kept.files())
    nearly = size >= BUDGET_NEARLY_SPENT * bound
    yield Finding(
        outcome=Outcome.WARN if nearly else Outcome.OK,
        found=f"{messages} messages, intact; {shared.in_bytes(size)} of {shared.in_bytes(bound)}",
        advice="Move its oldest files elsewhere: beyond the bound nothing is sent." if nearly else "",
    )


@check("plans")
def plans(site: Site, examination: Examination) -> Findings:
    """Which plans the site has accepted, whether they are as they were then, and what each costs."""
    folders = sorted(path.parent for path in site.states.glob(f"*/{PLAN}")) if site.states.is_dir() else []
    good: list[str] = []
    for folder in folders:
        try:
            plan = codec.decode_offer((folder / PLAN).read_bytes()).plan
        except LimbeckError as error:
            yield fail(f"{folder / PLAN} is no plan any more: {error}", CHANGED_PLAN_ADVICE)
            continue
        if not codec.plan_hash(plan).hex().startswith(folder.name):
            yield fail(f"{folder / PLAN} is another plan than the one that was accepted.", CHANGED_PLAN_ADVICE)
            continue
        cost, privacy = accounting.epsilon(((plan.teaching, plan.counts),), plan.privacy.delta), plan.privacy
        good.append(
            f"{printable(plan.name, 80)!r}, {folder.name}: epsilon = {cost:.4g} at delta = {privacy.delta:g}, per {privacy.unit.value},"
            f" {privacy.adjacency.value}"
        )
    shown = "; ".join(good[-PLANS_SHOWN:])
    yield ok(f"{len(good)} accepted{f': {shown}' if shown else ''}")


@check("records")
def private_records(site: Site, examination: Examination) -> Findings:
    """Whether the records, and what encodes them, are where the settings say, and nobody else's to read. None is read."""
    settings = site.settings.record_settings
    if settings.reader is not None:
        yield ok(f"read by {settings.reader}, which was not called")
        return
    if settings.encoding is not None and not (site.folder / settings.encoding).is_file():
        yield fail(
            f"No public encoding at {site.folder / settings.encoding}.",
            "Get the file from the plan's author: records that are encoded otherwise are not what the plan is about.",
        )
    else:
        try:
            encoder = records.public_encoder(settings, site.folder)
            if encoder is not None:
                encoders.check_files(encoder, settings.encoder, site.folder)
        except DataError as error:
            yield fail(
                str(error), "Plans with this encoding are declined until records.encoder names the encoder that they name."
            )
    path = site.folder / str(settings.path)
    if not path.exists():
        yield fail(f"None at {path}.", f"Put them there, or say in {SITE_SETTINGS} where they are.")
        return
    needed = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    if not os.access(path, needed):
        yield fail(f"{path} cannot be read.", "Give the service's user leave to read them.")
        return
    yield from structure(settings, site.folder)
    # Others cannot read what lies in a folder that they cannot enter.
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & OTHERS and not any(map(shared.is_closed, path.absolute().parents)):
        yield warn(
            f"{path} is open to others than its owner, mode {mode:03o}.", f"chmod {'700' if path.is_dir() else '600'} {path}"
        )
        return
    yield ok(f"{path} is there and readable; not read")


@check("public inputs", advice=shared.INPUTS_ADVICE)
def public_inputs(site: Site, examination: Examination) -> Findings:
    """Whether the public inputs of plans are what their names say."""
    return shared.public_inputs(site.folder / site.settings.transfer_sets)


@check("files")
def files(site: Site, examination: Examination) -> Findings:
    """Whether others can change the site's files, or read what comes from its records."""
    return shared.files(site.folder, _of_records(site))


def _of_records(site: Site) -> list[Path]:
    settings, folder = site.settings, site.folder
    return [site.ledger, folder / settings.transcript, folder / settings.state, *([site.cache] if site.cache else [])]


@check("modes")
def modes(site: Site, examination: Examination) -> Findings:
    """Whether somebody else could put another policy, other settings or another folder in the place of the site's."""
    link = site.settings.link
    keys = [site.folder / link.key] if link is not None else []
    return shared.modes(site.folder, [site.policy_path, site.folder / SITE_SETTINGS, *keys])


@check("disk")
def disk(site: Site, examination: Examination) -> Findings:
    """Whether there is room for what must be written before anything is sent."""
    return shared.disk({"state and transcript": site.folder, "ledger": site.ledger.parent})


SIDE = Side(
    owns=lambda folder: (folder / SITE_SETTINGS).exists(),
    open=Site,
    checks=(
        certificate,
        way,
        coordinator,
        policy,
        ledger,
        transcript,
        plans,
        private_records,
        public_inputs,
        files,
        modes,
        disk,
    ),
)
