"""X.509 certificates of a federation: one authority, the coordinator's server certificate, one client certificate per site.

Keys are ECDSA on P-256, which BoringSSL (gRPC's TLS) accepts everywhere. A site's name is the common name and the only DNS name of its
certificate. Extended key usage keeps the roles apart: a site's certificate cannot pass for the coordinator's, nor the other way round.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from limbeck.base.errors import CertificateError, SettingError, WireError
from limbeck.base.files import check_private
from limbeck.base.printable import printable
from limbeck.protos import tls

# Certificates are valid from a little before they are made: the clocks of two machines never agree.
CLOCK_SKEW = timedelta(minutes=5)
# The pattern of `name` in site.toml, except for names that begin with a dot or a dash: it becomes a file's name.
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SERVER_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
COMMON_NAME_LENGTH = 64
# The length of a DNS name at most; and of a common name as it is shown, because it can be anything in a certificate that is not ours.
LONGEST_NAME, SHOWN_LENGTH = 253, 80

PrivateKey = ec.EllipticCurvePrivateKey


class Role(Enum):
    """What a certificate is for."""

    AUTHORITY = "authority"
    SERVER = "server"
    SITE = "site"


_USAGE = {Role.SERVER: ExtendedKeyUsageOID.SERVER_AUTH, Role.SITE: ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """The authority's certificate and private key."""

    certificate: x509.Certificate
    key: PrivateKey


def check_site_name(name: str) -> None:
    """Raise SettingError unless a site can have this name, and a file too."""
    if not SITE_NAME.fullmatch(name):
        raise SettingError(
            f"Expected a site name of 1 to 64 characters a-z, A-Z, 0-9, '.', '_', '-', the first a letter or a digit, got {name[:80]!r}."
        )


def check_server_name(name: str) -> None:
    """Raise SettingError unless this can be a server's DNS name."""
    if not SERVER_NAME.fullmatch(name):
        raise SettingError(f"Expected a DNS name such as limbeck.example.org, got {name[:80]!r}.")


def new_key() -> PrivateKey:
    """A fresh private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: PrivateKey) -> bytes:
    """PKCS 8, not encrypted: a service has to read it unattended."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def to_pem(certificate: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """A certificate, or a request for one, as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_key(path: Path) -> PrivateKey:
    """The private key in a PEM file.

    Raises: CertificateError if there is none, SettingError if others than its owner can read the file.
    """
    try:
        check_private(path)
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise CertificateError(f"Expected a private key (PEM) at {path}: {error.strerror or error}.") from error
    except SettingError:
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"Expected a private key (PEM) in {path}: {error}.") from error
    if not isinstance(key, PrivateKey):
        raise CertificateError(f"Expected an ECDSA private key in {path}, found {type(key).__name__}.")
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate in a PEM file. Raises CertificateError if there is none."""
    try:
        return tls.load(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"Expected a certificate (PEM) at {path}: {error.strerror or error}.") from error
    except WireError as error:
        raise CertificateError(f"{path}: {error}") from error


def read_request(path: Path) -> x509.CertificateSigningRequest:
    """The request in a PEM file, signed by the key that it is for. Raises CertificateError if there is none."""
    try:
        return tls.load_request(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"Expected a certificate request (PEM) at {path}: {error.strerror or error}.") from error
    except WireError as error:
        raise CertificateError(f"{path}: {error}") from error


def make_authority(name: str, *, days: int, now: datetime) -> Issuer:
    """A self-signed authority, which can sign leaf certificates only. name: its common name."""
    key, subject = new_key(), _subject(name)
    builder = (
        _builder(subject, subject, key.public_key(), now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return Issuer(certificate=builder.sign(key, hashes.SHA256()), key=key)


def issue(
    issuer: Issuer,
    public_key: ec.EllipticCurvePublicKey,
    role: Role,
    *,
    names: Sequence[str],
    addresses: Sequence[str] = (),
    days: int,
    now: datetime,
) -> x509.Certificate:
    """A certificate for a server or a site, never valid longer than its issuer's.

    names: DNS names; the first is the common name too.
    addresses: IP addresses of a server.
    days: how long it is valid.

    Raises: SettingError if names, addresses or days are not valid, CertificateError if the authority itself is not valid now.
    """
    for name in names:
        (check_site_name if role is Role.SITE else check_server_name)(name)
    if days < 1:
        raise SettingError(f"Expected days >= 1, got {days}.")
    if not names:
        raise SettingError("Expected at least one name in a certificate, got none.")
    authority = issuer.certificate
    _check_time(authority, "the authority", now)
    try:
        parsed = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
    except ValueError as error:
        raise SettingError(f"Expected IP addresses of the server: {error}.") from error
    authority_key_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    until = min(now + timedelta(days=days), authority.not_valid_after_utc)
    builder = (
        _builder(_subject(names[0]), authority.subject, public_key, now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([_USAGE[role]]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_key_id), critical=False)
        .add_extension(x509.SubjectAlternativeName([*(x509.DNSName(name) for name in names), *parsed]), critical=False)
    )
    return builder.sign(issuer.key, hashes.SHA256())


def request(key: PrivateKey, name: str) -> x509.CertificateSigningRequest:
    """A site's request for a certificate of this name; the key stays where it is. Raises SettingError for an invalid name."""
    check_site_name(name)
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(name)).add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256())


