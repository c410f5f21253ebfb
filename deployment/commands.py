"""`limbeck deploy`, `limbeck doctor`, `limbeck status`, `limbeck watch`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from limbeck.deployment import bringup, keys
from limbeck.deployment import doctor as doctors
from limbeck.deployment.doctor import Outcome

STYLES = {Outcome.OK: "green", Outcome.WARN: "yellow", Outcome.FAIL: "bold red"}
UNHEALTHY = 1

deploy_app = typer.Typer(help="Ready folders for a coordinator and its sites.", no_args_is_help=True)


@deploy_app.callback()
def deploy() -> None:
    """Ready folders for a coordinator and its sites."""


@deploy_app.command("init")
def init(
    server: Annotated[list[str], typer.Option(help="A DNS name of the coordinator; sites dial the first. Repeat for more.")],
    clients: Annotated[str, typer.Option(help="The sites' names, separated by commas.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    server_ip: Annotated[list[str], typer.Option(help="An IP address of the coordinator; repeat for more.")] = [],  # noqa: B006
    port: Annotated[int, typer.Option(help="Where the coordinator listens.")] = bringup.PORT,
    listen: Annotated[str, typer.Option(help="On which of its addresses it listens.")] = "0.0.0.0",
    days: Annotated[int, typer.Option(min=1, help="How long certificates are valid.")] = keys.DAYS,
    own_keys: Annotated[
        bool, typer.Option("--own-keys", help="Every site makes its own key, which never leaves it.")
    ] = False,
    home: Annotated[str, typer.Option(help="Under which folder services expect theirs.")] = "/srv/limbeck",
) -> None:
    """Write a folder for the coordinator and one per site: settings, keys, policy, start script, systemd unit, Containerfile."""
    federation = bringup.Federation(
        server=tuple(server),
        sites=tuple(name.strip() for name in clients.split(",")),
        addresses=tuple(server_ip),
        port=port,
        listen=listen,
        days=days,
        own_keys=own_keys,
        home=home,
    )
    author = bringup.init(federation, out, now=datetime.now(UTC))
    print(f"{out / 'authority'}: the certificate authority; take it off this machine, its ca.key names sites")
    print(f"{out / 'author' / 'plan.key'}: signs plans; its public key, for policies: {author}")
    print(f"{out / 'coordinator'}: to be taken to {server[0]}; its README.md says what is still to be done")
    for name in federation.sites:
        print(f"{out / 'sites' / name}: to be taken to {name}; its README.md says what is still to be done")


def doctor(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a site, a coordinator or an authority.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON instead of a table.")] = False,
    no_network: Annotated[bool, typer.Option("--no-network", help="Open no connection.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="For each step of a connection.")] = doctors.CONNECT_SECONDS,
) -> None:
    """Check all that can be checked, and say what to do. Changes nothing, reads no record. Exit status 1 where something failed."""
    findings = doctors.examine(folder, now=datetime.now(UTC), network=not no_network, seconds=seconds)
    if as_json:
        lines = [
            {"check": own.check, "outcome": own.outcome.value, "found": own.found, "advice": own.advice} for own in findings
        ]
        print(json.dumps({"folder": str(folder), "healthy": doctors.healthy(findings), "findings": lines}, indent=1))
    else:
        table = Table("", "check", "what was found, and what to do", box=SIMPLE_HEAD, pad_edge=False)
        for own in findings:
            text = Text(own.found)
            if own.advice:
                text.append(f"\n{own.advice}", style=STYLES[own.outcome])
            table.add_row(Text(own.outcome.value, style=STYLES[own.outcome]), own.check, text)
        Console().print(table)
    if not doctors.healthy(findings):
        raise typer.Exit(UNHEALTHY)
