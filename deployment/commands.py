"""`limbeck deploy`, `limbeck doctor`, `limbeck status`, `limbeck watch`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from limbeck.deployment import bringup, keys

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
