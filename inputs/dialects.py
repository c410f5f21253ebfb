"""Dialects of text tables: what separates the cells, what quotes them, how text becomes bytes and how numbers are written.

Two ways lead to a dialect. `of_header` knows the first line of a file and what its owner has said, and nothing else: so a site reads its
records, since a dialect that rows determine would let one record change what becomes of all the others. `detect` reads the whole file;
it is for public tables, and for owners who look at their own.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from limbeck.base.errors import SettingError

DELIMITERS = (",", ";", "\t", "|")
# What stands for "either of them, cell by cell", where nobody has said which.
EITHER = ""
BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
NAMES = {"utf-8": "UTF-8", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "cp1252": "Windows-1252", "iso8859-1": "Latin-1"}
SIGNS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# The first line of a file that Excel was told the delimiter by.
SEPARATOR_LINE = re.compile(r'"?sep=([^"])"?\s*', re.IGNORECASE)
# The part of a file that tells its delimiter and its quotation marks: whole lines of about so many characters.
SAMPLE = 1 << 18
# So many numbers with signs tell how numbers are written.
MOST_NUMBERS = 300_000
# Thousands are separated by the other sign, blanks (also such as do not break a line) or apostrophes.
GROUPS = re.compile(
    r"(?P<sign>[+-]?)(?P<first>\d{1,3})(?P<by>[., \u00a0\u2009\u202f'\u2019])(?P<rest>\d{3}(?:(?P=by)\d{3})*)(?P<end>[.,]\d*)?"
)
DECIMAL = re.compile(r"[+-]?\d*([.,])\d+")
COMMA = re.compile(r"([+-]?\d*),(\d*(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How a text table is written.

    - delimiter: between cells.
    - quote: around cells that contain it; "" where a quotation mark is a character like any other.
    - text_encoding: a codec's name, as Python spells it.
    - decimal: "." or ","; "" for either, each cell by itself: the only sign is the decimal one, or the last of several.
    - thousands: what groups digits by three, or "". Other separators count where a cell leaves no doubt, as 1,234.5 and 1,234,567 do.

    Raises: SettingError for what no table can be read by.
    """

    delimiter: str = ","
    quote: str = '"'
    text_encoding: str = "utf-8"
    decimal: str = "."
    thousands: str = ""

    def __post_init__(self) -> None:
        if (
            len(self.delimiter) != 1
            or self.delimiter.isalnum()
            or self.delimiter in "\r\n\0."
            or self.delimiter == self.quote
        ):
            raise SettingError(
                f"Expected one character between cells, such as {', '.join(map(repr, DELIMITERS))}, got {self.delimiter!r}."
            )
        if len(self.quote) > 1 or self.quote.isalnum() or (self.quote and self.quote in "\r\n\0"):
            raise SettingError(f"Expected one character as quotation mark, or none, got {self.quote!r}.")
        if self.decimal not in {".", ",", EITHER}:
            raise SettingError(f"Expected '.' or ',' as decimal sign, got {self.decimal!r}.")
        if self.thousands and (len(self.thousands) != 1 or self.thousands.isalnum() or self.thousands == self.decimal):
            raise SettingError(f"Expected another sign than the decimal one between thousands, got {self.thousands!r}.")
        object.__setattr__(self, "text_encoding", codec(self.text_encoding))

    @property
    def line_end(self) -> bytes:
        """The line feed in bytes."""
        return "\n".encode(self.text_encoding)

    def describe(self) -> str:
        """In words, for people."""
        between = SIGNS.get(self.delimiter, f"{self.delimiter!r}")
        quoted = "" if self.quote == '"' else f", {self.quote or 'nothing'} as quotation mark"
        sign = {".": "decimal point", ",": "decimal comma"}.get(self.decimal, "decimal point or comma, each cell by itself")
        grouped = f", {_named(self.thousands)} between thousands" if self.thousands else ""
        text = NAMES.get(self.text_encoding, self.text_encoding)
        return f"{between} between cells{quoted}, {sign}{grouped}, {text} text"

    def rows(self, lines: Iterable[str], *, strict: bool = True) -> Iterator[list[str]]:
        """Rows of cells. Raises csv.Error, if strict also for quotation marks that are out of place."""
        if not self.quote:
            return csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=strict)
        return csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote, strict=strict)

    def number(self, cell: str) -> float:
        """A cell as a number, from nothing but itself. Raises ValueError if it is none."""
        return float(self.with_point(cell))

    def with_point(self, cell: str) -> str:
        """A number with a point as decimal sign and nothing between thousands. Raises ValueError if the cell is no number.

        "1,234" by itself may be more than a thousand or little more than one: it is a number only if the dialect says which.
        """
        text = cell.strip()
        if self.decimal != ",":
            try:
                float(text)
                return text
            except ValueError:
                pass
        elif "." not in text and "," not in text:
            float(text)
            return text
        if (grouped := self._grouped(text)) is not None:
            return grouped
        if self.decimal != "." and (found := COMMA.fullmatch(text)) is not None:
            pointed = f"{found[1]}.{found[2]}"
            float(pointed)
            return pointed
        raise ValueError(f"expected a number, got {text[:60]!r}")

    def _grouped(self, text: str) -> str | None:
        """A number whose thousands are separated, or None if it is none beyond doubt."""
        found = GROUPS.fullmatch(text)
        if found is None:
            return None
        by, end = found["by"], found["end"] or ""
        if by == self.decimal or end[:1] == by or (end and self.decimal not in {EITHER, end[:1]}):
            return None
        is_certain = by not in ".," or by == self.thousands or end or len(found["rest"]) > 3
        if not is_certain:
            return None
        return found["sign"] + found["first"] + found["rest"].replace(by, "") + end.replace(",", ".")


