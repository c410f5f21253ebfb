"""`limbeck benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from limbeck.base.errors import RunError

if TYPE_CHECKING:
    from rich.console import Console

    from limbeck.experiments.baselines.run import Reported


def _complete_suite(incomplete: str) -> list[str]:
    from limbeck.experiments.baselines import suites

    return [name for name in (*suites.shipped(), suites.EVERYTHING) if name.startswith(incomplete)]


def _complete_method(incomplete: str) -> list[str]:
    from limbeck.experiments.baselines import methods

    return [name for name in methods.ALL if name.startswith(incomplete)]


def benchmark(
    suite: Annotated[
        str | None,
        typer.Argument(
            help="A suite, or full for all of them; without it, suites are listed.", autocompletion=_complete_suite
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N", help="So many seeds, from 1 on, or a list such as 3,8; default: the suite's.")
    ] = None,
    cell: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this cell; may be given again.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this method; may be given again.", autocompletion=_complete_method),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Methods at once; default: one per core, as far as the free memory goes.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder that gets one folder per suite.")] = Path("runs/benchmark"),
    choose: Annotated[
        bool,
        typer.Option("--choose", help="Choose every method's settings here, rather than take those that were committed."),
    ] = False,
) -> None:
    """Compare limbeck with what else a user could pick, on the same records, partition, public inputs, seeds and ε.

    Every method may choose from a grid, by labelled public inputs that are held out for that. The same command goes on after Ctrl-C or a
    crash. Exit status: 1 if a method failed.

    \b
    Examples:
      limbeck benchmark
      limbeck benchmark quick
      limbeck benchmark heart --seeds 3 --jobs 2
      limbeck benchmark fashion-part --cell "ε = 3" --method class-sums
      limbeck benchmark full --out runs/everything
    """
    from rich.console import Console

    from limbeck.experiments.baselines import page, run, suites
    from limbeck.simulations.sweep import cells

    console = Console()
    if suite is None:
        _list(console, suites.shipped())
        return
    names = [name for name in suites.shipped() if name != suites.QUICK] if suite == suites.EVERYTHING else [suite]
    chosen = [
        suites.suite(name).only(cells=cell or [], methods=method or [], seeds=None if seeds is None else cells.seeds(seeds))
        for name in names
    ]
    failures: dict[str, str] = {}
    for each in chosen:
        folder = out / each.name
        console.print(f"{each.name}: {each.description}. Folder: {escape(str(folder))}", highlight=False, soft_wrap=True)
        try:
            reported = run.run(each, folder, jobs=jobs, anew=choose, console=console)
        except KeyboardInterrupt:
            console.print("Interrupted. The same command goes on from here.", highlight=False)
            raise
        failures |= {f"{each.name}: {name}": problem for name, problem in reported.failures.items()}
        if reported.outcomes:
            written = page.write(reported, folder)
            _show(console, reported)
            console.print(
                f"Page:    {escape(str(written))}\nFigures: {escape(str(folder / page.FIGURES))}",
                highlight=False,
                soft_wrap=True,
            )
    if failures:
        said = "\n".join(f"  {name}: {problem}" for name, problem in failures.items())
        raise RunError(
            f"Expected every method to finish, but {len(failures)} failed; the same command tries them again:\n{said}"
        )


def _list(console: Console, shipped: dict[str, str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("suite")
    table.add_column("what it compares")
    for name, description in shipped.items():
        table.add_row(escape(name), escape(description))
    console.print(table)


def _show(console: Console, reported: Reported) -> None:
    """The table of accuracies, as wide as a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from limbeck.experiments.baselines import figures

    table = Table(
        title="Accuracy on the test set, %: mean ± standard deviation over seeds",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("")
    for cell in reported.suite.cells:
        table.add_column(escape(cell.name), justify="right")
    for each in reported.suite.methods:
        row = [figures.accuracy(reported, cell, each) for cell in reported.suite.cells]
        table.add_row(escape(each.title), *row)
    console.print(table)
