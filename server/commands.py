"""`limbeck serve`."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer


def serve(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A signed plan's file, plan.pb.")],
    settings: Annotated[Path, typer.Option(help="The file with the coordinator's settings.")] = Path("coordinator.toml"),
) -> None:
    """Run a plan with real sites, which connect over mutual TLS. The same command continues a run that was stopped or killed.

    \b
    Examples:
      limbeck serve plan.pb
      limbeck serve plan.pb --settings coordinator/coordinator.toml
    """
    from limbeck.server import serve as serving

    logging.getLogger("limbeck").setLevel(logging.INFO)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, _interrupt)
    folder = serving.serve(plan, settings)
    print(f"Student: {folder / 'student'}\nRecord:  {folder / 'record.json'}")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
