"""The checks of a coordinator: its certificate, address and port, the sites that may connect, its plan and its files."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from limbeck.base.errors import CertificateError, SettingError
from limbeck.base.files import is_held
from limbeck.base.findings import Findings, fail, ok, warn
from limbeck.client.proxy import Route, is_loopback
from limbeck.deployment import certificates, keys
from limbeck.deployment.bringup import COORDINATOR_SETTINGS
from limbeck.deployment.certificates import Role
from limbeck.deployment.doctor import connection, shared
from limbeck.deployment.doctor.checks import Examination, Side, check
from limbeck.deployment.doctor.connection import Reach
from limbeck.plans import accounting
from limbeck.protos import codec
from limbeck.server import record, serve
from limbeck.server.app import LOCK
from limbeck.server.serve import RECORD, CoordinatorSettings

PLAN = "plan.pb"
CHANGED_PLAN_ADVICE = (
    "It is not as its author made it. Fetch the author's copy again, and compare the hash that `limbeck plan show` prints with the one that"
    " the author tells you. Do not make it good by a signature of your own: sites would decline it, or accept what was changed."
)
LAST_PORT = 65535
SITES_SHOWN = 10
# Where a listener on all addresses is reached from its own machine.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


@dataclass(frozen=True, slots=True)
class Coordinator:
    """A coordinator's folder and its settings."""

    folder: Path
    settings: CoordinatorSettings


def _open(folder: Path) -> Coordinator:
    return Coordinator(folder, serve.read(folder / COORDINATOR_SETTINGS))


@check("certificate")
def certificate(coordinator: Coordinator, examination: Examination) -> Findings:
    """Whether the coordinator's certificate and key are good for its port."""
    settings = coordinator.settings
    return shared.key_pair(
        coordinator.folder, settings.ca, settings.certificate, settings.key, Role.SERVER, None, examination.now
    )


@check("sites")
def sites(coordinator: Coordinator, examination: Examination) -> Findings:
    """Which sites may connect, and whether a certificate can be revoked."""
    names, revoked = coordinator.settings.sites, coordinator.settings.revoked
    for name in names:
        certificates.check_site_name(name)
    double = {name for name in names if names.count(name) > 1}
    if double:
        raise SettingError(f"Expected every site once, got {', '.join(sorted(double))} more often.")
    serials = keys.read_revoked(coordinator.folder / revoked) if revoked is not None else []
    found = (
        f"{len(names)} may connect: {', '.join(names[:SITES_SHOWN])}{' ...' if len(names) > SITES_SHOWN else ''};"
        f" {len(serials)} certificates are revoked"
    )
    if revoked is not None:
        yield ok(found)
    else:
        yield warn(found, "Name the authority's list as `revoked`; without it no certificate can be taken back.")


@check("address", advice="Correct `listen` in coordinator.toml.")
def address(coordinator: Coordinator, examination: Examination) -> Findings:
    """Whether the coordinator can listen where its settings say, as this user, and is reached there under a name of its certificate."""
    folder, settings = coordinator.folder, coordinator.settings
    host, _, number = settings.listen.rpartition(":")
    host, port = host.strip("[]"), int(number)
    if not 1 <= port <= LAST_PORT:
        yield fail(f"Sites dial one port from 1 to {LAST_PORT}, got {port}.", "Correct `listen`.")
        return
    problem = _problem_of_binding(host, port)
    if problem is not None and problem.errno == errno.EADDRINUSE and is_held(folder / settings.folder / LOCK):
        yield ok(f"{settings.listen} is in use by the coordinator that is running")
    elif problem is not None:
        yield fail(
            f"Cannot listen at {settings.listen}: {problem.strerror or problem}.",
            _BINDING_ADVICE.get(problem.errno or 0, "Correct `listen`."),
        )
    elif port < (first := _first_unprivileged_port()) and os.geteuid() == 0:
        yield warn(
            f"{settings.listen} is free for root; below {first} another user may not listen.",
            "Take a port from 1024 on, or let the unit keep CAP_NET_BIND_SERVICE (AmbientCapabilities, CapabilityBoundingSet).",
        )
    else:
        yield ok(f"{settings.listen} is free")
    yield from _names_for(folder, settings, host)


def _names_for(folder: Path, settings: CoordinatorSettings, host: str) -> Findings:
    """Whether the certificate's names lead to where the coordinator listens."""
    dns, addresses = certificates.names_of(certificates.read_certificate(folder / settings.certificate))
    elsewhere = [name for name in (*dns, *addresses) if not is_loopback(f"{name}:0")]
    if is_loopback(f"{host}:0") and elsewhere:
        yield warn(
            f"It listens on this machine only, and its certificate names {', '.join(elsewhere)}: no site elsewhere can connect.",
            "Listen on 0.0.0.0, or on the address that sites reach.",
        )
    elif host not in _LOOPBACK and not dns and addresses and host not in addresses:
        yield warn(
            f"It listens on {host}, and its certificate names {', '.join(addresses)} only.",
            "Sites must reach it under a name or an address in its certificate: limbeck keys init --server, --server-ip.",
        )


