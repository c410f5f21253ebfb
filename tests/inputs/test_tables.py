"""Tables of any usual kind are read to the same cells, whatever they are compressed by; at a site, each record from its own bytes."""

from __future__ import annotations

import csv
import gzip
import io
import logging
import tracemalloc
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from limbeck.base.errors import DataError
from limbeck.inputs import dialects, tables
from limbeck.inputs.dialects import Dialect
from limbeck.inputs.tables import Table

NAMES = ("age", "dose", "seen", "well")
CELLS: dict[str, list[str | None]] = {
    "age": ["61", None, "40"],
    "dose": ["0.5", "2.25", None],
    "seen": ["2026-01-02", None, "x"],
    "well": ["yes", "no", "no"],
}


def as_text(path: Path, delimiter: str = ",", encoding: str = "utf-8") -> None:
    rows = [NAMES, *zip(*([cell or "" for cell in cells] for cells in CELLS.values()), strict=True)]
    data = "\n".join(delimiter.join(row) for row in rows).encode(encoding)
    path.write_bytes(gzip.compress(data) if path.name.lower().endswith(".gz") else data)


def as_workbook(path: Path, rows: Sequence[Sequence[object]]) -> None:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(list(row))
    book.save(path)


def write(path: Path) -> None:
    """CELLS in a file of the kind that its name says."""
    kind = tables.suffix(path)
    if kind in tables.PARQUET:
        parquet.write_table(pyarrow.table(CELLS), path)
    elif kind in tables.WORKBOOKS:
        rows = zip(*CELLS.values(), strict=True)
        as_workbook(path, [list(NAMES), *([int(a) if a else None, float(d) if d else None, s, w] for a, d, s, w in rows)])
    else:
        as_text(path, "\t" if ".tsv" in path.name.lower() else ";")


@pytest.mark.parametrize("suffix", sorted(tables.SUFFIXES))
def test_a_table_of_any_usual_kind_is_read_to_the_same_cells(suffix: str, tmp_path: Path) -> None:
    for name in ("t" + suffix, "T.of.2026" + suffix.upper()):
        write(tmp_path / name)
        assert tables.is_table(tmp_path / name)
        table = tables.read(tmp_path / name, public=True)
        assert {name: list(cells) for name, cells in table.columns.items()} == CELLS
        np.testing.assert_array_equal(table.numbers("dose"), [0.5, 2.25, np.nan])
        if suffix not in tables.WORKBOOKS:
            assert tables.read_header(tmp_path / name) == list(NAMES)
            private = tables.read(tmp_path / name)
            assert {name: list(cells) for name, cells in private.columns.items()} == CELLS


@pytest.mark.parametrize("name", ["t.npz", "t", "t.gz", "t.zip", "t.csv.zip", "csv", "t.xls", "t.parquet.gz", "t.png"])
def test_other_files_are_no_tables(name: str) -> None:
    assert not tables.is_table(Path(name))


def test_a_workbook_is_read_as_people_fill_it(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        ["age", "seen", "well", None],
        [61, datetime(2026, 1, 2, 3, 4), True, None],
        [None, None, None, None],
        [40.5, None, "NA", "a note beside"],
        ["=1+1"],
    ]
    as_workbook(tmp_path / "t.xlsx", rows)
    table = tables.read(tmp_path / "t.xlsx", public=True)
    # The empty row is none, and the formula has no value, since no program has computed it.
    assert table.columns == {"age": ["61", "40.5"], "seen": ["2026-01-02 03:04:00", None], "well": ["True", None]}


@pytest.mark.parametrize("header", [["a", "a"], ["a", None, None, None, "b"], [None], []])
def test_a_workbook_without_distinct_names_is_refused(header: list[object], tmp_path: Path) -> None:
    as_workbook(tmp_path / "t.xlsx", [header, [1, 2]])
    with pytest.raises(DataError, match="distinct column names"):
        tables.read(tmp_path / "t.xlsx", public=True)


