"""`limbeck simulate`, `limbeck scenarios`, `limbeck report`, `limbeck plan settings`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from limbeck.base.errors import SettingError
from limbeck.base.printable import printable

CLIENTS_SHOWN = 20


def simulate(
    scenario: Annotated[str | None, typer.Argument(help="A scenario's name or a TOML file; default: default.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as privacy.epsilon=1.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: runs/SCENARIO-DATE-TIME.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out after its last finished stage.")
    ] = False,
    carrier: Annotated[str, typer.Option(help="local, or flower (Flower's engine on Ray).")] = "local",
    sites: Annotated[
        Path | None, typer.Option(help="Go on with the site folders of an earlier run, ledgers and all.")
    ] = None,
    prepare_only: Annotated[
        bool, typer.Option("--prepare-only", help="Only make the run's folder, with a bundle that `flwr run` starts.")
    ] = False,
) -> None:
    """Simulate a federation: the real client and server apps on real records, to a report."""
    from limbeck.simulations import run
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
        out = out or Path("runs") / f"{settings.name}-{datetime.now():%Y%m%d-%H%M%S}"
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
    """List the scenarios that ship."""
    from limbeck.simulations.scenario import shipped

    table = Table("scenario", "what it is")
    for name, description in shipped().items():
        table.add_row(escape(name), escape(description))
    Console().print(table)


def plan_settings(
    scenario: Annotated[str, typer.Argument(help="A scenario's name or a TOML file.")],
    out: Annotated[Path, typer.Option(help="Where the settings go.")] = Path("plan.toml"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as privacy.epsilon=1.")
    ] = None,
) -> None:
    """Write the part of a scenario that is a plan, as settings for `limbeck plan make`, with the classes of the scenario's data."""
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


def report(folder: Annotated[Path, typer.Argument(help="A finished run's folder.")]) -> None:
    """Make the report of a finished run again."""
    from limbeck.simulations import report as pages

    print(pages.build(folder))


def _summary(console: Console, metrics: dict[str, Any]) -> None:
    clients, stages = metrics["clients"], metrics["stages"]
    accuracies = [client["teacher_accuracy"] for client in clients if client["teacher_accuracy"] is not None]
    table = _table("Accuracy and bytes", "", "accuracy %", "sparsity %", "clients", "kB up", "kB down")
    if accuracies:
        table.add_row(
            "teachers alone",
            f"{min(accuracies):.1%} to {max(accuracies):.1%}".replace("%", ""),
            "",
            str(len(accuracies)),
            "",
            "",
        )
    table.add_row("pool (public inputs)", f"{100 * metrics['pool']['accuracy']:.1f}", "", "", "", "")
    for own in stages:
        traffic = (str(own["clients"]), f"{own['bytes_up'] / 1000:.1f}", f"{own['bytes_down'] / 1000:.1f}")
        table.add_row(
            f"student, stage {own['stage'] + 1}",
            f"{100 * own['sparse_accuracy']:.1f}",
            f"{100 * own['sparsity']:.1f}",
            *traffic,
        )
        if own["dense_accuracy"] is not None:
            table.add_row("  dense control", f"{100 * own['dense_accuracy']:.1f}", "0.0", "", "", "")
    console.print(table)
    table = _table("Clients", "client", "records", "alone %", "epsilon", "budget", "kB up", "kB down", "status")
    shown = [client for index, client in enumerate(clients) if index < CLIENTS_SHOWN or client["reason"]]
    for client in shown:
        accuracy = client["teacher_accuracy"]
        table.add_row(
            escape(printable(client["site"])),
            str(client["records"]),
            f"{100 * accuracy:.1f}" if accuracy is not None else "-",
            f"{client['epsilon']:.3f}" if client["epsilon"] is not None else "no DP guarantee",
            f"{client['budget_epsilon']:g}",
            f"{client['bytes_up'] / 1000:.1f}",
            f"{client['bytes_down'] / 1000:.1f}",
            escape(printable(client["reason"] or client["status"])),
        )
    console.print(table)
    if len(shown) < len(clients):
        console.print(f"{len(clients) - len(shown)} more clients, none of them left out: see the report.", highlight=False)
    first = clients[0]
    seeded = "; noise is SEEDED, no guarantee holds" if metrics["noise"] == "UnsafeSeeded" else ""
    console.print(
        f"epsilon at delta = {first['delta']:g}, unit: {first['unit']}, adjacency: {first['adjacency']}, by PLD{seeded}.",
        highlight=False,
    )
    without = [client["site"] for client in clients if client["epsilon"] is None]
    if without:
        console.print(
            f"[bold red]No DP guarantee[/bold red] for the records of {escape(', '.join(without))}: answers of a black-box teacher left"
            " there.",
            highlight=False,
            soft_wrap=True,
        )
    phases = ", ".join(f"{name} {value:.1f}" for name, value in metrics["seconds"].items())
    console.print(f"Seconds: {phases}.", highlight=False)


def _table(title: str, *columns: str) -> Table:
    """A table that fits 80 columns."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or column == "status" else "right")
    return table
