"""`limbeck simulate`, `limbeck scenarios`, `limbeck report`, `limbeck plan settings`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from limbeck.base.errors import SettingError
from limbeck.base.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from limbeck.simulations.metrics import Metrics

CLIENTS_SHOWN = 20


def _complete_scenario(incomplete: str) -> list[str]:
    """Names of scenarios that begin like what was typed. Their files are not read, so that completion is quick."""
    names = (path.stem for path in (Path(__file__).parent / "scenarios").glob("*.toml"))
    return sorted(name for name in names if name.startswith(incomplete))


def simulate(
    scenario: Annotated[
        str | None,
        typer.Argument(
            help="A scenario's name, or a TOML file; default: the scenario named default.", autocompletion=_complete_scenario
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as privacy.epsilon=1.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the run; default: runs/SCENARIO-DATE-TIME.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out after its last finished stage.")
    ] = False,
    carrier: Annotated[
        str, typer.Option(help="What carries the messages: local, or flower (Flower's engine on Ray).")
    ] = "local",
    sites: Annotated[
        Path | None, typer.Option(help="Reuse the site folders of an earlier run, including their ledgers.")
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Only make the run's folder, with a bundle for `flwr run`.")
    ] = False,
) -> None:
    """Simulate a federation: the real client and server apps on real records, from a scenario to a report.

    \b
    Examples:
      limbeck simulate
      limbeck simulate digits-tiny --set privacy.epsilon=1 --out runs/one
      limbeck simulate --resume --out runs/one
      limbeck simulate my-scenario.toml --carrier flower
    """
    from rich.console import Console

    from limbeck.simulations import run
    from limbeck.simulations.finished import new_folder
    from limbeck.simulations.scenario import load

    console = Console()
    if resume:
        if out is None or scenario is not None or set_ or sites is not None or prepare_only:
            raise SettingError(
                "Expected --resume with --out DIR and nothing else but --carrier: the run's folder holds its scenario."
            )
        with _hint(console, out):
            metrics = run.resume(out, carrier=carrier, console=console)
    else:
        settings = load(scenario or "default", set_ or [])
        out = out or new_folder(settings)
        console.print(f"[bold]{escape(settings.name)}[/bold]: {escape(settings.description)}", highlight=False)
        if prepare_only:
            bundle = run.prepare_only(settings, out, sites=sites, console=console)
            console.print(f"Run:    {escape(str(out))}\nBundle: {escape(str(bundle))}", highlight=False, soft_wrap=True)
            return
        with _hint(console, out):
            metrics = run.simulate(settings, out, carrier=carrier, sites=sites, console=console)
    _summary(console, metrics)
    console.print(f"Report: {escape(str(out / 'report.html'))}\nRun:    {escape(str(out))}", highlight=False, soft_wrap=True)


@contextmanager
def _hint(console: Console, out: Path) -> Iterator[None]:
    """After Ctrl-C, say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"Interrupted. Go on with: limbeck simulate --resume --out {escape(str(out))}", highlight=False)
        raise


def scenarios() -> None:
    """List the scenarios that come with limbeck.

    \b
    Examples:
      limbeck scenarios
    """
    from rich.console import Console
    from rich.table import Table

    from limbeck.simulations.scenario import shipped

    table = Table("scenario", "what it is")
    for name, description in shipped().items():
        table.add_row(escape(name), escape(description))
    Console().print(table)


def plan_settings(
    scenario: Annotated[str, typer.Argument(help="A scenario's name, or a TOML file.", autocompletion=_complete_scenario)],
    out: Annotated[Path, typer.Option(help="The file to write the settings to.")] = Path("plan.toml"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as privacy.epsilon=1.")
    ] = None,
) -> None:
    """Write settings for `limbeck plan make`: the part of a scenario that is a plan, and the classes of its data. Never overwrites a file.

    \b
    Examples:
      limbeck plan settings default
      limbeck plan settings my-scenario.toml --out plan.toml --set privacy.epsilon=1
    """
    import tomli_w

    from limbeck.base.files import write_durably
    from limbeck.simulations.data import KNOWN
    from limbeck.simulations.scenario import load

    if out.exists():
        raise SettingError(f"Expected no file at {out} yet, found one; it was left as it is.")
    settings = load(scenario, set_ or [])
    tables = settings.plan_tables()
    classes = {"classes": list(KNOWN[settings.data.name].class_names)}
    write_durably(out, tomli_w.dumps({"name": tables.pop("name"), **classes, **tables}).encode())
    print(
        f"{out}: the plan of scenario {settings.name!r}; change what differs for your sites, then `limbeck plan make {out}`"
    )


def report(folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")]) -> None:
    """Make the report of a finished run again.

    \b
    Examples:
      limbeck report runs/one
    """
    from limbeck.simulations import report as pages

    print(pages.build(folder))


def _summary(console: Console, run: Metrics) -> None:
    table = _table("Accuracy and bytes", "", "accuracy %", "sparsity %", "clients", "kB up", "kB down")
    accuracies = run.teacher_accuracies
    if accuracies:
        table.add_row(
            "teachers alone",
            f"{min(accuracies):.1%} to {max(accuracies):.1%}".replace("%", ""),
            "",
            str(len(accuracies)),
            "",
            "",
        )
    table.add_row("pool (public inputs)", f"{100 * run.pool.accuracy:.1f}", "", "", "", "")
    for stage in run.stages:
        table.add_row(
            f"student, stage {stage.stage + 1}",
            f"{100 * stage.sparse_accuracy:.1f}",
            f"{100 * stage.sparsity:.1f}",
            str(stage.clients),
            f"{stage.bytes_up / 1000:.1f}",
            f"{stage.bytes_down / 1000:.1f}",
        )
        if stage.dense_accuracy is not None:
            table.add_row("  dense control", f"{100 * stage.dense_accuracy:.1f}", "0.0", "", "", "")
    console.print(table)
    table = _table("Clients", "client", "records", "alone %", "epsilon", "budget", "kB up", "kB down", "status")
    shown = [client for index, client in enumerate(run.clients) if index < CLIENTS_SHOWN or client.reason]
    for client in shown:
        table.add_row(
            escape(printable(client.site)),
            str(client.records),
            f"{100 * client.teacher_accuracy:.1f}" if client.teacher_accuracy is not None else "-",
            f"{client.epsilon:.3f}" if client.epsilon is not None else "no DP guarantee",
            f"{client.budget_epsilon:g}",
            f"{client.bytes_up / 1000:.1f}",
            f"{client.bytes_down / 1000:.1f}",
            escape(printable(client.reason or client.status)),
        )
    console.print(table)
    if len(shown) < len(run.clients):
        console.print(
            f"{len(run.clients) - len(shown)} more clients, none of them left out: see the report.", highlight=False
        )
    first = run.clients[0]
    seeded = "; noise is SEEDED, no guarantee holds" if run.noise == "UnsafeSeeded" else ""
    console.print(
        f"epsilon at delta = {first.delta:g}, unit: {first.unit}, adjacency: {first.adjacency}, by PLD{seeded}.",
        highlight=False,
    )
    if run.sites_without_guarantee:
        console.print(
            f"[bold red]No DP guarantee[/bold red] for the records of {escape(', '.join(run.sites_without_guarantee))}: answers of a"
            " black-box teacher left there.",
            highlight=False,
            soft_wrap=True,
        )
    phases = ", ".join(f"{name} {value:.1f}" for name, value in run.seconds.items())
    console.print(f"Seconds: {phases}.", highlight=False)


def _table(title: str, *columns: str) -> Table:
    """A table that fits 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or column == "status" else "right")
    return table
