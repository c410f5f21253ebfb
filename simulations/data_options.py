"""Options that `limbeck data look` and `limbeck simulate` have in common: which column of a file of one's own is what."""

from __future__ import annotations

from typing import Annotated

import typer

Label = Annotated[str | None, typer.Option(metavar="COLUMN", help="The column, or the array, of the labels.")]
Site = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="The column, or the array, of the sites; for a folder: outer (SITE/CLASS) or inner (CLASS/SITE).",
    ),
]
Group = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="The column, or the array, of persons: their records stay together.")
]
Drop = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="A column that is not used; may be repeated.")]
Public = Annotated[
    str | None,
    typer.Option(
        metavar="PART",
        help="Public inputs: a share, a number, a file, or sites separated by commas; default: 0.2 of the records.",
    ),
]
Test = Annotated[str | None, typer.Option(metavar="PART", help="The test set, likewise; default: 0.2 of the records.")]
Epsilon = Annotated[float | None, typer.Option(help="What a run may cost each site, per record; default: 3.")]
Clients = Annotated[int | None, typer.Option(help="Sites among which the records are divided, if no column names them.")]
