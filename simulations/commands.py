"""`limbeck simulate`, `limbeck scenarios`, `limbeck report`, `limbeck plan settings`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from limbeck.base.errors import SettingError

if TYPE_CHECKING:
    from rich.console import Console


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

    from limbeck.simulations import run, summary
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
    summary.show(console, metrics)
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
