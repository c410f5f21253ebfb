"""Keys of a federation that lasts for one test, drill or benchmark. Real ones are made by their authority and kept apart."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER = "coordinator"
VALID = timedelta(days=1)


class Authority:
    """A fresh authority in a folder: ca.pem at once, NAME.pem and NAME.key for each name asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throwaway authority")])
        own = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, 0), critical=True)
        self._write(folder / "ca.pem", own.sign(self._key, hashes.SHA256()))

    def server(self) -> x509.Certificate:
        """The coordinator's, for loopback addresses."""
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        names = [x509.DNSName(SERVER), x509.DNSName("localhost"), loopback]
        return self._issue(SERVER, names, ExtendedKeyUsageOID.SERVER_AUTH)

    def site(self, name: str, *, file: str | None = None) -> x509.Certificate:
        """A site's, in files of its name or another."""
        return self._issue(file or name, [x509.DNSName(name)], ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(self, file: str, names: Sequence[x509.GeneralName], usage: x509.ObjectIdentifier) -> x509.Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file)]), key)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        self._write(self.folder / f"{file}.pem", certificate)
        path = self.folder / f"{file}.key"
        path.touch(mode=0o600)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(key.private_bytes(*form))
        return certificate

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - VALID)
            .not_valid_after(now + VALID)
        )

    @staticmethod
    def _write(path: Path, certificate: x509.Certificate) -> None:
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
