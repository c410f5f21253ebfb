"""`limbeck`: one command; every sub-command lives in the package it serves. An error of limbeck's own is one message, not a traceback."""

from __future__ import annotations

import errno
import logging
import sys

import typer
from rich.console import Console
from rich.logging import RichHandler

from limbeck.cli import operators
from limbeck.client import commands as client_commands
from limbeck.client import link_commands, teacher_commands
from limbeck.deployment import commands as deployment_commands
from limbeck.deployment import flower_commands, key_commands
from limbeck.operators.errors import LimbeckError
from limbeck.server import commands as server_commands
from limbeck.simulations import commands, plans
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
app.add_typer(plans.app, name="plan")
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
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_time=False, show_path=False)],
    )
    try:
        app()
    except LimbeckError as error:
        print(f"limbeck: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" for {error.filename}" if error.filename else ""
        print(
            f"limbeck: Expected room on the disk{where}, got: {error.strerror}. What is finished is whole; the same command, or"
            " --resume, goes on once there is room.",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("limbeck: interrupted.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


if __name__ == "__main__":
    main()
