"""`limbeck doctor`: everything about a site, a coordinator or an authority that can be checked from its folder, and what to do about it.

It changes nothing, reads no record, runs no code of the site's, and with `network` off opens no connection.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import socket
import ssl
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from importlib import metadata
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc_health.v1 import health_pb2, health_pb2_grpc
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from limbeck.base.errors import CertificateError, DataError, LimbeckError, SettingError
from limbeck.base.files import OTHERS
from limbeck.base.printable import printable
from limbeck.client import policy as policies
from limbeck.client import proxy, records
from limbeck.client.proxy import Route
from limbeck.client.site import LinkSettings, Site
from limbeck.deployment import certificates, keys
from limbeck.deployment.bringup import COORDINATOR_SETTINGS, SITE_SETTINGS
from limbeck.deployment.certificates import Role
from limbeck.inputs import encoders
from limbeck.inputs.transfer_set import digest, read_arrays
from limbeck.plans import accounting
from limbeck.protos import codec, link
from limbeck.protos.messages import Offer
from limbeck.server import serve
from limbeck.server.serve import CoordinatorSettings

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
EXPIRES_SOON_DAYS = 30
CLOCK_TOLERANCE = timedelta(minutes=5)
FILES_LOOKED_AT = 10_000
FREE_BYTES_WANTED, FREE_BYTES_NEEDED = 1 << 30, 64 << 20
BUDGET_NEARLY_SPENT = 0.9
PLACEHOLDER_DATA_SET = "our-records"
# The first bytes of HTTP/2, on which gRPC runs: its preface and empty settings. A server that takes our certificate answers with its own.
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SHOWN = ("limbeck", "torch", "flwr", "grpcio", "protobuf", "cryptography")


class Outcome(Enum):
    """WARN: it runs, but somebody should know. FAIL: it will not work, or not be trusted."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the diagnosis. advice: what to do; empty where there is nothing to do."""

    check: str
    outcome: Outcome
    found: str
    advice: str = ""


Findings = Iterator[Finding]
Checks = list[tuple[str, Callable[[], Iterable[Finding]]]]


def examine(folder: Path, *, now: datetime, network: bool = True, seconds: float = CONNECT_SECONDS) -> list[Finding]:
    """Everything about the folder of a site, a coordinator or an authority. seconds: for each step of a connection.

    Raises SettingError where the folder is none of them.
    """
    folder = folder.parent if folder.is_file() else folder
    checks: Checks = [
        ("versions", _versions),
        ("clock", lambda: _clock(folder, now)),
    ]
    if (folder / SITE_SETTINGS).exists():
        checks += _of_site(folder, now, network, seconds)
    elif (folder / COORDINATOR_SETTINGS).exists():
        checks += _of_coordinator(folder, now, network, seconds)
    elif (folder / "issued").is_dir():
        checks.append(("authority", lambda: _authority(folder, now)))
    else:
        raise SettingError(
            f"Expected {SITE_SETTINGS}, {COORDINATOR_SETTINGS} or an authority's certificates in {folder}, found none."
        )
    found: list[Finding] = []
    for name, check in checks:
        try:
            found += check()
        except LimbeckError as error:
            found.append(Finding(check=name, outcome=Outcome.FAIL, found=str(error), advice=_ADVICE.get(name, "")))
        except OSError as error:
            found.append(
                Finding(check=name, outcome=Outcome.FAIL, found=f"Cannot be read: {error}.", advice=_ADVICE.get(name, ""))
            )
        except Exception as error:
            # What is broken in a way that nobody thought of must not hide the findings about the rest.
            log.debug("Unexpected.", exc_info=error)
            told = f"Unexpected {type(error).__name__}: {printable(error)}"
            found.append(Finding(check=name, outcome=Outcome.FAIL, found=told, advice=_ADVICE.get(name, "")))
    return found


