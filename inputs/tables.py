"""Tables as sites hold them, text or Parquet, column by column; and workbooks, where they are public or somebody's own to look at.

The header, or the file's schema, determines the columns; every record after it is parsed by itself, from nothing but its own bytes. A
cell that cannot be read counts as missing, and in a line that is not valid CSV all cells count as missing; the log names them. An error
would become a refusal, and that would tell the coordinator about a single record. For the same reason a site's dialect (`dialects`)
comes from the header and from settings, never from rows.

So a record of a text table is one line. If quotation marks may span lines, as RFC 4180 allows, one that is never closed swallows the
records after it; only public tables are read like that.

Compressed tables and workbooks expand up to a thousand times. They are inflated piece by piece, up to a limit.
"""

from __future__ import annotations

import csv
import gzip
import io
import logging
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError
from limbeck.inputs import dialects
from limbeck.inputs.dialects import Dialect

if TYPE_CHECKING:
    from openpyxl.workbook import Workbook

log = logging.getLogger(__name__)

# The limit for a line, in bytes. Texts can be long; the csv module's own limit is 131,072 characters per cell.
LONGEST_LINE = 1 << 24
# The limit for a compressed table once inflated, in bytes, and for the cells of a Parquet file or a workbook.
LARGEST = 4 << 30
MOST_CELLS = 1 << 28
CHUNK = 1 << 20
MISSING = frozenset({"", "NA", "NaN", "nan", "null", "NULL", "None", "?"})
# What the names of tables end with, in any case.
TEXTS = frozenset({".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz"})
PARQUET = frozenset({".parquet", ".pq"})
WORKBOOKS = frozenset({".xlsx"})
SUFFIXES = TEXTS | PARQUET | WORKBOOKS
# A whole number as data frames write it once one cell of its column is missing.
WHOLE = re.compile(r"([+-]?\d+)\.0*")
LINE_BREAKS = re.compile(r"\r\n|\r|\n")
# What bytes of text call blank.
BLANKS = " \t\n\r\x0b\x0c"

Cell = str | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """A table.

    - columns: cells as text, None where missing, all of the same length.
    - source: its name in messages.
    - dialect: how its numbers are written.
    """

    columns: Mapping[str, Sequence[Cell]]
    source: str
    dialect: Dialect = dialects.DEFAULT

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
                numbers[row] = np.nan if cell is None else to_number(cell, self.dialect)
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
            columns={name: [cells[row] for row in chosen] for name, cells in self.columns.items()},
            source=self.source,
            dialect=self.dialect,
        )

    def with_points(self) -> Table:
        """The same table with all numbers written with a decimal point and without separated thousands."""
        if (self.dialect.decimal, self.dialect.thousands) == (".", ""):
            return self
        columns = {
            name: [None if cell is None else self.with_point(cell) for cell in cells] for name, cells in self.columns.items()
        }
        return Table(columns=columns, source=self.source)

    def with_point(self, cell: str) -> str:
        """A cell, if it is a number, with a decimal point and without separated thousands; otherwise as it is."""
        if (self.dialect.decimal, self.dialect.thousands) == (".", ""):
            return cell
        try:
            return self.dialect.with_point(cell)
        except ValueError:
            return cell

    def to_csv(self) -> bytes:
        """The table as a CSV file of commas and decimal points, in UTF-8, one line per row.

        Missing cells are empty, and a space replaces a line break within a cell.
        """
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        columns = self.with_points().columns
        writer.writerow(columns)
        writer.writerows(
            zip(*([LINE_BREAKS.sub(" ", cell or "") for cell in cells] for cells in columns.values()), strict=True)
        )
        return out.getvalue().encode()


def require(columns: Iterable[str], names: Iterable[str], source: str) -> None:
    """Raise DataError naming the first of `names` that is not a column."""
    present = list(columns)
    for name in names:
        if name not in present:
            hint = "; if something else separates its columns, say so by records.delimiter" if len(present) == 1 else ""
            raise DataError(f"Expected a column {name!r} in {source}, found {', '.join(present) or 'none'}{hint}.")


def to_number(cell: str, dialect: Dialect = dialects.DEFAULT) -> float:
    """A cell as a number; true and false are 1 and 0. Raises ValueError if it is not a number."""
    if dialect.decimal != ",":
        # By far the most cells, and what `dialect.number` would say of them.
        with suppress(ValueError):
            return float(cell)
    truth = {"true": 1.0, "false": 0.0}.get(cell.strip().lower())
    return dialect.number(cell) if truth is None else truth


