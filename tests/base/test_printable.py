"""What a peer wrote is text wherever a person sees it: it moves no cursor, begins no line, reverses nothing and is no markup."""

from __future__ import annotations

import io
import logging
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.logging import RichHandler
from rich.table import Table

from limbeck.base import printable as shown
from limbeck.base.printable import LIMIT, escape_logs, plain_console, printable, printable_lines

# Cursor and colour, a forged entry, an overwritten line, a reversed one, a hidden letter, markup and emoji codes of rich, half a surrogate.
HOSTILE = (
    "\x1b[2J\x1b[31mall is well\x07\x08\nlimbeck: paid\r\u2028x\u202egpj.exe\u200b\u0085[bold]a[/x] :smile: \ud800\x00\x9b1m"
)
ANY_TEXT = st.text(st.characters(), max_size=2 * LIMIT)
# Letters that do something: controls, formats, separators, surrogates, private and unassigned ones.
ODD = st.text(st.characters(categories=("Cc", "Cf", "Zl", "Zp", "Zs", "Cs", "Co", "Cn")), max_size=50)


def harmless(text: str) -> bool:
    """By the categories themselves, not by what Python calls printable."""
    return not any(unicodedata.category(letter) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for letter in text)


@given(text=st.one_of(ANY_TEXT, ODD), limit=st.integers(0, 2 * LIMIT))
def test_any_text_becomes_one_harmless_line_within_its_limit(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert harmless(shown)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert printable(shown, limit) == shown
    if text.isprintable() and len(text) <= limit:
        assert shown == text


def test_what_was_replaced_can_be_read() -> None:
    assert printable("a\x1b[2J\n\u202e\U000e0001z") == "a\\x1b[2J\\x0a\\u202e\\U000e0001z"
    assert printable("x" * 400) == "x" * (LIMIT - 4) + " ..."


@given(text=st.one_of(ANY_TEXT, ODD))
def test_lines_after_the_first_are_indented_and_each_is_harmless(text: str) -> None:
    first, *others = printable_lines(text).split("\n")
    assert all(map(harmless, [first, *others]))
    assert len(others) == text.count("\n")
    assert all(line.startswith("    ") for line in others)
    assert printable_lines(printable_lines(text)) == printable_lines(text)


def test_a_long_message_is_cut() -> None:
    assert len(printable_lines("ab\n" * 100_000)) <= shown.LOG_LIMIT
    assert len(printable_lines("x" * 10_000_000)) <= shown.LOG_LIMIT


@pytest.fixture
def escaped() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    escape_logs()
    yield
    logging.setLogRecordFactory(before)


def logged(handler: logging.Handler, message: str, *arguments: object, error: Exception | None = None) -> None:
    logger = logging.Logger("a peer's")
    logger.addHandler(handler)
    logger.warning(message, *arguments, exc_info=error)


@pytest.mark.usefixtures("escaped")
@given(text=st.one_of(st.just(HOSTILE), ODD))
def test_no_log_shows_more_than_text(text: str) -> None:
    """Plain, as in a child process and under systemd, and as the command shows it; in the message, an argument, or what was raised."""
    for message, arguments, error in (
        ("%s", (text,), None),
        (text.replace("%", "%%"), (), None),
        ("it failed", (), ValueError(text)),
        ("it failed", (), type("Odd", (Exception,), {"__str__": lambda _: text})()),
    ):
        plain, rich = io.StringIO(), io.StringIO()
        logged(logging.StreamHandler(plain), message, *arguments, error=error)
        out = plain_console()
        out.file = rich
        logged(RichHandler(console=out, show_time=False, show_path=False), message, *arguments, error=error)
        for told in (plain.getvalue(), rich.getvalue()):
            first, *others = told.removesuffix("\n").split("\n")
            assert all(map(harmless, [first, *others]))
            assert all(not line or line.startswith("    ") for line in others)


@given(text=st.one_of(st.just("[bold]a[/x] [link=https://example.org]b[/link] :smile:"), ODD))
def test_tables_and_sentences_know_no_markup(text: str) -> None:
    out = plain_console()
    out.file, out.width = io.StringIO(), 400
    table = Table("site")
    table.add_row(text)
    out.print(table)
    out.print(f"Plan {text}.", soft_wrap=True)
    told = out.file.getvalue()
    assert all(map(harmless, told.split("\n")))
    assert all(printable(line) in told for line in text.split("\n"))