# What to do where a check ends in an error that does not say so itself.
_ADVICE = {
    "settings": "Mend the file; the keys that there are: docs/operate.md.",
    "policy": "Write one (limbeck policy init) or mend it; until then every plan is refused.",
    "ledger": "Stop, keep the files as they are, and find out what happened: docs/operate.md, incidents.",
    "transcript": "Stop, keep the files as they are, and find out what happened: docs/operate.md, incidents.",
    "public inputs": "Get the file again from whoever made the plan.",
    "plan": "Make it anew (limbeck plan make), or sign it (limbeck keys sign).",
}


def _of_site(folder: Path, now: datetime, network: bool, seconds: float) -> Checks:
    try:
        site = Site(folder)
    except LimbeckError as error:
        problem = Finding(check="settings", outcome=Outcome.FAIL, found=str(error), advice=_ADVICE["settings"])
        return [("settings", lambda: [problem])]
    checks: Checks = [("certificate", lambda: _site_certificate(site, now))]
    if network:
        checks.append(("coordinator", lambda: _reach_coordinator(site, now, seconds)))
    return [
        *checks,
        ("policy", lambda: _policy(site)),
        ("ledger", lambda: _ledger(site, now)),
        ("transcript", lambda: _transcript(site)),
        ("records", lambda: _records(site)),
        ("public inputs", lambda: _transfer_sets(folder / site.settings.transfer_sets)),
        ("files", lambda: _files(folder, _of_records(site))),
        ("disk", lambda: _disk({"state and transcript": folder, "ledger": site.ledger.parent})),
    ]


def _of_coordinator(folder: Path, now: datetime, network: bool, seconds: float) -> Checks:
    try:
        own = serve.read(folder / COORDINATOR_SETTINGS)
    except LimbeckError as error:
        problem = Finding(check="settings", outcome=Outcome.FAIL, found=str(error), advice=_ADVICE["settings"])
        return [("settings", lambda: [problem])]
    checks: Checks = [
        ("certificate", lambda: _pair(folder, own.ca, own.certificate, own.key, Role.SERVER, None, now)),
        ("sites", lambda: _sites(folder, own)),
    ]
    if network:
        checks.append(("port", lambda: _own_port(folder, own, seconds)))
    return [
        *checks,
        ("plan", lambda: _plan(folder, own)),
        ("public inputs", lambda: _transfer_sets(folder / own.transfer_sets)),
        ("files", lambda: _files(folder, (folder / own.folder,))),
        ("disk", lambda: _disk({"run": folder / own.folder})),
    ]


# Both sides.