def suffix(path: Path) -> str:
    """What a file's name ends with, in small letters, such as ".csv" or ".csv.gz"."""
    own = path.name.lower()
    inner = Path(own.removesuffix(".gz")).suffix
    return inner + ".gz" if own.endswith(".gz") else inner


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name."""
    return suffix(path) in SUFFIXES


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


def from_csv(
    data: bytes, source: str, *, public: bool = False, dialect: Dialect | None = None, largest: int | None = None
) -> Table:
    """The table in a text file: a header line, one record per line. Row 1 is the first after the header; blank lines do not count.

    In a line with another number of cells, or that is not valid CSV by itself, as with an open quotation mark, all cells count as missing;
    bytes that are not in the dialect's encoding become replacement characters.

    - source: the name of the table in messages.
    - public: the table contains nothing private, or somebody looks at their own: quoted cells may hold line breaks, invalid CSV is an
      error, and the dialect, unless it is given, is seen in the rows.
    - dialect: without one, and unless public, that of the header (`dialects.of_header`).
    - largest: the limit for the table in bytes; if it is reached, so many lines are there, since of each line 16 MiB count at most.

    Raises: DataError for an invalid header, or for more than the limit.
    """
    return _from_stream(io.BytesIO(data), source, public=public, dialect=dialect, largest=largest)


def _from_stream(
    stream: IO[bytes], source: str, *, public: bool, dialect: Dialect | None, largest: int | None = None
) -> Table:
    if public:
        return _with_line_breaks(_content(stream, source, largest), source, dialect)
    head = _head(stream, dialect.text_encoding if dialect is not None else None)
    dialect = dialect or dialects.of_header(head)
    lines = _lines(stream, dialect, head)
    header = _header(_first(lines), dialect, source)
    cells: list[list[Cell]] = [[] for _ in header]
    invalid: list[tuple[int, int | None]] = []
    size = 0
    for number, line in enumerate((line for line in lines if line is None or line.strip(BLANKS)), start=1):
        size += _size(line)
        if largest is not None and size > largest:
            raise DataError(_too_large(source, largest))
        if number * len(header) > MOST_CELLS:
            raise DataError(f"Expected at most {MOST_CELLS} cells in {source}, got more.")
        row = None if line is None else _cells(line, dialect)
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
    return Table(columns=dict(zip(header, cells, strict=True)), source=source, dialect=dialect)


def _head(stream: IO[bytes], text_encoding: str | None = None) -> bytes:
    """The bytes of the header, or of the first two lines if the first says what separates the cells."""
    head = stream.readline(LONGEST_LINE)
    own = dialects.of_header(head, text_encoding=text_encoding)
    head += _up_to(own.line_end, head, stream)
    if dialects.said_by(dialects.decoded(head, own.text_encoding).partition("\n")[0]) is not None:
        head += stream.readline(LONGEST_LINE)
        head += _up_to(own.line_end, head, stream)
    return head


def _up_to(end: bytes, head: bytes, stream: IO[bytes]) -> bytes:
    """What follows `head` in its line, where a line feed takes two bytes."""
    more = b""
    while len(end) > 1 and not (head + more).endswith(end) and len(more) < LONGEST_LINE and (byte := stream.read(1)):
        more += byte
    return more


def _lines(stream: IO[bytes], dialect: Dialect, head: bytes) -> Iterator[str | None]:
    """Physical lines, each ended by LF or CR LF and decoded by itself; None instead of one that is longer than LONGEST_LINE.

    No piece of a line end is one itself, in one byte or in two, so whatever bytes a line consists of, those around it stay whole.

    head: what was read of the stream already.
    """
    end, carriage_return = dialect.line_end, "\r".encode(dialect.text_encoding)
    for mark, name in dialects.BYTE_ORDER_MARKS:
        if name == dialect.text_encoding:
            head = head.removeprefix(mark)
    most = LONGEST_LINE + len(carriage_return)
    rest, skipping, more = head, False, True
    while more:
        piece = stream.read(CHUNK)
        more = bool(piece)
        *whole, rest = (rest + piece).split(end)
        if not more:
            whole.append(rest)
        for line in whole:
            own = line.removesuffix(carriage_return)
            yield None if skipping or len(own) > LONGEST_LINE else own.decode(dialect.text_encoding, errors="replace")
            skipping = False
        if len(rest) > most:
            # Of a line too long, only what may begin its end is kept.
            rest, skipping = rest[-len(end) :], True


def _first(lines: Iterator[str | None]) -> str:
    """The header: the first line, or the second if the first says what separates the cells."""
    line = next(lines, None) or ""
    return line if dialects.said_by(line) is None else next(lines, None) or ""


def _cells(line: str, dialect: Dialect) -> list[str] | None:
    """The cells of one line, from nothing but itself; None if it is not valid CSV by itself."""
    # Unbalanced marks: the first and the last part of a cell that spans lines.
    if dialect.quote and line.count(dialect.quote) % 2:
        return None
    # A cell is never longer than its line.
    dialects.allow_cells(LONGEST_LINE)
    try:
        rows = list(dialect.rows([line]))
    except csv.Error:
        return None
    return rows[0] if len(rows) == 1 else None


def _cell(cell: str) -> Cell:
    return None if cell.strip() in MISSING else cell


def _header(line: str, dialect: Dialect, source: str) -> list[str]:
    if "\r" in line:
        raise DataError(f"Expected lines that end with LF or CR LF in {source}, found CR alone: save it anew as CSV.")
    return _distinct(_cells(line, dialect) or [], source, line)


def _distinct(header: list[str], source: str, line: object) -> list[str]:
    if not header or len(set(header)) != len(header):
        raise DataError(f"Expected a first line of distinct column names in {source}, got {str(line)[:200]!r}.")
    return header


def _content(stream: IO[bytes], source: str, largest: int | None) -> bytes:
    """All bytes. Raises DataError for more than `largest`, before they take memory."""
    content = bytearray()
    while piece := stream.read(CHUNK):
        content += piece
        if largest is not None and len(content) > largest:
            raise DataError(_too_large(source, largest))
    return bytes(content)


def _size(line: str | None) -> int:
    """What a line counts for the size of a table: of one that is too long, no more than the longest may be, however long it is."""
    return LONGEST_LINE if line is None else len(line)


def _too_large(source: str, largest: int) -> str:
    return f"Expected at most {largest} bytes in {source} once inflated, got more."


def _with_line_breaks(data: bytes, source: str, dialect: Dialect | None) -> Table:
    dialect = dialect or dialects.detect(data)
    text = dialects.decoded(data, dialect.text_encoding)
    dialects.allow_cells(len(data))
    try:
        stream = io.StringIO(text, newline="")
        if dialects.said_by(text.partition("\n")[0]) is not None:
            stream.readline()
        reader = dialect.rows(stream)
        header = next(reader, [])
        _distinct(header, source, header)
        rows = [row if len(row) == len(header) else [""] * len(header) for row in reader if row]
    except csv.Error as error:
        raise DataError(f"Expected CSV in {source}: {error}.") from error
    columns = {name: [_cell(row[place]) for row in rows] for place, name in enumerate(header)}
    return Table(columns=columns, source=source, dialect=dialect)


def read(path: Path, *, public: bool = False, dialect: Dialect | None = None, largest: int = LARGEST) -> Table:
    """The table in a file whose name ends with one of SUFFIXES.

    - public: see `from_csv`; workbooks are read only then.
    - dialect: see `from_csv`; of text tables.
    - largest: the limit for a compressed table or a workbook once inflated, in bytes.

    Raises: DataError.
    """
    kind = suffix(path)
    if kind in PARQUET:
        return _parquet(path)
    if kind in WORKBOOKS:
        if not public:
            raise DataError(_no_workbook(path))
        return _workbook(path, largest)
    with _open_text(path) as stream:
        limit = largest if kind.endswith(".gz") else None
        return _from_stream(stream, str(path), public=public, dialect=dialect, largest=limit)


def read_header(path: Path, dialect: Dialect | None = None) -> list[str]:
    """The names of the columns of a table; no record is read.

    Raises: DataError, also for a workbook, of which a site cannot read one record without another.
    """
    kind = suffix(path)
    if kind in PARQUET:
        names = list(_open_parquet(path).schema_arrow.names)
        if len(set(names)) != len(names):
            raise DataError(f"Expected distinct column names in {path}, got {', '.join(names)}.")
        return names
    if kind in WORKBOOKS:
        raise DataError(_no_workbook(path))
    with _open_text(path) as stream:
        head = _head(stream, dialect.text_encoding if dialect is not None else None)
        dialect = dialect or dialects.of_header(head)
        return _header(_first(_lines(io.BytesIO(), dialect, head)), dialect, str(path))


def has_rows(path: Path, dialect: Dialect | None = None, *, largest: int = LARGEST) -> bool:
    """Whether anything but blanks follows the header; what it is does not count.

    A compressed table is inflated to its end, so that one that was cut short, or is too large, is found before it is read.

    Raises: DataError.
    """
    kind = suffix(path)
    if kind in PARQUET:
        return bool(_open_parquet(path).metadata.num_rows)
    is_inflated = kind.endswith(".gz")
    with _open_text(path) as stream:
        head = _head(stream, dialect.text_encoding if dialect is not None else None)
        lines = _lines(stream, dialect or dialects.of_header(head), head)
        _first(lines)
        size, found = 0, False
        for line in lines:
            size += _size(line)
            found = found or line is None or bool(line.strip(BLANKS))
            if is_inflated and size > largest:
                raise DataError(_too_large(str(path), largest))
            if found and not is_inflated:
                break
        return found


def read_dialect(
    path: Path,
    *,
    delimiter: str | None = None,
    quote: str | None = None,
    decimal: str | None = None,
    text_encoding: str | None = None,
) -> Dialect:
    """The dialect by which a site reads a table: of its header and of what its owner says (`dialects.of_header`); no record is read.

    Raises: DataError if there is no table, SettingError for a dialect that no table can be read by.
    """
    if suffix(path) not in TEXTS:
        return dialects.DEFAULT
    with _open_text(path) as stream:
        head = _head(stream, text_encoding)
        return dialects.of_header(head, delimiter=delimiter, quote=quote, decimal=decimal, text_encoding=text_encoding)


def detect_dialect(path: Path, *, largest: int = LARGEST) -> Dialect:
    """The dialect that the rows of a table show: of a public table, or for its owner to see. Raises DataError."""
    if suffix(path) not in TEXTS:
        return dialects.DEFAULT
    with _open_text(path) as stream:
        return dialects.detect(_content(stream, str(path), largest))


@contextmanager
def _open_text(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, inflated if its name says that they are compressed."""
    try:
        with gzip.open(path, "rb") if suffix(path).endswith(".gz") else path.open("rb") as stream:
            yield stream  # type: ignore[misc]  # a GzipFile reads bytes as well
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"Expected a table compressed by gzip at {path}: {error}.") from error
    except OSError as error:
        raise DataError(f"Expected a table at {path}: {error.strerror}.") from error


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
    _check_cells(file.metadata.num_rows * len(names), path)
    try:
        content = file.read()
        columns = {name: [_parquet_cell(cell) for cell in content.column(place)] for place, name in enumerate(names)}
    except Exception as error:  # likewise, about an unreadable page, not about a cell
        raise DataError(f"Expected a Parquet file at {path}: {type(error).__name__}: {error}.") from error
    return Table(columns=columns, source=str(path))


