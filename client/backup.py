"""A backup of a site's privacy account: ledger, head and transcript of one moment, taken while the site's daemon may be running.

The order makes it one moment. A line of the transcript names a state of the ledger that was durable before the line was written; so the
transcript is copied first, up to its last whole line, and the ledger is read after it: whatever the one names is in the other. Before the
backup gets its name, the copy is read again: the ledger's chain and head, every line of the transcript with the bytes that left, and that
the one holds all that the other names.

Nothing else of the site is copied: no record, no key, and not what the site notes about its ledger elsewhere (`limbeck.client.witness`),
which is what reveals that a backup is older than what was spent. A backup is for `limbeck ledger restore`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import tarfile
import tempfile
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from limbeck.base.errors import LedgerError, SettingError
from limbeck.base.files import create_private_folder, sync, sync_folder, write_durably
from limbeck.client import ledger as ledgers
from limbeck.client.ledger import Book
from limbeck.client.site import Site
from limbeck.client.transcript import Transcript
from limbeck.client.witness import Witness

DESCRIPTION = "backup.json"
# An --out that ends like this is one file; anything else is a folder.
ARCHIVES = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup that was read again and found whole. messages: in the transcript."""

    path: Path
    book: Book
    messages: int


def make(site: Site, out: Path, *, now: datetime) -> Backup:
    """Copy ledger, head and transcript to `out`, a folder or an archive that does not exist yet.

    Raises: SettingError if `out` exists or the ledger is another user's, LedgerError or TranscriptError if a copy cannot be trusted.
    """
    if os.path.lexists(out):
        raise SettingError(f"Expected nothing at {out} yet, found something; it was left as it is.")
    before = site.account.check()
    if before is None:
        raise LedgerError(f"Expected a privacy ledger at {site.ledger}, found none: nothing was spent yet.")
    _check_owner(site.ledger)
    create_private_folder(out.parent)
    building = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        folder = building / "backup"
        folder.mkdir(mode=stat.S_IRWXU)
        site.transcript.copy_to(folder)
        ledgers.write(folder / site.ledger.name, ledgers.read(site.ledger).rows)
        made = _verify(site, folder, before)
        _describe(site, folder, made, now)
        for path in folder.iterdir():
            # Nobody else could reach them so far, whatever the umask.
            path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        if out.name.endswith(ARCHIVES):
            _archive(folder, building / "archive", out)
        else:
            sync_folder(folder)
            folder.rename(out)
            sync_folder(out.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Backup(path=out, book=made.book, messages=made.messages)


def _check_owner(ledger: Path) -> None:
    """SQLite leaves files beside a database that it reads; those of another user would lock the site's daemon out."""
    owner = ledger.stat().st_uid
    if owner != os.geteuid():
        raise SettingError(
            f"Expected the owner of {ledger} (user {owner}) to run this, got user {os.geteuid()}: use sudo -u or runuser -u."
        )


def _verify(site: Site, folder: Path, before: Book) -> Backup:
    """What the copy holds. Raises LedgerError or TranscriptError unless it is whole, and as new as the ledger was before."""
    ledger = folder / site.ledger.name
    transcript = Transcript(folder / (site.folder / site.settings.transcript).name)
    book, messages = ledgers.read(ledger), sum(1 for _ in transcript)
    if book.rows[: len(before.rows)] != before.rows:
        raise LedgerError(f"Expected {ledger} to begin with the {len(before.rows)} rows of {site.ledger}, found others.")
    Witness(site.name, folder / "no-state", transcript).check_all(book.rows, ledger)
    return Backup(path=folder, book=book, messages=messages)


def _describe(site: Site, folder: Path, made: Backup, now: datetime) -> None:
    book = made.book
    spent = book.spent()
    described = {
        "limbeck": version("limbeck"),
        "site": site.name,
        "time": now.isoformat(timespec="seconds"),
        "rows": len(book.rows),
        "head": book.head,
        "messages": made.messages,
        "data_set": book.terms.data_set,
        # JSON has no infinity: null if something without a guarantee was released.
        "spent_epsilon": spent if math.isfinite(spent) else None,
        "delta": book.terms.delta,
        "unit": book.terms.unit.value,
        "adjacency": book.terms.adjacency.value,
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())},
    }
    write_durably(folder / DESCRIPTION, json.dumps(described, indent=1).encode() + b"\n")


def _archive(folder: Path, archive: Path, out: Path) -> None:
    """One file of the folder's files, complete or absent, readable by its owner alone, that replaces none."""
    mode: Literal["w", "w:gz"] = "w" if out.name.endswith(".tar") else "w:gz"
    descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    name = out.name.removesuffix(next(suffix for suffix in ARCHIVES[::-1] if out.name.endswith(suffix)))
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode=mode) as packed:
            packed.add(folder, arcname=name)
        file.flush()
        sync(file.fileno())
    try:
        os.link(archive, out)
    except FileExistsError:
        raise SettingError(f"Expected nothing at {out} yet, found something; it was left as it is.") from None
    sync_folder(out.parent)
