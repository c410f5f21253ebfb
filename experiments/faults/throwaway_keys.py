"""Keys of a federation that lasts for one test, drill or benchmark, in one folder. Real ones are made by their authority and kept apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from limbeck.base.files import create_private
from limbeck.deployment import certificates
from limbeck.deployment.certificates import Role

SERVER = "coordinator"
# Made as of yesterday: a drill sets a clock back.
DAYS, AGE = 3, timedelta(days=1)


class Authority:
    """A fresh authority in a folder: ca.pem at once, NAME.pem and NAME.key for each name asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._issuer = certificates.make_authority("throwaway authority", days=DAYS, now=datetime.now(UTC) - AGE)
        (folder / "ca.pem").write_bytes(certificates.to_pem(self._issuer.certificate))

    def server(self) -> x509.Certificate:
        """The coordinator's, for loopback addresses."""
        return self._issue(SERVER, Role.SERVER, [SERVER, "localhost"], ["127.0.0.1"])

    def site(self, name: str, *, file: str | None = None) -> x509.Certificate:
        """A site's, in files of its name or another, in place of what they held."""
        return self._issue(file or name, Role.SITE, [name], [])

    def _issue(self, file: str, role: Role, names: list[str], addresses: list[str]) -> x509.Certificate:
        key, now = certificates.new_key(), datetime.now(UTC) - AGE
        certificate = certificates.issue(
            self._issuer, key.public_key(), role, names=names, addresses=addresses, days=DAYS, now=now
        )
        (self.folder / f"{file}.pem").write_bytes(certificates.to_pem(certificate))
        path = self.folder / f"{file}.key"
        path.unlink(missing_ok=True)
        create_private(path, certificates.key_to_pem(key))
        return certificate