def codec(name: str) -> str:
    """The name of a text encoding as Python spells it.

    Raises: SettingError if there is none, or if it writes lines and commas in a way that no line can be told by.
    """
    try:
        found = codecs.lookup(name).name
        ascii_text = bytes(range(32, 127)).decode("ascii") + "\r\n\t"
        if found == "utf-16":
            return "utf-16-le"
        if not found.startswith("utf-16-") and ascii_text.encode(found) != ascii_text.encode("ascii"):
            raise LookupError
    except (LookupError, ValueError, AttributeError, TypeError):
        raise SettingError(
            f"Expected a text encoding such as utf-8, utf-16, windows-1252 or latin-1, got {name!r}."
        ) from None
    return {"utf-8-sig": "utf-8", "ascii": "utf-8"}.get(found, found)


DEFAULT = Dialect()


def of_header(
    head: bytes,
    *,
    delimiter: str | None = None,
    quote: str | None = None,
    decimal: str | None = None,
    text_encoding: str | None = None,
) -> Dialect:
    """The dialect of a table that begins with this line, with what its owner says of it; what is not said, the line decides.

    The decimal sign cannot be seen in it. Unless it is given, it is the point between commas, and otherwise either, cell by cell.
    Whoever gives it leaves no doubt about the other sign, which then separates thousands.

    - head: the header as bytes, with a byte order mark if there is one, and the line "sep=;" before it, if there is that.
    - delimiter, quote, decimal, text_encoding: see `Dialect`.

    Raises: SettingError for what no table can be read by.
    """
    by_mark = next((name for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), None)
    if text_encoding is None or (by_mark is not None and codec(text_encoding).startswith("utf-16")):
        text_encoding = by_mark or _by_bytes(head)
    if delimiter is None:
        # A line end may be cut where it takes two bytes.
        line = re.split("[\r\n]", decoded(head, codec(text_encoding)), maxsplit=1)[0]
        delimiter = said_by(line) or _by_header(line)
    own = Dialect(delimiter=delimiter, quote='"' if quote is None else quote, text_encoding=text_encoding)
    if decimal is None:
        return replace(own, decimal="." if delimiter == "," else EITHER)
    return replace(own, decimal=decimal, thousands={".": ",", ",": "."}.get(decimal, ""))


def detect(data: bytes) -> Dialect:
    """The dialect of a whole table that is public, or that its owner looks at."""
    text_encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), None) or _by_bytes(data)
    text = decoded(data, text_encoding)
    first, _, rest = text.partition("\n")
    said = said_by(first)
    text = text if said is None else rest
    end = text.rfind("\n", 0, SAMPLE) + 1 if len(text) > SAMPLE else len(text)
    sample = text[: end or SAMPLE]
    quote = _quote(sample)
    own = Dialect(delimiter=said or _by_lines(sample, quote), quote=quote, text_encoding=text_encoding)
    return _with_numbers(replace(own, quote="") if _is_stray(quote, text, own) else own, text)


def decoded(data: bytes, text_encoding: str) -> str:
    """Text, without a byte order mark; bytes that are none become replacement characters."""
    return data.decode(text_encoding, errors="replace").removeprefix("\ufeff")


def allow_cells(longest: int) -> None:
    """Let Python's csv module read cells of so many characters. It has one limit for the whole process, which is never lowered."""
    csv.field_size_limit(max(csv.field_size_limit(), longest))


def said_by(line: str) -> str | None:
    """The delimiter that a first line such as "sep=;" says, or None: then it is the header."""
    found = SEPARATOR_LINE.fullmatch(line)
    return found[1] if found is not None else None


def _named(sign: str) -> str:
    return {",": "commas", ".": "points", "'": "apostrophes", "\u2019": "apostrophes"}.get(sign, "blanks")


