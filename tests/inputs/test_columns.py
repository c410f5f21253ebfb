"""What a column is taken for: rule by rule, with the reason, and overridden by whoever knows better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.base.errors import DataError, SettingError
from limbeck.inputs import columns
from limbeck.inputs.columns import Column, Kind
from limbeck.inputs.dialects import Dialect
from limbeck.inputs.tables import Table


def one(cells: Sequence[object], name: str = "c", **settings: Any) -> Column:
    """What a column of these cells is taken for."""
    texts = [None if cell is None else str(cell) for cell in cells]
    (found,) = columns.examine(Table(columns={name: texts}, source="t"), **settings)
    return found


NOTES = [f"the patient slept {hours} hours and felt well" for hours in range(60)]
TOWNS = [f"town {place % 60}" for place in range(200)]


@pytest.mark.parametrize(
    ("name", "cells", "kind", "why"),
    [
        ("c", [None, None, None], Kind.EMPTY, "no cell holds anything"),
        ("c", ["x"] * 20, Kind.CONSTANT, "every cell is 'x'"),
        ("c", ["x", None] * 20, Kind.CATEGORY, "one value, or none"),
        ("c", range(1, 31), Kind.IDENTIFIER, "whole numbers that count the rows"),
        ("c", range(1, 6), Kind.NUMBER, "whole numbers from 1 to 5"),
        ("c", [(7 * place) % 101 for place in range(101)], Kind.IDENTIFIER, "count the rows"),
        ("c", [value * value for value in range(30)], Kind.NUMBER, "whole numbers from 0 to 841"),
        ("patient_id", [value * value for value in range(30)], Kind.IDENTIFIER, "its name says so"),
        ("PatientID", [f"p{value // 2}" for value in range(200)], Kind.IDENTIFIER, "its name says so"),
        ("ward id", [f"w{value % 50}" for value in range(100)], Kind.CATEGORY, "50 different values"),
        ("PatientID", [f"p{value % 80}" for value in range(100)], Kind.IDENTIFIER, "its name says so"),
        ("Id", [value * value for value in range(30)], Kind.IDENTIFIER, "its name says so"),
        ("paid", [value * value for value in range(30)], Kind.NUMBER, "whole numbers"),
        ("dose id", [value / 8 for value in range(30)], Kind.NUMBER, "numbers from 0 to 3.625"),
        ("c", ["yes", "no", None] * 20, Kind.BOOLEAN, "no and yes alone"),
        ("c", ["TRUE", "False"] * 20, Kind.BOOLEAN, "alone"),
        ("c", ["1", "0"] * 20, Kind.BOOLEAN, "0 and 1 alone"),
        ("c", ["1.0", "0.0"] * 20, Kind.BOOLEAN, "0.0 and 1.0 alone"),
        ("c", ["t", "f"] * 20, Kind.BOOLEAN, "alone"),
        ("c", ["yes", "false"] * 20, Kind.CATEGORY, "2 different values"),
        ("c", ["1", "2"] * 20, Kind.CATEGORY, "whole numbers, but only 2 of them"),
        ("c", [value % 10 for value in range(50)], Kind.CATEGORY, "only 10 of them"),
        ("c", [value % 10 for value in range(49)], Kind.NUMBER, "whole numbers from 0 to 9"),
        ("c", [value % 11 for value in range(99)], Kind.NUMBER, "whole numbers from 0 to 10"),
        ("c", [value / 2 for value in range(4)] * 20, Kind.NUMBER, "numbers from 0 to 1.5"),
        ("c", ["2026-01-02", "2025-12-31"] * 20, Kind.DATE, "dates, year first"),
        ("c", ["31.12.2025", "2.1.2026"] * 20, Kind.DATE, "dates, day first"),
        ("c", ["31/12/2025", "2/1/2026"] * 20, Kind.DATE, "dates, day first"),
        ("c", ["12/31/2025", "2/1/2026"] * 20, Kind.DATE, "dates, month first"),
        ("c", ["11/12/2025", "2/1/2026"] * 20, Kind.CATEGORY, "2 different values"),
        ("c", ["2 Jan 2026", "31-Dec-2025"] * 20, Kind.DATE, "dates"),
        ("c", ["Jan 2, 2026", "December 31, 2025"] * 20, Kind.DATE, "dates"),
        ("c", ["2026-01-02T03:04:05Z", "2026-01-02 03:04"] * 20, Kind.DATE, "dates, year first"),
        ("c", NOTES, Kind.TEXT, "texts of 8 words"),
        ("c", NOTES[:51] * 9, Kind.TEXT, "texts of 8 words"),
        ("c", NOTES[:50] * 9, Kind.CATEGORY, "50 different values"),
        ("c", NOTES[:5], Kind.TEXT, "texts of 8 words"),
        ("c", [f"p{value}" for value in range(30)], Kind.IDENTIFIER, "nearly every row has one of its own"),
        ("c", TOWNS, Kind.HASHED, "60 different values, more than 50"),
        ("c", ["m", "f", None] * 20, Kind.CATEGORY, "2 different values"),
        ("c", ["a"] * 500 + ["b"] * 500 + ["c"], Kind.CATEGORY, "3 different values, 1 of them rare"),
        (
            "c",
            ["never worked in the private sector", "self employed and not incorporated"] * 20,
            Kind.CATEGORY,
            "2 different",
        ),
    ],
)
def test_the_first_rule_that_holds_decides(name: str, cells: Sequence[object], kind: Kind, why: str) -> None:
    found = one(cells, name)
    assert (found.kind, found.name) == (kind, name)
    assert why in found.why
    assert found.is_left_out == (kind in {Kind.IDENTIFIER, Kind.CONSTANT, Kind.EMPTY})


def test_a_few_cells_of_another_kind_count_as_missing_and_are_counted() -> None:
    found = one([*(value / 8 for value in range(96)), "none", "much", None, None])
    assert (found.kind, found.missing, found.warnings) == (
        Kind.NUMBER,
        4,
        ("2 cells are not of this kind, and count as missing",),
    )
    mixed = one([*(value / 8 for value in range(30)), *("none", "much") * 5])
    assert (mixed.kind, mixed.missing) == (Kind.CATEGORY, 0)
    assert mixed.warnings == ("75% of the cells are numbers: as a number, the others would count as missing",)
    dates = [f"2026-01-{day:02}" for day in range(1, 29)]
    assert one([*dates, "later"]).kind is Kind.DATE
    assert one([*dates, "2026-02-30"]).missing == 1
    assert one([*dates, "later", "soon"]).kind is not Kind.DATE


@pytest.mark.parametrize(
    ("cells", "warning"),
    [
        ([f"{100 + row}/{60 + row}" for row in range(40)], "two numbers in one cell are not read: give each a column"),
        ([f"{1 + row % 28}/{1 + row % 12}/63" for row in range(40)], "dates with years of two digits are not read"),
    ],
)
def test_numbers_and_dates_that_are_not_read_are_a_warning(cells: list[str], warning: str) -> None:
    assert warning in one(cells).warnings[0]


def test_missing_and_different_cells_are_counted() -> None:
    found = one(["m", "f", None, "m", None])
    assert (found.missing, found.distinct) == (2, 2)
    found = one(["1.0", "1", "2", None])
    assert (found.kind, found.missing, found.distinct) == (Kind.NUMBER, 1, 2)


def test_dates_of_which_nobody_can_tell_day_and_month_are_a_warning() -> None:
    found = one(["11/12/2025", "2/1/2026"] * 20)
    assert "say day-first or month-first" in found.warnings[0]
    assert one(["11/12/2025", "2/1/2026"] * 20, kinds={"c": "month-first"}).order == "month-first"


@pytest.mark.parametrize(
    ("cells", "warning"),
    [
        ([*range(20, 80), *[999] * 6], "999 in 9% of the rows, all others from 20 to 79: not known?"),
        ([*(value / 8 for value in range(60)), *[-1] * 6], "-1 in 9% of the rows"),
        ([*range(85, 185), *[0] * 30], "0 in 23% of the rows, all others from 85 on: not known?"),
        ([*range(20, 120), 999], None),
        ([*range(20, 1200), *[999] * 20], None),
        ([*range(-20, 80), *[-1] * 20], None),
        ([*range(100), *[0] * 30], None),
        ([*(value / 10 for value in range(1, 60)), *[0] * 30], None),
        ([*range(85, 185), *[0] * 101], None),
    ],
)
def test_numbers_that_may_mean_not_known_are_a_warning_and_nothing_else(cells: list[float], warning: str | None) -> None:
    found = one(cells)
    assert (found.kind, found.missing) == (Kind.NUMBER, 0)
    assert found.warnings == () if warning is None else warning in found.warnings[0]


def test_who_knows_better_says_so() -> None:
    assert one([*range(85, 185), *[0] * 30], zero_is_missing=["c"]).missing == 30
    found = one([*range(20, 80), *[999] * 6, *[-1] * 3], missing_codes={"c": [999, -1]})
    assert (found.missing, found.missing_codes, found.warnings) == (9, (999.0, -1.0), ())
    # Whole numbers that the rules would take for codes.
    assert one(["1", "2"] * 20, kinds={"c": "number"}) == Column(
        name="c", kind=Kind.NUMBER, missing=0, distinct=2, why="as you said"
    )
    assert one(["1", "2"] * 20, zero_is_missing=["c"]).kind is Kind.NUMBER
    assert one(range(30), kinds={"c": "number"}).kind is Kind.NUMBER
    assert one(NOTES, kinds={"c": "identifier"}).is_left_out
    assert one(["2026-01-02"] * 3, kinds={"c": "date"}).order == "year-first"
    assert one(["31/12/2025"] * 3, kinds={"c": "date"}).order == "day-first"
    assert one(["maybe", "yes", "no"], kinds={"c": "boolean"}).missing == 1
    table = Table(columns={name: ["1.5", "2.5"] for name in "abc"}, source="t")
    assert [found.name for found in columns.examine(table, drop=["a"], label="c")] == ["b"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"label": "d"}, DataError, "a column 'd' in t, found c"),
        ({"drop": ["d"]}, DataError, "a column 'd' in t"),
        ({"kinds": {"d": "number"}}, DataError, "a column 'd' in t"),
        ({"missing_codes": {"d": [9]}}, DataError, "a column 'd' in t"),
        ({"kinds": {"c": "integer"}}, SettingError, "column 'c' as one of number, category, .*month-first, got 'integer'"),
        ({"kinds": {"c": "number"}, "label": "c"}, SettingError, "columns that are read, got some of c"),
        ({"kinds": {"c": "category"}, "zero_is_missing": ["c"]}, SettingError, "a number as column 'c'.* got category"),
        ({"kinds": {"c": "number"}}, DataError, "the kind number as 'c' in t, found none, but such as 'x'"),
        ({"kinds": {"c": "boolean"}}, DataError, "the kind boolean as 'c'"),
        ({"kinds": {"c": "day-first"}}, DataError, "the kind day-first as 'c'"),
    ],
)
def test_what_no_column_can_be_is_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        one(["x", "z"], **settings)


def test_numbers_are_read_by_the_tables_dialect() -> None:
    cells = [f"{value},5" for value in range(60)]
    (found,) = columns.examine(Table(columns={"c": cells}, source="t", dialect=Dialect(delimiter=";", decimal=",")))
    assert (found.kind, found.why) == (Kind.NUMBER, "numbers from 0.5 to 59.5")
    assert one(cells).kind is Kind.IDENTIFIER


# Dates


@pytest.mark.parametrize(
    ("cell", "order", "day"),
    [
        ("1970-01-01", "year-first", 0),
        ("1970-01-02 12:00", "year-first", 1.5),
        ("1970/1/2T06:00:00.5+02:00", "year-first", 1.25),
        ("2.1.1970", "year-first", 1),
        ("2.1.1970", "month-first", 1),
        ("2/1/1970", "day-first", 1),
        ("2/1/1970", "month-first", 31),
        ("2-1-1970 18:00", "day-first", 1.75),
        ("2/1/1970", "year-first", None),
        ("2 Jan 1970", "month-first", 1),
        ("2-jan-1970", "year-first", 1),
        ("January 2, 1970", "day-first", 1),
        ("31 Dec. 1969", "year-first", -1),
        ("29.2.2023", "year-first", None),
        ("2026-13-01", "year-first", None),
        ("2026-01", "year-first", None),
        ("1.2.26", "day-first", None),
        ("2 Foo 1970", "year-first", None),
        ("1970-01-01 25:00", "year-first", None),
        ("1970-01/01", "year-first", None),
        ("yesterday", "year-first", None),
        ("", "year-first", None),
    ],
)
def test_a_date_is_a_number_of_days_by_itself(cell: str, order: columns.Order, day: float | None) -> None:
    assert columns.days(cell, order) == day
    assert columns.days(f" {cell} ", order) == day


@given(st.datetimes(datetime(1000, 1, 1)).map(lambda when: when.replace(microsecond=0)), st.sampled_from("/-"))
def test_days_are_those_of_the_calendar(when: datetime, by: str) -> None:
    expected = (when - datetime(1970, 1, 1)) / timedelta(days=1)
    time = when.strftime("%H:%M:%S")
    ways = {
        "year-first": f"{when.year:04}-{when.month:02}-{when.day:02}T{time}",
        "day-first": f"{when.day}{by}{when.month}{by}{when.year:04} {time}",
        "month-first": f"{when.month}{by}{when.day}{by}{when.year:04} {time}",
    }
    for order in columns.ORDERS:
        assert math.isclose(columns.days(ways[order], order) or 0, expected, abs_tol=1e-9)


@given(st.text(max_size=20) | st.from_regex(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ]\d\d:\d\d(:\d\d)?)?", fullmatch=True))
def test_no_text_raises_as_a_date_or_a_word_of_truth(cell: str) -> None:
    for order in columns.ORDERS:
        columns.days(cell, order)
    columns.truth(cell)


@pytest.mark.parametrize(
    "words", [("yes", "no"), (" TRUE", "False "), ("1.0", "0.00"), ("On", "off"), ("y", "N"), ("t", "F")]
)
def test_words_of_truth_are_read_whatever_their_case(words: tuple[str, str]) -> None:
    assert [columns.truth(word) for word in (*words, "maybe", "", "2")] == [True, False, None, None, None]


# In words


def test_columns_are_described_in_lines_that_fit_a_terminal() -> None:
    table = Table(
        columns={
            "age": [*map(str, range(20, 80)), *["999"] * 6],
            "a name that nobody can fit into a column": [*["\x1b[31mred"] * 60, *[None] * 6],
            "empty": [None] * 66,
        },
        source="t",
    )
    lines = columns.describe(columns.examine(table), len(table))
    assert max(map(len, lines)) <= 80
    assert all(line.isprintable() for line in lines)
    text = "\n".join(lines)
    assert "age                   number            -  whole numbers from 20 to 999" in text
    assert "9.1%" in text
    assert "! 999 in 9% of the rows" in text
    assert "100.0%" in text
