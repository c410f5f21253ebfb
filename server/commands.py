"""`limbeck serve`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from limbeck.base import logs
from limbeck.base.logs import LogFormat, LogLevel

FormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="How the log is written: text, or json for one object per line.")
]
LevelOption = Annotated[LogLevel, typer.Option("--log-level", help="The least important entries of the log.")]


def serve(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A signed plan's file, plan.pb.")],
    settings: Annotated[Path, typer.Option(help="The file with the coordinator's settings.")] = Path("coordinator.toml"),
    log_format: FormatOption = LogFormat.TEXT,
    log_level: LevelOption = LogLevel.INFO,
) -> None:
    """Run a plan with real sites, which connect over mutual TLS. The same command continues a run that was stopped or killed.

    \b
    Examples:
      limbeck serve plan.pb
      limbeck serve plan.pb --settings coordinator/coordinator.toml
      limbeck serve plan.pb --log-format json
    """
    from limbeck.server import serve as serving

    logs.begin_daemon(log_format, log_level)
    signal.signal(signal.SIGTERM, _interrupt)
    folder = serving.serve(plan, settings)
    print(f"Student: {folder / 'student'}\nRecord:  {folder / 'record.json'}")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
