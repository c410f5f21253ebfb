"""A site's own settings, read from its `site.toml`: where its records, policy, ledger and transfer sets are.

Nothing in here comes from the coordinator. Paths are relative to the folder that holds the file. What a plan may ask is in the
policy, a file of its own, because another person may answer for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from limbeck.base.errors import DataError, LedgerError, LimbeckError, SettingError
from limbeck.base.files import check_private
from limbeck.base.settings import ADDRESS, Strict, parse_toml, validate
from limbeck.client import ledger as ledgers
from limbeck.client import policy, records
from limbeck.client.blackbox import BlackBox, Link, Remote
from limbeck.client.ledger import Book, Budget, Ledger
from limbeck.client.noise import Noise, SystemEntropy, UnsafeSeeded
from limbeck.client.proxy import ENVIRONMENT, is_loopback
from limbeck.client.records import RecordSettings
from limbeck.client.teachers.architectures import Factory, load_factory
from limbeck.client.transcript import FILE_BYTES, TOTAL_BYTES, Transcript
from limbeck.client.witness import DIGITS, Witness
from limbeck.inputs import encoders
from limbeck.inputs.transfer_set import LARGEST, LARGEST_INPUT, digest, read_arrays, read_headers

SITES = "LIMBECK_SITES"
# Of a ledger's file.
LEDGER = ".ledger"
# Of refusals of plans that the site never accepted: the size of a file, and of all that are kept.
REFUSALS_FILE_BYTES, REFUSALS_BYTES = 1 << 20, 4 << 20
# How many files of a site's folder are looked at for ledgers of the same records.
FILES_LOOKED_AT = 10_000


class NoiseSettings(Strict):
    """Where privacy noise comes from; a seed makes it repeatable, which voids every guarantee: simulations only."""

    source: Literal["system-entropy", "UnsafeSeeded"] = "system-entropy"
    seed: int | None = None


class BlackBoxSettings(Strict):
    """A teacher that answers over gRPC, instead of training one here; it has no DP guarantee (docs/black-box-teachers.md).

    address: HOST:PORT. ca, certificate, key: PEM files; without `ca` the connection is plaintext, which is refused to any but a loopback
    address unless unsafe_plaintext. classes: the teacher's label of each of the plan's classes, in their order; without it, the
    teacher's labels are the plan's classes in order. batch: inputs in a message at most. deadline_seconds: for one batch's answer.
    attempts: at one batch, where the teacher is unreachable or late.
    """

    address: str = Field(pattern=ADDRESS)
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    unsafe_plaintext: bool = False
    classes: list[str] | None = None
    batch: int = Field(default=256, ge=1)
    deadline_seconds: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    attempts: int = Field(default=6, ge=1)


class LinkSettings(Strict):
    """The coordinator to which `limbeck site run` dials out (docs/link.md), over mutual TLS 1.3.

    address: HOST:PORT. ca, certificate, key: PEM files; the certificate is for this site's name. server_name: the name
    in the coordinator's certificate where it is not the host in `address`. memory_mb: that answering a question may
    take. answer_seconds: likewise. grace_seconds: that an answer under way gets when the daemon is told to end.
    max_message_mb: of all questions that are open. proxy: "environment" dials through the proxy that https_proxy names, if it is
    set, "none" never through one, "http://HOST:PORT" always through that (docs/link.md).
    """

    address: str = Field(pattern=ADDRESS)
    ca: str = "ca.pem"
    certificate: str
    key: str
    server_name: str | None = None
    memory_mb: int = Field(default=8192, ge=256)
    answer_seconds: float = Field(default=6 * 3600.0, gt=0, allow_inf_nan=False)
    grace_seconds: float = Field(default=600.0, ge=0, allow_inf_nan=False)
    max_message_mb: int = Field(default=1024, ge=1)
    proxy: str = Field(default=ENVIRONMENT, pattern=r"^(none|environment|http://[^\s]+)$")


class SiteSettings(Strict):
    """The whole of `site.toml`.

    records: an NPZ file, or a table. teacher: the site's own net as "module:factory", a file in this folder or an installed module;
    without it the site takes part in no plan with custom teachers. gradients: whose per-record gradients train limbeck's own
    nets. black_box: a teacher to ask instead of training one. link: the coordinator to dial. ledger: only where the records' folder
    cannot hold it; by default it lies beside the records, so that every setting of these records shares it. transcript_file_bytes,
    transcript_total_bytes: sizes at which a transcript's file is closed, and nothing more is sent. durability: what charges, transcript
    and stored replies outlive. "UnsafeProcessOnly" is several times faster, and after a power cut charges may be missing: simulations only.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    records: str | RecordSettings = "records.npz"
    teacher: str | None = None
    transfer_sets: str
    cache: str | None = None
    policy: str = "policy.toml"
    ledger: str | None = None
    transcript: str = "transcript.jsonl"
    transcript_file_bytes: int = Field(default=FILE_BYTES, ge=1)
    transcript_total_bytes: int = Field(default=TOTAL_BYTES, ge=1)
    state: str = "state"
    gradients: Literal["fastest", "opacus"] = "fastest"
    durability: Literal["power-cut", "UnsafeProcessOnly"] = "power-cut"
    black_box: BlackBoxSettings | None = None
    link: LinkSettings | None = None
    noise: NoiseSettings = NoiseSettings()


