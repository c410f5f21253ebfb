"""`limbeck sweep` and `limbeck compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from limbeck.base.errors import RunError, SettingError
from limbeck.simulations.commands import complete_scenario

if TYPE_CHECKING:
    from rich.console import Console

    from limbeck.simulations.sweep.rows import Study

MEASURES = ("accuracy", "balanced_accuracy", "f1", "auc", "auprc", "rarest_auprc", "log_loss", "calibration_error")
# Cells that the terminal lists; the page has them all.
ROWS_SHOWN = 40


def _complete_measure(incomplete: str) -> list[str]:
    return [name for name in MEASURES if name.startswith(incomplete)]


def sweep(
    scenario: Annotated[
        str,
        typer.Argument(help="A scenario's name, or a TOML file.", autocompletion=complete_scenario),
    ],
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="KEY=V1,V2",
            help="A setting and the values it takes; several of them make a grid. privacy.epsilon takes none: a baseline without privacy.",
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(metavar="N", help="So many seeds, from 1 on, for every cell; or a list such as 3,8,13.")
    ] = "5",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting of all runs, such as student.epochs=8."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the sweep; default: runs/sweep-SCENARIO-HASH, by its settings.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once; default: one per core, as far as the free memory goes.")
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            help="The measure that the page shows; default: accuracy, balanced if classes are not.",
            autocompletion=_complete_measure,
        ),
    ] = None,
) -> None:
    """Run a scenario for every value of some settings and several seeds, and show it on one page, with its tables as CSV.

    The same command goes on after Ctrl-C or a crash: runs that have finished are not run again, and values and seeds may be added. A
    student's dense control is not trained, unless --set student.dense_control=true asks for it. Exit status: 1 if a run failed.

    \b
    Examples:
      limbeck sweep digits-tiny --over privacy.epsilon=1,8,none --seeds 2
      limbeck sweep default --over privacy.epsilon=1,8 --over partition.clients=4,8
      limbeck sweep my-scenario.toml --over stages.sparsity=0.5,0.9 --jobs 4
    """
    from rich.console import Console

    from limbeck.simulations.sweep import cells, page, run

    _check_measure(measure)
    console = Console()
    axes = [cells.axis(text) for text in over or []]
    planned = cells.plan(scenario, set_ or [], axes, cells.seeds(seeds))
    folder = out or run.default_folder(planned[0].scenario.name, run.swept(planned, axes))
    console.print(
        f"{len(planned)} runs: {len(cells.grid(axes))} cells, {len(cells.seeds(seeds))} seeds each. Folder: {escape(str(folder))}",
        highlight=False,
        soft_wrap=True,
    )
    try:
        outcome = run.run(planned, axes, folder, jobs=jobs, console=console)
    except KeyboardInterrupt:
        console.print("Interrupted. The same command goes on from here.", highlight=False)
        raise
    if outcome.finished:
        study = page.of_sweep(outcome, [axis.key for axis in axes])
        written = page.write(
            study, folder, title=planned[0].scenario.name, failures=outcome.failures, measure=measure, name="sweep"
        )
        _show(console, study, measure)
        console.print(
            f"Page:   {escape(str(written))}\nTables: {escape(str(folder))}/*.csv", highlight=False, soft_wrap=True
        )
    if outcome.failures:
        names = "\n".join(f"  {failure.name}: {failure.problem}" for failure in outcome.failures)
        raise RunError(
            f"Expected {len(planned)} runs to finish, but {len(outcome.failures)} failed; the same command tries these again:\n{names}"
        )


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, or of sweeps.")],
    out: Annotated[Path, typer.Option(help="The folder for the page and its tables.")] = Path("runs/comparison"),
    measure: Annotated[
        str | None,
        typer.Option(
            help="The measure that the page shows; default: accuracy, balanced if classes are not.",
            autocompletion=_complete_measure,
        ),
    ] = None,
) -> None:
    """Show finished runs side by side: what differs in their settings, what they reached, what they cost. Runs are only read.

    Runs that differ in their seeds alone are shown as one, with mean and spread. An earlier comparison in the same folder is replaced.

    \b
    Examples:
      limbeck compare runs/one runs/two
      limbeck compare runs/sweep-default-5f3a2c runs/one --out runs/versus
    """
    from rich.console import Console

    from limbeck.simulations.sweep import page, run

    _check_measure(measure)
    if run.is_sweep(out) or (out / "metrics.json").exists():
        raise SettingError(
            f"Expected --out to be no folder of a run or a sweep, got {out}: its own tables would be replaced."
        )
    console = Console()
    study = page.of_folders(runs)
    written = page.write(study, out, title="Comparison", failures=(), measure=measure, name="compare")
    _show(console, study, measure)
    console.print(f"Page:   {escape(str(written))}\nTables: {escape(str(out))}/*.csv", highlight=False, soft_wrap=True)


def _check_measure(measure: str | None) -> None:
    if measure is not None and measure not in MEASURES:
        raise SettingError(f"Expected --measure out of {', '.join(MEASURES)}, got {measure!r}.")


def _show(console: Console, study: Study, measure: str | None) -> None:
    """The summary, as wide as a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from limbeck.simulations.sweep import rows

    chosen = measure or study.main
    table = Table(
        title=f"{rows.TITLES[chosen].capitalize()} on the test set: mean ± standard deviation",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("", "runs", "best site", "pool", "student", "majority"):
        table.add_column(name, justify="right" if name else "left")
    for group, spreads in rows.summary(study, chosen)[:ROWS_SHOWN]:
        shown = [rows.with_spread(spreads[role], chosen) for role in ("best site", "pool", "student", "majority")]
        table.add_row(escape(group.label), str(len(group.rows)), *shown)
    console.print(table)
    if len(study.groups) > ROWS_SHOWN:
        console.print(f"{len(study.groups) - ROWS_SHOWN} more: see the page.", highlight=False)