def _versions() -> Findings:
    try:
        described = metadata.metadata("limbeck")
        wanted = [Requirement(text) for text in metadata.requires("limbeck") or []]
    except metadata.PackageNotFoundError:
        yield Finding(
            check="versions", outcome=Outcome.FAIL, found="limbeck is not installed.", advice="Install its wheel with pip."
        )
        return
    python = ".".join(map(str, sys.version_info[:3]))
    problems = (
        []
        if python in SpecifierSet(described["Requires-Python"])
        else [f"python{described['Requires-Python']}, got {python}"]
    )
    for own in wanted:
        if own.marker is not None and not own.marker.evaluate({"extra": ""}):
            continue
        installed = _version(own.name)
        if installed is None or not own.specifier.contains(installed, prereleases=True):
            problems.append(f"{own.name}{own.specifier}, got {installed or 'none'}")
    if problems:
        advice = (
            "Install what limbeck was tested with, the versions of constraints.txt: docs/operate.md, Upgrading, says how."
        )
        yield Finding(check="versions", outcome=Outcome.FAIL, found=f"Expected {'; '.join(problems)}.", advice=advice)
        return
    yield Finding(
        check="versions",
        outcome=Outcome.OK,
        found=", ".join([f"python {python}", *(f"{name} {_version(name)}" for name in SHOWN)]),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _clock(folder: Path, now: datetime) -> Findings:
    """A clock that was set back shows in files of the future; one that is ahead or behind by much, in certificates."""
    newest, path = max(_times(folder), default=(0.0, folder))
    ahead = datetime.fromtimestamp(newest, UTC) - now
    if ahead > CLOCK_TOLERANCE:
        yield Finding(
            check="clock",
            outcome=Outcome.FAIL,
            found=f"{path} was written {ahead.total_seconds():.0f} s in the future: the clock says {now:%Y-%m-%d %H:%M:%S} UTC.",
            advice="Set the clock by NTP (timedatectl set-ntp true); certificates, ledger and transcript rely on it.",
        )
        return
    yield Finding(check="clock", outcome=Outcome.OK, found=f"{now:%Y-%m-%d %H:%M:%S} UTC, no file from the future")


def _times(folder: Path) -> Iterator[tuple[float, Path]]:
    looked = 0
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            with contextlib.suppress(OSError):
                yield (Path(parent) / name).stat().st_mtime, Path(parent) / name
            looked += 1
            if looked >= FILES_LOOKED_AT:
                return


def _pair(folder: Path, ca: str, certificate: str, key: str, role: Role, name: str | None, now: datetime) -> Findings:
    """An end's certificate and private key, and the authority's certificate it holds."""
    own = certificates.read_certificate(folder / certificate)
    authority = certificates.read_certificate(folder / ca)
    certificates.check_certificate(own, authority=authority, role=role, name=name, now=now)
    certificates.check_key(certificates.read_key(folder / key), own)
    for each, advice in (
        (own, f"Make a new one: limbeck keys rotate {certificates.name_of(own)}, or keys request and approve --rotate."),
        (authority, "Begin a new authority, and give both to all before the old one ends."),
    ):
        days = (each.not_valid_after_utc - now).days
        until = f"{certificates.name_of(each)!r}, serial number {certificates.serial_of(each)}, until {each.not_valid_after_utc:%Y-%m-%d}"
        soon = days < EXPIRES_SOON_DAYS
        yield Finding(
            check="certificate" if each is own else "authority",
            outcome=Outcome.WARN if soon else Outcome.OK,
            found=f"{until}: {days} days left",
            advice=advice if soon else "",
        )


def _disk(folders: dict[str, Path]) -> Findings:
    for what, path in folders.items():
        there = next(own for own in (path, *path.absolute().parents) if own.exists())
        free = shutil.disk_usage(there).free
        if not os.access(there, os.W_OK | os.X_OK):
            yield Finding(
                check="disk",
                outcome=Outcome.FAIL,
                found=f"{what}: {there} cannot be written to.",
                advice="Make the folder the service's own (chown), and writable in its unit (ReadWritePaths).",
            )
            continue
        low = free < FREE_BYTES_WANTED
        yield Finding(
            check="disk",
            outcome=Outcome.FAIL if free < FREE_BYTES_NEEDED else Outcome.WARN if low else Outcome.OK,
            found=f"{what}: {_bytes(free)} free in {there}",
            advice="Make room: what cannot be written durably is not sent, and the run waits." if low else "",
        )


def _files(folder: Path, private: Sequence[Path]) -> Findings:
    """Whether others than the owner can change a file here, or read what is in `private`: files, those beside them that begin with their
    names, and folders. What is private to begin with limbeck makes so; an older one did not, and a copy may not be."""
    if _shielded(folder):
        return
    changed, read = [], []
    for path in _below(folder):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink() or not mode & OTHERS:
            continue
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            changed.append(path)
        elif any(own in path.parents or (path.parent == own.parent and path.name.startswith(own.name)) for own in private):
            read.append(path)
    for found, what, outcome in ((changed, "change", Outcome.FAIL), (read, "read", Outcome.WARN)):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            yield Finding(
                check="files",
                outcome=outcome,
                found=f"Others than its owner can {what} {found[0]}{more}.",
                advice=f"chmod -R go= {folder}, and find out who was on this machine.",
            )


def _of_records(site: Site) -> list[Path]:
    """What a site keeps that comes from its records."""
    own = site.settings
    return [site.ledger, site.folder / own.transcript, site.folder / own.state, *([site.cache] if site.cache else [])]


def _below(folder: Path) -> Iterator[Path]:
    for looked, path in enumerate(folder.rglob("*")):
        if looked >= FILES_LOOKED_AT:
            return
        yield path


def _shielded(path: Path) -> bool:
    """Whether others than the owner cannot even come to a folder: what lies below they can do nothing with."""
    return any(not stat.S_IMODE(own.stat().st_mode) & OTHERS for own in (path.resolve(), *path.resolve().parents))


def _transfer_sets(folder: Path) -> Findings:
    found = sorted(folder.glob("*.npz"))
    if not found:
        yield Finding(
            check="public inputs",
            outcome=Outcome.WARN,
            found=f"None in {folder}.",
            advice="Put HASH.npz there, as the plan's author published it; without it the plan is declined.",
        )
    for path in found:
        (x_N,) = read_arrays(path, "x")
        own = digest(x_N).hex()
        if own != path.stem:
            yield Finding(
                check="public inputs",
                outcome=Outcome.FAIL,
                found=f"{path} holds inputs of SHA-256 {own}.",
                advice=_ADVICE["public inputs"],
            )
        else:
            yield Finding(
                check="public inputs", outcome=Outcome.OK, found=f"{len(x_N)} of shape {x_N.shape[1:]}, {own[:16]}"
            )


# A site.


def _site_certificate(site: Site, now: datetime) -> Findings:
    link = site.settings.link
    if link is None:
        yield Finding(
            check="certificate",
            outcome=Outcome.WARN,
            found=f"No table [link] in {site.folder / SITE_SETTINGS}.",
            advice="Nothing to do if Flower carries this site's messages; `limbeck site run` needs it.",
        )
        return
    yield from _pair(site.folder, link.ca, link.certificate, link.key, Role.SITE, site.name, now)


def _reach_coordinator(site: Site, now: datetime, seconds: float) -> Findings:
    link = site.settings.link
    if link is None:
        return
    host = link.address.rpartition(":")[0].strip("[]")
    route = proxy.route(link.address, link.proxy)
    context = _context(site.folder / link.ca)
    try:
        context.load_cert_chain(site.folder / link.certificate, site.folder / link.key)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"Expected a certificate and its key for a connection to {link.address}: {error}.") from error
    found = _greet("coordinator", context, route, link.server_name or host, seconds, certified=True)
    yield found
    if found.outcome is Outcome.OK:
        yield from _clocks(site.folder, link, route, now, seconds)