def _by_bytes(data: bytes) -> str:
    """The encoding of bytes without a byte order mark."""
    if b"\0" in data[:2]:
        return "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    for name in ("utf-8", "cp1252"):
        try:
            data.decode(name)
        except UnicodeDecodeError:
            continue
        return name
    return "iso8859-1"


def _by_header(text: str) -> str:
    """The delimiter by which a header has the most names; the first in DELIMITERS of several."""
    counts = {delimiter: len(_first_row(text, delimiter)) for delimiter in DELIMITERS}
    return max(DELIMITERS, key=lambda delimiter: counts[delimiter])


def _first_row(text: str, delimiter: str, quote: str = '"') -> Sequence[str]:
    try:
        return next(Dialect(delimiter=delimiter, quote=quote).rows([text]), [])
    except csv.Error:
        return []


def _by_lines(sample: str, quote: str) -> str:
    """The delimiter by which most rows have as many cells as the header, and more than one; the most cells of several."""

    def score(delimiter: str) -> tuple[float, int]:
        rows = _rows(sample, Dialect(delimiter=delimiter, quote=quote))
        header = next(rows, [])
        if len(header) < 2:
            return 0.0, 0
        counts = Counter(len(row) for row in rows if row)
        alike = counts[len(header)] / counts.total() if counts else 1.0
        return round(alike, 2), len(header)

    best = max(DELIMITERS, key=score)
    return best if score(best) > (0.0, 0) else ","


def _rows(text: str, dialect: Dialect) -> Iterator[list[str]]:
    allow_cells(len(text))
    return dialect.rows(io.StringIO(text, newline=""), strict=False)


def _is_stray(quote: str, text: str, dialect: Dialect) -> bool:
    """Whether quotation marks are characters like any other: as many rows fit then, and most cells hold them elsewhere than around them."""
    if quote not in text:
        return False
    without = replace(dialect, quote="")
    marked = [cell for row in _rows(text, without) for cell in row if quote in cell]
    around = sum(len(cell) > 1 and cell[0] == cell[-1] == quote for cell in marked)
    return around < len(marked) / 2 and _fitting(text, without) >= _fitting(text, dialect)


def _fitting(text: str, dialect: Dialect) -> tuple[int, int]:
    """Rows with as many cells as the header, up to one after which nothing can be read; and minus the others."""
    allow_cells(len(text))
    rows, fitting, others = dialect.rows(io.StringIO(text, newline="")), 0, 0
    with suppress(csv.Error):
        header = next(rows, [])
        for row in rows:
            fitting += len(row) == len(header)
            others += len(row) != len(header)
    return fitting, -others


def _quote(sample: str) -> str:
    """An apostrophe if cells begin and end with it, and none with a quotation mark."""
    by = "|".join(map(re.escape, DELIMITERS))
    counts = {
        mark: len(re.findall(rf"(?:^|{by}){mark}[^{mark}\n]*{mark}(?=$|{by}|\r?\n)", sample, re.MULTILINE)) for mark in "\"'"
    }
    return "'" if counts["'"] and not counts['"'] else '"'


def _with_numbers(dialect: Dialect, text: str) -> Dialect:
    """The dialect with the signs that the cells' numbers are written with.

    "1,234" by itself says nothing. If no other number does, a comma between commas groups thousands, as in English tables; where
    something else separates the cells, because commas are needed, it is the decimal sign.
    """
    found: Counter[str] = Counter()
    groups: Counter[str] = Counter()
    by_point, by_comma = replace(dialect, decimal="."), replace(dialect, decimal=",")
    for cell in itertools.islice(_with_signs(text, dialect), MOST_NUMBERS):
        grouped = GROUPS.fullmatch(cell)
        if grouped is not None and grouped["first"] != "0":
            groups[grouped["by"]] += 1
            if grouped["by"] in ".," and not grouped["end"] and len(grouped["rest"]) == 3:
                continue
        if (plainest := DECIMAL.fullmatch(cell)) is not None:
            found[plainest[1]] += 1
        elif _is_number(by_point, cell) != (is_comma := _is_number(by_comma, cell)):
            found["," if is_comma else "."] += 1
    if not found:
        decimal = "," if groups[","] and not groups["."] and dialect.delimiter != "," else "."
    else:
        decimal = "," if found[","] > found["."] else "."
    thousands = next((sign for sign, _ in groups.most_common() if sign != decimal), "")
    return replace(dialect, decimal=decimal, thousands=thousands)


def _with_signs(text: str, dialect: Dialect) -> Iterator[str]:
    """The cells that end with a digit and do not consist of digits alone."""
    for row in _rows(text, dialect):
        for cell in row:
            own = cell.strip()
            if own[-1:].isdigit() and not own.isdigit():
                yield own


def _is_number(dialect: Dialect, cell: str) -> bool:
    try:
        dialect.number(cell)
    except ValueError:
        return False
    return True
