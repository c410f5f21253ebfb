"""What each column of a table is taken for, and why: a number, a category, a date, words, or something to leave out.

It looks at all rows, so it is for public tables, and for owners who look at their own. A site applies what came of a public table
(`limbeck.inputs.encodings`); it never decides by its records what they are.

The rules, in this order; the first that holds decides:

1. empty: no cell holds anything. constant: every cell holds the same.
2. identifier: whole numbers that count the rows one by one; or a name that says so (id, key, uuid ...) over more than 50 values, or over
   another one in most rows.
3. boolean: words of truth alone (true and false, yes and no, y and n, t and f, on and off), or 0 and 1.
4. number: 95 of 100 cells are numbers; the others count as missing. But whole numbers that take at most ten different values, each in five
   rows on average, are a category: more often than not they are codes.
5. date: 95 of 100 cells are dates in one order of day, month and year, which they show.
6. text: other texts, of four words or more on average, more than 50 of which are different, or more than half of them.
7. identifier: other texts, 90 of 100 of which are different.
8. category: at most 50 different texts. A level in less than one row of a hundred, or in a single row, is rare.
9. hashed: more different texts than that.
"""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

from limbeck.base.errors import DataError, SettingError
from limbeck.base.printable import printable
from limbeck.inputs import tables
from limbeck.inputs.dialects import Dialect
from limbeck.inputs.labels import FALSE, TRUE
from limbeck.inputs.tables import Table

# Ways to write two words of truth in one column.
MOST_SPELLINGS = 20
# The share of a column's cells that must be of its kind; the others count as missing.
MOST = 0.95
HALF = 0.5
FEW_NUMBERS = 10
ROWS_PER_NUMBER = 5
MOST_LEVELS = 50
RARE_ROWS = 2
RARE_SHARE = 0.01
WORDS_OF_A_TEXT = 4
# Of fewer rows nobody can tell an identifier from a name.
FEWEST_ROWS = 10
PAIRS = (("true", "false"), ("yes", "no"), ("y", "n"), ("t", "f"), ("on", "off"), ("1", "0"))
IDENTIFIERS = re.compile(r"(.*[^A-Za-z])?(?i:id|uuid|guid|key|identifier|rownames)|.*[a-z](ID|Id|Key)")
# The share of cells that must be of their own for a column of texts to say nothing about a record.
MOSTLY_ONCE = 0.9
# So many different whole numbers without a gap are no accident.
ROWS_TO_COUNT = 50
# Numbers that often stand for "not known".
CODES = frozenset({-1.0, -9.0, -99.0, -999.0, -9999.0, 99.0, 999.0, 9999.0, 99999.0, 999999.0})

Order = Literal["year-first", "day-first", "month-first"]
ORDERS: tuple[Order, ...] = ("year-first", "day-first", "month-first")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
TIME = r"(?:[T ]+(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,]\d+)?)?\s*(?:Z|UTC|[+-]\d{2}:?\d{2})?)?"
YEAR_FIRST = re.compile(r"(?P<year>\d{4})(?P<by>[-/.])(?P<a>\d{1,2})(?P=by)(?P<b>\d{1,2})" + TIME)
YEAR_LAST = re.compile(r"(?P<a>\d{1,2})(?P<by>[-/.])(?P<b>\d{1,2})(?P=by)(?P<year>\d{4})" + TIME)
DAY_FIRST = re.compile(r"(?P<a>\d{1,2})[-. ]+(?P<name>[A-Za-z]{3})[a-z]*\.?[-, ]+(?P<year>\d{4})" + TIME)
MONTH_FIRST = re.compile(r"(?P<name>[A-Za-z]{3})[a-z]*\.? +(?P<a>\d{1,2}),? +(?P<year>\d{4})" + TIME)
# What looks like numbers or dates, and cannot be read as such.
UNREADABLE = (
    (YEAR_LAST, "dates of which nobody can tell day and month: say day-first or month-first"),
    (re.compile(r"\d{1,2}([-/.])\d{1,2}\1\d{2}"), "dates with years of two digits are not read: write four"),
    (re.compile(r"[\d.,]+\s*[/:x]\s*[\d.,]+"), "two numbers in one cell are not read: give each a column"),
)


class Kind(StrEnum):
    """What a column is taken for."""

    NUMBER = "number"
    CATEGORY = "category"
    HASHED = "hashed"
    DATE = "date"
    BOOLEAN = "boolean"
    TEXT = "text"
    IDENTIFIER = "identifier"
    CONSTANT = "constant"
    EMPTY = "empty"