def name_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """The common name, made printable and cut to SHOWN_LENGTH; empty without one."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return printable(names[0].value, SHOWN_LENGTH) if names else ""


def names_of(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """DNS names and IP addresses that a certificate is good for, without names that are not printable."""
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    names = [
        name for name in alternatives.get_values_for_type(x509.DNSName) if name.isprintable() and len(name) <= LONGEST_NAME
    ]
    return names, [str(address) for address in alternatives.get_values_for_type(x509.IPAddress)]


def role_of(certificate: x509.Certificate) -> Role | None:
    """What a certificate is for; None if it is for another purpose."""
    try:
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return Role.AUTHORITY
        usage = list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return None
    return next((role for role, wanted in _USAGE.items() if usage == [wanted]), None)


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number in hexadecimal, as the list of revoked certificates has it."""
    return f"{certificate.serial_number:x}"


def fingerprint(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """SHA-256 of the public key, in hexadecimal: the same for a request and the certificate made from it, to be compared by voice."""
    public = certificate.public_key()
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public.public_bytes(*form))
    return digest.finalize().hex()


def check_certificate(
    certificate: x509.Certificate,
    *,
    authority: x509.Certificate,
    role: Role,
    name: str | None,
    now: datetime,
    revoked: Collection[str] = (),
) -> None:
    """Raise CertificateError, saying what is wrong and what to do, unless a certificate is good here and now.

    authority: the certificate of the authority that must have signed it.
    role: what it must be for.
    name: one of its DNS names or IP addresses; None for any.
    now: the time of this machine, with its time zone.
    revoked: serial numbers, hexadecimal.
    """
    who = f"{role.value} {name_of(certificate)!r}"
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        raise CertificateError(
            f"Expected a certificate of {who} by the authority {name_of(authority)!r} ({fingerprint(authority)[:16]}), got one by an"
            " unknown authority: both sides must hold the same ca.pem, and certificates made by it."
        ) from None
    _check_time(authority, f"the authority {name_of(authority)!r}", now)
    _check_time(certificate, who, now)
    if (certified := role_of(certificate)) is not role:
        use = "another use" if certified is None else f"a {certified.value}"
        raise CertificateError(f"Expected a certificate for a {role.value}, got {name_of(certificate)!r} for {use}.")
    dns, addresses = names_of(certificate)
    if name is not None and name not in (*dns, *addresses):
        raise CertificateError(
            f"Expected a certificate of {name!r}, got one of {printable(', '.join((*dns, *addresses)) or 'nobody')}:"
            " use the one that was made for this name, or make one for it."
        )
    if serial_of(certificate) in revoked:
        raise CertificateError(
            f"Expected a certificate of {who} that is not revoked, got serial number {serial_of(certificate)}, which is."
        )


def check_key(key: PrivateKey, certificate: x509.Certificate) -> None:
    """Raise CertificateError unless the private key is the certificate's."""
    if key.public_key() != certificate.public_key():
        raise CertificateError(
            f"Expected the private key of the certificate of {name_of(certificate)!r}, got another:"
            " put the pair back that was made together."
        )


def _check_time(certificate: x509.Certificate, who: str, now: datetime) -> None:
    if now < certificate.not_valid_before_utc:
        raise CertificateError(
            f"Expected a certificate of {who} that is valid now, {_date(now)}, got one from {_date(certificate.not_valid_before_utc)} on:"
            " set this machine's clock, or wait."
        )
    if now > certificate.not_valid_after_utc:
        raise CertificateError(
            f"Expected a certificate of {who} that is valid now, {_date(now)}, got one that expired on"
            f" {_date(certificate.not_valid_after_utc)}: make a new one (limbeck keys rotate)."
        )


def _date(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _subject(name: str) -> x509.Name:
    # A common name has 64 characters at most; a longer DNS name is complete among the alternative names.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:COMMON_NAME_LENGTH])])


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