class Site:
    """One site: its folder and settings.

    Raises SettingError where `site.toml` cannot be meant, DataError where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "site.toml"
        try:
            self.settings = _parse(path, path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(f"Expected a site's settings at {path}, found none.") from error
        self.folder = folder
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

    def policy(self) -> policy.AnyPolicy:
        """The policy as its file says now. Raises PolicyError where it is missing or empty, SettingError where it cannot be meant."""
        return policy.read(self.folder / self.settings.policy)

    @property
    def budget(self) -> Budget:
        """What the ledger enforces, from the policy."""
        return self.policy().ledger_budget

    @property
    def black_box(self) -> BlackBox | None:
        """The teacher to ask instead of training one, or None. Raises SettingError or DataError where it cannot be asked as set."""
        own = self.settings.black_box
        if own is None:
            return None
        if own.ca is None and not (own.unsafe_plaintext or is_loopback(own.address)):
            raise SettingError(
                f"Expected black_box.ca for a teacher that is not on this machine, got none for {own.address}."
            )
        if (own.certificate is None) != (own.key is None) or (own.certificate is not None and own.ca is None):
            raise SettingError("Expected black_box.certificate and black_box.key together, and with black_box.ca.")
        link = Link(
            address=own.address,
            ca=self._pem(own.ca),
            certificate=self._pem(own.certificate),
            key=self._pem(own.key, private=True),
            deadline=own.deadline_seconds,
            attempts=own.attempts,
        )
        return BlackBox(remote=Remote(link), classes=own.classes, batch=own.batch)

    def _pem(self, name: str | None, *, private: bool = False) -> bytes | None:
        if name is None:
            return None
        try:
            if private:
                check_private(self.folder / name)
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"Expected a PEM file at {self.folder / name}: {error}.") from error

    @property
    def ledger(self) -> Path:
        """The ledger's file: beside the records themselves, whatever links lead to them, hard ones within their folder included.

        Raises SettingError where a reader brings the records and `ledger` does not say which file keeps their account, or nothing brings
        them.
        """
        if self.settings.ledger is not None:
            return self.folder / self.settings.ledger
        if self._records.path is None and self._records.reader is None:
            raise SettingError("Expected records.path or records.reader, one of them.")
        if self._records.path is None:
            raise SettingError(
                f"Expected `ledger` to name a file for the records that {self._records.reader} reads, got none."
            )
        own = (self.folder / self._records.path).resolve()
        path = own.with_name(own.name + LEDGER)
        return path if path.exists() else next(_of_hard_links(own), path)

    @property
    def witness(self) -> Witness:
        """What this site knows of its ledger apart from the ledger itself."""
        return Witness(self.name, self.folder / self.settings.state, self.transcript)

    def open_ledger(self) -> Ledger:
        """The ledger, which holds all that this site knows was spent. Raises LedgerError where it does not, or is not to be trusted."""
        path, budget = self.ledger, self.budget
        self._check_one_account(path)
        if not ledgers.begun(path):
            self._check_no_other_ledger(path, budget.data_set)
        return Ledger(path, budget, self.witness)

    def check_ledger(self, *, every_line: bool = False) -> Book | None:
        """The ledger as it is, or None where nothing was spent yet; writes nothing.

        every_line: compare it with the whole transcript, instead of with how far it is known to have come. Raises LedgerError where it
        lacks anything that this site knows was spent, or is not to be trusted.
        """
        try:
            return self._compare_ledger(every_line)
        except LedgerError:
            # A process of this site may have added rows, and known them, since they were read here.
            with ledgers.held(self.ledger):
                return self._compare_ledger(every_line)

    def _compare_ledger(self, every_line: bool) -> Book | None:
        path = self.ledger
        self._check_one_account(path)
        compare = self.witness.check_all if every_line else self.witness.check
        if not ledgers.begun(path):
            compare([], path)
            if ledgers.read_head(path) is not None:
                raise LedgerError(f"Expected a privacy ledger at {path}, found only its head: what was spent is not known.")
            return None
        book = ledgers.read(path)
        compare(book.rows, path)
        return book

    def _check_one_account(self, path: Path) -> None:
        """Raise LedgerError where another name of the same records, in their folder, has another ledger."""
        if self.settings.ledger is None:
            for other in _of_hard_links(path.with_name(path.name.removesuffix(LEDGER))):
                raise LedgerError(
                    f"Expected one ledger for one file of records, found {path} and {other} (hard links): make them one account. Put one"
                    " of the two aside, and run limbeck ledger declare-lost SITE with what it held."
                )

    def _check_no_other_ledger(self, path: Path, data_set: str) -> None:
        """Before a new one is made. Raises LedgerError where records of this name have one, or these records another name elsewhere."""
        if self.settings.ledger is None:
            own = path.with_name(path.name.removesuffix(LEDGER))
            if own.is_file() and own.stat().st_nlink > 1:
                raise LedgerError(
                    f"Expected records with one name, found that {own} has {own.stat().st_nlink} (hard links): any of them may have a"
                    " ledger. Copy the records to a file of their own, or say in site.toml which file is their `ledger`."
                )
        for other in self._ledgers_nearby(path.parent):
            try:
                named = ledgers.read(other).terms.data_set
            except LimbeckError:
                continue
            if named == data_set:
                raise LedgerError(
                    f"Expected one ledger for the records {data_set!r}, found {other} and none yet at {path}. If these are a copy, or"
                    f" were moved: limbeck ledger move SITE --from {other}. If they are others, give them another data_set in the policy."
                )

    def _ledgers_nearby(self, folder: Path) -> Iterator[Path]:
        """Ledgers in the records' folder, and anywhere in the site's."""
        yield from sorted(folder.glob(f"*{LEDGER}"))
        looked = 0
        for parent, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if Path(parent) / name != self.folder / self.settings.state)
            for name in sorted(names):
                if name.endswith(LEDGER):
                    yield Path(parent) / name
                looked += 1
                if looked >= FILES_LOOKED_AT:
                    return

    @property
    def transcript(self) -> Transcript:
        """The transcript."""
        own = self.settings
        path = self.folder / own.transcript
        return Transcript(path, file_bytes=own.transcript_file_bytes, total_bytes=own.transcript_total_bytes)

    @property
    def refusals(self) -> Transcript:
        """Refusals of plans that this site never accepted: anybody could fill a disk with them, so only the last are kept."""
        path = self.folder / self.settings.transcript
        kept = path.with_name(f"{path.stem}-refusals{path.suffix}")
        return Transcript(kept, file_bytes=REFUSALS_FILE_BYTES, total_bytes=REFUSALS_BYTES, forget=True)

    @property
    def cache(self) -> Path | None:
        """Where features of public inputs are kept."""
        return self.folder / self.settings.cache if self.settings.cache else None

    def state(self, plan_hash: bytes) -> Path:
        """The folder for one plan's state, which is there once the plan was accepted."""
        return self.folder / self.settings.state / plan_hash.hex()[:DIGITS]

    @property
    def link_state(self) -> Path:
        """The folder for what the link keeps, made if need be: answers by message id."""
        folder = self.folder / self.settings.state / "link"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def noise(self) -> Noise:
        """A fresh noise source, as the site's settings say."""
        own = self.settings.noise
        if own.source == "system-entropy":
            return SystemEntropy()
        if own.seed is None:
            raise SettingError("Expected noise.seed with noise.source = UnsafeSeeded, got none.")
        return UnsafeSeeded(own.seed)

    @property
    def factory(self) -> Factory | None:
        """The site's own net, or None. Raises SettingError where its settings name one that is not there."""
        return load_factory(self.settings.teacher, self.folder) if self.settings.teacher else None

    @property
    def _records(self) -> RecordSettings:
        own = self.settings.records
        return RecordSettings(path=own) if isinstance(own, str) else own

    def check_encoding(self, sha256: bytes | None) -> None:
        """Raise DataError unless the records are, or can be, encoded as a plan says; reads no record.

        sha256: of the encoding's file; None: by none. Where it names a public encoder, the site's own must be that one.
        """
        own = self._records.encoding
        try:
            found = hashlib.sha256((self.folder / own).read_bytes()).hexdigest() if own is not None else "none"
        except OSError as error:
            raise DataError(f"records.encoding: expected a public encoding at {own}: {error}.") from error
        wanted = sha256.hex() if sha256 is not None else "none"
        if found != wanted:
            raise DataError(
                f"records.encoding: expected the encoding of the plan, SHA-256 {wanted}, got {own}, SHA-256 {found}."
            )
        encoder = records.public_encoder(self._records, self.folder)
        if encoder is not None:
            encoders.open_encoder(encoder, self._records.encoder, self.folder)

    def encode_records(self, progress: records.Progress) -> int:
        """Put the records through the public encoder ahead of any plan, and keep the rows; how many. Raises DataError or SettingError."""
        return records.encode(self._records, self.folder, progress)

    def check_records(self, classes: int, public_x: NDArray[np.generic]) -> None:
        """Raise DataError unless records can be read for a plan about these public inputs, and their account kept, as far as that shows
        without reading one.
        """
        try:
            records.check(self._records, self.folder, classes, public_x)
            _ = self.ledger, self.noise()
        except SettingError as error:
            raise DataError(str(error)) from error

    def read_records(self, classes: int, public_x: NDArray[np.generic]) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """The private records, of the type of the public inputs: inputs (n, ...) and labels (n,). Raises DataError."""
        try:
            return records.read(self._records, self.folder, classes, public_x)
        except SettingError as error:
            raise DataError(str(error)) from error

    def read_transfer_set(self, sha256: bytes, samples: int) -> NDArray[np.generic]:
        """The public inputs with this hash, of which there are `samples`. Raises DataError where the site does not hold them."""
        path = self.folder / self.settings.transfer_sets / f"{sha256.hex()}.npz"
        return _read_transfer_set(path.resolve(), sha256, samples)


