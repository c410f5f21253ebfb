"""TLS 1.3 only, certificates from bytes, and a gRPC that writes no log of its own.

gRPC has no Python setting for a least version, but it reads a list of TLS 1.2 ciphers. If that list contains only a
pre-shared-key cipher, and there is never a pre-shared key, no handshake below TLS 1.3 finds a cipher, at either end.
gRPC reads the list once, when it is loaded; so this module must be imported before gRPC (limbeck's commands import it
before they run), and `in_force` says whether it was.

gRPC's core writes lines in a layout of its own to standard error, unless told not to before it is loaded. What goes wrong is
an error of a call, which limbeck logs in its own words; to see gRPC's, set GRPC_VERBOSITY.
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
_VERBOSITY, _SILENT = "GRPC_VERBOSITY", "NONE"

# The largest PEM of a certificate or request; limbeck's own have less than 1 KiB.
MAX_PEM = 64 << 10
# A serial number in a list of revoked ones: RFC 5280 allows 20 bytes.
_SERIAL = re.compile(r"[0-9a-fA-F]{1,40}")

T = TypeVar("T", x509.Certificate, x509.CertificateSigningRequest)

in_force = "grpc" not in sys.modules
if in_force:
    _before = os.environ.get(_CIPHERS)
    os.environ[_CIPHERS] = _NEVER_USABLE
    # Read again by the processes that this one starts, and for those it is right too.
    os.environ.setdefault(_VERBOSITY, _SILENT)
    import grpc  # noqa: F401 - reads the environment now

    # Child processes are not bound by this: a black-box teacher may speak an older TLS.
    if _before is None:
        del os.environ[_CIPHERS]
    else:
        os.environ[_CIPHERS] = _before


def require_13() -> None:
    """Raise SettingError if this process would accept older TLS."""
    if not in_force:
        raise SettingError("Expected limbeck.protos.tls to be imported before grpc, for TLS 1.3 only, got it after.")


def load(pem: bytes) -> x509.Certificate:
    """The certificate in PEM. Raises WireError unless every part of it can be read.

    The library parses each part when it is first used, and may raise any exception. So all parts are read here, and no
    other place has to expect such exceptions.
    """
    return _whole(pem, "certificate", x509.load_pem_x509_certificate)


def load_request(pem: bytes) -> x509.CertificateSigningRequest:
    """The certificate request in PEM, in the same way.

    Raises WireError unless every part can be read and it is signed.
    """
    return _whole(pem, "certificate request", x509.load_pem_x509_csr)


def _whole(pem: bytes, what: str, parse: Callable[[bytes], T]) -> T:
    if not 0 < len(pem) <= MAX_PEM:
        raise WireError(f"Expected a {what} (PEM) of 1 to {MAX_PEM} bytes, got {len(pem)}.")
    try:
        parsed = parse(pem)
        parsed.public_key()
        list(parsed.subject)
        for extension in parsed.extensions:
            hash(extension.value)
        if isinstance(parsed, x509.Certificate):
            list(parsed.issuer)
            if not parsed.not_valid_before_utc <= parsed.not_valid_after_utc:
                raise ValueError("it ends before it begins")
            if parsed.serial_number <= 0:
                raise ValueError(f"its serial number is {parsed.serial_number}")
        elif not parsed.is_signature_valid:
            raise ValueError("it is not signed by its own key")
    except Exception as error:
        raise WireError(
            f"Expected a {what} (PEM) that can be read, got {printable(str(error) or repr(error), 120)}."
        ) from error
    return parsed


def name_of(pem: bytes) -> str:
    """The name of a certificate's holder: the one DNS name among its alternative names.

    Raises WireError if there is none, or more than one.
    """
    return _name(load(pem))


def serial_of(pem: bytes) -> int:
    """A certificate's serial number. Raises WireError if it cannot be read."""
    return load(pem).serial_number


def read_revoked(path: Path) -> list[int]:
    """The serial numbers in a list, one hexadecimal number per line, with or without colons and comments (#).

    Raises SettingError if the file is missing or a line is not a serial number: to skip it would let that certificate
    pass.
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
    """Raise SettingError, which names the clock, if a certificate is not valid now.

    what: where the certificate is, for the message.
    """
    try:
        certificate = load(pem)
    except WireError as error:
        raise SettingError(f"{what}: {error}") from error
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= now <= last:
        raise SettingError(
            f"Expected a certificate that is valid now in {what}, got one from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC,"
            f" and this machine's clock says {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC: set the clock, or make a new certificate."
        )


def _name(certificate: x509.Certificate) -> str:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternatives.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    if len(names) != 1:
        raise WireError(
            f"Expected a certificate with one DNS name, the site's, got {[printable(name, 80) for name in names[:3]]}."
        )
    return names[0]
