"""A site's own records: a folder of images per class, a CSV or Parquet table, an NPZ file, or a function of the site's own.

The `[records]` table of `site.toml` says which, and which columns mean what. Messages name files, columns and rows: they stay in
the site's own log.

A record that cannot be meant is left out, on its own, and only the log says so: a label outside the plan's classes, an image that is none,
a row of a table with too few cells. A refusal would tell the coordinator of a single record. Leaving out is decided record by record,
so adding or removing one still changes at most one of those that are kept: the sensitivity of everything after it stays that of one
record [D]. What concerns the file as a whole (it is missing, a column is, it is no CSV) is an error, and shows as a refusal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from limbeck.client import encoders, encodings, tables
from limbeck.client.encodings import EncoderEncoding
from limbeck.client.teachers.architectures import load_factory
from limbeck.operators.errors import DataError, SettingError
from limbeck.protos.transfer_set import read_arrays

log = logging.getLogger(__name__)

# In place of a label that is none; outside of any plan's classes.
NO_LABEL = -1
LARGEST_LABEL = 1 << 62
TABLES = frozenset({".csv", ".parquet"})
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
Progress = encoders.Progress
Arrays = tuple[NDArray[np.generic], NDArray[np.int64]]


class RecordSettings(BaseModel):
    """Where the records are and how they are read.

    path: an .npz file with arrays x and y, a .csv or .parquet table, or a folder with one sub-folder of images per class.
    label: the table's column of labels. classes: per class, in order, the label's value or values (of a folder: its name); without it
    labels are whole numbers from 0 on, and folders, as many as classes, are taken in the order of their names.
    encoding: a public encoding's file, for tables and texts; without it
    `columns` are numbers, taken as they are. A plan names its SHA-256; where an .npz file or a reader holds rows, it says by which encoding
    they were made. encoder: the site's copy of the public encoder where the encoding names one, a Hugging Face model's folder or
    "module:factory"; encoded: a private folder that keeps what it made. image_size: (height, width) that images are brought to.
    reader: instead of a path, a function of the site's own as "module:function", called with its folder, that returns inputs and
    labels as arrays.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    label: str = "label"
    classes: tuple[str | int | tuple[str | int, ...], ...] | None = None
    encoding: str | None = None
    encoder: str | None = None
    encoded: str = "encoded"
    columns: tuple[str, ...] = ()
    image_size: tuple[int, int] = Field(default=(28, 28))
    reader: str | None = None


def read(settings: RecordSettings, folder: Path, classes: int) -> Arrays:
    """Inputs (n, ...) and labels (n,) in [0, classes) of the records that can be meant.

    folder: the site's; paths are relative to it. Raises DataError or SettingError for what concerns all records.
    """
    if (settings.path is None) == (settings.reader is None):
        raise SettingError("Expected records.path or records.reader, one of them.")
    if settings.classes is not None and len(settings.classes) != classes:
        raise DataError(f"Expected records.classes for the plan's {classes} classes, got {len(settings.classes)}.")
    if settings.reader is not None:
        source, (x_N, y_N) = settings.reader, _own(settings.reader, folder)
    else:
        path = folder / str(settings.path)
        source = str(path)
        if path.is_dir():
            x_N, y_N = _images(settings, path, classes)
        elif path.suffix in TABLES:
            x_N, y_N = _table(settings, path, folder)
        else:
            x_N, y_N = read_arrays(path, "x", "y")
    if len(x_N) != len(y_N) or y_N.ndim != 1:
        raise DataError(f"Expected as many labels as inputs in {source}, got {y_N.shape} for {x_N.shape}.")
    if y_N.dtype.kind not in "buif":
        raise DataError(f"Expected whole numbers as labels in {source}, got {y_N.dtype}.")
    with np.errstate(invalid="ignore"):
        labels_N = y_N.astype(np.int64)
    kept = np.flatnonzero((labels_N == y_N) & (labels_N >= 0) & (labels_N < classes))
    if len(kept) < len(labels_N):
        log.warning(
            "Expected labels in [0, %d) in %s: %d of %d records have others and are left out; the first is row %d.",
            classes,
            source,
            len(labels_N) - len(kept),
            len(labels_N),
            np.setdiff1d(np.arange(len(labels_N)), kept)[0] + 1,
        )
    return x_N[kept], labels_N[kept]


