"""The columns of a table that a plan reads, cell by cell, beside what its public encoding knows of them.

Shape legend: N records, P numbers of one input.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.findings import Finding, Findings, fail, ok, warn
from limbeck.client import records
from limbeck.client.examination.report import MANY, Column, Report, counted, listed
from limbeck.client.records import RecordSettings
from limbeck.inputs import columns, encodings, tables
from limbeck.inputs.encodings import EncoderEncoding, TableEncoding, TabularEncoding, TextEncoding

# The share of words that are among the public ones, below which texts may be in another language.
FEW_KNOWN_WORDS = 0.4
# What an encoding of words takes for one.
WORD = re.compile(r"\b\w\w+\b")
# Standard deviations from the public mean within which values are expected, where an encoding does not keep the public range.
USUAL_DEVIATIONS = 4.0
# By what factor a unit is smaller than another that is used for the same thing.
UNITS: tuple[tuple[float, str], ...] = (
    (1000, "thousands, or g for kg"),
    (100, "per cent, or cm for m"),
    (88.4, "mg/dL of creatinine for µmol/L"),
    (38.67, "mmol/L of cholesterol for mg/dL"),
    (18.02, "mmol/L of glucose for mg/dL"),
    (10, "cm for mm"),
    (7.5, "kPa for mmHg"),
    (2.54, "inches for cm"),
    (2.2046, "kg for lb"),
)
UNIT_TOLERANCE = 0.12


def of_columns(
    settings: RecordSettings, path: Path, folder: Path, public_x: NDArray[np.generic], report: Report
) -> Findings:
    table, encoding = records.read_table(settings, path), records.read_encoding(settings, path, folder)
    for column, found in _each_column(table, settings, encoding, public_x):
        report.columns.append(column)
        yield from found
    missing = [f"{column.name} {column.missing}" for column in report.columns if column.missing]
    if missing:
        yield ok(f"missing cells: {listed(missing)}", check="columns")
    elif report.columns:
        yield ok(f"{len(report.columns)} columns are read, no cell of which is missing", check="columns")


def _each_column(
    table: tables.Table, settings: RecordSettings, encoding: TabularEncoding | None, public_x: NDArray[np.generic]
) -> Iterator[tuple[Column, list[Finding]]]:
    match encoding:
        case None:
            for place, name in enumerate(settings.columns):
                seen = _quantiles(public_x[:, place]) if len(public_x) else ()
                yield _number(table, encodings.Number(name=name, mean=0.0, deviation=1.0, seen=seen))
        case TableEncoding():
            for each in encoding.columns:
                match each:
                    case encodings.Number():
                        yield _number(table, each)
                    case encodings.Date():
                        yield _date(table, each)
                    case encodings.Words():
                        yield _text(table, each.name, each.words)
                    case _:
                        yield _names(table, each)
        case TextEncoding():
            yield _text(table, encoding.column, encoding.words)
        case EncoderEncoding():
            yield _text(table, encoding.column, None)


def _quantiles(value_N: NDArray[np.generic]) -> tuple[float, ...]:
    finite_N = value_N.astype(np.float64)
    finite_N = finite_N[np.isfinite(finite_N)]
    return tuple(np.quantile(finite_N, encodings.QUANTILES).tolist()) if len(finite_N) else ()


def _number(table: tables.Table, own: encodings.Number) -> tuple[Column, list[Finding]]:
    cells, value_N = table.texts(own.name), table.numbers(own.name)
    present_N = np.array([cell is not None for cell in cells], np.bool_)
    coded_N = np.isin(value_N, own.missing_codes) | ((value_N == 0) & own.zero_is_missing)
    readable_N = present_N & ~np.isnan(value_N)
    column = Column(
        name=own.name,
        kind="number",
        missing=int((~present_N | coded_N).sum()),
        unreadable=int((present_N & np.isnan(value_N)).sum()),
    )
    found = list(_cells(column, [cells[row] for row in np.flatnonzero(present_N & np.isnan(value_N)).tolist()], len(cells)))
    inside_N = value_N[readable_N & ~coded_N]
    return _ranged(column, own, inside_N, found)


def _date(table: tables.Table, own: encodings.Date) -> tuple[Column, list[Finding]]:
    cells, day_N = table.texts(own.name), own.days(table)
    present_N = np.array([cell is not None for cell in cells], np.bool_)
    odd_N = present_N & np.isnan(day_N)
    column = Column(name=own.name, kind="date", missing=int((~present_N).sum()), unreadable=int(odd_N.sum()))
    found = list(_cells(column, [cells[row] for row in np.flatnonzero(odd_N).tolist()], len(cells)))
    return _ranged(column, own, day_N[present_N & ~odd_N], found)


def _ranged(
    column: Column, own: encodings.Number | encodings.Date, value_N: NDArray[np.float64], found: list[Finding]
) -> tuple[Column, list[Finding]]:
    """The column with the values outside of what the public ones were, and what to say of them."""
    if own.seen:
        low, high, middle = own.seen[0], own.seen[-1], own.seen[len(own.seen) // 2]
    elif own.mean or own.deviation != 1:
        low, high, middle = (
            own.mean - USUAL_DEVIATIONS * own.deviation,
            own.mean + USUAL_DEVIATIONS * own.deviation,
            own.mean,
        )
    else:
        return column, found
    column = replace(column, below=int((value_N < low).sum()), above=int((value_N > high).sum()))
    for count, side, bound in ((column.below, "below the least", low), (column.above, "above the greatest", high)):
        if count > MANY * len(value_N):
            dates = isinstance(own, encodings.Date)
            public = f"{_day(bound) if dates else f'{bound:g}'}"
            yours = float(np.median(value_N))
            median = f"your median {_day(yours) if dates else f'{yours:g}'}, the public one {_day(middle) if dates else f'{middle:g}'}"
            usual = "" if own.seen else " that is usual"
            unit = "" if dates else _unit(yours, middle)
            found.append(
                warn(
                    f"{column.name}: {100 * count / len(value_N):.0f} % of values {side} public one{usual}, {public} ({median})."
                    f"{f' {unit}' if unit else ''}",
                    "Bring it to the unit and the coding of the public table, or ask the plan's author which they are.",
                    check="columns",
                )
            )
    return column, found


def _unit(yours: float, public: float) -> str:
    """Which units may have been confused, by the ratio of medians."""
    if not (np.isfinite(yours) and yours and public) or yours / public <= 0:
        return ""
    ratio = public / yours
    for factor, what in UNITS:
        if abs(ratio / factor - 1) < UNIT_TOLERANCE:
            return f"{factor:g} times smaller: {what}?"
        if abs(ratio * factor - 1) < UNIT_TOLERANCE:
            return f"{factor:g} times larger: the other way round, {what}?"
    return ""


def _day(days: float) -> str:
    return str(np.datetime64("1970-01-01") + np.timedelta64(int(np.clip(days, -7e5, 3e6)), "D"))


def _names(
    table: tables.Table, own: encodings.Category | encodings.Levels | encodings.Hashed | encodings.Boolean
) -> tuple[Column, list[Finding]]:
    cells = table.texts(own.name)
    match own:
        case encodings.Levels():
            odd = [cell for cell, place in zip(cells, own.places(table), strict=True) if place is not None and place < 0]
        case encodings.Category():
            places = tables.Names((level, place) for place, level in enumerate(own.levels))
            odd = [cell for cell in cells if cell is not None and places[cell] is None]
        case encodings.Boolean():
            odd = [cell for cell in cells if cell is not None and columns.truth(cell) is None]
        case encodings.Hashed():
            odd = []
    missing = sum(cell is None for cell in cells)
    if isinstance(own, encodings.Boolean):
        column = Column(name=own.name, kind=own.kind, missing=missing, unreadable=len(odd))
        return column, list(_cells(column, odd, len(cells)))
    column = Column(name=own.name, kind=own.kind, missing=missing, unknown=len(odd))
    found = list(_cells(column, [], len(cells)))
    if odd:
        known = own.levels if isinstance(own, encodings.Category | encodings.Levels) else ()
        found.append(
            warn(
                f"{own.name}: {len(odd)} of {len(cells)} cells hold levels that the public table did not have:"
                f" {counted(Counter(map(str, odd)))}. It had {listed(known)}.",
                "Records with these are kept, without that level. If they are other spellings, write them as the public table does.",
                check="columns",
            )
        )
    return column, found


def _cells(column: Column, odd: Sequence[object], count: int) -> Findings:
    """What is to be said of cells that cannot be read, or are missing, whatever the kind."""
    if count and column.missing + column.unreadable == count:
        yield fail(
            f"{column.name}: no cell of {count} can be read as a {column.kind}"
            f"{f', such as {counted(Counter(map(str, odd)))}' if odd else ': all are missing'}.",
            "Compare the column with the public table: its name, its decimal sign (records.decimal), its unit.",
            check="columns",
        )
        return
    if odd:
        yield warn(
            f"{column.name}: {len(odd)} of {count} cells are no {column.kind} and count as missing: {counted(Counter(map(str, odd)))}.",
            check="columns",
        )
    if column.missing > count / 2:
        yield warn(f"{column.name}: {column.missing} of {count} cells are missing.", check="columns")


def _text(table: tables.Table, name: str, known: Sequence[str] | None) -> tuple[Column, list[Finding]]:
    cells = table.texts(name)
    column = Column(name=name, kind="text", missing=sum(cell is None for cell in cells))
    found = list(_cells(column, [], len(cells)))
    if known is not None:
        words = Counter(word for cell in cells if cell is not None for word in WORD.findall(cell.lower()))
        public = frozenset(known)
        share = sum(count for word, count in words.items() if word in public) / max(1, words.total())
        said = f"{name}: {100 * share:.0f} % of the words are among the {len(known)} public ones"
        if words and share < FEW_KNOWN_WORDS:
            others = listed([word for word, _ in words.most_common(200) if word not in public])
            found.append(
                warn(
                    f"{said}; common others: {others}.",
                    "Texts in another language, or of another kind, than the public ones? A word that is not public counts for nothing.",
                    check="language",
                )
            )
        elif words:
            found.append(ok(said, check="language"))
    return column, found