def _clocks(folder: Path, own: LinkSettings, route: Route, now: datetime, seconds: float) -> Findings:
    """How far this clock is from the coordinator's, which tells it with its health."""
    pem = [(folder / name).read_bytes() for name in (own.ca, own.key, own.certificate)]
    options = [*route.options, *([("grpc.ssl_target_name_override", own.server_name)] if own.server_name else [])]
    with proxy.undisturbed():
        dialled = grpc.secure_channel(own.address, grpc.ssl_channel_credentials(*pem), options=options)
    with dialled as channel:
        try:
            _, call = health_pb2_grpc.HealthStub(channel).Check.with_call(health_pb2.HealthCheckRequest(), timeout=seconds)
            told = dict(call.initial_metadata()).get(link.CLOCK, "")
            ahead = now - datetime.fromtimestamp(float(told), UTC)
        except (grpc.RpcError, ValueError, OverflowError):
            return
    how = f"{abs(ahead.total_seconds()):.0f} s {'ahead of' if ahead > timedelta(0) else 'behind'} the coordinator's"
    if abs(ahead) > CLOCK_TOLERANCE:
        yield Finding(
            check="clock",
            outcome=Outcome.WARN,
            found=f"This machine's clock is {how}.",
            advice="Set the one that is wrong by NTP (timedatectl set-ntp true): certificates end by the one, and begin by the other.",
        )
    else:
        yield Finding(check="clock", outcome=Outcome.OK, found=f"{how}, within {CLOCK_TOLERANCE}")


