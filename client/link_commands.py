"""`limbeck site`: connect a site to its coordinator, and encode its records in advance."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="""A site in a federation.

    \b
    Examples:
      limbeck site run site
      limbeck site encode site
    """,
    no_args_is_help=True,
)


@app.command()
def run(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A site's folder, or its site.toml.")] = Path(),
) -> None:
    """Connect to the coordinator and answer its questions, as far as policy and ledger allow. SIGTERM or Ctrl-C stops it cleanly.

    It refuses to start if the ledger lacks an entry that the site's transcript or state names.

    \b
    Examples:
      limbeck site run
      limbeck site run federation/sites/north
    """
    from limbeck.client import link
    from limbeck.client.site import Site

    logging.getLogger("limbeck").setLevel(logging.INFO)
    opened = Site(site.parent if site.name == "site.toml" else site)
    opened.account.check()
    link.run(opened)


@app.command()
def encode(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A site's folder, or its site.toml.")] = Path(),
) -> None:
    """Encode the records by the public encoder now, so that no plan has to wait for it.

    Nothing leaves the site. If it is stopped, the same command continues where it stopped.

    \b
    Examples:
      limbeck site encode federation/sites/north
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from limbeck.client.site import Site

    opened = Site(site.parent if site.name == "site.toml" else site)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(opened.name, total=None)
        rows = opened.records.encode(lambda done, total: bar.update(task, completed=done, total=total))
    print(f"{rows} records are encoded.")