def _check_cells(cells: int, path: Path) -> None:
    """A few bytes can say that a value is repeated any number of times."""
    if cells > MOST_CELLS:
        raise DataError(f"Expected at most {MOST_CELLS} cells in {path}, got {cells}.")


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


def _no_workbook(path: Path) -> str:
    return (
        f"Expected a text table or a Parquet file as records, got the workbook {path}, of which one cell can make all rows unreadable: "
        "save it as CSV (UTF-8)."
    )


def _workbook(path: Path, largest: int) -> Table:
    """The first sheet of a workbook: names in its first row, formulas by the values that they had when it was saved."""
    try:
        book = _open_workbook(path, largest)
        sheet = book.worksheets[0]
        rows = sheet.iter_rows(values_only=True)
        header = [_workbook_cell(value) for value in next(rows, ())]
        while header and header[-1] is None:
            header.pop()
        names = _distinct([name or "" for name in header], str(path), header)
        columns: list[list[Cell]] = [[] for _ in names]
        for number, row in enumerate(rows, start=1):
            _check_cells(number * len(names), path)
            cells = [_workbook_cell(value) for value in row[: len(names)]]
            if any(cell is not None for cell in cells):
                for column, cell in zip(columns, cells + [None] * (len(names) - len(cells)), strict=True):
                    column.append(cell)
    except DataError:
        raise
    except Exception as error:  # openpyxl raises errors of many kinds
        raise DataError(f"Expected a workbook at {path}: {type(error).__name__}: {error}.") from error
    return Table(columns=dict(zip(names, columns, strict=True)), source=str(path))


def _open_workbook(path: Path, largest: int) -> Workbook:
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(
            f"Expected the package openpyxl to read {path}; install it with: pip install limbeck[excel]"
        ) from error
    try:
        with ZipFile(path) as archive:
            # zipfile inflates no member beyond the size that the archive's directory gives it.
            size = sum(member.file_size for member in archive.infolist())
    except FileNotFoundError as error:
        raise DataError(f"Expected a table at {path}: {error.strerror}.") from error
    except BadZipFile as error:
        raise DataError(f"Expected a workbook at {path}: {error}.") from error
    if size > largest:
        raise DataError(f"Expected at most {largest} bytes in {path} once inflated, got {size}.")
    return openpyxl.load_workbook(path, read_only=True, data_only=True)


def _workbook_cell(value: object) -> Cell:
    return None if value is None else _cell(str(value))