def _policy(site: Site) -> Findings:
    own = site.policy()
    budget = own.budget
    costs = f"at most epsilon = {budget.epsilon:g} at delta = {budget.delta:g} in all, per {budget.unit}, {budget.adjacency}"
    if isinstance(own, policies.UnsafePermissive):
        yield Finding(
            check="policy",
            outcome=Outcome.WARN,
            found=f"{own.name!r} is UnsafePermissive: any plan by anybody, {costs}",
            advice="For simulations only: write a policy (limbeck policy init).",
        )
        return
    authors, answers = own.plans.authors, own.answers
    who = "plans by anybody" if authors == "any" else f"plans by {len(authors)} authors"
    yield Finding(
        check="policy",
        outcome=Outcome.OK,
        found=f"{own.name!r} allows {who}, {costs}; answers of {answers.max_bits} bits, {answers.max_k} classes",
    )
    for wrong, found, advice in (
        (not authors, "It accepts nobody's plan.", "Put the public keys of plan authors you trust into plans.authors."),
        (authors == "any", "It accepts plans that nobody signed.", "List the public keys of plan authors you trust."),
        (
            own.data_set == PLACEHOLDER_DATA_SET,
            f"The records are named {own.data_set!r}.",
            "Name them once, before the first plan.",
        ),
        (
            own.allows_without_dp,
            "It allows answers without any privacy guarantee.",
            "Nothing to do if the owner means that.",
        ),
    ):
        if wrong:
            yield Finding(check="policy", outcome=Outcome.WARN, found=found, advice=advice)


def _ledger(site: Site, now: datetime) -> Findings:
    budget = site.budget
    book = site.check_ledger(every_line=True)
    if book is None:
        yield Finding(check="ledger", outcome=Outcome.OK, found=f"None yet at {site.ledger}: nothing was spent")
        return
    if (book.terms.data_set, book.terms.delta) != (budget.data_set, budget.delta):
        raise SettingError(
            f"Expected a ledger of {budget.data_set!r} at delta = {budget.delta:g}, as the policy says,"
            f" found one of {book.terms.data_set!r} at {book.terms.delta:g}."
        )
    newest = max((datetime.fromisoformat(entry.time) for entry in book.entries), default=now)
    if newest - now > CLOCK_TOLERANCE:
        yield Finding(
            check="clock",
            outcome=Outcome.FAIL,
            found=f"The ledger's last entry is of {newest:%Y-%m-%d %H:%M:%S} UTC, in the future.",
            advice="Set the clock.",
        )
    spent = book.spent()
    if not math.isfinite(spent):
        yield Finding(
            check="ledger",
            outcome=Outcome.WARN,
            found="Answers without any guarantee were released: no epsilon holds for these records.",
            advice="limbeck ledger show says when and why.",
        )
        return
    nearly = spent >= BUDGET_NEARLY_SPENT * budget.epsilon
    yield Finding(
        check="ledger",
        outcome=Outcome.WARN if nearly else Outcome.OK,
        found=f"{len(book.rows)} rows, intact; epsilon = {spent:.4g} of {budget.epsilon:g} spent at {book.terms}"
        f" (had all plans been fixed beforehand: {book.spent_if_fixed():.4g}); head {book.head[:16]}",
        advice="Little is left: plans will be declined for their cost." if nearly else "",
    )
    left = [entry.id for entry in book.entries if entry.state == "reserved"]
    if left:
        yield Finding(
            check="ledger",
            outcome=Outcome.WARN,
            found=f"Reserved and not committed: {', '.join(map(str, left))}. It is under way, or came to nothing: it is spent,"
            " and the training may be done again under the same charge.",
        )