def public_encoder(settings: RecordSettings, folder: Path) -> EncoderEncoding | None:
    """The encoding of records that go through a public encoder here, or None; reads no record. Raises DataError."""
    if settings.encoding is None or settings.path is None or Path(settings.path).suffix not in TABLES:
        return None
    encoding = encodings.load(folder / settings.encoding)
    return encoding if isinstance(encoding, EncoderEncoding) else None


def encode(settings: RecordSettings, folder: Path, progress: Progress = encoders.log_progress) -> int:
    """Put a table's records through the public encoder and keep the rows; how many. Raises SettingError where there is no encoder."""
    encoding = public_encoder(settings, folder)
    if encoding is None:
        raise SettingError("Expected records.encoding to name a table's public encoder, found none.")
    return len(_encoded(encoding, settings, tables.read(folder / str(settings.path)), folder, progress))


def _encoded(
    encoding: EncoderEncoding, settings: RecordSettings, table: tables.Table, folder: Path, progress: Progress
) -> NDArray[np.float32]:
    return encoders.encode(
        encoding,
        table.texts(encoding.column),
        encoders.open_encoder(encoding, settings.encoder, folder),
        kept=folder / settings.encoded,
        progress=progress,
    )


def _table(settings: RecordSettings, path: Path, folder: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    table = tables.read(path)
    if settings.encoding is not None:
        encoding = encodings.load(folder / settings.encoding)
        x_N = (
            _encoded(encoding, settings, table, folder, encoders.log_progress)
            if isinstance(encoding, EncoderEncoding)
            else encoding(table)
        )
    elif settings.columns:
        with np.errstate(over="ignore"):
            x_N = np.stack([table.numbers(name) for name in settings.columns], 1).astype(np.float32)
    else:
        raise SettingError(f"Expected records.encoding or records.columns to read {path}, got neither.")
    index = _index(settings)
    labels_N = np.full(len(table), NO_LABEL, np.int64)
    strange: list[tuple[int, str | None]] = []
    for row, cell in enumerate(table.texts(settings.label)):
        label = _label(cell, index)
        if label is None:
            strange.append((row + 1, cell))
        else:
            labels_N[row] = label
    if strange:
        wanted = f"one of {', '.join(index)}" if index is not None else "a whole number"
        row, cell = strange[0]
        log.warning("Expected %s in column %r, row %d of %s, got %r.", wanted, settings.label, row, path, cell)
    return x_N, labels_N


def _images(settings: RecordSettings, path: Path, classes: int) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Grey images of every class's folder, brought to one size."""
    from PIL import Image, UnidentifiedImageError

    index = _index(settings)
    folders = sorted(each for each in path.iterdir() if each.is_dir())
    unknown = [each.name for each in folders if index is not None and each.name not in index]
    # Numbered by their names, one folder more would give the records of others another label.
    if unknown or not folders or (index is None and len(folders) != classes):
        found = ", ".join(unknown or [each.name for each in folders]) or "none"
        raise DataError(f"Expected one folder per class in {path}, found {found}.")
    height, width = settings.image_size
    images, labels = [], []
    for number, each in enumerate(folders):
        for file in sorted(each.iterdir()):
            if file.suffix.lower() not in IMAGES:
                continue
            try:
                with Image.open(file) as image:
                    images.append(np.asarray(image.convert("L").resize((width, height)), np.uint8))
            except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
                log.warning("Expected an image in %s: %s; it is left out.", file, error)
                continue
            labels.append(number if index is None else index[each.name])
    return np.stack(images) if images else np.zeros((0, height, width), np.uint8), np.array(labels, np.int64)


def _own(reference: str, folder: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    reader: Callable[..., Any] = load_factory(reference, folder)
    try:
        x_N, y_N = (np.asarray(values) for values in reader(folder))
    except Exception as error:
        raise DataError(f"Expected inputs and labels from {reference}: {type(error).__name__}: {error}.") from error
    if x_N.dtype.kind not in "buif" or y_N.dtype.kind not in "buif":
        raise DataError(f"Expected arrays of numbers from {reference}, got {x_N.dtype} and {y_N.dtype}.")
    return x_N, y_N


def _index(settings: RecordSettings) -> dict[str, int] | None:
    if settings.classes is None:
        return None
    return {
        str(value): number
        for number, values in enumerate(settings.classes)
        for value in (values if isinstance(values, tuple) else (values,))
    }


def _label(cell: str | None, index: dict[str, int] | None) -> int | None:
    if cell is None:
        return None
    if index is not None:
        return index.get(cell.strip())
    try:
        label = int(cell)
    except ValueError:
        return None
    return label if abs(label) <= LARGEST_LABEL else None