def _problem_of_binding(host: str, port: int) -> OSError | None:
    """What keeps this process from listening there, now; nothing is accepted meanwhile."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return error
    first: OSError | None = None
    for family, kind, protocol, _, where in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(where)
                return None
        except OSError as error:
            first = first or error
    return first


def _first_unprivileged_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024


_BINDING_ADVICE = {
    errno.EADDRINUSE: "Another program listens there (ss -ltnp names it): stop it, or take another port on both sides.",
    errno.EACCES: "Take a port from 1024 on, or let the unit keep CAP_NET_BIND_SERVICE (AmbientCapabilities, CapabilityBoundingSet).",
    errno.EADDRNOTAVAIL: "That address is not this machine's (ip addr lists them): 0.0.0.0 listens on all of them.",
}


@check("port", network=True)
def port(coordinator: Coordinator, examination: Examination) -> Findings:
    """Whether the coordinator answers where it is to listen, with the certificate that is in its folder."""
    folder, settings = coordinator.folder, coordinator.settings
    host, _, number = settings.listen.rpartition(":")
    host = _LOOPBACK.get(host.strip("[]"), host.strip("[]"))
    expected = certificates.read_certificate(folder / settings.certificate)
    dns, addresses = certificates.names_of(expected)
    if not (dns or addresses):
        raise CertificateError(
            f"Expected a certificate that names the coordinator in {folder / settings.certificate}, got none."
        )
    greeting = connection.greet(
        connection.context(folder / settings.ca),
        Route(address=f"[{host}]:{number}" if ":" in host else f"{host}:{number}"),
        [*dns, *addresses][0],
        examination.seconds,
        certified=False,
        expected=expected,
    )
    if greeting.reach is Reach.NOTHING_LISTENS:
        yield warn(f"Nothing listens at {settings.listen} yet.", "Start it: ./start.sh")
    else:
        yield greeting.finding


@check("plan", advice=CHANGED_PLAN_ADVICE)
def plan(coordinator: Coordinator, examination: Examination) -> Findings:
    """What the plan costs the sites, and whether they can accept it."""
    folder, settings = coordinator.folder, coordinator.settings
    path = folder / PLAN
    if not path.exists():
        yield warn(f"None at {path}.", "limbeck plan make, or give its path.")
        return
    offer = codec.decode_offer(path.read_bytes())
    offered, privacy = offer.plan, offer.plan.privacy
    cost = accounting.epsilon(((offered.teaching, offered.counts),), privacy.delta)
    terms = f"delta = {privacy.delta:g}, per {privacy.unit.value}, {privacy.adjacency.value}"
    signed = f"signed by {offer.author.hex()[:16]}" if offer.author else "not signed"
    yield ok(f"{offered.name!r}, {codec.plan_hash(offered).hex()[:16]}, {signed}; costs epsilon = {cost:.4g} at {terms}")
    if not offer.author:
        yield fail(
            "It is not signed: sites decline it.",
            "Fetch the author's copy: a plan is signed by its author, where plan.key is, and nowhere else.",
        )
    running = folder / settings.folder / RECORD
    if running.exists() and (begun := record.read(running).plan_hash) != codec.plan_hash(offered).hex():
        yield fail(
            f"{settings.folder} holds a run of plan {begun[:16]}, and this is another plan.",
            f"For a new plan, name another `folder` in {COORDINATOR_SETTINGS}. If it was to be the same plan, fetch the author's copy.",
        )
    if offered.minimum_clients > len(settings.sites):
        yield fail(
            f"It needs {offered.minimum_clients} sites, and {len(settings.sites)} may connect.",
            f"Name the others in {COORDINATOR_SETTINGS}, or make a plan for fewer.",
        )
    inputs = folder / settings.transfer_sets / f"{offered.transfer_set.hex()}.npz"
    if not inputs.exists():
        yield fail(f"Its public inputs are not at {inputs}.", "Put the file there that limbeck plan make published.")


@check("public inputs", advice=shared.INPUTS_ADVICE)
def public_inputs(coordinator: Coordinator, examination: Examination) -> Findings:
    """Whether the public inputs of plans are what their names say."""
    return shared.public_inputs(coordinator.folder / coordinator.settings.transfer_sets)


@check("files")
def files(coordinator: Coordinator, examination: Examination) -> Findings:
    """Whether others can change the coordinator's files, or read what sites answered."""
    return shared.files(coordinator.folder, (coordinator.folder / coordinator.settings.folder,))


@check("modes")
def modes(coordinator: Coordinator, examination: Examination) -> Findings:
    """Whether somebody else could put other settings, keys or folders in the place of the coordinator's."""
    folder, settings = coordinator.folder, coordinator.settings
    return shared.modes(folder, [folder / name for name in (COORDINATOR_SETTINGS, settings.key, settings.revoked) if name])


@check("disk")
def disk(coordinator: Coordinator, examination: Examination) -> Findings:
    """Whether there is room for the run."""
    return shared.disk({"run": coordinator.folder / coordinator.settings.folder})


SIDE = Side(
    owns=lambda folder: (folder / COORDINATOR_SETTINGS).exists(),
    open=_open,
    checks=(certificate, sites, address, port, plan, public_inputs, files, modes, disk),
)
