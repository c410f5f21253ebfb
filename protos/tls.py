"""TLS 1.3 or nothing: gRPC has no setting for that in Python, but the list of ciphers of TLS 1.2 is one that it reads.

With only a pre-shared-key cipher in it, and never a pre-shared key, no handshake below TLS 1.3 finds a cipher, at either
end. gRPC reads the list once, when it is loaded: so this module is imported before it (by limbeck.cli, first of all), and
says whether that went well.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from limbeck.base.errors import SettingError, WireError
from limbeck.base.printable import printable

_CIPHERS, _NEVER_USABLE = "GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-AES256-CBC-SHA"

# Of a certificate or a request, PEM; ours have less than one.
MAX_PEM = 64 << 10
# One of a list of revoked ones: RFC 5280 allows 20 bytes.
_SERIAL = re.compile(r"[0-9a-fA-F]{1,40}")

T = TypeVar("T", x509.Certificate, x509.CertificateSigningRequest)

in_force = "grpc" not in sys.modules
if in_force:
    _before = os.environ.get(_CIPHERS)
    os.environ[_CIPHERS] = _NEVER_USABLE
    import grpc  # noqa: F401 - reads the environment now

    # Child processes decide for themselves: a black-box teacher is asked by whatever TLS it speaks.
    if _before is None:
        del os.environ[_CIPHERS]
    else:
        os.environ[_CIPHERS] = _before


def require_13() -> None:
    """Raise SettingError where older TLS would be accepted in this process."""
    if not in_force:
        raise SettingError("Expected limbeck.protos.tls to be imported before grpc, for TLS 1.3 only, got it after.")


def load(pem: bytes) -> x509.Certificate:
    """The certificate in PEM. Raises WireError where it cannot be read, every part of it.

    A certificate is parsed as it is asked, by code that raises whatever it meets. All is asked for here, so that this is the one place that
    has to expect anything.
    """
    return _whole(pem, "certificate", x509.load_pem_x509_certificate)


def load_request(pem: bytes) -> x509.CertificateSigningRequest:
    """The request for a certificate in PEM, likewise. Raises WireError."""
    return _whole(pem, "certificate request", x509.load_pem_x509_csr)


def _whole(pem: bytes, what: str, parse: Callable[[bytes], T]) -> T:
    if not 0 < len(pem) <= MAX_PEM:
        raise WireError(f"Expected a {what} (PEM) of 1 to {MAX_PEM} bytes, got {len(pem)}.")
    try:
        found = parse(pem)
        found.public_key()
        list(found.subject)
        for extension in found.extensions:
            hash(extension.value)
        if isinstance(found, x509.Certificate):
            list(found.issuer)
            if not found.not_valid_before_utc <= found.not_valid_after_utc:
                raise ValueError("it ends before it begins")
            if found.serial_number <= 0:
                raise ValueError(f"its serial number is {found.serial_number}")
        elif not found.is_signature_valid:
            raise ValueError("it is not signed by its own key")
    except Exception as error:
        raise WireError(
            f"Expected a {what} (PEM) that can be read, got {printable(str(error) or repr(error), 120)}."
        ) from error
    return found


def name_of(pem: bytes) -> str:
    """Whose certificate this is: its one DNS name among the alternative names. Raises WireError where that is none or several."""
    return _name(load(pem))


def serial_of(pem: bytes) -> int:
    """A certificate's serial number. Raises WireError where it cannot be read."""
    return load(pem).serial_number


def read_revoked(path: Path) -> list[int]:
    """Serial numbers of a list, one hexadecimal a line, with or without colons and comments (#).

    Raises SettingError where the file is missing or a line is none: it would let one pass.
    """
    try:
        lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"Expected a list of revoked serial numbers in {path}: {error}.") from error
    for line in lines:
        if line and not _SERIAL.fullmatch(line.replace(":", "")):
            raise SettingError(
                f"Expected revoked serial numbers, one hexadecimal serial number per line, in {path}, got {printable(line, 80)!r}."
            )
    return [int(line.replace(":", ""), 16) for line in lines if line]


def check_time(pem: bytes, what: str, now: datetime) -> None:
    """Raise SettingError, which names the clock, where a certificate is not valid now. what: it is in, for whoever reads that."""
    try:
        found = load(pem)
    except WireError as error:
        raise SettingError(f"{what}: {error}") from error
    first, last = found.not_valid_before_utc, found.not_valid_after_utc
    if not first <= now <= last:
        raise SettingError(
            f"Expected a certificate that is valid now in {what}, got one from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC,"
            f" and this machine's clock says {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC: set the clock, or make a new certificate."
        )


def _name(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        found = []
    if len(found) != 1:
        raise WireError(
            f"Expected a certificate with one DNS name, the site's, got {[printable(own, 80) for own in found[:3]]}."
        )
    return found[0]
