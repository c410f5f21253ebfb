"""How a text table is written: said by its header alone at a site, seen in its rows where they are public."""

from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.base.errors import SettingError
from limbeck.inputs import dialects, tables
from limbeck.inputs.dialects import Dialect

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1")
# Names and values of two columns and one of numbers, such as people write them.
ROWS = [
    ["größe", "note", "dose"],
    ["12", 'said "no", then left; 3|4', "0.5"],
    ["7", "naïve façade", "12.25"],
    ["", "plain", "-3.75"],
    ["40", "tab\there", "1e-3"],
]


def written(rows: list[list[str]], delimiter: str, decimal: str, ends: str = "\r\n") -> str:
    """A table as Python's csv module writes it, its third column with a decimal sign."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=ends)
    writer.writerow(rows[0])
    writer.writerows([*row[:2], row[2].replace(".", decimal)] for row in rows[1:])
    return out.getvalue()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", dialects.DELIMITERS)
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_every_usual_dialect_is_seen_in_the_rows_and_read_to_the_same_table(
    encoding: str, delimiter: str, decimal: str, ends: str
) -> None:
    data = written(ROWS, delimiter, decimal, ends).encode(encoding)
    found = dialects.detect(data)
    assert (found.delimiter, found.quote, found.decimal) == (delimiter, '"', decimal)
    table = tables.from_csv(data, "t", public=True)
    assert list(table.columns) == ROWS[0]
    assert table.texts("note") == [row[1] for row in ROWS[1:]]
    assert table.texts("größe") == ["12", "7", None, "40"]
    assert table.numbers("dose").tolist() == [0.5, 12.25, -3.75, 0.001]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", dialects.DELIMITERS)
def test_a_site_reads_the_same_table_by_its_header_and_one_setting(encoding: str, delimiter: str) -> None:
    for decimal in ".,":
        data = written(ROWS, delimiter, decimal).encode(encoding)
        own = dialects.of_header(data.partition(b"\n")[0], decimal=decimal)
        assert own.delimiter == delimiter
        table = tables.from_csv(data, "t", dialect=own)
        assert table.texts("note") == [row[1] for row in ROWS[1:]]
        assert table.numbers("dose").tolist() == [0.5, 12.25, -3.75, 0.001]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters='\r\n\0;\t|"\ufeff'), max_size=8)


@given(
    rows=st.lists(st.tuples(CELLS, st.integers(-9999, 9999).map(lambda value: value / 8)), min_size=1, max_size=8),
    delimiter=st.sampled_from(";\t|"),
    decimal=st.sampled_from(".,"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_the_csv_module_writes_is_read_to_the_last_digit(
    rows: list[tuple[str, float]], delimiter: str, decimal: str, encoding: str
) -> None:
    texts = [["name", "seen", "dose"], *([text, "x", repr(number)] for text, number in rows)]
    data = written(texts, delimiter, decimal).encode(encoding)
    dialect = Dialect(delimiter=delimiter, decimal=decimal, text_encoding=dialects.detect(data).text_encoding)
    for public in (True, False):
        table = tables.from_csv(data, "t", public=public, dialect=dialect)
        assert table.numbers("dose").tolist() == [number for _, number in rows]
        assert table.texts("name") == [None if text.strip() in tables.MISSING else text for text, _ in rows]


@pytest.mark.parametrize(
    ("cells", "decimal", "thousands"),
    [
        (["1,5", "2,25"], ",", ""),
        (["1.5", "2.25"], ".", ""),
        (["1.234,5", "7"], ",", "."),
        (["1,234.5", "7"], ".", ","),
        (["1.234", "12,5"], ",", "."),
        (["1,234", "12.5"], ".", ","),
        (["1.234.567", "1.234"], ",", "."),
        (["1,234,567", "1,234"], ".", ","),
        # By themselves they may be anything: the decimal comma, as somebody chose semicolons.
        (["1,234", "7,001"], ",", ""),
        (["1.234", "7.001"], ".", ""),
        (["0,234", "0,001"], ",", ""),
        (["1 234,5", "7"], ",", " "),
        (["1'234.5", "7"], ".", "'"),
        (["1\u00a0234", "7"], ".", "\u00a0"),
        (["12", "7"], ".", ""),
        (["01.02.2026", "3,5"], ",", ""),
        (["192.168.0.1", "2026-01-02"], ".", ""),
    ],
)
def test_the_signs_of_numbers_are_seen_where_they_leave_no_doubt(cells: list[str], decimal: str, thousands: str) -> None:
    found = dialects.detect("\n".join(["a;b", *(f"x;{cell}" for cell in cells)]).encode())
    assert (found.decimal, found.thousands) == (decimal, thousands)


def test_a_comma_between_commas_groups_thousands() -> None:
    found = dialects.detect(b'a,b\nx,"1,234"\ny,"12,345"\n')
    assert (found.delimiter, found.decimal, found.thousands) == (",", ".", ",")


@pytest.mark.parametrize(
    ("cell", "dialect", "number"),
    [
        ("1.5", Dialect(), 1.5),
        (" 1.5 ", Dialect(), 1.5),
        ("1e-3", Dialect(), 0.001),
        ("1,234.5", Dialect(), 1234.5),
        ("-1,234,567", Dialect(), -1234567),
        ("12 345", Dialect(), 12345),
        ("1,234", Dialect(), None),
        ("1,234", Dialect(thousands=","), 1234),
        ("1,5", Dialect(), None),
        ("1.234,5", Dialect(), None),
        ("1,5", Dialect(decimal=","), 1.5),
        (",5", Dialect(decimal=","), 0.5),
        ("1,5e3", Dialect(decimal=","), 1500),
        ("1.5", Dialect(decimal=","), None),
        ("1.234", Dialect(decimal=","), None),
        ("1.234", Dialect(decimal=",", thousands="."), 1234),
        ("1.234,5", Dialect(decimal=","), 1234.5),
        ("12", Dialect(decimal=","), 12),
        ("1,234.5", Dialect(decimal=","), None),
        ("1,5", Dialect(decimal=""), 1.5),
        ("1.5", Dialect(decimal=""), 1.5),
        ("1.234,5", Dialect(decimal=""), 1234.5),
        ("1,234.5", Dialect(decimal=""), 1234.5),
        ("1,234,567", Dialect(decimal=""), 1234567),
        ("1,234", Dialect(decimal=""), 1.234),
        (",", Dialect(decimal=","), None),
        ("1,2,3", Dialect(decimal=","), None),
        ("12.05.2026", Dialect(decimal=","), None),
        ("", Dialect(), None),
        ("many", Dialect(decimal=","), None),
    ],
)
def test_a_cell_is_a_number_by_itself_or_none(cell: str, dialect: Dialect, number: float | None) -> None:
    if number is None:
        with pytest.raises(ValueError, match=r"number|float"):
            dialect.number(cell)
    else:
        assert dialect.number(cell) == number
        assert float(dialect.with_point(cell)) == number


@given(st.text(max_size=12) | st.from_regex(r"[+-]?[0-9]{1,4}([.,' ][0-9]{1,3}){0,3}", fullmatch=True))
def test_no_cell_raises_another_error_or_means_two_numbers(cell: str) -> None:
    for decimal in (".", ",", ""):
        own = Dialect(decimal=decimal)
        try:
            number = own.number(cell)
        except ValueError:
            continue
        # Written with a point, it is that number in the plainest dialect.
        assert Dialect().number(own.with_point(cell)) == number or math.isnan(number)


HEADERS = [
    (b"a,b,sick", ","),
    (b"a;b;sick", ";"),
    (b"a\tb\tsick", "\t"),
    (b"a|b|sick", "|"),
    (b'"weight (kg, lb)";sick', ";"),
    (b"sick", ","),
    (b"\xef\xbb\xbfa;b", ";"),
    ("größe;sick".encode("cp1252"), ";"),
    ("a;b".encode("utf-16"), ";"),
    (b"sep=|\r\na|b,c", "|"),
]


@pytest.mark.parametrize(("head", "delimiter"), HEADERS)
def test_the_header_says_what_separates_the_cells(head: bytes, delimiter: str) -> None:
    own = dialects.of_header(head)
    assert own.delimiter == delimiter
    # Between commas a comma is no decimal sign; elsewhere nobody knows, and each cell says it by itself.
    assert own.decimal == ("." if delimiter == "," else "")


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        (b"a;b", "utf-8"),
        ("größe".encode(), "utf-8"),
        ("größe".encode("cp1252"), "cp1252"),
        (b"a\x81b", "iso8859-1"),
        (b"\xef\xbb\xbfa", "utf-8"),
        ("a".encode("utf-16-le"), "utf-16-le"),
        ("a".encode("utf-16-be"), "utf-16-be"),
        ("\ufeffa".encode("utf-16-be"), "utf-16-be"),
    ],
)
def test_the_header_says_how_text_becomes_bytes(head: bytes, encoding: str) -> None:
    assert dialects.of_header(head).text_encoding == encoding
    assert dialects.detect(head).text_encoding == encoding


def test_what_the_owner_says_goes_before_what_the_header_shows() -> None:
    own = dialects.of_header(b"a,b;c", delimiter=";", quote="'", decimal=",", text_encoding="windows-1252")
    assert own == Dialect(delimiter=";", quote="'", decimal=",", thousands=".", text_encoding="cp1252")
    # A byte order mark says which of the two UTF-16s it is.
    assert dialects.of_header("\ufeffa".encode("utf-16-be"), text_encoding="utf-16").text_encoding == "utf-16-be"
    assert dialects.of_header(b"a", text_encoding="utf-16").text_encoding == "utf-16-le"


def test_quotation_marks_may_be_apostrophes() -> None:
    data = b"'a','b'\n'one, two','3'\n"
    assert dialects.detect(data).quote == "'"
    assert tables.from_csv(data, "t", public=True).texts("a") == ["one, two"]
    assert dialects.detect(b"a,b\nit's,that's\n").quote == '"'


def test_a_dialect_is_said_in_words() -> None:
    own = Dialect(delimiter=";", decimal=",", thousands=".", text_encoding="cp1252")
    assert own.describe() == "semicolons between cells, decimal comma, points between thousands, Windows-1252 text"
    assert Dialect().describe() == "commas between cells, decimal point, UTF-8 text"
    assert "decimal point or comma, each cell by itself" in Dialect(decimal="").describe()
    assert "nothing as quotation mark" in Dialect(quote="").describe()
    assert Dialect(delimiter=":", quote="'").describe().startswith("':' between cells, ' as quotation mark")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delimiter": ""}, "one character between cells"),
        ({"delimiter": ", "}, "one character between cells"),
        ({"delimiter": "\n"}, "one character between cells"),
        ({"delimiter": '"'}, "one character between cells"),
        ({"delimiter": "x"}, "one character between cells"),
        ({"quote": "''"}, "one character as quotation mark, or none"),
        ({"quote": "\n"}, "one character as quotation mark, or none"),
        ({"decimal": ";"}, "'.' or ',' as decimal sign"),
        ({"thousands": "."}, "another sign than the decimal one"),
        ({"text_encoding": "utf-ate"}, "a text encoding such as utf-8"),
        ({"text_encoding": "utf-32"}, "a text encoding such as utf-8"),
        ({"text_encoding": "cp500"}, "a text encoding such as utf-8"),
        ({"text_encoding": "base64"}, "a text encoding such as utf-8"),
        ({"text_encoding": "a\0b"}, "a text encoding such as utf-8"),
    ],
)
def test_what_no_table_can_be_read_by_is_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Dialect(**settings)
