"""The privacy account of a site's records: which ledger keeps it, and that there is no other.

Records have one account, whatever links lead to them and however many sites share them: by default its ledger lies beside the records
themselves. No ledger is opened that lacks anything that the site knows was spent (`limbeck.client.witness`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from limbeck.base.errors import LedgerError, LimbeckError, SettingError
from limbeck.client import ledger as ledgers
from limbeck.client.ledger import Book, Budget, Ledger
from limbeck.client.settings import SiteSettings
from limbeck.client.witness import Witness

# The suffix of a ledger's file, after the name of the records' file.
SUFFIX = ".ledger"
# How many files of a site's folder are looked at for other ledgers of the same records.
FILES_LOOKED_AT = 10_000


def ledger_of(folder: Path, settings: SiteSettings) -> Path:
    """The ledger's file: beside the records themselves, whatever links lead to them, hard ones within their folder included.

    folder: the site's.

    Raises: SettingError if a reader brings the records and `ledger` does not say which file keeps their account, or if nothing brings them.
    """
    if settings.ledger is not None:
        return folder / settings.ledger
    records = settings.record_settings
    if records.path is None and records.reader is None:
        raise SettingError("Expected records.path or records.reader, one of them.")
    if records.path is None:
        raise SettingError(f"Expected `ledger` to name a file for the records that {records.reader} reads, got none.")
    file = (folder / records.path).resolve()
    ledger = file.with_name(file.name + SUFFIX)
    return ledger if ledger.exists() else next(_of_hard_links(file), ledger)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account of one site's records.

    ledger: its file, which need not exist yet.
    chosen: whether the owner chose this file in the settings, instead of having it lie beside the records.
    witness: what the site knows of the ledger apart from the ledger itself.
    folder: the site's, and `state`, its folder of plans: in the first, apart from the second, other ledgers of the records are looked for.
    """

    ledger: Path
    chosen: bool
    witness: Witness
    folder: Path
    state: Path

    def open(self, budget: Budget) -> Ledger:
        """The ledger, which holds all that this site knows was spent.

        budget: what it is to enforce.

        Raises: LedgerError if it lacks something, or cannot be trusted.
        """
        self._check_one_account()
        if not ledgers.begun(self.ledger):
            self._check_no_other_ledger(budget.data_set)
        return Ledger(self.ledger, budget, self.witness)

    def check(self, *, every_line: bool = False) -> Book | None:
        """The ledger as it is, or None if nothing was spent yet; writes nothing.

        every_line: compare it with the whole transcript, instead of with how far it is known to have come.

        Raises: LedgerError if it lacks anything that this site knows was spent, or cannot be trusted.
        """
        try:
            return self._compare(every_line)
        except LedgerError:
            # A process of this site may have added rows, and noted them, since the ledger was read here.
            with ledgers.held(self.ledger):
                return self._compare(every_line)

    def _compare(self, every_line: bool) -> Book | None:
        self._check_one_account()
        compare = self.witness.check_all if every_line else self.witness.check
        if not ledgers.begun(self.ledger):
            compare([], self.ledger)
            if ledgers.read_head(self.ledger) is not None:
                raise LedgerError(
                    f"Expected a privacy ledger at {self.ledger}, found only its head: what was spent is not known."
                )
            return None
        book = ledgers.read(self.ledger)
        compare(book.rows, self.ledger)
        return book

    @property
    def _records(self) -> Path:
        """The file or folder that a ledger beside it belongs to."""
        return self.ledger.with_name(self.ledger.name.removesuffix(SUFFIX))

    def _check_one_account(self) -> None:
        """Raise LedgerError if another name of the same records, in their folder, has another ledger."""
        if self.chosen:
            return
        for other in _of_hard_links(self._records):
            raise LedgerError(
                f"Expected one ledger for one file of records, found {self.ledger} and {other} (hard links): make them one account. Put one"
                " of the two aside, and run limbeck ledger declare-lost SITE with what it held."
            )

    def _check_no_other_ledger(self, data_set: str) -> None:
        """Before a new one is made. Raises LedgerError if records of this name have one, or these records another name elsewhere."""
        if not self.chosen and self._records.is_file() and (links := self._records.stat().st_nlink) > 1:
            raise LedgerError(
                f"Expected records with one name, found that {self._records} has {links} (hard links): any of them may have a"
                " ledger. Copy the records to a file of their own, or say in site.toml which file is their `ledger`."
            )
        for other in self._ledgers_nearby():
            try:
                other_data_set = ledgers.read(other).terms.data_set
            except LimbeckError:
                continue
            if other_data_set == data_set:
                raise LedgerError(
                    f"Expected one ledger for the records {data_set!r}, found {other} and none yet at {self.ledger}. If these are a copy,"
                    f" or were moved: limbeck ledger move SITE --from {other}. If they are others, give them another data_set in the"
                    " policy."
                )

    def _ledgers_nearby(self) -> Iterator[Path]:
        """Ledgers in the records' folder, and anywhere in the site's."""
        yield from sorted(self.ledger.parent.glob(f"*{SUFFIX}"))
        looked = 0
        for parent, folders, names in os.walk(self.folder):
            folders[:] = sorted(name for name in folders if Path(parent) / name != self.state)
            for name in sorted(names):
                if name.endswith(SUFFIX):
                    yield Path(parent) / name
                looked += 1
                if looked >= FILES_LOOKED_AT:
                    return


def _of_hard_links(file: Path) -> Iterator[Path]:
    """The ledgers of a file's other names in its folder."""
    if not file.is_file() or file.stat().st_nlink < 2:
        return
    for ledger in sorted(file.parent.glob(f"*{SUFFIX}")):
        other = ledger.with_name(ledger.name.removesuffix(SUFFIX))
        if other != file and other.is_file() and other.samefile(file):
            yield ledger
