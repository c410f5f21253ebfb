"""What names, headers and settings show of the records: the part of the examination that the doctor has too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from limbeck.base.errors import DataError, SettingError
from limbeck.base.findings import Findings, fail, ok, warn
from limbeck.client import records
from limbeck.client.examination.report import counted, listed
from limbeck.client.records import RecordSettings
from limbeck.inputs import images, labels, tables


def structure(settings: RecordSettings, folder: Path) -> Findings:
    """What names, headers and settings show of the records, whatever the plan; no record is read."""
    path = folder / str(settings.path)
    if settings.reader is not None or not path.exists():
        return
    try:
        if path.is_dir():
            yield from _structure_of_folders(settings, path)
        elif tables.is_table(path):
            yield from _structure_of_a_table(settings, path, folder)
        else:
            yield from _structure_of_arrays(settings, path)
    except (DataError, SettingError) as error:
        yield fail(str(error), "docs/mistakes.md lists what a plan is declined for.")


def _structure_of_folders(settings: RecordSettings, path: Path) -> Findings:
    folders = [each for each in sorted(path.iterdir()) if each.is_dir() and not each.name.startswith(".")]
    if settings.classes is not None:
        rule = labels.label_rule(settings.classes, (), len(settings.classes))
        records.class_folders(path, rule)
    records.check_images(path, folders)
    others = Counter[str]()
    for each in folders:
        others.update(images.others(each))
    if others:
        yield warn(
            f"Files that are no images by their names are not read: {counted(others)}.",
            "Convert them, if they are records.",
        )
    yield ok(f"{len(folders)} class folders: {listed([each.name for each in folders])}")


def _structure_of_a_table(settings: RecordSettings, path: Path, folder: Path) -> Findings:
    dialect = records.read_dialect(settings, path)
    header = tables.read_header(path, dialect)
    tables.require(header, [settings.label], f"{path} for records.label")
    encoding = records.read_encoding(settings, path, folder)
    tables.require(header, settings.columns if encoding is None else encoding.reads, str(path))
    if not tables.has_rows(path, dialect):
        raise DataError(f"Expected records in {path}, found a header and nothing else.")
    yield ok(f"{len(header)} columns, {dialect.describe()}, by the header and the settings")


def _structure_of_arrays(settings: RecordSettings, path: Path) -> Findings:
    x, y = records.read_array_headers(settings, path)
    yield ok(f"x of shape {x.shape}, {x.dtype}; y of shape {y.shape}, {y.dtype}")
