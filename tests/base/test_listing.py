"""Rows for people: nothing in them is cut off at any width, and they keep to it where words allow."""

from __future__ import annotations

import io
import re

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from limbeck.base.listing import listing

SERIAL = "19b0f17685f21be0d999e168be9cf20d16405255"
HEADERS = ["name", "state", "until", "serial number"]
ROWS = [["north", "valid", "2027-11-28", SERIAL], ["a-site-with-a-long-name", "revoked", "2026-01-01", SERIAL[::-1]]]


def printed(width: int, headers: list[str], rows: list[list[str]], **how: object) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False, emoji=False, highlight=False)
    listing(console, headers, rows, **how)  # type: ignore[arg-type]
    return out.getvalue().splitlines()


def test_what_fits_is_one_line_a_row() -> None:
    lines = printed(100, HEADERS, ROWS, below=["serial number"])
    assert len(lines) == 4
    assert lines[2].split() == ROWS[0]
    assert len({line.index(value) for line, value in zip(lines[2:], (SERIAL, SERIAL[::-1]), strict=True)}) == 1


def test_what_does_not_fit_is_under_its_row_and_whole() -> None:
    lines = printed(80, HEADERS, ROWS, below=["serial number"])
    assert lines[3] == f"    serial number: {SERIAL}"
    assert lines[5] == f"    serial number: {SERIAL[::-1]}"
    assert all(len(line) <= 80 for line in lines)


def test_a_column_is_wrapped_between_words_before_another_one_moves() -> None:
    rows = [["1", "a sentence of some words, longer than there is room for", SERIAL]]
    lines = printed(64, ["n", "what", "serial number"], rows, wrap="what", below=["serial number"], right=["n"])
    assert all(len(line) <= 64 for line in lines)
    assert SERIAL in lines[2]
    assert " ".join(line.replace(SERIAL, "").replace("1 ", "") for line in lines[2:]).split() == rows[0][1].split()


@given(
    st.integers(1, 120),
    st.lists(st.lists(st.from_regex(r"[a-z0-9]{1,60}", fullmatch=True), min_size=4, max_size=4), max_size=4),
    st.sampled_from([None, *HEADERS]),
    st.lists(st.sampled_from(HEADERS), unique=True),
)
def test_nothing_is_cut_at_any_width(width: int, rows: list[list[str]], wrap: str | None, below: list[str]) -> None:
    text = re.sub(r"\s", "", "".join(printed(width, HEADERS, rows, wrap=wrap, below=below)))
    text = re.sub("|".join(re.escape(header.replace(" ", "")) + ":" for header in HEADERS), "", text)
    assert "…" not in text
    for row in rows:
        for cell in row:
            # A wrapped column's cell goes on in the next line, after others' on this one: all its characters are there.
            assert cell in text or all(text.count(letter) >= cell.count(letter) for letter in cell)


@given(st.integers(20, 120))
def test_a_line_is_no_longer_than_the_width_where_words_are_short(width: int) -> None:
    rows = [["north", "valid", "2027-11-28", "a few short words " * 8]] * 3
    assert all(len(line) <= width for line in printed(width, HEADERS, rows, wrap="serial number", below=["serial number"]))


def test_markup_and_escape_sequences_are_text() -> None:
    lines = printed(80, ["a", "b"], [["pip install limbeck[encoders]", "\x1b[31m[bold]x[/bold]"]])
    assert lines[2].split("  ")[0] == "pip install limbeck[encoders]"
    assert lines[2].endswith("\\x1b[31m[bold]x[/bold]")


def test_a_cell_may_have_a_style_of_its_own_and_a_list_may_be_empty() -> None:
    assert printed(80, ["a"], [[Text("x", style="red")]])[-1] == "x"  # type: ignore[list-item]
    assert len(printed(80, HEADERS, [])) == 2
