"""`limbeck site`: check a site's records, encode them in advance, and connect the site to its coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.base import logs
from limbeck.base.logs import LogFormat, LogLevel

app = typer.Typer(
    help="""A site in a federation.

    \b
    Examples:
      limbeck site check site
      limbeck site run site
      limbeck site encode site
    """,
    no_args_is_help=True,
)

FormatOption = Annotated[
    LogFormat, typer.Option("--log-format", help="How the log is written: text, or json for one object per line.")
]
LevelOption = Annotated[LogLevel, typer.Option("--log-level", help="The least important entries of the log.")]


UNHEALTHY = 1


@app.command()
def run(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A site's folder, or its site.toml.")] = Path(),
    until_finished: Annotated[
        bool,
        typer.Option("--until-finished", help="End, with status 0, when the coordinator says that its run is finished."),
    ] = False,
    log_format: FormatOption = LogFormat.TEXT,
    log_level: LevelOption = LogLevel.INFO,
) -> None:
    """Connect to the coordinator and answer its questions, as far as policy and ledger allow. SIGTERM or Ctrl-C stops it cleanly.

    It refuses to start if the ledger lacks an entry that the site's transcript or state names.

    \b
    Examples:
      limbeck site run
      limbeck site run federation/sites/north
      limbeck site run federation/sites/north --until-finished --log-format json
    """
    from limbeck.client import link
    from limbeck.client.site import Site

    logs.begin_daemon(log_format, log_level)
    link.run(Site(site.parent if site.name == "site.toml" else site), until_finished=until_finished)


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


@app.command()
def check(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="A site's folder, or its site.toml.")] = Path(),
    plan: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="A plan's file, plan.pb.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Look at the records as their owner, before a plan costs anything. Exit status 1 if something will not work.

    It reads every record and says what is left out and why, how many records each class has, what is missing, unknown or out of range; and
    whether this site would accept PLAN, and at what cost. It sends nothing, charges nothing and writes nothing: what it prints is about
    your records, and for you.

    \b
    Examples:
      limbeck site check federation/sites/north
      limbeck site check federation/sites/north plan.pb
      limbeck site check federation/sites/north plan.pb --json
    """
    import json

    from limbeck.base.findings import as_table
    from limbeck.base.printable import plain_console
    from limbeck.client import examination
    from limbeck.client.site import Site
    from limbeck.protos import plan_file

    offer = plan_file.read(plan) if plan is not None else None
    # What the log would say is among the findings.
    with logs.quiet():
        report = examination.examine(Site(site.parent if site.name == "site.toml" else site), offer)
    if as_json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        console = plain_console()
        console.print(as_table(report.findings))
        console.print("Nothing was sent, charged or written.", soft_wrap=True)
    if not report.healthy:
        raise typer.Exit(UNHEALTHY)
