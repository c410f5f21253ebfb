"""Tables as sites hold them, CSV or Parquet, column by column.

The header, or the file's schema, determines the columns; every record after it is parsed by itself, from nothing but its own bytes. A
cell that cannot be read counts as missing, and in a line that is not valid CSV all cells count as missing; the log names them. An error
would become a refusal, and that would tell the coordinator about a single record.

So a record of a CSV file is one line. If quotation marks may span lines, as RFC 4180 allows, one that is never closed swallows the
records after it; only public tables are read like that.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError

log = logging.getLogger(__name__)

# The limit for a line, in bytes. Texts can be long; the csv module's own limit is 131,072 characters per cell.
LONGEST_LINE = 1 << 24
MISSING = frozenset({"", "NA", "NaN", "nan", "null", "NULL", "None", "?"})
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A whole number as data frames write it once one cell of its column is missing.
WHOLE = re.compile(r"([+-]?\d+)\.0*")
SEPARATORS = re.compile(r"[;|\t]")
LINE_BREAKS = re.compile(r"\r\n|\r|\n")

Cell = str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """A table. columns: cells as text, None where missing, all of the same length. source: its name in messages."""

    columns: Mapping[str, Sequence[Cell]]
    source: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def texts(self, name: str) -> Sequence[Cell]:
        """A column's cells. Raises DataError if there is no such column."""
        require(self.columns, [name], self.source)
        return self.columns[name]

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column's cells as numbers, NaN where missing or not a number; true and false are 1 and 0.

        An infinite value is a number, and harmless: see `limbeck.client.teachers`.

        Raises: DataError if there is no such column.
        """
        numbers, unreadable = np.full(len(self), np.nan), []
        for row, cell in enumerate(self.texts(name)):
            try:
                numbers[row] = np.nan if cell is None else to_number(cell)
            except ValueError:
                unreadable.append((row + 1, cell))
        if unreadable:
            row, cell = unreadable[0]
            log.warning(
                "Expected a number in column %r, row %d of %s, got %.60r: it counts as missing, as do %d more.",
                name,
                row,
                self.source,
                cell,
                len(unreadable) - 1,
            )
        return numbers

    def rows(self, chosen: Iterable[int]) -> Table:
        """The table of these rows, in this order."""
        chosen = list(chosen)
        return Table(
            columns={name: [cells[row] for row in chosen] for name, cells in self.columns.items()}, source=self.source
        )

    def to_csv(self) -> bytes:
        """The table as a CSV file, one line per row; missing cells are empty, and a space replaces a line break within a cell."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(
            zip(*([LINE_BREAKS.sub(" ", cell or "") for cell in cells] for cells in self.columns.values()), strict=True)
        )
        return out.getvalue().encode()


def require(columns: Iterable[str], names: Iterable[str], source: str) -> None:
    """Raise DataError naming the first of `names` that is not a column."""
    present = list(columns)
    for name in names:
        if name not in present:
            hint = "; commas separate columns" if len(present) == 1 and SEPARATORS.search(present[0]) else ""
            raise DataError(f"Expected a column {name!r} in {source}, found {', '.join(present) or 'none'}{hint}.")


def to_number(cell: str) -> float:
    """A cell as a number; true and false are 1 and 0. Raises ValueError if it is not a number."""
    truth = {"true": 1.0, "false": 0.0}.get(cell.strip().lower())
    return float(cell) if truth is None else truth


def plain(cell: str) -> str:
    """A cell without surrounding blanks, and a whole number without a fraction of zeros: "1.0" becomes "1".

    A data frame writes a whole column of "1" as "1.0" as soon as a single cell of it is missing.
    """
    name = cell.strip()
    whole = WHOLE.fullmatch(name)
    return whole[1] if whole is not None else name


class Names:
    """From names to numbers: by the name as written, or else by its `plain` form, if that form belongs to one number only."""

    def __init__(self, numbers: Iterable[tuple[str, int]]) -> None:
        self.exact = dict(numbers)
        alike: dict[str, set[int]] = {}
        for name, number in self.exact.items():
            alike.setdefault(plain(name), set()).add(number)
        self.plain = {name: min(candidates) for name, candidates in alike.items() if len(candidates) == 1}

    def __getitem__(self, cell: str) -> int | None:
        return self.exact[cell] if cell in self.exact else self.plain.get(plain(cell))