def test_a_site_reads_no_workbook_and_is_told_what_to_do(tmp_path: Path) -> None:
    write(tmp_path / "t.xlsx")
    for reading in (tables.read, tables.read_header):
        with pytest.raises(DataError, match=r"the workbook .*t.xlsx, .*: save it as CSV"):
            reading(tmp_path / "t.xlsx")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.xlsx", b"PK\3\4", "Expected a workbook at"),
        ("t.xlsx", b"a,b\n1,2\n", "Expected a workbook at"),
        ("t.csv.gz", b"a,b\n1,2\n", "a table compressed by gzip at"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 9999, mtime=0)[:-20], "a table compressed by gzip at"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-8] + bytes(8), "a table compressed by gzip at"),
        ("t.parquet", b"a,b\n", "a Parquet file at"),
        ("t.csv", b'a,b\n"1,2\n"3","4"\n"5","6"\n', "Expected CSV in"),
        ("t.csv", b"", "distinct column names"),
        ("t.csv", b"a;a\n", "distinct column names"),
    ],
)
def test_a_file_that_is_none_of_its_kind_is_refused(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        tables.read(tmp_path / name, public=True)


@pytest.mark.parametrize("suffix", sorted(tables.SUFFIXES))
def test_a_table_that_is_not_there_is_an_error_about_its_path(suffix: str, tmp_path: Path) -> None:
    for reading in (lambda path: tables.read(path, public=True), tables.detect_dialect):
        if reading is tables.detect_dialect and suffix not in tables.TEXTS:
            continue
        with pytest.raises(DataError, match=f"none{suffix}"):
            reading(tmp_path / f"none{suffix}")


# Bombs


def test_a_compressed_table_is_inflated_up_to_the_limit_and_no_further(tmp_path: Path) -> None:
    """64 MiB from 64 KiB; neither way of reading takes more memory than some times the limit."""
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n" + (b"1" * 255 + b",2\n") * (1 << 18)))
    for public in (True, False):
        tracemalloc.start()
        with pytest.raises(DataError, match=r"at most 1048576 bytes .*t.csv.gz"):
            tables.read(tmp_path / "t.csv.gz", public=public, largest=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
        tracemalloc.stop()
    (tmp_path / "u.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    for public in (True, False):
        assert len(tables.read(tmp_path / "u.csv.gz", public=public, largest=8)) == 1


def test_a_record_that_is_a_bomb_by_itself_is_left_out_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LONGEST_LINE", 1 << 16)
    bomb = b"9" * (1 << 26)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n" + bomb + b"\n3,4\n"))
    tracemalloc.start()
    table = tables.read(tmp_path / "t.csv.gz", largest=1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert table.columns == {"a": ["1", None, "3"], "b": ["2", None, "4"]}
    # Nor does it make the table too large.
    assert tables.has_rows(tmp_path / "t.csv.gz", largest=1 << 20)


def test_a_workbook_is_inflated_up_to_the_limit_and_no_further(tmp_path: Path) -> None:
    as_workbook(tmp_path / "t.xlsx", [["a"], ["x"]])
    with zipfile.ZipFile(tmp_path / "t.xlsx", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/more.xml", bytes(1 << 26))
    with pytest.raises(DataError, match=r"at most 1048576 bytes in .*t.xlsx once inflated, got 67"):
        tables.read(tmp_path / "t.xlsx", public=True, largest=1 << 20)
    assert len(tables.read(tmp_path / "t.xlsx", public=True)) == 1


def test_cells_are_counted_before_they_take_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_CELLS", 6)
    for name in ("t.csv", "t.parquet", "t.xlsx"):
        columns: dict[str, list[str | None]] = {"a": ["1"] * 4, "b": ["2"] * 4}
        if name == "t.csv":
            (tmp_path / name).write_bytes(Table(columns=columns, source="t").to_csv())
        elif name == "t.parquet":
            parquet.write_table(pyarrow.table(columns), tmp_path / name)
        else:
            as_workbook(tmp_path / name, [["a", "b"], *[[1, 2]] * 4])
        with pytest.raises(DataError, match="6"):
            tables.read(tmp_path / name, public=name == "t.xlsx")


# A site's way of reading

LINES = [b"61;yes;3,5", b"40;no;1,25", b";no;", b'"12";"yes";7']
HEADER = b"age;sick;dose"
# What may stand between two line ends, and would change the others if they were asked.
ODD = [
    b"1,2,3,4,5,6,7",
    b"1\t2\t3\t4",
    b"1|2|3",
    b'"',
    b"1.5;yes;1.5",
    b"1.5;2.5;1.5;2.5;1.5;2.5;9.5",
    b"1.234,5;no;1,234.5",
    "größe;ja;3".encode("cp1252"),
    "größe;ja;3".encode("utf-16"),
    b"sep=,",
    b"\xff\xfe",
    b"\0",
    b"",
]


def cells(data: bytes, dialect: Dialect | None = None) -> list[tuple[object, ...]]:
    table = tables.from_csv(data, "t", dialect=dialect)
    dose = table.numbers("dose").tolist()
    return [(*row, repr(number)) for *row, number in zip(*table.columns.values(), dose, strict=True)]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("place", range(5))
def test_no_row_decides_by_what_dialect_the_others_are_read(odd: bytes, place: int) -> None:
    for encoded in (HEADER, b"\xef\xbb\xbf" + HEADER, b"sep=;\n" + HEADER):
        before = cells(b"\n".join([encoded, *LINES]))
        after = cells(b"\n".join([encoded, *LINES[:place], odd, *LINES[place:]]))
        assert before in ([*after[:place], *after[place + 1 :]], after)
    assert [number for *_, number in cells(b"\n".join([HEADER, *LINES]))] == ["3.5", "1.25", "nan", "7.0"]


@settings(max_examples=60, deadline=None)
@given(odd=st.binary(max_size=30), place=st.integers(0, 4), encoding=st.sampled_from(["utf-16-le", "utf-16-be"]))
def test_no_bytes_between_two_line_ends_of_two_bytes_change_another_line(odd: bytes, place: int, encoding: str) -> None:
    """Also an odd number of bytes, which would move all characters after it by half of one."""
    end = "\n".encode(encoding)
    lines = [line.decode().encode(encoding) for line in LINES]
    odd = odd.replace(end, b"")
    if end in odd:
        return
    head = HEADER.decode().encode(encoding) + end
    before = cells(head + end.join(lines))
    after = cells(head + end.join([*lines[:place], odd, *lines[place:]]))
    assert before in ([*after[:place], *after[place + 1 :]], after)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_where_a_file_is_cut_into_pieces_changes_nothing(
    chunk: int, encoding: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CHUNK", chunk)
    data = ends.join(line.decode() for line in [HEADER, *LINES, b"1;" + b"x" * 50 + b";2", *LINES]).encode(encoding)
    monkeypatch.setattr(tables, "LONGEST_LINE", 40)
    found = cells(data)
    assert found[:4] == found[5:] == cells(b"\n".join([HEADER, *LINES]))
    assert found[4] == (None, None, None, "nan")


def test_a_table_of_decimal_commas_is_read_and_one_of_odd_cells_takes_one_line_of_the_log_a_column(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = HEADER + b"\n" + b"\n".join(LINES * 50)
    with caplog.at_level(logging.WARNING, "limbeck"):
        tables.from_csv(data, "t").numbers("dose")
    assert not caplog.records
    wrong = Dialect(delimiter=";", decimal=".")
    with caplog.at_level(logging.WARNING, "limbeck"):
        table = tables.from_csv(data, "t", dialect=wrong)
        table.numbers("dose")
        table.numbers("sick")
    assert len(caplog.records) == 2
    assert "got '3,5': it counts as missing, as do 99 more" in caplog.text


def test_the_dialect_of_a_site_is_that_of_its_header_and_its_settings(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("größe;sick\n1.234;ja\n3,5;nein\n".encode("cp1252"))
    own = tables.read_dialect(tmp_path / "t.csv")
    assert own == Dialect(delimiter=";", decimal="", text_encoding="cp1252")
    said = tables.read_dialect(tmp_path / "t.csv", decimal=",")
    assert tables.read(tmp_path / "t.csv", dialect=said).numbers("größe").tolist() == [1234, 3.5]
    assert tables.read(tmp_path / "t.csv").numbers("größe").tolist() == [1.234, 3.5]
    # Only its owner looks at the rows.
    assert tables.detect_dialect(tmp_path / "t.csv") == said
    latin = Dialect(delimiter="|", text_encoding="latin-1")
    assert tables.read_header(tmp_path / "t.csv", latin) == ["größe;sick"]


def test_a_table_that_is_written_anew_says_the_same_in_the_plainest_dialect() -> None:
    data = b'a;b\n1.234,5;x\n3,5;"one; two, three"\n;1,0\n'
    table = tables.from_csv(data, "t", public=True)
    again = tables.from_csv(table.to_csv(), "t")
    assert again.dialect == dialects.DEFAULT
    assert again.columns == {"a": ["1234.5", "3.5", None], "b": ["x", "one; two, three", "1.0"]}
    np.testing.assert_array_equal(again.numbers("a"), table.numbers("a"))
    assert table.rows([1]).dialect == table.dialect


def test_quotation_marks_may_be_characters_like_any_other() -> None:
    """As in texts that are separated by tabs, of which nobody thought that they contain marks."""
    data = b'a\tb\n"half open\t1\n5" pipe\t2\n\'s-Hertogenbosch\t3\nplain\t4\n'
    table = tables.from_csv(data, "t", public=True)
    assert table.dialect.quote == ""
    assert table.texts("a") == ['"half open', '5" pipe', "'s-Hertogenbosch", "plain"]
    # A site is told so by its settings; its header does not show it, and rows are never asked.
    assert tables.from_csv(data, "t", dialect=table.dialect).columns == table.columns
    assert tables.from_csv(data, "t").texts("a") == [None, None, "'s-Hertogenbosch", "plain"]
    quoted = tables.from_csv(b'a\tb\n"one\ntwo"\t1\nx\t2\n', "t", public=True)
    assert quoted.texts("a") == ["one\ntwo", "x"]


def test_lines_that_end_with_carriage_returns_are_read_by_their_owner_and_named_at_a_site() -> None:
    data = b"a,b\r1,2\r3,4\r"
    assert tables.from_csv(data, "t", public=True).columns == {"a": ["1", "3"], "b": ["2", "4"]}
    with pytest.raises(DataError, match="Expected lines that end with LF or CR LF in t, found CR alone"):
        tables.from_csv(data, "t")


def test_the_limit_of_cells_is_never_lowered_for_the_rest_of_the_process() -> None:
    before = csv.field_size_limit()
    for public in (True, False):
        tables.from_csv(b"a,b\n1,2\n", "t", public=public)
    assert csv.field_size_limit() >= before >= 131_072


def test_a_stream_of_many_members_is_one_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n"))
    assert tables.read(tmp_path / "t.csv.gz").columns == {"a": ["1", "3"], "b": ["2", "4"]}
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb"):
        pass
    (tmp_path / "e.csv.gz").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="distinct column names"):
        tables.read(tmp_path / "e.csv.gz")
