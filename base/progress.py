"""Progress of long work: how it is reported, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

# (done, total): called as work goes on.
Progress = Callable[[int, int], None]


def bars(console: Console) -> Bars:
    """Progress bars in limbeck's layout."""
    return Bars(
        TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    )
