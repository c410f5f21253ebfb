"""From a file and a few options of the command line to the settings of a scenario's data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from limbeck.base.errors import DataError, SettingError
from limbeck.inputs import columns, images, tables
from limbeck.inputs.columns import Kind
from limbeck.simulations.data import look, sources
from limbeck.simulations.data.settings import PART, DataSettings, Part, Source, problems


def is_data(name: str) -> bool:
    """Whether this names a file or a folder of data, rather than a scenario."""
    path = Path(name)
    return path.is_dir() or tables.is_table(path) or path.suffix.lower() in (".npz", ".npy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was typed beside a file. public, test: a number, a share, a file or sites. clients: sites to divide the records among."""

    label: str | None = None
    site: str | None = None
    group: str | None = None
    drop: tuple[str, ...] = ()
    public: str | None = None
    test: str | None = None
    epsilon: float | None = None
    clients: int | None = None


def settings(path: Path, options: Options) -> DataSettings:
    """The settings of data in a file, whose kind is seen. Raises SettingError or DataError."""
    source = look.kind_of(path)
    inputs = None
    if source == "table":
        source, inputs = _of_table(path, {options.label, options.site, options.group, *options.drop})
    found = DataSettings.model_validate(
        {
            source: str(path.absolute()),
            "label": options.label,
            "site": options.site,
            "group": options.group,
            "drop": options.drop if source == "table" else (),
            "inputs": inputs,
            "public": part(options.public, "public"),
            "test": part(options.test, "test"),
        }
    )
    # Which column is the label may still be open.
    if inconsistent := [each for each in problems(found, ()) if not each.startswith("data.label: missing")]:
        raise SettingError("\n".join(inconsistent))
    return found


def part(text: str | None, key: str) -> Part | None:
    """What was typed for a part of the data. Raises SettingError or DataError."""
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        if Path(text).exists():
            return str(Path(text).absolute())
        if tables.is_table(Path(text)) or "/" in text:
            raise DataError(f"Expected a file for --{key} at {text}, found nothing there.") from None
        return tuple(name.strip() for name in text.split(",") if name.strip())
    if number.is_integer() and number >= 1:
        return int(number)
    if not 0 < number < 1:
        raise SettingError(f"--{key} {text}: expected {PART}.")
    return number


def _of_table(path: Path, beside: set[str | None]) -> tuple[Source, str | None]:
    """A table of records, of texts or of the files of images, by the columns that are left; and the column of these inputs."""
    table, _ = sources.open_table(path)
    listed = [name for name in table.columns if name.casefold() in look.IMAGE_COLUMNS]
    for name in listed:
        first = next((cell for cell in table.columns[name] if cell), "")
        if Path(first).suffix.lower() in images.SUFFIXES and (path.parent / first).is_file():
            return "images", name
    left = [
        column
        for column in columns.examine(table)
        if column.name not in beside and column.kind not in (Kind.IDENTIFIER, Kind.CONSTANT, Kind.EMPTY)
    ]
    if len(left) == 1 and left[0].kind is Kind.TEXT:
        return "texts", left[0].name
    return "table", None
