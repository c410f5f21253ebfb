"""What an owner does on the command line."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from helpers.sites import offer
from limbeck.cli.main import app
from limbeck.plans.schema import Plan
from limbeck.protos import codec


def limbeck(*arguments: object, status: int = 0) -> str:
    """The output of a command that ends with this status; its error, if it raises one."""
    found = CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200, env={"COLUMNS": "200"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == status, found.output
    return found.output


def write(path: Path, own: Plan) -> Path:
    """A plan, signed, in a file."""
    path.write_bytes(codec.encode_request(offer(own)))
    return path
