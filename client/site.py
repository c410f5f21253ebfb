"""One site: its folder, its settings, and what they lead to. Who needs only a part of it takes that part.

settings.py   what `site.toml` says
account.py    the privacy account of the records, in their ledger
holdings.py   the records and the public inputs themselves
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import check_private
from limbeck.client import account, policy, settings
from limbeck.client.account import Account
from limbeck.client.blackbox import BlackBox, Link, Remote
from limbeck.client.holdings import Records, TransferSets
from limbeck.client.ledger import Budget
from limbeck.client.noise import Noise, SystemEntropy, UnsafeSeeded
from limbeck.client.proxy import is_loopback
from limbeck.client.teachers.architectures import Factory, load_factory
from limbeck.client.transcript import Transcript
from limbeck.client.witness import DIGITS, Witness

SITES = "LIMBECK_SITES"
# Of refusals of plans that the site never accepted: the size of a file, and of all that are kept.
REFUSALS_FILE_BYTES, REFUSALS_BYTES = 1 << 20, 4 << 20
# In the folder of the link's state: held by the site's daemon while it runs.
DAEMON_LOCK = "daemon.lock"


class Site:
    """One site.

    folder: that of `site.toml`, to which the settings' paths are relative.
    settings: as they were when the site was opened.
    name: as the coordinator knows it.

    Raises: SettingError if `site.toml` is not valid, DataError if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = settings.read(folder)
        self.name = self.settings.name

    @classmethod
    def of(cls, node_config: Mapping[str, object]) -> Site:
        """The site that a Flower node stands for.

        node_config: "site" is the site's folder. Flower's simulation engine knows only "partition-id": there the
        environment variable LIMBECK_SITES names a folder with one sub-folder per site, in the order of their names.
        """
        folder = node_config.get("site")
        if isinstance(folder, str):
            return cls(Path(folder))
        partition, sites = node_config.get("partition-id"), os.environ.get(SITES)
        if partition is None or sites is None:
            raise SettingError(
                f"Expected node config 'site' (a folder), or 'partition-id' with ${SITES} set; got {dict(node_config)}."
            )
        folders = sorted(path.parent for path in Path(sites).glob("*/site.toml"))
        index = int(str(partition))
        if not 0 <= index < len(folders):
            raise SettingError(f"Expected partition-id below {len(folders)} sites in {sites}, got {index}.")
        return cls(folders[index])

    # Files and folders

    @property
    def policy_path(self) -> Path:
        """The policy's file."""
        return self.folder / self.settings.policy

    @property
    def ledger(self) -> Path:
        """The ledger's file. Raises SettingError as `account.ledger_of` does."""
        return account.ledger_of(self.folder, self.settings)

    @property
    def states(self) -> Path:
        """The folder with one folder of state for each plan, and the link's."""
        return self.folder / self.settings.state

    def state(self, plan_hash: bytes) -> Path:
        """The folder for one plan's state, which exists once the plan was accepted."""
        return self.states / plan_hash.hex()[:DIGITS]

    @property
    def link_state(self) -> Path:
        """The folder for what the link keeps, made if need be: answers by message id."""
        folder = self.daemon_lock.parent
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def daemon_lock(self) -> Path:
        """The file that the site's daemon holds while it runs."""
        return self.states / "link" / DAEMON_LOCK

    @property
    def cache(self) -> Path | None:
        """The folder for features of public inputs, or None."""
        return self.folder / self.settings.cache if self.settings.cache else None

    # What is opened

    def policy(self) -> policy.AnyPolicy:
        """The policy as its file says now. Raises PolicyError if it is missing or empty, SettingError if it is not valid."""
        return policy.read(self.policy_path)

    @property
    def budget(self) -> Budget:
        """What the ledger enforces, from the policy."""
        return self.policy().ledger_budget

    @property
    def transcript(self) -> Transcript:
        """Everything that was sent about plans that the site accepted."""
        limits = self.settings
        path = self.folder / limits.transcript
        return Transcript(path, file_bytes=limits.transcript_file_bytes, total_bytes=limits.transcript_total_bytes)

    @property
    def refusals(self) -> Transcript:
        """Refusals of plans that this site never accepted: anybody could fill a disk with them, so only the last are kept."""
        path = self.folder / self.settings.transcript
        kept = path.with_name(f"{path.stem}-refusals{path.suffix}")
        return Transcript(kept, file_bytes=REFUSALS_FILE_BYTES, total_bytes=REFUSALS_BYTES, forget=True)

    @property
    def witness(self) -> Witness:
        """What this site knows of its ledger apart from the ledger itself."""
        return Witness(self.name, self.states, self.transcript)

    @property
    def account(self) -> Account:
        """The privacy account of the records. Raises SettingError if the settings do not say which file keeps it."""
        return Account(
            ledger=self.ledger,
            chosen=self.settings.ledger is not None,
            witness=self.witness,
            folder=self.folder,
            state=self.states,
        )

    @property
    def records(self) -> Records:
        """The private records."""
        return Records(self.settings.record_settings, self.folder)

    @property
    def transfer_sets(self) -> TransferSets:
        """The public inputs of plans."""
        return TransferSets(self.folder / self.settings.transfer_sets)

    def noise(self) -> Noise:
        """A fresh noise source. Raises SettingError if it is to be seeded and there is no seed."""
        wanted = self.settings.noise
        if wanted.source == "system-entropy":
            return SystemEntropy()
        if wanted.seed is None:
            raise SettingError("Expected noise.seed with noise.source = UnsafeSeeded, got none.")
        return UnsafeSeeded(wanted.seed)

    @property
    def factory(self) -> Factory | None:
        """The site's own net, or None. Raises SettingError if the settings name one that does not exist."""
        return load_factory(self.settings.teacher, self.folder) if self.settings.teacher else None

    @property
    def black_box(self) -> BlackBox | None:
        """The teacher to ask instead of training one, or None. Raises SettingError or DataError if its settings are not valid."""
        wanted = self.settings.black_box
        if wanted is None:
            return None
        if wanted.ca is None and not (wanted.unsafe_plaintext or is_loopback(wanted.address)):
            raise SettingError(
                f"Expected black_box.ca for a teacher that is not on this machine, got none for {wanted.address}."
            )
        if (wanted.certificate is None) != (wanted.key is None) or (wanted.certificate is not None and wanted.ca is None):
            raise SettingError("Expected black_box.certificate and black_box.key together, and with black_box.ca.")
        link = Link(
            address=wanted.address,
            ca=self._pem(wanted.ca),
            certificate=self._pem(wanted.certificate),
            key=self._pem(wanted.key, private=True),
            deadline=wanted.deadline_seconds,
            attempts=wanted.attempts,
        )
        return BlackBox(remote=Remote(link), classes=wanted.classes, batch=wanted.batch)

    def _pem(self, name: str | None, *, private: bool = False) -> bytes | None:
        if name is None:
            return None
        try:
            if private:
                check_private(self.folder / name)
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"Expected a PEM file at {self.folder / name}: {error}.") from error