@lru_cache(maxsize=256)
def _parse(path: Path, content: bytes) -> SiteSettings:
    """Checked once per content: the file is read anew at every question."""
    try:
        return validate(SiteSettings, parse_toml(content, path))
    except SettingError as error:
        raise SettingError(f"Expected valid settings in {path}.\n{error}") from None


@lru_cache(maxsize=4)
def _read_transfer_set(path: Path, sha256: bytes, samples: int) -> NDArray[np.generic]:
    """Read and hashed once per process: it is named by its hash, so it cannot change under its name. Its size is known before."""
    largest = min(LARGEST, samples * LARGEST_INPUT)
    (header,) = read_headers(path, "x", largest=largest)
    if header.shape[:1] != (samples,):
        raise DataError(f"Expected {samples} public inputs in {path}, found shape {header.shape}.")
    (x_N,) = read_arrays(path, "x", largest=largest)
    found = digest(x_N)
    if found != sha256:
        raise DataError(f"Expected SHA-256 {sha256.hex()} of the inputs in {path}, got {found.hex()}.")
    return x_N


def _of_hard_links(path: Path) -> Iterator[Path]:
    """The ledgers, in a file's folder, of its other names."""
    if not path.is_file() or path.stat().st_nlink < 2:
        return
    for ledger in sorted(path.parent.glob(f"*{LEDGER}")):
        other = ledger.with_name(ledger.name.removesuffix(LEDGER))
        if other != path and other.is_file() and other.samefile(path):
            yield ledger