def from_csv(data: bytes, source: str, *, public: bool = False) -> Table:
    """The table in a CSV file: UTF-8, a header line, one record per line. Row 1 is the first after the header; blank lines do not count.

    In a line with another number of cells, or that is not valid CSV by itself, as with an open quotation mark, all cells count as missing;
    bytes that are not UTF-8 become replacement characters.

    source: the name of the table in messages.
    public: the table contains nothing private: quoted cells may hold line breaks, and invalid CSV is an error.

    Raises: DataError for an invalid header.
    """
    if public:
        return _with_line_breaks(data, source)
    lines = _lines(data)
    header = _header(next(lines, b""), source)
    cells: list[list[Cell]] = [[] for _ in header]
    invalid: list[tuple[int, int | None]] = []
    for number, line in enumerate((line for line in lines if line.strip()), start=1):
        row = _cells(line)
        if row is None or len(row) != len(header):
            invalid.append((number, None if row is None else len(row)))
            row = [""] * len(header)
        for column, cell in zip(cells, row, strict=True):
            column.append(_cell(cell))
    if invalid:
        row_number, count = invalid[0]
        got = f"{count}" if count is not None else "a line that is not CSV by itself"
        log.warning(
            "Expected %d cells in row %d of %s, got %s: all count as missing, as do those of %d more rows.",
            len(header),
            row_number,
            source,
            got,
            len(invalid) - 1,
        )
    return Table(columns=dict(zip(header, cells, strict=True)), source=source)


def _lines(data: bytes) -> Iterator[bytes]:
    """Physical lines, each ended by LF or CR LF."""
    return (line.removesuffix(b"\r") for line in data.removeprefix(BYTE_ORDER_MARK).split(b"\n"))


def _cells(line: bytes) -> list[str] | None:
    """The cells of one line, from nothing but its own bytes; None if it is not valid CSV by itself."""
    # Unbalanced marks: the first and the last part of a cell that spans lines.
    if len(line) > LONGEST_LINE or line.count(b'"') % 2:
        return None
    # A cell is never longer than its line.
    csv.field_size_limit(LONGEST_LINE)
    try:
        rows = list(csv.reader([line.decode("utf-8", errors="replace")], strict=True))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _cell(cell: str) -> Cell:
    return None if cell.strip() in MISSING else cell


def _header(line: bytes, source: str) -> list[str]:
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line:
        raise DataError(f"Expected UTF-8 in {source}, found what looks like UTF-16.")
    header = _cells(line) or []
    if not header or len(set(header)) != len(header):
        raise DataError(f"Expected a first line of distinct column names in {source}, got {line[:200]!r}.")
    return header


def _with_line_breaks(data: bytes, source: str) -> Table:
    csv.field_size_limit(len(data) + 1)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig", errors="replace"), newline=""), strict=True)
        header = next(reader, [])
        if not header or len(set(header)) != len(header):
            raise DataError(f"Expected a first line of distinct column names in {source}, got {header}.")
        rows = [row if len(row) == len(header) else [""] * len(header) for row in reader]
    except csv.Error as error:
        raise DataError(f"Expected CSV in {source}: {error}.") from error
    columns = {name: [_cell(row[place]) for row in rows] for place, name in enumerate(header)}
    return Table(columns=columns, source=source)


def read(path: Path, *, public: bool = False) -> Table:
    """The table in a .csv or .parquet file. public: see `from_csv`. Raises DataError."""
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    try:
        return from_csv(path.read_bytes(), str(path), public=public)
    except OSError as error:
        raise DataError(f"Expected a table at {path}: {error.strerror}.") from error


def read_header(path: Path) -> list[str]:
    """The names of the columns of a .csv or .parquet file; no record is read. Raises DataError."""
    if path.suffix.lower() == ".parquet":
        names = list(_open_parquet(path).schema_arrow.names)
        if len(set(names)) != len(names):
            raise DataError(f"Expected distinct column names in {path}, got {', '.join(names)}.")
        return names
    try:
        with path.open("rb") as file:
            line = file.readline(LONGEST_LINE + 1)
    except OSError as error:
        raise DataError(f"Expected a table at {path}: {error.strerror}.") from error
    return _header(next(_lines(line)), str(path))


def _open_parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"Expected the package pyarrow to read {path}; install it with: pip install limbeck[parquet]"
        ) from error
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # pyarrow raises errors of many kinds
        raise DataError(f"Expected a Parquet file at {path}: {type(error).__name__}: {error}.") from error


def _parquet(path: Path) -> Table:
    names, file = read_header(path), _open_parquet(path)
    try:
        content = file.read()
        columns = {name: [_parquet_cell(cell) for cell in content.column(place)] for place, name in enumerate(names)}
    except Exception as error:  # likewise, about an unreadable page, not about a cell
        raise DataError(f"Expected a Parquet file at {path}: {type(error).__name__}: {error}.") from error
    return Table(columns=columns, source=str(path))


def _parquet_cell(scalar: Any) -> Cell:
    """One cell as text, from nothing but itself: a text that is not UTF-8, or an invalid date, affects no other record."""
    try:
        value = scalar.as_py()
    except UnicodeDecodeError:
        value = bytes((scalar.value if hasattr(scalar, "dictionary") else scalar).as_buffer())
    except Exception:  # whatever a conversion raises
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
