"""Rows for people, in columns: at any width, on a terminal, in a pipe and in a file, nothing in them is cut off.

Where the columns are too wide, first one of them is wrapped between words, then others are printed under their row.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from limbeck.base.printable import LOG_LIMIT, printable

GAP, INDENT = 2, 4
# A column is not wrapped to less than this.
NARROWEST = 16

Cell = str | Text


def listing(
    console: Console,
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    wrap: str | None = None,
    below: Sequence[str] = (),
    right: Sequence[str] = (),
) -> None:
    """Print rows under their headers.

    - wrap: the column that may be wrapped. below: those that may be printed under their row, the first of them first.
    - right: columns of numbers.

    Every other column stays on the line of its row unless there is no room for it at all.
    """
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = {
        header: max([cell_len(header), *(cell.cell_len for cell in column)])
        for header, column in zip(headers, zip(*cells, strict=True) if cells else [() for _ in headers], strict=True)
    }
    moved: list[str] = []
    order = [*below, *(header for header in headers[:0:-1] if header not in below)]
    while (width := _fitted(widths, moved, wrap, console.width)) is None and len(moved) < len(headers) - 1:
        moved.append(next(header for header in order if header not in moved))
    kept = [header for header in headers if header not in moved]
    if wrap in kept and width is not None:
        widths[wrap] = width
    line = Text((" " * GAP).join(_padded(Text(header), widths[header], header in right).plain for header in kept).rstrip())
    _say(console, line, "bold")
    _say(console, Text((" " * GAP).join("─" * widths[header] for header in kept)), "dim")
    for row in cells:
        _print_row(console, dict(zip(headers, row, strict=True)), kept, moved, widths, right)


def _print_row(
    console: Console,
    row: dict[str, Text],
    kept: Sequence[str],
    moved: Sequence[str],
    widths: dict[str, int],
    right: Sequence[str],
) -> None:
    wrapped = {header: list(row[header].wrap(console, max(1, widths[header]))) or [Text()] for header in kept}
    for number in range(max(len(lines) for lines in wrapped.values())):
        line = Text()
        for index, header in enumerate(kept):
            part = wrapped[header][number] if number < len(wrapped[header]) else Text()
            line.append(" " * GAP if index else "")
            line.append_text(_padded(part, widths[header], header in right))
        line.rstrip()
        _say(console, line)
    for header in (header for header in row if header in moved and row[header].plain):
        text = Text.assemble((f"{header}: ", "dim"), row[header]) if header else row[header]
        for part in text.wrap(console, max(NARROWEST, console.width - INDENT)):
            part.rstrip()
            _say(console, Text(" " * INDENT).append_text(part))


def _fitted(widths: dict[str, int], moved: Sequence[str], wrap: str | None, room: int) -> int | None:
    """The width of the column that may be wrapped, or 0 if there is none; None where the columns do not fit even so."""
    kept = [header for header in widths if header not in moved]
    others = sum(widths[header] for header in kept if header != wrap) + GAP * (len(kept) - 1)
    if wrap not in kept:
        return 0 if others <= room else None
    wanted = widths[wrap]
    return min(wanted, room - others) if room - others >= min(wanted, NARROWEST) else None


def _cell(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(printable(cell, LOG_LIMIT))


def _padded(text: Text, width: int, right: bool) -> Text:
    padding = " " * max(0, width - text.cell_len)
    return Text(padding).append_text(text) if right else text.copy().append(padding)


def _say(console: Console, line: Text, style: str = "") -> None:
    # As it is: a word that is longer than the line goes on in the next one by the terminal's own doing, and stays whole in a file.
    console.print(line, style=style, soft_wrap=True)
