"""The settings of a site, as its `site.toml` holds them. Nothing in here comes from the coordinator.

Paths are relative to the folder of that file. What a plan may ask is in the policy, a file of its own, because another person may answer
for it.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from limbeck.base.errors import DataError, SettingError
from limbeck.base.settings import ADDRESS, Raw, Strict, parse_toml, validate
from limbeck.client.proxy import ENVIRONMENT
from limbeck.client.records import RecordSettings
from limbeck.client.transcript import FILE_BYTES, TOTAL_BYTES

log = logging.getLogger(__name__)

FILE = "site.toml"
# Whose per-record gradients train nets.
Gradients = Literal["opacus", "book-keeping"]


def _renamed(value: object) -> object:
    """What 0.1.0 called "fastest" is "book-keeping"."""
    if value != "fastest":
        return value
    log.warning('gradients = "fastest" is now called "book-keeping"; please write that in %s.', FILE)
    return "book-keeping"


class NoiseSettings(Strict):
    """Where privacy noise comes from; a seed makes it repeatable, which voids every guarantee: simulations only."""

    source: Literal["system-entropy", "UnsafeSeeded"] = "system-entropy"
    seed: int | None = None


class BlackBoxSettings(Strict):
    """A teacher that answers over gRPC, instead of training one here; it has no DP guarantee (docs/black-box-teachers.md).

    address: HOST:PORT.
    ca, certificate, key: PEM files; without `ca` the connection is plaintext.
    unsafe_plaintext: whether plaintext is allowed to an address that is not loopback.
    classes: the teacher's label for each of the plan's classes, in their order; without it, the teacher's labels are the plan's classes.
    batch: inputs in a message at most.
    deadline_seconds: the limit for the answer to one batch.
    attempts: how often one batch is sent at most, if the teacher is unreachable or late.
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

    address: HOST:PORT.
    ca, certificate, key: PEM files; the certificate is for this site's name.
    server_name: the name in the coordinator's certificate, if it is not the host in `address`.
    memory_mb, answer_seconds: the limits for answering one question.
    grace_seconds: the time that is left for the current answer when the daemon is told to end.
    max_message_mb: the size of all open questions at most.
    proxy: "environment" dials through the proxy that https_proxy names, if it is set, "none" never through one, "http://HOST:PORT" always
        through that one (docs/link.md).
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

    name: of the site, as its certificate has it.
    records: an NPZ file, or a table.
    teacher: the site's own net as "module:factory", a file in this folder or an installed module; without it the site takes part in no plan
        with custom teachers.
    transfer_sets: the folder of public inputs, HASH.npz.
    cache: the folder for features of public inputs.
    policy: the file that says what a plan may ask.
    ledger: only if the records' folder cannot hold it; by default it lies beside the records, so that all sites of these records share it.
    transcript: the file that keeps every byte that was sent.
    transcript_file_bytes, transcript_total_bytes: the sizes at which a transcript's file is closed, and at which nothing more is sent.
    state: the folder for what belongs to plans and to the link.
    gradients: whose per-record gradients train nets: those of Opacus, or limbeck's own.
    durability: what charges, transcript and stored replies survive. "UnsafeProcessOnly" is several times faster, and after a power cut
        charges may be missing: simulations only.
    black_box: a teacher to ask instead of training one.
    link: the coordinator to dial.
    noise: where privacy noise comes from.
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
    gradients: Annotated[Gradients, BeforeValidator(_renamed)] = "opacus"
    durability: Literal["power-cut", "UnsafeProcessOnly"] = "power-cut"
    black_box: BlackBoxSettings | None = None
    link: LinkSettings | None = None
    noise: NoiseSettings = NoiseSettings()

    @property
    def record_settings(self) -> RecordSettings:
        """`records` as a table, even if it is only a path."""
        return RecordSettings(path=self.records) if isinstance(self.records, str) else self.records


# The tables of the file, which take every key below their names.
TABLES: dict[str, type[BaseModel]] = {
    "records": RecordSettings,
    "black_box": BlackBoxSettings,
    "link": LinkSettings,
    "noise": NoiseSettings,
}


def read(folder: Path) -> SiteSettings:
    """The settings of the site in a folder. Raises DataError if the file is missing, SettingError if it is not valid."""
    path = folder / FILE
    try:
        return _parse(path, path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"Expected a site's settings at {path}, found none.") from error


@lru_cache(maxsize=256)
def _parse(path: Path, content: bytes) -> SiteSettings:
    """Validated once per content, because the file is read again at every question."""
    try:
        raw = parse_toml(content, path)
        _check_swallowed(raw)
        return validate(SiteSettings, raw)
    except SettingError as error:
        raise SettingError(f"Expected valid settings in {path}.\n{error}") from None


def _check_swallowed(raw: Raw) -> None:
    """Raise SettingError if keys of the site stand below a table's name, and so are that table's."""
    for table, model in TABLES.items():
        own = raw.get(table)
        if isinstance(own, dict) and (swallowed := [key for key in own if _is_swallowed(key, own[key], model)]):
            keys = ", ".join(swallowed)
            raise SettingError(
                f"[{table}]: expected none of the site's own keys in this table, got {keys}. What follows the line [{table}] belongs to it:"
                f" move [{table}] with its own keys to the end of the file, below {keys}."
            )


def _is_swallowed(key: str, value: object, model: type[BaseModel]) -> bool:
    # Under a table, `[link]` is a table of the file again: only plain keys are swallowed.
    return key not in model.model_fields and key in SiteSettings.model_fields and not isinstance(value, dict)
