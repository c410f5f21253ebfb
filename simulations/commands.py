"""`limbeck simulate`, `limbeck scenarios`, `limbeck report`, `limbeck plan settings`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from limbeck.base.errors import SettingError
from limbeck.simulations import data_options as options

if TYPE_CHECKING:
    from rich.console import Console

    from limbeck.simulations.data.asked import Options
    from limbeck.simulations.scenario import Scenario


def complete_scenario(incomplete: str) -> list[str]:
    """Names of scenarios that begin like what was typed. Their files are not read, so that completion is quick."""
    names = (path.stem for path in (Path(__file__).parent / "scenarios").glob("*.toml"))
    return sorted(name for name in names if name.startswith(incomplete))


def simulate(
    scenario: Annotated[
        str | None,
        typer.Argument(
            help="A scenario's name, a TOML file, or a file or folder of your own data; default: the scenario named default.",
            autocompletion=complete_scenario,
        ),
    ] = None,
    label: options.Label = None,
    site: options.Site = None,
    group: options.Group = None,
    drop: options.Drop = None,
    public: options.Public = None,
    test: options.Test = None,
    epsilon: options.Epsilon = None,
    clients: options.Clients = None,
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
    """Simulate a federation: the real client and server apps on real records, from a scenario, or a file of your own, to a report.

    \b
    Examples:
      limbeck simulate
      limbeck simulate patients.csv --label diagnosis --site hospital
      limbeck simulate digits-tiny --set privacy.epsilon=1 --out runs/one
      limbeck simulate --resume --out runs/one
      limbeck simulate my-scenario.toml --carrier flower
    """
    from rich.console import Console

    from limbeck.simulations import run, summary
    from limbeck.simulations.data.asked import Options, is_data
    from limbeck.simulations.finished import new_folder
    from limbeck.simulations.scenario import load

    console = Console()
    own = Options(
        label=label,
        site=site,
        group=group,
        drop=tuple(drop or ()),
        public=public,
        test=test,
        epsilon=epsilon,
        clients=clients,
    )
    given = [f"--{key}" for key, value in asdict(own).items() if value not in (None, ())]
    if resume:
        if out is None or scenario is not None or set_ or sites is not None or prepare_only or given:
            raise SettingError(
                "Expected --resume with --out DIR and nothing else but --carrier: the run's folder holds its scenario."
            )
        with _hint(console, out):
            metrics = run.resume(out, carrier=carrier, console=console)
    else:
        if scenario is not None and is_data(scenario):
            settings = _of_own_data(console, Path(scenario), own, set_ or [])
        elif given:
            raise SettingError(
                f"Expected {', '.join(given)} with a file or folder of your own data, got the scenario {scenario or 'default'!r}:"
                " --set data.label=... changes a scenario."
            )
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


def _of_own_data(console: Console, path: Path, own: Options, overrides: list[str]) -> Scenario:
    """A scenario for a file of the user's own, and on the console what was chosen for it."""
    from limbeck.base.settings import override
    from limbeck.simulations.data import asked, starter
    from limbeck.simulations.scenario import parse

    settings = asked.settings(path, own)
    if settings.label is None and settings.source is not None and settings.source[0] != "arrays" and not path.is_dir():
        raise SettingError(
            f"Expected --label with the column of labels in {path}: `limbeck data look {path}` says which columns there are."
        )
    start, _ = starter.start(settings, epsilon=own.epsilon, clients=own.clients)
    for sentence in start.chosen:
        console.print(sentence, markup=False, highlight=False)
    console.print(
        "`limbeck data look` with the same options and --out scenario.toml writes this as a file to change.", highlight=False
    )
    raw = start.settings
    for each in overrides:
        override(raw, each)
    return parse(raw)


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
    from limbeck.base.listing import listing
    from limbeck.base.printable import plain_console
    from limbeck.simulations.scenario import shipped

    listing(plain_console(), ["scenario", "what it is"], list(shipped().items()), wrap="what it is")


def plan_settings(
    scenario: Annotated[str, typer.Argument(help="A scenario's name, or a TOML file.", autocompletion=complete_scenario)],
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
    from limbeck.simulations.data import class_names
    from limbeck.simulations.scenario import load

    if out.exists():
        raise SettingError(f"Expected no file at {out} yet, found one; it was left as it is.")
    settings = load(scenario, set_ or [])
    tables = settings.plan_tables()
    classes = {"classes": list(class_names(settings.data))}
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
