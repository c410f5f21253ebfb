"""The checks of a coordinator: its certificate and port, the sites that may connect, its plan and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from limbeck.base.errors import CertificateError, SettingError
from limbeck.base.findings import Findings, fail, ok, warn
from limbeck.client.proxy import Route
from limbeck.deployment import certificates, keys
from limbeck.deployment.bringup import COORDINATOR_SETTINGS
from limbeck.deployment.certificates import Role
from limbeck.deployment.doctor import connection, shared
from limbeck.deployment.doctor.checks import Examination, Side, check
from limbeck.deployment.doctor.connection import Reach
from limbeck.plans import accounting
from limbeck.protos import codec
from limbeck.server import serve
from limbeck.server.serve import CoordinatorSettings

PLAN = "plan.pb"
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


@check("plan", advice="Make a new one (limbeck plan make), or sign it (limbeck keys sign).")
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
        yield fail("It is not signed: sites decline it.", f"limbeck keys sign {PLAN} --key plan.key")
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


@check("disk")
def disk(coordinator: Coordinator, examination: Examination) -> Findings:
    """Whether there is room for the run."""
    return shared.disk({"run": coordinator.folder / coordinator.settings.folder})


SIDE = Side(
    owns=lambda folder: (folder / COORDINATOR_SETTINGS).exists(),
    open=_open,
    checks=(certificate, sites, port, plan, public_inputs, files, disk),
)
