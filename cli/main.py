"""`limbeck`: one command; every sub-command lives in the package it serves. An error of limbeck's own is one message, not a traceback."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from pathlib import Path

import typer
from rich.logging import RichHandler

from limbeck.base.errors import LimbeckError
from limbeck.base.files import keep_to_owner
from limbeck.base.printable import escape_logs, plain_console, printable, printable_lines
from limbeck.cli import operators
from limbeck.client import commands as client_commands
from limbeck.client import link_commands, teacher_commands
from limbeck.deployment import commands as deployment_commands
from limbeck.deployment import flower_commands, key_commands, plan_commands
from limbeck.server import commands as server_commands
from limbeck.simulations import commands
from limbeck.simulations.data import commands as data_commands

app = typer.Typer(
    name="limbeck",
    help="Privacy-preserving federated distillation: several private teachers become one small sparse student.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("simulate")(commands.simulate)
app.command("scenarios")(commands.scenarios)
app.command("report")(commands.report)
app.add_typer(data_commands.app, name="data")
app.add_typer(operators.app, name="operators")
app.add_typer(teacher_commands.app, name="teacher")
app.command("serve")(server_commands.serve)
app.add_typer(link_commands.app, name="site")
app.add_typer(client_commands.policy_app, name="policy")
app.add_typer(client_commands.ledger_app, name="ledger")
app.add_typer(client_commands.transcript_app, name="transcript")
app.add_typer(key_commands.app, name="keys")
plan_commands.app.command("settings")(commands.plan_settings)
app.add_typer(plan_commands.app, name="plan")
app.add_typer(deployment_commands.deploy_app, name="deploy")
app.command("doctor")(deployment_commands.doctor)
app.add_typer(flower_commands.app, name="flower")
app.command("status")(deployment_commands.status)
app.command("watch")(deployment_commands.watch)

INTERRUPTED = 130
# The disk is full, the owner's share of it is used up, or a file may not grow.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main() -> None:
    """The entry point: exit status 0, 1 for an error that is explained, 2 for wrong usage, 130 after Ctrl-C."""
    keep_to_owner()
    escape_logs()
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=plain_console(stderr=True), show_time=False, show_path=False)],
    )
    try:
        app()
    except LimbeckError as error:
        _say(str(error))
        raise SystemExit(1) from None
    except OSError as error:
        _say(_explained(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _say("interrupted.")
        raise SystemExit(INTERRUPTED) from None


def _say(what: str) -> None:
    print(f"limbeck: {printable_lines(what)}", file=sys.stderr)


def _explained(error: OSError) -> str:
    """What the operating system refused, in one sentence."""
    why = printable(error.strerror or error)
    if error.errno in _NO_ROOM:
        where = f" for {error.filename}" if error.filename else ""
        return (
            f"Expected room on the disk{where}, got: {why}. What is finished is whole; the same command, or --resume, goes on once"
            " there is room."
        )
    if error.filename is None:
        # Which file or connection it was nobody said, so where in limbeck it was is what there is to say.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"Expected the operating system to allow a step, got: {why} ({Path(frame.filename).name}, line {frame.lineno})."
        )
    return f"Expected to use {printable(error.filename)}, got: {why}."


if __name__ == "__main__":
    main()
