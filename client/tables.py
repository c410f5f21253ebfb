"""Tables as sites hold them, CSV or Parquet, column by column.

A cell that cannot be read counts as missing, and the log names it by row and column: an error would become a refusal, and that would tell
the coordinator of a single record.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.operators.errors import DataError

log = logging.getLogger(__name__)

# Texts can be long; the csv module's own limit is 131,072 characters a cell.
LONGEST_CELL = 1 << 30
MISSING = frozenset({"", "NA", "NaN", "nan", "null", "NULL", "None", "?"})

Cell = str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """columns: cells as text, None where missing; all as long as one another. source: what to call it in an error."""

    columns: Mapping[str, Sequence[Cell]]
    source: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def texts(self, name: str) -> Sequence[Cell]:
        """A column's cells. Raises DataError where there is no such column."""
        if name not in self.columns:
            raise DataError(f"Expected a column {name!r} in {self.source}, found {', '.join(self.columns) or 'none'}.")
        return self.columns[name]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column's cells as numbers, NaN where missing or no number; true and false are 1 and 0.

        An infinite one is a number, and harmless: see `teachers`. Raises DataError where there is no such column.
        """
        found, strange = np.full(len(self), np.nan), []
        for row, cell in enumerate(self.texts(name)):
            try:
                found[row] = np.nan if cell is None else _number(cell)
            except ValueError:
                strange.append((row + 1, cell))
        if strange:
            row, cell = strange[0]
            log.warning(
                "Expected a number in column %r, row %d of %s, got %r: it counts as missing, as do %d more.",
                name,
                row,
                self.source,
                cell,
                len(strange) - 1,
            )
        return found

    def rows(self, chosen: Iterable[int]) -> Table:
        """The table of these rows, in this order."""
        chosen = list(chosen)
        return Table(
            columns={name: [cells[row] for row in chosen] for name, cells in self.columns.items()}, source=self.source
        )

    def to_csv(self) -> bytes:
        """As a CSV file; missing cells are empty."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(
            zip(*([cell if cell is not None else "" for cell in cells] for cells in self.columns.values()), strict=True)
        )
        return out.getvalue().encode()


def from_csv(data: bytes, source: str) -> Table:
    """A CSV file in UTF-8 with a header line. Row 1 is the first after it.

    A row with another number of cells counts as all missing; bytes that are no UTF-8 become replacement characters. Raises DataError
    for what is no CSV as a whole.
    """
    csv.field_size_limit(LONGEST_CELL)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig", errors="replace"), newline=""), strict=True)
        header = next(reader, [])
        if not header or len(set(header)) != len(header):
            raise DataError(f"Expected a first line of distinct column names in {source}, got {header}.")
        cells: list[list[Cell]] = [[] for _ in header]
        for number, row in enumerate(reader, start=1):
            if len(row) != len(header):
                log.warning(
                    "Expected %d cells in row %d of %s, got %d: all count as missing.", len(header), number, source, len(row)
                )
                row = [""] * len(header)  # noqa: PLW2901
            for column, cell in zip(cells, row, strict=True):
                column.append(None if cell.strip() in MISSING else cell)
    except csv.Error as error:
        raise DataError(f"Expected CSV in {source}: {error}.") from error
    return Table(columns=dict(zip(header, cells, strict=True)), source=source)


def read(path: Path) -> Table:
    """The table in a .csv or .parquet file. Raises DataError."""
    if path.suffix == ".parquet":
        return _parquet(path)
    try:
        return from_csv(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"Expected a table at {path}: {error.strerror}.") from error


def _parquet(path: Path) -> Table:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"Expected the package pyarrow to read {path}; install it with: pip install limbeck[parquet]"
        ) from error
    try:
        found = parquet.read_table(path)
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"Expected a Parquet file at {path}: {error}.") from error
    columns = {
        name: [None if cell is None else str(cell) for cell in found[name].to_pylist()] for name in found.column_names
    }
    return Table(columns=columns, source=str(path))


def _number(cell: str) -> float:
    truth = {"true": 1.0, "false": 0.0}.get(cell.strip().lower())
    return float(cell) if truth is None else truth
