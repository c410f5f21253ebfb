"""Text from somebody else, made safe to show: what moves the cursor, colours, reverses or ends a line is escaped.

A peer's name, reason, label, path or certificate can contain terminal escape sequences, line ends that start a forged log entry, marks that
reverse the direction of writing, and markup of the library that prints tables. `printable` is applied where such a text enters. As a second
line of defence, every line of every log goes through `printable_lines`, and `plain_console` interprets no markup.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from rich.console import Console
from rich.text import Text

LIMIT = 300
# Characters of one log entry, all its lines together: a traceback fits.
LOG_LIMIT = 1 << 16
_CUT = " ..."
_INDENT = "    "


def printable(text: object, limit: int = LIMIT) -> str:
    """One line of at most `limit` characters: an unprintable one is shown as Python escapes it, such as \\x1b or \\u202e."""
    whole = str(text)
    # An escape is longer than what it stands for, so no more characters than these are ever shown.
    shown = "".join(letter if letter.isprintable() else _escaped(letter) for letter in whole[: limit + 1])
    return shown if len(shown) <= limit else shown[: max(0, limit - len(_CUT))] + _CUT[:limit]


def printable_lines(text: str, limit: int = LOG_LIMIT) -> str:
    """Each line made printable; all but the first are indented, so that none can pass for an entry of its own."""
    lines = text[: limit + 1].split("\n")
    shown = [printable(line, limit) for line in lines]
    entry = f"\n{_INDENT}".join([shown[0], *(line.removeprefix(_INDENT) for line in shown[1:])])
    return entry if len(entry) <= limit else entry[: limit - len(_CUT)] + _CUT


def escape_logs() -> None:
    """Make everything that this process logs from now on printable, whichever library logs it and wherever it goes."""
    logging.setLogRecordFactory(_Record)


class _Record(logging.LogRecord):
    """One printable entry. An exception is rendered here, because formatters use `exc_text` as it is if it is set."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.exc_info and self.exc_info[1] is not None:
            told = "".join(traceback.format_exception(*self.exc_info)).rstrip("\n")
            self.exc_text = _INDENT + printable_lines(told)

    def getMessage(self) -> str:  # noqa: N802 - as logging names it
        return printable_lines(super().getMessage())


def plain_console(*, stderr: bool = False) -> Console:
    """A console for tables and sentences, in which markup, emoji codes and escape sequences are plain text."""
    return _Plain(stderr=stderr, markup=False, emoji=False, highlight=False)


class _Plain(Console):
    """Makes every string printable before it is rendered, in table cells too."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(printable(line, LOG_LIMIT) for line in text.split("\n")), **options)


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
