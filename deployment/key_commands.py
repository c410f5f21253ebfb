"""`limbeck keys`: the authority, the coordinator's and the sites' certificates, and the keys that sign plans."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.base.errors import CertificateError, DataError, SettingError, WireError
from limbeck.base.files import check_private, write_durably
from limbeck.base.printable import plain_console
from limbeck.deployment.defaults import AUTHORITY_DAYS, DAYS

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from rich.console import Console

    from limbeck.deployment import keys

app = typer.Typer(
    help="""Certificates of the coordinator and the sites, and keys that sign plans.

    \b
    Examples:
      limbeck keys init --server limbeck.example.org
      limbeck keys request north
      limbeck keys approve north.csr north
    """,
    no_args_is_help=True,
)

Days = Annotated[int, typer.Option(min=1, help="Days for which the certificate is valid.")]
Folder = Annotated[Path, typer.Option("--keys", metavar="DIR", help="The authority's folder.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The site's name, as in its site.toml.")]


@app.command("init")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")] = Path("keys"),
    server: Annotated[
        list[str], typer.Option(help="A DNS name of the coordinator, as sites connect to it; repeat for more.")
    ] = [],  # noqa: B006 - typer reads it
    server_ip: Annotated[list[str], typer.Option(help="An IP address of the coordinator; repeat for more.")] = [],  # noqa: B006
    days: Days = DAYS,
    authority_days: Annotated[
        int, typer.Option(min=1, help="Days for which the authority itself is valid.")
    ] = AUTHORITY_DAYS,
) -> None:
    """Make a certificate authority and the coordinator's certificate.

    Whoever holds DIR/ca.key can issue certificates for sites: keep DIR off the coordinator's machine.

    \b
    Examples:
      limbeck keys init --server limbeck.example.org
      limbeck keys init authority --server localhost --server-ip 127.0.0.1
    """
    from limbeck.deployment import certificates, keys

    authority = keys.init(
        folder, names=server, addresses=server_ip, days=days, authority_days=authority_days, now=datetime.now(UTC)
    )
    print(
        f"{folder}: the authority {certificates.name_of(authority.certificate)!r}, {certificates.fingerprint(authority.certificate)}"
    )
    print(f"{folder / 'server'}: to be taken to the coordinator")


@app.command("node")
def node(name: Name, folder: Folder = Path("keys"), days: Days = DAYS) -> None:
    """Make a site's key pair and certificate here.

    It is better if the site makes its own key: `limbeck keys request` there, `limbeck keys approve` here.

    \b
    Examples:
      limbeck keys node north
      limbeck keys node north --keys authority --days 90
    """
    from limbeck.deployment import keys

    print(
        f"{keys.Authority(folder).node(name, days=days, now=datetime.now(UTC))}: to be taken to {name}, then to be deleted here"
    )


@app.command("request")
def request(name: Name, out: Annotated[Path, typer.Option(help="The folder for key and request.")] = Path("keys")) -> None:
    """At a site: make a key that never leaves the site, and a certificate request to send to the authority.

    \b
    Examples:
      limbeck keys request north
      limbeck keys request north --out site/keys
    """
    from limbeck.deployment import keys

    path, fingerprint = keys.request(name, out)
    print(f"{path}: to be sent to the authority; {out / (name + '.key')} stays here")
    print(f"fingerprint {fingerprint}: the authority must see the same, compare by another way than the file's")


@app.command("approve")
def approve(
    request_file: Annotated[Path, typer.Argument(metavar="FILE.csr", help="A site's request.")],
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="The site that you know the request to come from; a request for another name is refused."
        ),
    ],
    fingerprint: Annotated[
        str | None, typer.Option(help="The fingerprint that the site told you; a request with another is refused.")
    ] = None,
    rotate: Annotated[bool, typer.Option("--rotate", help="The site already has a certificate and is renewing it.")] = False,
    revoke_old: Annotated[bool, typer.Option("--revoke-old", help="Revoke the site's other certificates.")] = False,
    folder: Folder = Path("keys"),
    days: Days = DAYS,
) -> None:
    """Make a certificate for a key that a site made and kept.

    \b
    Examples:
      limbeck keys approve north.csr north
      limbeck keys approve north.csr north --rotate --revoke-old
    """
    from limbeck.deployment import certificates, keys

    asked, now = certificates.read_request(request_file), datetime.now(UTC)
    received = certificates.fingerprint(asked)
    if fingerprint is not None and fingerprint.strip().lower() != received:
        raise CertificateError(
            f"Expected a request of fingerprint {fingerprint}, got {received}: this is not the site's own request."
        )
    authority = keys.Authority(folder)
    made = authority.approve(asked, name, days=days, rotate=rotate, now=now)
    print(f"{made}: to be taken to {name}; made for the key {received}")
    if revoke_old:
        _revoke_others(authority, name, made / f"{name}.pem", now)


@app.command("plan")
def plan_key(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write the private key to.")] = Path("plan.key"),
) -> None:
    """Make a key that signs plans, and print the public key that sites list as an author in their policies.

    \b
    Examples:
      limbeck keys plan
      limbeck keys plan author/plan.key
    """
    from limbeck.protos import signing

    print(_author_line(signing.new_key(path)))


@app.command("sign")
def sign(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan's file, plan.pb.")],
    key: Annotated[Path, typer.Option(help="The private key that `limbeck keys plan` made.")],
    out: Annotated[Path | None, typer.Option(help="The file to write the signed plan to; default: PLAN itself.")] = None,
) -> None:
    """Sign a plan, or replace its signature by another author's. The plan itself, and with it the name of its run, stays the same.

    \b
    Examples:
      limbeck keys sign plan.pb --key plan.key
      limbeck keys sign plan.pb --key plan.key --out signed.pb
    """
    from limbeck.protos import codec, signing

    try:
        offer = codec.decode_offer(plan.read_bytes())
    except OSError as error:
        raise DataError(f"Expected a plan at {plan}: {error}.") from error
    signed = codec.signed_offer(offer.plan, signing.read_key(key))
    write_durably(out or plan, codec.encode_request(signed))
    before = f", was {'signed by ' + offer.author.hex() if offer.author else 'not signed'}"
    print(f"{out or plan}: signed by {signed.author.hex()}{before}")


@app.command("show")
def show(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="An authority's folder, a certificate, a request, a key or a plan.")
    ],
) -> None:
    """Show whose a certificate, key or plan is, how long it is valid, and its fingerprint. Never prints a private key.

    \b
    Examples:
      limbeck keys show keys
      limbeck keys show plan.key plan.pb
    """
    console = plain_console()
    for path in paths:
        if path.is_dir():
            _show_authority(console, path)
        else:
            for line in _described(path):
                console.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command("rotate")
def rotate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A site's name, or the coordinator's.")],
    revoke_old: Annotated[
        bool, typer.Option("--revoke-old", help="Revoke the certificates it had before; otherwise they stay valid.")
    ] = False,
    folder: Folder = Path("keys"),
    days: Days = DAYS,
) -> None:
    """Make a new key and certificate for a name that already has one.

    \b
    Examples:
      limbeck keys rotate north
      limbeck keys rotate north --revoke-old --keys authority
    """
    from limbeck.deployment import keys

    authority, now = keys.Authority(folder), datetime.now(UTC)
    made = authority.rotate(name, days=days, now=now)
    print(f"{made}: new, to be taken to {name}")
    if revoke_old:
        stem = "server" if made == folder / "server" else name
        _revoke_others(authority, name, made / f"{stem}.pem", now)


@app.command("revoke")
def revoke(
    which: Annotated[
        str, typer.Argument(metavar="NAME|SERIAL", help="A name, for all its certificates, or the serial number of one.")
    ],
    folder: Folder = Path("keys"),
) -> None:
    """Add certificates to the list of revoked ones, DIR/revoked. Copy that file to the coordinator, which reads it.

    \b
    Examples:
      limbeck keys revoke north
      limbeck keys revoke 4f:1c:a0 --keys authority
    """
    from limbeck.deployment import keys

    _say_revoked(folder, keys.Authority(folder).revoke(which, now=datetime.now(UTC)))


def _revoke_others(authority: keys.Authority, name: str, new: Path, now: datetime) -> None:
    from limbeck.deployment import certificates

    serial = certificates.serial_of(certificates.read_certificate(new))
    _say_revoked(authority.folder, authority.revoke(name, but=serial, now=now))


def _say_revoked(folder: Path, serials: list[str]) -> None:
    print(f"revoked: {', '.join(serials) or 'nothing that was not revoked or expired before'}")
    print(f"{folder / 'revoked'}: copy it to the coordinator, which refuses what it lists")


def _show_authority(console: Console, folder: Path) -> None:
    from limbeck.base.listing import listing
    from limbeck.deployment import certificates, keys

    authority, now = keys.Authority(folder), datetime.now(UTC)
    for line in _certificate(authority.certificate):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    rows = []
    for issued in authority.issued(now):
        certificate = issued.certificate
        role, until = certificates.role_of(certificate), f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        serial = certificates.serial_of(certificate)
        rows.append([issued.name, role.value if role else "?", issued.state.value, until, serial])
    listing(console, ["name", "role", "state", "until", "serial number"], sorted(rows), below=["serial number"])


def _described(path: Path) -> list[str]:
    """Describe a file according to its content. Raises: SettingError if it is none of the files that limbeck makes."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from limbeck.deployment import certificates
    from limbeck.protos import codec

    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingError(
            f"Expected a certificate, a request, a key or a plan at {path}: {error.strerror or error}."
        ) from error
    if b"BEGIN CERTIFICATE REQUEST" in data:
        request = certificates.read_request(path)
        return [f"request of {certificates.name_of(request)!r}", f"fingerprint {certificates.fingerprint(request)}"]
    if b"BEGIN CERTIFICATE" in data:
        return _certificate(certificates.read_certificate(path))
    if b"PRIVATE KEY" in data:
        check_private(path)
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SettingError(f"Expected a private key in {path}: {error}.") from error
        if isinstance(key, Ed25519PrivateKey):
            return ["key that signs plans; in policy.toml:", _author_line(key)]
        return [f"private key, {type(key).__name__}; its certificate shows the fingerprint"]
    try:
        offer = codec.decode_offer(data)
    except WireError as error:
        raise SettingError(f"Expected a certificate, a request, a key or a plan in {path}: {error}") from error
    author = (
        f'signed; in policy.toml:\nauthors = ["{offer.author.hex()}"]'
        if offer.author
        else "NOT SIGNED: see limbeck keys sign"
    )
    return [f"plan {offer.plan.name!r}, {codec.plan_hash(offer.plan).hex()}", author]


def _certificate(certificate: x509.Certificate) -> list[str]:
    from limbeck.deployment import certificates

    role, now = certificates.role_of(certificate), datetime.now(UTC)
    state = (
        "EXPIRED"
        if now > certificate.not_valid_after_utc
        else "NOT YET VALID"
        if now < certificate.not_valid_before_utc
        else "valid"
    )
    dns, addresses = certificates.names_of(certificate)
    return [
        f"certificate of {role.value if role else 'something else'} {certificates.name_of(certificate)!r},"
        f" good for: {', '.join((*dns, *addresses)) or '-'}",
        f"{state} from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} to {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC",
        f"serial number {certificates.serial_of(certificate)}",
        f"fingerprint {certificates.fingerprint(certificate)}",
    ]


def _author_line(key: Ed25519PrivateKey) -> str:
    from limbeck.protos import signing

    return f'authors = ["{signing.author_of(key).hex()}"]'
