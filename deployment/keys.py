"""The authority's folder: which certificates it issued, to whom, and which of them are revoked.

DIR/ca.pem, ca.key          the authority; whoever holds the key can certify any name: keep the folder off the coordinator's machine
DIR/issued/SERIAL.pem       every certificate that was ever issued
DIR/revoked                 serial numbers of those that are no longer good, one hexadecimal per line: the coordinator's `revoked`
DIR/server/                 ca.pem, server.pem, server.key: for the coordinator
DIR/nodes/NAME/             ca.pem, NAME.pem, and NAME.key, or NAME.csr of a site that made its own key: for the site

A certificate is registered before it is handed out, so that every certificate in use can be revoked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from limbeck.base.errors import CertificateError, SettingError
from limbeck.base.files import create_private, create_private_folder, write_durably
from limbeck.deployment import certificates
from limbeck.deployment.certificates import Issuer, PrivateKey, Role
from limbeck.deployment.defaults import AUTHORITY_DAYS, DAYS
from limbeck.protos import tls


class State(Enum):
    """Whether an issued certificate is good at some time."""

    VALID = "valid"
    NOT_YET_VALID = "not yet valid"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """One certificate of the register, and its state."""

    certificate: x509.Certificate
    state: State

    @property
    def name(self) -> str:
        """The name that it certifies."""
        return certificates.name_of(self.certificate)


def init(
    folder: Path,
    *,
    names: Sequence[str],
    addresses: Sequence[str] = (),
    days: int = DAYS,
    authority_days: int = AUTHORITY_DAYS,
    now: datetime,
) -> Authority:
    """A new authority in an absent or empty folder, and the coordinator's certificate.

    names, addresses: DNS names and IP addresses of the coordinator.
    days, authority_days: how long its certificate and the authority's are valid.

    Raises: SettingError if they are not valid; nothing is written then.
    """
    if folder.exists() and any(folder.iterdir()):
        raise SettingError(f"Expected an absent or empty folder for a new authority, got {folder}.")
    if authority_days < days:
        raise SettingError(
            f"Expected an authority valid at least as long as what it signs, {days} days, got {authority_days}."
        )
    issuer = certificates.make_authority(f"limbeck {names[0] if names else ''}", days=authority_days, now=now)
    key = certificates.new_key()
    server = certificates.issue(issuer, key.public_key(), Role.SERVER, names=names, addresses=addresses, days=days, now=now)
    create_private_folder(folder)
    create_private(folder / "ca.key", certificates.key_to_pem(issuer.key))
    create_private(folder / "revoked", b"")
    create_private(folder / "ca.pem", certificates.to_pem(issuer.certificate))
    authority = Authority(folder)
    authority.hand_out(folder / "server", "server", server, key)
    return authority


class Authority:
    """An authority's folder. Raises CertificateError if there is none, SettingError if others than its owner can read its key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = certificates.read_certificate(folder / "ca.pem")

    @property
    def _issuer(self) -> Issuer:
        key = certificates.read_key(self.folder / "ca.key")
        certificates.check_key(key, self.certificate)
        return Issuer(certificate=self.certificate, key=key)

    def node_folder(self, name: str) -> Path:
        """The folder to be taken to a site. Raises SettingError for an invalid name: it becomes part of a path."""
        certificates.check_site_name(name)
        return self.folder / "nodes" / name

    def node(self, name: str, *, days: int = DAYS, now: datetime) -> Path:
        """A key pair and a certificate for a site; returns their folder. Raises SettingError if the name is taken."""
        self._require_free(name, now)
        key = certificates.new_key()
        return self._certify(name, key.public_key(), key, days, now)

    def approve(
        self, request: x509.CertificateSigningRequest, name: str, *, days: int = DAYS, rotate: bool = False, now: datetime
    ) -> Path:
        """A certificate for a key that the site made and kept; returns the folder with it.

        name: the site's name as the authority's owner knows it.
        days: how long the certificate is valid.
        rotate: whether the name may have a certificate already.

        Raises: CertificateError if the request is for another name, SettingError if the name is taken.
        """
        requested = certificates.name_of(request)
        if requested != name:
            raise CertificateError(f"Expected a request of site {name!r}, got one of {requested!r}.")
        public = request.public_key()
        if not (isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)):
            raise CertificateError(f"Expected a request for an ECDSA key on P-256, got {type(public).__name__}.")
        if not rotate:
            self._require_free(name, now)
        folder = self._certify(name, public, None, days, now)
        # The request shows that the site made the key; a key that was made here earlier does not belong to this certificate.
        write_durably(folder / f"{name}.csr", certificates.to_pem(request))
        (folder / f"{name}.key").unlink(missing_ok=True)
        return folder

    def rotate(self, name: str, *, days: int = DAYS, now: datetime) -> Path:
        """A new key and certificate for a name that has one; returns their folder. The old one stays good until it is revoked or expires.

        Raises: SettingError for an unknown name, and for a site that keeps its own key, which only the site can replace.
        """
        last = self._last(name)
        key = certificates.new_key()
        if certificates.role_of(last) is Role.SERVER:
            dns, addresses = certificates.names_of(last)
            new = certificates.issue(
                self._issuer, key.public_key(), Role.SERVER, names=dns, addresses=addresses, days=days, now=now
            )
            self.hand_out(self.folder / "server", "server", new, key)
            return self.folder / "server"
        if (self.node_folder(name) / f"{name}.csr").exists():
            raise SettingError(
                f"Expected a site whose key was made here, got {name!r}, which made its own: run limbeck keys request there, and"
                " limbeck keys approve --rotate here."
            )
        return self._certify(name, key.public_key(), key, days, now)

    def revoke(self, which: str, *, but: str | None = None, now: datetime) -> list[str]:
        """Note that certificates are no longer good; returns the serial numbers that are new in the list.

        which: a name, for all its certificates that are still valid, or one serial number.
        but: a serial number that is not revoked.

        Raises: SettingError if there is no such certificate.
        """
        matching = [each for each in self.issued(now) if which in (each.name, certificates.serial_of(each.certificate))]
        if not matching:
            raise SettingError(f"Expected the name or the serial number of a certificate of {self.folder}, got {which!r}.")
        listed = read_revoked(self.folder / "revoked")
        new = [
            serial
            for each in matching
            if (serial := certificates.serial_of(each.certificate)) not in listed
            and serial != but
            and each.state is not State.EXPIRED
        ]
        path = self.folder / "revoked"
        before = path.read_bytes()
        between = b"" if before.endswith(b"\n") or not before else b"\n"
        write_durably(path, before + between + "".join(f"{serial}\n" for serial in new).encode())
        return new

    def issued(self, now: datetime) -> list[Issued]:
        """Every certificate that was issued, oldest first."""
        listed = read_revoked(self.folder / "revoked")
        register = sorted(self._register(), key=lambda each: (each.not_valid_before_utc, each.serial_number))
        return [Issued(certificate=each, state=_state(each, listed, now)) for each in register]

    def _register(self) -> Iterator[x509.Certificate]:
        for path in (self.folder / "issued").glob("*.pem"):
            yield certificates.read_certificate(path)

    def hand_out(self, folder: Path, stem: str, certificate: x509.Certificate, key: PrivateKey | None) -> None:
        """Register a certificate, then put it, its key if it was made here, and the authority's certificate into a folder to be taken away.

        stem: the name of the files.
        """
        serial = certificates.serial_of(certificate)
        create_private(self.folder / "issued" / f"{serial}.pem", certificates.to_pem(certificate))
        create_private_folder(folder)
        write_durably(folder / "ca.pem", certificates.to_pem(self.certificate))
        if key is not None:
            write_durably(folder / f"{stem}.key", certificates.key_to_pem(key))
        write_durably(folder / f"{stem}.pem", certificates.to_pem(certificate))

    def _certify(
        self, name: str, public: ec.EllipticCurvePublicKey, key: PrivateKey | None, days: int, now: datetime
    ) -> Path:
        folder = self.node_folder(name)
        new = certificates.issue(self._issuer, public, Role.SITE, names=[name], days=days, now=now)
        self.hand_out(folder, name, new, key)
        return folder

    def _last(self, name: str) -> x509.Certificate:
        named = [each for each in self._register() if certificates.name_of(each) == name]
        if not named:
            raise SettingError(f"Expected a name that has a certificate by {self.folder}, got {name!r}.")
        return max(named, key=lambda each: each.not_valid_before_utc)

    def _require_free(self, name: str, now: datetime) -> None:
        """Raise SettingError if this name has a certificate, in whatever case: DNS names and some file systems ignore case."""
        certificates.check_site_name(name)
        for issued in self.issued(now):
            dns, _ = certificates.names_of(issued.certificate)
            current = issued.state in {State.VALID, State.NOT_YET_VALID}
            if current and name.casefold() in {other.casefold() for other in dns}:
                raise SettingError(
                    f"Expected a name without a certificate, got {name!r}: {issued.name!r} has one,"
                    f" serial number {certificates.serial_of(issued.certificate)}. Rotate it, or revoke it first."
                )


def request(name: str, folder: Path) -> tuple[Path, str]:
    """At a site: make a key that stays here and a request for the authority; returns the request's path and its fingerprint."""
    key = certificates.new_key()
    made = certificates.request(key, name)
    create_private(folder / f"{name}.key", certificates.key_to_pem(key))
    path = folder / f"{name}.csr"
    create_private(path, certificates.to_pem(made))
    return path, certificates.fingerprint(made)


def read_revoked(path: Path) -> list[str]:
    """Serial numbers, hexadecimal, lower case, as the coordinator reads them.

    Raises: SettingError if the file is missing or a line is not a serial number.
    """
    return [f"{serial:x}" for serial in tls.read_revoked(path)]


def expires_within(certificate: x509.Certificate, days: float, now: datetime) -> bool:
    """Whether a certificate ends in less than so many days."""
    return certificate.not_valid_after_utc - now < timedelta(days=days)


def _state(certificate: x509.Certificate, revoked: Sequence[str], now: datetime) -> State:
    if certificates.serial_of(certificate) in revoked:
        return State.REVOKED
    if now > certificate.not_valid_after_utc:
        return State.EXPIRED
    return State.NOT_YET_VALID if now < certificate.not_valid_before_utc else State.VALID
