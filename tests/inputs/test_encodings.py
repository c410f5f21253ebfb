"""Encodings of tables: fitted on public rows alone, each record's row from its own cells, old files as they were."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from limbeck.base.errors import DataError
from limbeck.inputs import columns, encodings
from limbeck.inputs.columns import Kind
from limbeck.inputs.dialects import Dialect
from limbeck.inputs.encodings import Boolean, Category, Date, Hashed, Levels, Number, TableEncoding, Words
from limbeck.inputs.tables import Table, from_csv

DAYS = ("05", "12", "17", "23", "28")
PUBLIC = Table(
    columns={
        "id": [f"p{row}" for row in range(100)],
        "age": [str(20 + row % 60) if row % 10 else None for row in range(100)],
        "dose": [str(row / 8 if row else 999) for row in range(100)],
        "sex": [("m", "f", "F ")[row % 3] for row in range(100)],
        "stage": [("1", "2", None, "1.0")[row % 4] if row != 50 else "9" for row in range(100)],
        "town": [f"Town {row % 60}" for row in range(100)],
        "seen": [f"{DAYS[row % 5]}.{row % 12 + 1}.{2020 + row % 4}" for row in range(100)],
        "well": [("yes", "no", None)[row % 3] for row in range(100)],
        "note": [f"slept well for {row} hours" if row % 2 else f"did not sleep at {row}" for row in range(100)],
        "nothing": [None] * 100,
    },
    source="public",
)
FITTED = encodings.fit(PUBLIC, columns.examine(PUBLIC, missing_codes={"dose": [999]}))


def test_each_column_is_encoded_as_what_it_is_taken_for() -> None:
    kinds = {column.name: type(column) for column in FITTED.columns}
    assert kinds == {
        "age": Number,
        "dose": Number,
        "sex": Levels,
        "stage": Levels,
        "town": Hashed,
        "seen": Date,
        "well": Boolean,
        "note": Words,
    }
    assert FITTED.reads == tuple(kinds)
    assert FITTED(PUBLIC).shape == (100, FITTED.dimensions)
    assert FITTED.dimensions == sum(column.dimensions for column in FITTED.columns)
    assert FITTED(PUBLIC).dtype == np.float32


def test_public_numbers_and_dates_have_mean_0_and_deviation_1() -> None:
    for name in ("age", "dose", "seen"):
        (column,) = (own for own in FITTED.columns if own.name == name)
        rows_ND = column(PUBLIC)
        value_N = rows_ND[rows_ND[:, 1] == 0, 0]
        assert value_N.mean() == pytest.approx(0, abs=1e-5)
        assert value_N.std() == pytest.approx(1, abs=1e-5)
    (dose,) = (own for own in FITTED.columns if own.name == "dose")
    assert isinstance(dose, Number)
    assert (dose.missing_codes, dose.seen[0], dose.seen[-1]) == ((999.0,), 0.125, 99 / 8)


CELLS = st.none() | st.sampled_from(
    ["1", "999", "0", "m", " F", "2", "Town 3", "5.3.2021", "yes", "NO", "slept well", "1e400"]
)
CELL = CELLS | st.text(max_size=6)


@given(st.lists(st.tuples(*[CELL] * len(FITTED.reads)), min_size=1, max_size=6), st.integers(0, 5))
def test_a_records_row_does_not_depend_on_the_others(records: list[tuple[str | None, ...]], place: int) -> None:
    table = Table(columns=dict(zip(FITTED.reads, zip(*records, strict=True), strict=True)), source="own")
    rows_ND = FITTED(table)
    assert np.isfinite(rows_ND).all()
    one = table.rows([place % len(table)])
    np.testing.assert_array_equal(FITTED(one), rows_ND[[place % len(table)]])


def test_an_encoding_survives_being_written_and_read(tmp_path: Path) -> None:
    encodings.save(FITTED, tmp_path / "e.json")
    assert encodings.load(tmp_path / "e.json") == FITTED
    assert hashlib.sha256((tmp_path / "e.json").read_bytes()).digest() == encodings.digest(FITTED)
    assert FITTED(PUBLIC.rows([])).shape == (0, FITTED.dimensions)
    # Nothing of columns that are left out, not even their names.
    assert "p17" not in (tmp_path / "e.json").read_text()
    assert '"id"' not in (tmp_path / "e.json").read_text()


def test_a_file_of_the_first_version_keeps_its_hash_and_its_rows(tmp_path: Path) -> None:
    """Also with the numbers that are noted beside: they change no row."""
    old = TableEncoding(columns=(Number(name="age", mean=50, deviation=10), Category(name="sex", levels=("0", "1", "m"))))
    content = {
        "kind": "table",
        "columns": [
            {"kind": "number", "name": "age", "mean": 50, "deviation": 10, "zero_is_missing": False},
            {"kind": "category", "name": "sex", "levels": ["0", "1", "m"]},
        ],
    }
    written = (json.dumps(content, indent=1) + "\n").encode()
    assert encodings.digest(old) == hashlib.sha256(written).digest()
    (tmp_path / "e.json").write_bytes(written)
    assert encodings.load(tmp_path / "e.json") == old
    table = Table(columns={"age": ["60", "0", None, "x"], "sex": ["1.0", "M", None, "m"]}, source="own")
    expected = [[1, 0, 0, 1, 0], [-5, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 1]]
    np.testing.assert_array_equal(old(table), np.array(expected, np.float32))
    noted = Number(name="age", mean=50, deviation=10, seen=(20, 21, 30, 50, 60, 79, 80))
    np.testing.assert_array_equal(noted(table), old(table)[:, :2])


# Column by column


def rows(column: encodings.Column, cells: Sequence[str | None], **table: Dialect) -> list[list[float]]:
    found: NDArray[np.float32] = column(Table(columns={"c": cells}, source="own", **table))
    assert found.shape == (len(cells), column.dimensions)
    return [list(map(float, row)) for row in found]


def test_levels_have_a_place_for_other_and_for_missing_names_where_these_were_public() -> None:
    cells = ["a", " A", "b", "z", None, "1", "01", "1.0"]
    plain = Levels(name="c", levels=("1", "a", "b"), other=False, missing=False)
    assert rows(plain, cells)[:5] == [[0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]
    full = Levels(name="c", levels=("1", "a", "b"), other=True, missing=True)
    assert [row.index(1) for row in rows(full, cells)] == [1, 1, 2, 3, 4, 0, 3, 0]
    assert [row.index(1) for row in rows(Levels(name="c", levels=("1",), other=False, missing=True), ["1", None])] == [0, 1]


def test_levels_that_differ_by_case_alone_are_told_apart() -> None:
    column = Levels(name="c", levels=("A", "a"), other=True, missing=False)
    assert [row.index(1) for row in rows(column, ["a", "A", " a", "b"])] == [1, 0, 1, 2]


def test_levels_are_the_commonest_spelling_and_rare_ones_are_other() -> None:
    cells = ["Female"] * 60 + ["female "] * 40 + ["male"] * 99 + ["unknown"]
    table = Table(columns={"c": cells}, source="public")
    (column,) = encodings.fit(table, columns.examine(table)).columns
    assert column == Levels(name="c", levels=("Female", "male"), other=True, missing=False)
    assert [row.index(1) for row in rows(column, ["FEMALE", "Male", "unknown", "else"])] == [0, 1, 2, 2]


def test_a_level_is_a_number_whatever_its_decimal_sign() -> None:
    column = Levels(name="c", levels=("0.5", "1"), other=False, missing=False)
    assert rows(column, ["0,5", "1,0", "1"], dialect=Dialect(delimiter=";", decimal=",")) == [[1, 0], [0, 1], [0, 1]]
    public = from_csv(b"c;d\n" + b"0,5;x\n1,0;x\n" * 30, "public", public=True)
    (fitted,) = encodings.fit(public, columns.examine(public, drop=["d"], kinds={"c": "category"})).columns
    assert fitted == Levels(name="c", levels=("0.5", "1.0"), other=False, missing=False)


def test_a_hashed_name_has_the_same_bucket_everywhere() -> None:
    """By SHA-256 of the column's and the cell's name, so that it is the same in every version and on every machine."""
    column = Hashed(name="c", buckets=16)
    content = '["c", "town 3"]'
    bucket = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") % 16
    found = rows(column, ["Town 3", " TOWN 3 ", None])
    assert [row.index(1) for row in found[:2]] == [bucket, bucket]
    assert found[2] == [0] * 16
    many = rows(column, [f"name {number}" for number in range(400)])
    assert np.sum(many, 0).min() > 5
    assert np.sum(many, 1).tolist() == [1] * 400


@pytest.mark.parametrize(("distinct", "buckets"), [(11, 16), (60, 16), (64, 32), (127, 32), (128, 64), (100_000, 64)])
def test_buckets_are_about_a_third_of_the_names(distinct: int, buckets: int) -> None:
    cells = [f"n{number}" for number in range(distinct)] * 2
    table = Table(columns={"c": cells}, source="public")
    assert encodings.fit(table, columns.examine(table, kinds={"c": "hashed"})).columns == (
        Hashed(name="c", buckets=buckets),
    )


def test_words_of_truth_are_1_and_minus_1() -> None:
    assert rows(Boolean(name="c"), ["yes", "FALSE", None, "maybe", "1.0"]) == [[1, 0], [-1, 0], [0, 1], [0, 1], [1, 0]]


def test_a_date_goes_around_a_year_a_week_and_a_day() -> None:
    column = Date(name="c", order="year-first", mean=0, deviation=7, cycles=("year", "week", "day"))
    (begin, later, missing) = rows(column, ["1970-01-01", "1970-01-08 06:00", "soon"])
    assert begin == [0, 0, 0, 1, 0, 1, 0, 1]
    assert later[0] == pytest.approx(7.25 / 7)
    assert later[2:4] == pytest.approx([np.sin(2 * np.pi * 7.25 / 365.2425), np.cos(2 * np.pi * 7.25 / 365.2425)])
    assert later[4:] == pytest.approx([np.sin(2 * np.pi / 28), np.cos(2 * np.pi / 28), 1, 0], abs=1e-6)
    assert missing == [0, 1, 0, 0, 0, 0, 0, 0]
    # Far dates are bounded like far numbers.
    assert rows(column, ["9999-12-31"])[0][0] == 5


@pytest.mark.parametrize(
    ("dates", "cycles"),
    [
        (
            [f"202{year}-{month:02}-{day}" for year in range(3) for month in range(1, 13) for day in (10, 12, 15)],
            ("year", "week"),
        ),
        ([f"2020-01-{day:02}" for day in range(1, 29)], ("week",)),
        ([f"2020-01-{day:02} {hour:02}:00" for day in range(1, 29) for hour in (3, 9, 15, 21)], ("week", "day")),
        ([f"{year}-03-01" for year in range(1990, 2010)], ("week",)),
        ([f"{1930 + 2 * year}-{month:02}-11" for year in range(40) for month in range(1, 13)], ()),
        (["2020-01-01", "2020-01-02"], ()),
    ],
)
def test_only_the_cycles_that_public_dates_go_around_are_there(dates: list[str], cycles: tuple[str, ...]) -> None:
    table = Table(columns={"c": dates}, source="public")
    (column,) = encodings.fit(table, columns.examine(table, kinds={"c": "date"})).columns
    assert isinstance(column, Date)
    assert column.cycles == cycles


def test_words_beside_numbers_are_those_of_a_text_encoding() -> None:
    (column,) = (own for own in FITTED.columns if isinstance(own, Words))
    assert set(column.words) == {"slept", "well", "for", "hours", "did", "not", "sleep", "at"}
    alone = encodings.fit_text(PUBLIC, "note", words=8)
    assert (column.words, column.idf) == (alone.words, alone.idf)
    np.testing.assert_array_equal(column(PUBLIC), alone(PUBLIC))
    few = encodings.fit(PUBLIC, columns.examine(PUBLIC, missing_codes={"dose": [999]}), words=3)
    assert len(few.columns[-1](PUBLIC)[0]) == 3


def test_public_columns_that_say_nothing_are_refused() -> None:
    table = Table(columns={"id": [f"p{row}" for row in range(30)], "none": [None] * 30}, source="public")
    with pytest.raises(DataError, match="a column in public that says something about records, found none"):
        encodings.fit(table, columns.examine(table))
    for kind, message in [
        (Kind.CATEGORY, "public values of 'id' in public that several rows share"),
        (Kind.TEXT, "public texts in 'id' of public that share a word"),
    ]:
        with pytest.raises(DataError, match=message):
            encodings.fit(table, columns.examine(table, kinds={"id": kind}))
    for kind in (Kind.NUMBER, Kind.DATE):
        column = columns.Column(name="id", kind=kind, missing=0, distinct=1, why="")
        with pytest.raises(DataError, match="'id'"):
            encodings.fit(table, [column])


# Comparisons


def test_a_table_of_ones_own_is_compared_with_what_the_encoding_saw() -> None:
    """A pressure in kPa among such in mmHg, a new town, a word that is none of truth."""
    public = Table(
        columns={"pressure": [str(80 + row) for row in range(100)], "town": ["a", "b"] * 50, "well": ["yes", "no"] * 50},
        source="public",
    )
    fitted = encodings.fit(public, columns.examine(public, kinds={"pressure": "number"}))
    own = Table(
        columns={
            "pressure": ["12", "14.5", "120", "999", None],
            "town": ["a", "c", "c", "B", None],
            "well": ["yes", "ja", None, "No", "ja"],
        },
        source="own",
    )
    pressure, town, well = encodings.compare(fitted, own)
    assert (pressure.rows, pressure.missing, pressure.below, pressure.above) == (5, 1, 2, 1)
    assert (pressure.seen[0], pressure.seen[-1], pressure.own[0], pressure.own[-1]) == (80, 179, 12, 999)
    assert (town.missing, town.unknown) == (1, (("c", 2),))
    assert (well.missing, well.unknown) == (3, (("ja", 2),))
    old = TableEncoding(columns=(Number(name="pressure", mean=1, deviation=1), Category(name="town", levels=("a",))))
    pressure, town = encodings.compare(old, own)
    assert (pressure.below, pressure.above, pressure.seen) == (0, 0, ())
    assert town.unknown == (("c", 2), ("B", 1))
    assert [found.missing for found in encodings.compare(FITTED, PUBLIC)] == [10, 1, 0, 24, 0, 0, 33, 0]


# Files


NUMBER = {"kind": "number", "name": "a", "mean": 0, "deviation": 1, "zero_is_missing": False}
LEVELS = {"kind": "levels", "name": "a", "levels": ["x"], "other": True, "missing": False}
DATE = {"kind": "date", "name": "a", "order": "year-first", "mean": 0, "deviation": 1, "cycles": ["week"]}
WORDS = {"kind": "words", "name": "a", "words": ["x"], "idf": [1.0]}


@pytest.mark.parametrize("column", [NUMBER, LEVELS, DATE, WORDS, {"kind": "hashed", "name": "a", "buckets": 3}])
def test_a_column_as_a_file_says_it_is_read(column: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps({"kind": "table", "columns": [column]}))
    assert encodings.load(tmp_path / "e.json").reads == ("a",)


@pytest.mark.parametrize(
    "column",
    [
        {**NUMBER, "seen": [1, 2]},
        {**NUMBER, "seen": [7, 6, 5, 4, 3, 2, 1]},
        {**NUMBER, "seen": "none"},
        {**NUMBER, "missing_codes": ["999"]},
        {**NUMBER, "missing_codes": [True]},
        {**NUMBER, "missing_codes": [float("nan")]},
        {**NUMBER, "zero_is_missing": 1},
        {**LEVELS, "other": 1},
        {**LEVELS, "levels": []},
        {**LEVELS, "levels": ["x", "x"]},
        {**LEVELS, "more": 1},
        {"kind": "levels", "name": "a", "levels": ["x"], "other": True},
        {**DATE, "order": "day"},
        {**DATE, "cycles": ["week", "week"]},
        {**DATE, "cycles": ["month"]},
        {**DATE, "deviation": 0},
        {**DATE, "mean": float("inf")},
        {**WORDS, "idf": [1.0, 2.0]},
        {"kind": "hashed", "name": "a", "buckets": 0},
        {"kind": "hashed", "name": "a", "buckets": 1 << 40},
        {"kind": "hashed", "name": "a", "buckets": True},
        {"kind": "boolean", "name": "a", "words": ["ja"]},
        {"kind": ["number"], "name": "a"},
    ],
)
def test_a_column_that_is_none_is_refused(column: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(json.dumps({"kind": "table", "columns": [column]}))
    with pytest.raises(DataError, match=re.escape(f"Expected a public encoding in {tmp_path}")):
        encodings.load(tmp_path / "e.json")