def _transcript(site: Site) -> Findings:
    transcript, own = site.transcript, site.settings
    sent = list(transcript)
    size, bound = sum(path.stat().st_size for path in transcript.files()), own.transcript_total_bytes
    nearly = size >= BUDGET_NEARLY_SPENT * bound
    yield Finding(
        check="transcript",
        outcome=Outcome.WARN if nearly else Outcome.OK,
        found=f"{len(sent)} messages, intact; {_bytes(size)} of {_bytes(bound)}",
        advice="Move its oldest files elsewhere: beyond the bound nothing is sent." if nearly else "",
    )


def _records(site: Site) -> Findings:
    own = site.settings.records
    if not isinstance(own, str) and own.reader is not None:
        yield Finding(check="records", outcome=Outcome.OK, found=f"read by {own.reader}, which was not called")
        return
    encoding = None if isinstance(own, str) else own.encoding
    if encoding is not None and not (site.folder / encoding).is_file():
        yield Finding(
            check="records",
            outcome=Outcome.FAIL,
            found=f"No public encoding at {site.folder / encoding}.",
            advice="Get the file from whoever made the plan: records that are encoded otherwise are not what it is about.",
        )
    elif not isinstance(own, str):
        try:
            encoder = records.public_encoder(own, site.folder)
            if encoder is not None:
                encoders.check_files(encoder, own.encoder, site.folder)
        except DataError as error:
            yield Finding(
                check="records",
                outcome=Outcome.FAIL,
                found=str(error),
                advice="Plans with this encoding are declined until records.encoder names the encoder that it is about.",
            )
    path = site.folder / str(own if isinstance(own, str) else own.path)
    if not path.exists():
        yield Finding(
            check="records",
            outcome=Outcome.FAIL,
            found=f"None at {path}.",
            advice=f"Put them there, or say in {SITE_SETTINGS} where they are.",
        )
        return
    needed = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
    if not os.access(path, needed):
        yield Finding(
            check="records",
            outcome=Outcome.FAIL,
            found=f"{path} cannot be read.",
            advice="Give the service's user leave to read them.",
        )
        return
    # What lies in a folder that others cannot enter, they cannot read.
    mode = stat.S_IMODE(path.stat().st_mode)
    shielded = any(not stat.S_IMODE(own.stat().st_mode) & OTHERS for own in path.absolute().parents)
    if mode & OTHERS and not shielded:
        yield Finding(
            check="records",
            outcome=Outcome.WARN,
            found=f"{path} is open to others than its owner, mode {mode:03o}.",
            advice=f"chmod {'700' if path.is_dir() else '600'} {path}",
        )
        return
    yield Finding(check="records", outcome=Outcome.OK, found=f"{path} is there and readable; not read")


# A coordinator.


def _sites(folder: Path, own: CoordinatorSettings) -> Findings:
    for name in own.sites:
        certificates.check_site_name(name)
    double = {name for name in own.sites if own.sites.count(name) > 1}
    if double:
        raise SettingError(f"Expected every site once, got {', '.join(sorted(double))} more often.")
    revoked = keys.read_revoked(folder / own.revoked) if own.revoked is not None else []
    yield Finding(
        check="sites",
        outcome=Outcome.OK if own.revoked is not None else Outcome.WARN,
        found=f"{len(own.sites)} may connect: {', '.join(own.sites[:10])}{' ...' if len(own.sites) > 10 else ''};"
        f" {len(revoked)} certificates are revoked",
        advice=""
        if own.revoked is not None
        else "Name the authority's list as `revoked`; without it no certificate can be taken back.",
    )


