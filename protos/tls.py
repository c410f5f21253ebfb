"""TLS 1.3 or nothing: gRPC has no setting for that in Python, but the list of ciphers of TLS 1.2 is one that it reads.

With only a pre-shared-key cipher in it, and never a pre-shared key, no handshake below TLS 1.3 finds a cipher, at either
end. gRPC reads the list once, when it is loaded: so this module is imported before it (by limbeck.cli, first of all), and
says whether that went well.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime

from cryptography import x509

from limbeck.operators.errors import SettingError, WireError

_CIPHERS, _NEVER_USABLE = "GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-AES256-CBC-SHA"

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


def name_of(pem: bytes) -> str:
    """Whose certificate this is: its one DNS name among the alternative names. Raises WireError where that is none or several."""
    return _name(x509.load_pem_x509_certificate(pem))


def serial_of(pem: bytes) -> int:
    """A certificate's serial number."""
    return x509.load_pem_x509_certificate(pem).serial_number


def check_time(pem: bytes, what: str, now: datetime) -> None:
    """Raise SettingError, which names the clock, where a certificate is not valid now. what: it is in, for whoever reads that."""
    found = x509.load_pem_x509_certificate(pem)
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
    except (x509.ExtensionNotFound, ValueError):
        found = []
    if len(found) != 1:
        raise WireError(f"Expected a certificate with one DNS name, the site's, got {found[:3]}.")
    return found[0]
