"""`limbeck site`: a site on the link."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="A site in a federation.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A group also as long as it has one command."""


@app.command()
def run(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A site's folder, or its site.toml.")] = Path(),
) -> None:
    """Dial out to the coordinator and answer its questions, as policy and ledger allow. SIGTERM or Ctrl-C ends it gently."""
    from limbeck.client import link
    from limbeck.client.site import Site

    logging.getLogger("limbeck").setLevel(logging.INFO)
    link.run(Site(site if site.is_dir() else site.parent))
