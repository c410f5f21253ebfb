"""`limbeck site`: a site on the link, and its records made ready."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

app = typer.Typer(help="A site in a federation.", no_args_is_help=True)


@app.command()
def run(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A site's folder, or its site.toml.")] = Path(),
) -> None:
    """Dial out to the coordinator and answer its questions, as policy and ledger allow. SIGTERM or Ctrl-C ends it gently.

    It does not start where the ledger lacks what the site's transcript and state name.
    """
    from limbeck.client import link
    from limbeck.client.site import Site

    logging.getLogger("limbeck").setLevel(logging.INFO)
    own = Site(site.parent if site.name == "site.toml" else site)
    own.check_ledger()
    link.run(own)


@app.command()
def encode(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A site's folder, or its site.toml.")] = Path(),
) -> None:
    """Put the records through the public encoder now, so that no plan waits for it. Nothing leaves; stopped, it goes on from there."""
    from limbeck.client.site import Site

    own = Site(site.parent if site.name == "site.toml" else site)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(own.name, total=None)
        rows = own.encode_records(lambda done, total: bar.update(task, completed=done, total=total))
    print(f"{rows} records are encoded.")
