"""The options by which a command that runs on its own is told how to log."""

from __future__ import annotations

from typing import Annotated

import typer

from limbeck.base.logs import LogFormat, LogLevel, Logs, begin

FormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="How the log is written: text, or json for one object per line.")
]
LevelOption = Annotated[LogLevel, typer.Option("--log-level", help="The least important entries of the log.")]


def begin_daemon(log_format: LogFormat, level: LogLevel) -> None:
    """Log as the options say, with the time of every entry."""
    begin(Logs(format=log_format, level=level, daemon=True))