def _own_port(folder: Path, own: CoordinatorSettings, seconds: float) -> Findings:
    """Whether the coordinator answers where it is to listen, with the certificate that is in its folder."""
    host, _, port = own.listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host.strip("[]"), host.strip("[]"))
    certificate = certificates.read_certificate(folder / own.certificate)
    dns, addresses = certificates.names_of(certificate)
    if not (dns or addresses):
        raise CertificateError(f"Expected a certificate that names the coordinator in {folder / own.certificate}, got none.")
    found = _greet(
        "port",
        _context(folder / own.ca),
        Route(address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}"),
        [*dns, *addresses][0],
        seconds,
        certified=False,
        expected=certificate,
    )
    if found.found.startswith(_REFUSED):
        yield Finding(
            check="port", outcome=Outcome.WARN, found=f"Nothing listens at {own.listen} yet.", advice="Start it: ./start.sh"
        )
    else:
        yield found


def _plan(folder: Path, own: CoordinatorSettings) -> Findings:
    path = folder / "plan.pb"
    if not path.exists():
        yield Finding(
            check="plan", outcome=Outcome.WARN, found=f"None at {path}.", advice="limbeck plan make, or give its path."
        )
        return
    offer = codec.decode_offer(path.read_bytes())
    plan, privacy = offer.plan, offer.plan.privacy
    cost = accounting.epsilon(((plan.teaching, plan.counts),), privacy.delta)
    terms = f"delta = {privacy.delta:g}, per {privacy.unit.value}, {privacy.adjacency.value}"
    signed = f"signed by {offer.author.hex()[:16]}" if offer.author else "not signed"
    yield Finding(
        check="plan",
        outcome=Outcome.OK,
        found=f"{plan.name!r}, {codec.plan_hash(plan).hex()[:16]}, {signed}; costs epsilon = {cost:.4g} at {terms}",
    )
    yield from _plan_problems(folder, own, offer)


def _plan_problems(folder: Path, own: CoordinatorSettings, offer: Offer) -> Findings:
    inputs = folder / own.transfer_sets / f"{offer.plan.transfer_set.hex()}.npz"
    for wrong, found, advice in (
        (not offer.author, "It is not signed: sites decline it.", "limbeck keys sign plan.pb --key plan.key"),
        (
            offer.plan.minimum_clients > len(own.sites),
            f"It needs {offer.plan.minimum_clients} sites, and {len(own.sites)} may connect.",
            f"Name the others in {COORDINATOR_SETTINGS}, or make a plan for fewer.",
        ),
        (
            not inputs.exists(),
            f"Its public inputs are not at {inputs}.",
            "Put the file there that limbeck plan make published.",
        ),
    ):
        if wrong:
            yield Finding(check="plan", outcome=Outcome.FAIL, found=found, advice=advice)


# An authority.


def _authority(folder: Path, now: datetime) -> Findings:
    authority = keys.Authority(folder)
    certificates.check_key(certificates.read_key(folder / "ca.key"), authority.certificate)
    issued = authority.issued(now)
    newest = {own.name: own for own in issued if own.state == "valid"}
    until = f"{authority.certificate.not_valid_after_utc:%Y-%m-%d}"
    yield Finding(
        check="authority",
        outcome=Outcome.OK,
        found=f"{len(issued)} certificates made, {len(newest)} names with a valid one; the authority itself until {until}",
    )
    for own in newest.values():
        if keys.expires_within(own.certificate, EXPIRES_SOON_DAYS, now):
            yield Finding(
                check="authority",
                outcome=Outcome.WARN,
                found=f"{own.name!r} ends on {own.certificate.not_valid_after_utc:%Y-%m-%d}.",
                advice=f"limbeck keys rotate {own.name}",
            )


# Connections.

_REFUSED = "Nothing listens"
_PROXY_ADVICE = 'Correct the proxy, or let the site dial directly (link.proxy = "none") where a firewall allows that.'
_VERIFY_ADVICE = {
    9: "The coordinator's certificate is not valid yet: set the clocks.",
    10: "The coordinator's certificate has expired: limbeck keys rotate, at the authority.",
    18: "The coordinator is of another authority: both sides must hold the same ca.pem.",
    19: "The coordinator is of another authority: both sides must hold the same ca.pem.",
    20: "The coordinator is of another authority: both sides must hold the same ca.pem.",
    62: "Dial it by a name in its certificate, set link.server_name, or make a certificate for this name.",
    64: "Dial it by an address in its certificate, set link.server_name, or make a certificate for this address.",
}