# Kinds whose columns say nothing about a record that would hold for another.
LEFT_OUT = frozenset({Kind.IDENTIFIER, Kind.CONSTANT, Kind.EMPTY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What a column is taken for.

    - missing: cells that hold nothing, or nothing of this kind.
    - distinct: different values among the others.
    - why: the rule that decided, with what it found; "as you said" if nobody asked the rules.
    - warnings: what looks wrong: sentences for people.
    - order: of a date: which of its numbers comes first.
    - zero_is_missing, missing_codes: of a number: values that mean "not known", if somebody said so.
    """

    name: str
    kind: Kind
    missing: int
    distinct: int
    why: str
    warnings: tuple[str, ...] = ()
    order: Order = "year-first"
    zero_is_missing: bool = False
    missing_codes: tuple[float, ...] = ()

    @property
    def is_left_out(self) -> bool:
        """Whether an encoding takes no notice of it."""
        return self.kind in LEFT_OUT


def examine(
    table: Table,
    *,
    drop: Sequence[str] = (),
    label: str | None = None,
    kinds: Mapping[str, str] | None = None,
    zero_is_missing: Sequence[str] = (),
    missing_codes: Mapping[str, Sequence[float]] | None = None,
) -> tuple[Column, ...]:
    """What each column is taken for, in the table's order.

    - table: a public one, or one that its owner looks at.
    - drop, label: columns that are not looked at.
    - kinds: what somebody says columns are: kinds, or for a date its order.
    - zero_is_missing: numbers that cannot be zero, such as a blood pressure.
    - missing_codes: by column, numbers that mean "not known", such as 999.

    Raises: DataError for a name that is no column, SettingError for a kind that there is not.
    """
    kinds, missing_codes = kinds or {}, missing_codes or {}
    unlooked = [*drop, *([label] if label is not None else [])]
    said = [*kinds, *zero_is_missing, *missing_codes]
    tables.require(table.columns, [*unlooked, *said], table.source)
    for name, kind in kinds.items():
        if kind not in {*map(str, Kind), *ORDERS}:
            raise SettingError(f"Expected column {name!r} as one of {', '.join([*Kind, *ORDERS])}, got {kind!r}.")
    if both := set(said) & set(unlooked):
        raise SettingError(f"Expected settings of columns that are read, got some of {', '.join(sorted(both))}.")
    return tuple(
        _column(
            table,
            name,
            kinds.get(name),
            (0.0,) if name in zero_is_missing else (),
            tuple(map(float, missing_codes.get(name, ()))),
        )
        for name in table.columns
        if name not in unlooked
    )


def describe(examined: Sequence[Column], rows: int, width: int = 80) -> list[str]:
    """A line or more for each column: name, kind, share of missing cells, reason; warnings under it.

    width: of a line, in characters.
    """
    longest = max(min(max((len(column.name) for column in examined), default=0), width // 4), len("column"))
    lines = [f"{'column':<{longest}}  {'taken for':<10}  {'missing':>7}  because"]
    for column in examined:
        missing = f"{column.missing / rows:.1%}" if column.missing else "-"
        start = f"{printable(column.name, longest):<{longest}}  {column.kind:<10}  {missing:>7}  "
        for mark, sentence in [(start, column.why), *((" " * len(start) + "! ", warning) for warning in column.warnings)]:
            lines += textwrap.wrap(
                printable(sentence), width, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False
            )
    return lines


def days(cell: str, order: Order = "year-first") -> float | None:
    """Days since the beginning of 1970, the time of day as a fraction, from nothing but the cell; None if it is no date.

    A time zone is not taken into account. Order decides between 5/12/2026 and 12/5/2026; other ways of writing leave no doubt.
    """
    text = cell.strip()
    found = YEAR_FIRST.fullmatch(text) or DAY_FIRST.fullmatch(text) or MONTH_FIRST.fullmatch(text)
    if found is not None:
        parts = found.groupdict()
        month, day = (parts["a"], parts["b"]) if "b" in parts else (_month(parts["name"]), parts["a"])
    elif (found := YEAR_LAST.fullmatch(text)) is not None:
        parts = found.groupdict()
        if parts["by"] != "." and order == "year-first":
            return None
        is_day_first = parts["by"] == "." or order == "day-first"
        month, day = (parts["b"], parts["a"]) if is_day_first else (parts["a"], parts["b"])
    else:
        return None
    hour, minute, second = (int(parts[name] or 0) for name in ("hour", "minute", "second"))
    try:
        since = datetime(int(parts["year"]), int(month), int(day), hour, minute, second) - datetime(1970, 1, 1)
    except ValueError:
        return None
    return since.total_seconds() / 86400


def truth(cell: str) -> bool | None:
    """Whether a word of truth says yes; None if it is none."""
    word = tables.plain(cell).casefold()
    return True if word in TRUE else False if word in FALSE else None


def is_rare(rows: int, of: int) -> bool:
    """Whether a level that so many rows have is rare among those of a column."""
    return rows < RARE_SHARE * of or (rows < RARE_ROWS and of >= FEWEST_ROWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the rules find. unreadable: cells that are not of the kind."""

    kind: Kind
    why: str
    unreadable: int = 0
    order: Order = "year-first"
    warnings: tuple[str, ...] = ()


def _column(table: Table, name: str, said: str | None, zero: tuple[float, ...], codes: tuple[float, ...]) -> Column:
    cells = table.columns[name]
    counts = Counter(cell.strip() for cell in cells if cell is not None)
    numbers = {cell: _number(cell, table.dialect) for cell in counts}
    if said is None and (zero or codes):
        said = Kind.NUMBER
    what = f"{name!r} in {table.source}"
    found = _by_rules(name, counts, numbers, len(cells)) if said is None else _as_said(what, counts, numbers, said)
    missing, distinct, warnings = len(cells) - counts.total() + found.unreadable, len(counts), found.warnings
    if found.unreadable:
        what = (
            "1 cell is not of this kind, and counts"
            if found.unreadable == 1
            else f"{found.unreadable} cells are not of this kind, and count"
        )
        warnings = (f"{what} as missing", *warnings)
    if found.kind is Kind.NUMBER:
        of_value: Counter[float] = Counter()
        for cell, number in numbers.items():
            if number is not None:
                of_value[number] += counts[cell]
        missing += sum(of_value.pop(value, 0) for value in {*zero, *codes})
        distinct, warnings = len(of_value), (*warnings, *_suspects(of_value))
    elif zero or codes:
        raise SettingError(f"Expected a number as column {name!r}, of which a value may mean missing, got {found.kind}.")
    return Column(
        name=name,
        kind=found.kind,
        missing=missing,
        distinct=distinct,
        why=found.why,
        warnings=warnings,
        order=found.order,
        zero_is_missing=bool(zero),
        missing_codes=codes,
    )


def _as_said(what: str, counts: Counter[str], numbers: Mapping[str, float | None], said: str) -> _Found:
    kind = Kind.DATE if said in ORDERS else Kind(said)
    order: Order = next((own for own in ORDERS if own == said), _order(counts) or "year-first")
    match kind:
        case Kind.NUMBER:
            readable = sum(count for cell, count in counts.items() if numbers[cell] is not None)
        case Kind.DATE:
            readable = sum(count for cell, count in counts.items() if days(cell, order) is not None)
        case Kind.BOOLEAN:
            readable = sum(count for cell, count in counts.items() if truth(cell) is not None)
        case _:
            readable = counts.total()
    if kind not in LEFT_OUT and not readable:
        example = f", but such as {next(iter(counts))[:40]!r}" if counts else ""
        raise DataError(f"Expected values of the kind {said} as {what}, found none{example}.")
    return _Found(kind=kind, why="as you said", unreadable=counts.total() - readable, order=order)


def _by_rules(name: str, counts: Counter[str], numbers: Mapping[str, float | None], rows: int) -> _Found:
    present = counts.total()
    if not counts:
        return _Found(kind=Kind.EMPTY, why="no cell holds anything")
    if len(counts) == 1 and present == rows:
        return _Found(kind=Kind.CONSTANT, why=f"every cell is {next(iter(counts))[:40]!r}")
    values = [number for number in numbers.values() if number is not None]
    readable = sum(count for cell, count in counts.items() if numbers[cell] is not None)
    is_numeric = readable >= MOST * present
    is_whole = is_numeric and all(float(value).is_integer() for value in values)
    if is_whole and len(counts) == rows >= FEWEST_ROWS and _count_rows(values):
        return _Found(kind=Kind.IDENTIFIER, why="whole numbers that count the rows")
    many = min(MOST_LEVELS, max(rows / 2, FEWEST_ROWS))
    if _is_named_identifier(name) and (is_whole or not is_numeric) and len(counts) > many:
        return _Found(kind=Kind.IDENTIFIER, why=f"its name says so, and there are {len(counts)} of them")
    words = {tables.plain(cell).casefold() for cell in counts} if len(counts) <= MOST_SPELLINGS else set()
    if len(words) == 2 and any(words == set(pair) for pair in PAIRS):
        return _Found(kind=Kind.BOOLEAN, why=f"{' and '.join(sorted(counts)[:2])} alone")
    if is_numeric:
        distinct = len(set(values))
        if is_whole and distinct <= FEW_NUMBERS and present >= ROWS_PER_NUMBER * distinct:
            return _Found(
                kind=Kind.CATEGORY,
                why=f"whole numbers, but only {distinct} of them: at most {FEW_NUMBERS} are taken for codes",
            )
        what = "whole numbers" if is_whole else "numbers"
        why = f"{what} from {min(values):g} to {max(values):g}"
        return _Found(kind=Kind.NUMBER, why=why, unreadable=present - readable)
    if (order := _order(counts)) is not None:
        dates = sum(count for cell, count in counts.items() if days(cell, order) is not None)
        return _Found(kind=Kind.DATE, why=f"dates, {order.replace('-', ' ')}", unreadable=present - dates, order=order)
    found = _by_texts(counts)
    if readable >= HALF * present:
        mixed = f"{readable / present:.0%} of the cells are numbers: as a number, the others would count as missing"
        return replace(found, warnings=(*found.warnings, mixed))
    return found


def _by_texts(counts: Counter[str]) -> _Found:
    present, distinct = counts.total(), len(counts)
    words = sum(len(cell.split()) * count for cell, count in counts.items()) / present
    warnings = tuple(
        warning
        for pattern, warning in UNREADABLE
        if sum(count for cell, count in counts.items() if pattern.fullmatch(cell)) >= MOST * present
    )
    if words >= WORDS_OF_A_TEXT and distinct > min(MOST_LEVELS, present / 2):
        return _Found(kind=Kind.TEXT, why=f"texts of {words:.0f} words on average")
    if distinct >= MOSTLY_ONCE * present and present >= FEWEST_ROWS:
        return _Found(kind=Kind.IDENTIFIER, why="nearly every row has one of its own", warnings=warnings)
    if distinct > MOST_LEVELS:
        return _Found(kind=Kind.HASHED, why=f"{distinct} different values, more than {MOST_LEVELS}", warnings=warnings)
    rare = sum(is_rare(count, present) for count in counts.values())
    others = f", {rare} of them rare" if rare else ""
    why = f"{distinct} different values{others}" if distinct > 1 else "one value, or none"
    return _Found(kind=Kind.CATEGORY, why=why, warnings=warnings)


def _number(cell: str, dialect: Dialect) -> float | None:
    try:
        number = tables.to_number(cell, dialect)
    except ValueError:
        return None
    return number if math.isfinite(number) and cell.casefold() not in {"true", "false"} else None


def _count_rows(values: Sequence[float]) -> bool:
    """Whether distinct whole numbers are 1, 2, 3 ... from any number on; many of them in any order."""
    in_order = all(after - before == 1 for before, after in itertools.pairwise(values))
    return in_order or (len(values) >= ROWS_TO_COUNT and max(values) - min(values) == len(values) - 1)


def _is_named_identifier(name: str) -> bool:
    return IDENTIFIERS.fullmatch(name.strip()) is not None


def _month(name: str) -> int:
    """1 to 12 by an English name, 0 if it is none."""
    month = name.casefold()
    return MONTHS.index(month) + 1 if month in MONTHS else 0


def _order(counts: Counter[str]) -> Order | None:
    """The order in which the most cells are dates, if these are enough; None if two orders fit alike."""
    fitting = {order: sum(count for cell, count in counts.items() if days(cell, order) is not None) for order in ORDERS}
    best = max(fitting.values())
    if not counts or best < MOST * counts.total():
        return None
    if fitting["year-first"] == best:
        is_last = sum(count for cell, count in counts.items() if YEAR_LAST.fullmatch(cell)) > counts.total() / 2
        return "day-first" if is_last else "year-first"
    if fitting["day-first"] == fitting["month-first"]:
        return None
    return "day-first" if fitting["day-first"] == best else "month-first"


def _suspects(counts: Counter[float]) -> tuple[str, ...]:
    """Numbers that look as if they meant "not known"; nothing is done about them."""
    found, rows, own = [], counts.total(), sorted(counts)
    for code in sorted(CODES & counts.keys()):
        others = [value for value in own if value not in CODES]
        is_apart = bool(others) and (others[0] >= 0 if code < 0 else code > 1.5 * max(others[-1], 1))
        if is_apart and not is_rare(counts[code], rows):
            found.append(
                f"{code:g} in {counts[code] / rows:.0%} of the rows, all others from {others[0]:g} to {others[-1]:g}: not known?"
            )
    # Nothing is near zero: the others begin farther from it than the smallest of them are from one another.
    is_zero = len(own) > 5 and own[0] == 0 and not is_rare(counts[0.0], rows) and counts[0.0] < rows / 2
    if is_zero and own[1] > max(3 * (own[5] - own[1]) / 4, own[len(own) // 2] / 5):
        found.append(f"0 in {counts[0.0] / rows:.0%} of the rows, all others from {own[1]:g} on: not known?")
    return tuple(found)
