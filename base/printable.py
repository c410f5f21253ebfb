"""Text that somebody else wrote, before a person sees it: what would move the cursor, colour, reverse or end a line is shown, not done.

A peer's name, reason, label, path or certificate can hold escape sequences of terminals, line ends that begin a forged entry of a log,
marks that reverse the direction of writing, and markup of the library that prints our tables. `printable` is for one such text, where it is
taken in. Beneath it lies a net: every line of every log goes through `printable_lines`, and `plain_console` knows no markup.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from rich.console import Console
from rich.text import Text

LIMIT = 300
# Of a message in a log, all its lines together: a traceback fits.
LOG_LIMIT = 1 << 16
_CUT = " ..."
_INDENT = "    "


def printable(text: object, limit: int = LIMIT) -> str:
    """One line of at most `limit` characters: any that is not printable is written as Python writes it, such as \\x1b or \\u202e."""
    whole = str(text)
    # An escape is longer than what it stands for, so more than this is never shown.
    own = "".join(letter if letter.isprintable() else _escaped(letter) for letter in whole[: limit + 1])
    return own if len(own) <= limit else own[: max(0, limit - len(_CUT))] + _CUT[:limit]


def printable_lines(text: str, limit: int = LOG_LIMIT) -> str:
    """Each line printable; all but the first are indented, so that none passes for another entry."""
    lines = text[: limit + 1].split("\n")
    shown = [printable(line, limit) for line in lines]
    own = f"\n{_INDENT}".join([shown[0], *(line.removeprefix(_INDENT) for line in shown[1:])])
    return own if len(own) <= limit else own[: limit - len(_CUT)] + _CUT


def escape_logs() -> None:
    """From now on, whatever this process logs is printable, by whomever it is logged and wherever it goes."""
    logging.setLogRecordFactory(_Record)


class _Record(logging.LogRecord):
    """One entry, printable. What was raised is rendered here, because formatters take over `exc_text` where it is there."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.exc_info and self.exc_info[1] is not None:
            told = "".join(traceback.format_exception(*self.exc_info)).rstrip("\n")
            self.exc_text = _INDENT + printable_lines(told)

    def getMessage(self) -> str:  # noqa: N802 - as logging names it
        return printable_lines(super().getMessage())


def plain_console(*, stderr: bool = False) -> Console:
    """Where tables and sentences are printed: markup, emoji codes and escape sequences in them are text."""
    return _Plain(stderr=stderr, markup=False, emoji=False, highlight=False)


class _Plain(Console):
    """What is printed as a string is made printable, in cells of tables too."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(printable(line, LOG_LIMIT) for line in text.split("\n")), **options)


def _escaped(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