def _context(ca: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"Expected the authority's certificate (PEM) in {ca}: {error}.") from error
    return context


def _greet(
    check: str,
    context: ssl.SSLContext,
    route: Route,
    name: str,
    seconds: float,
    *,
    certified: bool,
    expected: x509.Certificate | None = None,
) -> Finding:
    """Connect by the way that the link takes, shake hands, and where we have a certificate see whether it is taken, all in bounded time.

    In TLS 1.3 a client's certificate is refused only after its own handshake is over: so the first bytes of HTTP/2 are exchanged too.
    """

    def failed(found: str, advice: str) -> Finding:
        return Finding(check=check, outcome=Outcome.FAIL, found=found, advice=advice)

    where = route.address
    by = f" through the proxy {route.proxy_address} ({route.why})" if route.proxy else f" ({route.why})" if route.why else ""
    try:
        with route.connect(seconds) as plain:
            try:
                with context.wrap_socket(plain, server_hostname=name) as secure:
                    shown = secure.getpeercert(binary_form=True)
                    if certified:
                        secure.sendall(HTTP2_HELLO)
                        if not secure.recv(1):
                            return failed(
                                f"{where} closed the connection after the handshake.", "See the coordinator's log."
                            )
                    protocol, version = secure.selected_alpn_protocol(), secure.version()
            except ssl.SSLCertVerificationError as error:
                advice = _VERIFY_ADVICE.get(
                    error.verify_code, "Compare ca.pem and the names in the coordinator's certificate."
                )
                return failed(f"{where} shows a certificate that is not good for {name!r}: {error.verify_message}.", advice)
            except ssl.SSLError as error:
                reason = (error.reason or str(error)).replace("_", " ").lower()
                advice = (
                    "Is this certificate of the coordinator's authority, valid and not revoked? Does the port speak TLS 1.3?"
                )
                return failed(f"{where} ended the handshake: {reason}.", advice)
            except TimeoutError:
                return failed(
                    f"{where} took the connection and then said nothing for {seconds:g} s.", "Is that the coordinator?"
                )
            except OSError as error:
                return failed(
                    f"{where} broke the connection in the handshake: {error}.", "Is that the coordinator? See its log."
                )
    except socket.gaierror as error:
        return failed(
            f"The name of {route.proxy_address if route.proxy else where} cannot be resolved: {error.strerror}.",
            "Correct the address in [link], or that of the proxy, or the DNS.",
        )
    except TimeoutError:
        return failed(
            f"No connection to {where} within {seconds:g} s{by}.", "Does a firewall let this machine out to that port?"
        )
    except ConnectionRefusedError:
        if route.proxy:
            return failed(f"No proxy listens at {route.proxy_address} ({route.why}).", _PROXY_ADVICE)
        return failed(f"{_REFUSED} at {where}{by}.", "Is the coordinator started, and is this its port?")
    except SettingError as error:
        return failed(str(error), _PROXY_ADVICE)
    except OSError as error:
        return failed(f"No connection to {where}: {error}.", "Is there a route to that host?")
    if expected is not None and shown is not None and shown != expected.public_bytes(Encoding.DER):
        return Finding(
            check=check,
            outcome=Outcome.WARN,
            found=f"{where} shows another certificate than the one in this folder.",
            advice="Start the coordinator again: it reads its certificate when it starts.",
        )
    if protocol != "h2":
        return Finding(
            check=check, outcome=Outcome.WARN, found=f"{where} answers, but not as gRPC does.", advice="Is that its port?"
        )
    taken = ", and takes this certificate" if certified else ""
    return Finding(check=check, outcome=Outcome.OK, found=f"{where} answers as {name!r} by {version}{by}{taken}")


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether nothing failed."""
    return all(own.outcome is not Outcome.FAIL for own in findings)
