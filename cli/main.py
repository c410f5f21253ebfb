"""`limbeck`: one command; every sub-command lives in the package that it serves.

An error of limbeck's own is printed as one message, never as a traceback. Command modules import what they need within their functions,
so that help and shell completion load neither torch nor gRPC.
"""

from __future__ import annotations

import errno
import inspect
import logging
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import click
import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.models import ArgumentInfo

from limbeck.base import logs
from limbeck.base.errors import LimbeckError
from limbeck.base.files import keep_to_owner
from limbeck.base.printable import escape_logs, printable, printable_lines
from limbeck.cli import operators
from limbeck.client import commands as client_commands
from limbeck.client import link_commands, teacher_commands
from limbeck.deployment import commands as deployment_commands
from limbeck.deployment import flower_commands, key_commands, plan_commands
from limbeck.experiments.baselines import commands as benchmark_commands
from limbeck.server import commands as server_commands
from limbeck.server import student_commands
from limbeck.simulations import commands, data_commands, sweep_commands

log = logging.getLogger("limbeck.cli")


class Command(TyperCommand):
    """A command that loads limbeck.protos.tls before it runs: gRPC decides when it is loaded which TLS it accepts."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:  # click's own types
        super().__init__(*arguments, **settings)
        self.help = _flow(self.help or "")
        # click 8.5 forgets the help of arguments that typer before 0.21 has set; flwr holds typer where it is.
        hints = get_type_hints(inspect.unwrap(self.callback), include_extras=True) if self.callback is not None else {}
        for parameter in self.params:
            for info in getattr(hints.get(parameter.name or ""), "__metadata__", ()):
                if isinstance(parameter, TyperArgument) and isinstance(info, ArgumentInfo):
                    parameter.help = info.help

    def invoke(self, ctx: click.Context) -> Any:  # click's own type
        from limbeck.protos import tls  # noqa: F401 - before anything that loads gRPC

        return super().invoke(ctx)


class Group(TyperGroup):
    """A group of commands."""

    def __init__(self, **settings: Any) -> None:  # click's own types
        super().__init__(**settings)
        self.help = _flow(self.help or "")


def _flow(text: str) -> str:
    """A help text whose paragraphs are one line each, for the terminal to wrap; one that begins with \\b keeps its lines."""
    return "\n\n".join(
        inspect.cleandoc(paragraph.removeprefix("\b\n")) if paragraph.startswith("\b") else paragraph.replace("\n", " ")
        for paragraph in inspect.cleandoc(text).split("\n\n")
    )


app = typer.Typer(name="limbeck", cls=Group, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"limbeck {version('limbeck')}")
        raise typer.Exit


@app.callback()
def limbeck(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Privacy-preserving federated distillation: several private teachers become one small sparse student.

    \b
    Examples:
      limbeck simulate digits-tiny
      limbeck site run federation/sites/north
      limbeck serve plan.pb
    """


app.command("simulate")(commands.simulate)
app.command("scenarios")(commands.scenarios)
app.command("report")(commands.report)
app.command("sweep")(sweep_commands.sweep)
app.command("compare")(sweep_commands.compare)
app.command("benchmark")(benchmark_commands.benchmark)
app.command("predict")(student_commands.predict)
app.add_typer(student_commands.app, name="student")
app.add_typer(data_commands.app, name="data")
app.add_typer(operators.app, name="operators")
app.add_typer(teacher_commands.app, name="teacher")
app.command("serve")(server_commands.serve)
app.add_typer(link_commands.app, name="site")
app.add_typer(client_commands.policy_app, name="policy")
app.add_typer(client_commands.ledger_app, name="ledger")
app.add_typer(client_commands.transcript_app, name="transcript")
app.command("backup")(client_commands.backup)
app.add_typer(key_commands.app, name="keys")
plan_commands.app.command("settings")(commands.plan_settings)
app.add_typer(plan_commands.app, name="plan")
app.add_typer(deployment_commands.deploy_app, name="deploy")
app.command("doctor")(deployment_commands.doctor)
app.add_typer(flower_commands.app, name="flower")
app.command("status")(deployment_commands.status)
app.command("watch")(deployment_commands.watch)


def _use_classes(group: typer.Typer) -> None:
    """Make every command of a group, and of the groups within it, a `Command`, and those groups `Group`s."""
    for command in group.registered_commands:
        command.cls = Command
    for inner in group.registered_groups:
        inner.cls = Group
        if inner.typer_instance is not None:
            _use_classes(inner.typer_instance)


_use_classes(app)


INTERRUPTED = 130
# The disk is full, the owner's quota is used up, or a file has reached its size limit.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def main() -> None:
    """The entry point. Exit status: 0, 1 for an error with an explanation, 2 for wrong usage, 130 after Ctrl-C."""
    keep_to_owner()
    escape_logs()
    logs.begin(logs.Logs())
    try:
        app()
    except LimbeckError as error:
        _print_error(str(error))
        raise SystemExit(1) from None
    except OSError as error:
        _print_error(_explain(error))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        _print_error("interrupted.")
        raise SystemExit(INTERRUPTED) from None
    except Exception:
        if not _is_daemon():
            raise
        # A bug, which a service's log is to show as one entry like any other.
        log.critical("An unexpected error ended this process.", exc_info=True)
        raise SystemExit(1) from None


def _is_daemon() -> bool:
    told = logs.current()
    return told is not None and told.daemon


def _print_error(message: str) -> None:
    """The last words: in a daemon's log an entry like any other."""
    if _is_daemon():
        log.error("%s", message)
    else:
        print(f"limbeck: {printable_lines(message)}", file=sys.stderr)


def _explain(error: OSError) -> str:
    """One sentence about what the operating system refused."""
    why = printable(error.strerror or error)
    if error.errno in _NO_ROOM:
        where = f" for {error.filename}" if error.filename else ""
        return (
            f"Expected room on the disk{where}, got: {why}. What is finished is complete; once there is room, the same command, or"
            " --resume, continues from there."
        )
    if error.filename is None:
        # The error names neither a file nor a connection: the place in the code is all that is known.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return (
            f"Expected the operating system to allow a step, got: {why} ({Path(frame.filename).name}, line {frame.lineno})."
        )
    return f"Expected to use {printable(error.filename)}, got: {why}."


if __name__ == "__main__":
    main()
