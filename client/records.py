"""A site's own records: a folder of images per class, a CSV or Parquet table, an NPZ file, or a function of the site's own.

The `[records]` table of `site.toml` says which, and what the columns mean. Messages name files, columns and rows: they stay in the
site's own log.

One rule holds for all of them: what becomes of a record depends on that record, the settings and the public inputs, and on nothing
else. An invalid record is left out individually, and only the log says so: a label outside the plan's classes, a file that is not an
image, a row of a table with too few cells. A refusal would tell the coordinator about a single record. The scale, the type and the
shape of inputs are those of the plan's transfer set, never those that the records happen to have: one float among bytes makes an array
of floats. So adding or removing one record changes at most one of those that are kept, and the sensitivity of everything after it
stays that of one record [D].

Problems with the source as a whole (it is missing, or a column is, or an array has another shape) are errors and show as a refusal;
`check` finds them from names, headers and settings, before anything is charged.
"""

from __future__ import annotations

import inspect
import logging
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from limbeck.base import progress
from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import create_private_folder
from limbeck.base.references import load_function
from limbeck.inputs import arrays, encoders, encodings, images, tables
from limbeck.inputs.encodings import EncoderEncoding, Encoding
from limbeck.inputs.tables import Names
from limbeck.inputs.transfer_set import KINDS, Header, read_arrays, read_headers

log = logging.getLogger(__name__)

# Stands for an invalid label; outside any plan's classes.
NO_LABEL = -1
LARGEST_LABEL = 1 << 62
TABLES = frozenset({".csv", ".parquet"})
Progress = progress.Progress
Arrays = tuple[NDArray[np.generic], NDArray[np.int64]]
READER = "a function (folder) -> inputs, labels"


class RecordSettings(BaseModel):
    """Where the records are and how they are read.

    path: an .npz file with arrays x and y, a .csv or .parquet table, or a folder with one sub-folder of images per class.
    label: the table's column of labels.
    classes: per class, in order, the value or values of its label (for a folder: its name). Without it labels are whole numbers from
        0 on, and folders, as many as classes, are taken in the order of their names.
    encoding: the file of a public encoding, for tables and texts, whose SHA-256 a plan names. For rows in an .npz file or from a
        reader it says which encoding made them.
    encoder: the site's copy of the public encoder if the encoding names one: a Hugging Face model's folder or "module:factory".
    encoded: a private folder that caches the encoder's rows.
    columns: without an encoding, the columns that are read as numbers, unchanged.
    image_size: (height, width) to which images are scaled.
    reader: instead of a path, a function of the site's own as "module:function", called with its folder, that returns inputs and labels.
    scale: the scale of the numbers in an .npz file or from a reader if it differs from the transfer set's: "bytes" (0 to 255) or
        "unit" (0 to 1).
    largest_mb: the limit for an array of an .npz file once inflated, in MiB.
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
    scale: arrays.Scale | None = None
    largest_mb: int = Field(default=8192, ge=1)


# Checks that need no record


def check(settings: RecordSettings, folder: Path, classes: int, public_x: NDArray[np.generic]) -> None:
    """Raise DataError or SettingError if records cannot be read as a plan needs them; a site asks before it is charged.

    No record is read and none has an influence: only names of files, columns and folders, headers of arrays, the settings, and the
    shape and type of the public inputs.
    """
    _check_source(settings)
    _check_classes(settings, classes)
    if settings.reader is not None:
        _check_reader(settings.reader, folder)
        return
    path = folder / str(settings.path)
    _check_path(path)
    if path.is_dir():
        _class_folders(settings, path, classes)
        arrays.check_shape(settings.image_size, public_x, f"records.image_size of the images in {path}")
    elif path.suffix.lower() in TABLES:
        _check_table(settings, path, folder, public_x)
    else:
        x, y = read_headers(path, "x", "y", largest=settings.largest_mb << 20)
        _check_arrays(x, y, path, public_x)


def _check_source(settings: RecordSettings) -> None:
    if (settings.path is None) == (settings.reader is None):
        raise SettingError("Expected records.path or records.reader, one of them.")
    if min(settings.image_size) < 1:
        raise SettingError(f"Expected a height and a width of at least 1 as records.image_size, got {settings.image_size}.")


def _check_classes(settings: RecordSettings, classes: int) -> None:
    if settings.classes is None:
        return
    if len(settings.classes) != classes:
        raise DataError(f"Expected records.classes for the plan's {classes} classes, got {len(settings.classes)}.")
    first: dict[str, int] = {}
    for number, values in enumerate(settings.classes):
        names = [str(value) for value in (values if isinstance(values, tuple) else (values,))]
        if not names:
            raise DataError(f"Expected a value or values of class {number} in records.classes, got none.")
        for name in names:
            if name.strip() in tables.MISSING:
                raise DataError(f"Expected a value of class {number} in records.classes, got {name!r}, which means missing.")
            if first.setdefault(name, number) != number:
                raise DataError(f"Expected {name!r} once in records.classes, got it for classes {first[name]} and {number}.")


def _check_path(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"Expected records at {path}, found none.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"Expected records at {path}: {error}.") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise DataError(f"Expected records at {path}, found neither a file nor a folder.")
    if not os.access(path, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
        raise DataError(f"Expected records at {path} that this process may read, got permissions {stat.filemode(mode)}.")


def _check_table(settings: RecordSettings, path: Path, folder: Path, public_x: NDArray[np.generic]) -> None:
    header = tables.read_header(path)
    tables.require(header, [settings.label], f"{path} for records.label")
    encoding = _encoding(settings, path, folder)
    if encoding is None:
        tables.require(header, settings.columns, f"{path} for records.columns")
        arrays.check_shape((len(settings.columns),), public_x, f"records.columns of {path}")
    else:
        tables.require(header, encoding.reads, f"{path} for records.encoding")
        arrays.check_shape((encoding.dimensions,), public_x, f"records.encoding of {path}")
    if isinstance(encoding, EncoderEncoding):
        try:
            create_private_folder(folder / settings.encoded)
        except OSError as error:
            raise DataError(
                f"Expected a folder as records.encoded at {folder / settings.encoded}: {error.strerror}."
            ) from error


def _check_arrays(x: Header, y: Header, path: Path, public_x: NDArray[np.generic]) -> None:
    if not x.shape or len(y.shape) != 1 or x.shape[0] != y.shape[0]:
        raise DataError(f"Expected as many labels as inputs in {path}, got {y.shape} for {x.shape}.")
    # The shape of an array without records says nothing.
    if x.shape[0]:
        arrays.check_shape(x.shape[1:], public_x, f"x in {path}")


def _check_reader(reference: str, folder: Path) -> None:
    reader = load_function(reference, folder, expected=READER)
    try:
        inspect.signature(reader).bind(folder)
    except TypeError as error:
        raise SettingError(f"Expected a function of the site's folder as records.reader {reference}: {error}.") from error
    except ValueError:  # a function without a signature, such as a built-in one
        pass


def _class_folders(settings: RecordSettings, path: Path, classes: int) -> list[tuple[Path, int]]:
    """The folder of every class, by its name alone, and its class; folders whose names begin with a dot do not count."""
    index = _index(settings)
    try:
        folders = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        raise DataError(f"Expected one folder per class in {path}: {error.strerror}.") from error
    unknown = [each.name for each in folders if index is not None and each.name not in index]
    # If folders are numbered by their names, one more folder would give the records of others another label.
    if unknown or not folders or (index is None and len(folders) != classes):
        names = ", ".join(unknown or [each.name for each in folders][:20]) or "none"
        raise DataError(f"Expected one folder per class in {path}, found {names}.")
    for each in folders:
        if not os.access(each, os.R_OK | os.X_OK):
            raise DataError(f"Expected a folder that this process may read at {each}.")
    return [(each, number if index is None else index[each.name]) for number, each in enumerate(folders)]


# Records


def read(settings: RecordSettings, folder: Path, classes: int, public_x: NDArray[np.generic]) -> Arrays:
    """Inputs (n, ...) and labels (n,) in [0, classes) of the valid records.

    folder: the site's folder; paths are relative to it.
    public_x: the public inputs. If they are bytes, so are the records' inputs; otherwise these are float32.

    Raises: DataError or SettingError for problems that concern all records.
    """
    _check_source(settings)
    _check_classes(settings, classes)
    if settings.reader is not None:
        source = settings.reader
        x_N, y_N = _from_reader(settings, folder, public_x)
    else:
        path = folder / str(settings.path)
        source = str(path)
        _check_path(path)
        if path.is_dir():
            x_N, y_N = _images(settings, path, classes, public_x)
        elif path.suffix.lower() in TABLES:
            x_N, y_N = _table(settings, path, folder, public_x)
        else:
            raw_N, raw_y = read_arrays(path, "x", "y", largest=settings.largest_mb << 20)
            if not raw_N.ndim or raw_y.shape != raw_N.shape[:1]:
                raise DataError(f"Expected as many labels as inputs in {path}, got {raw_y.shape} for {raw_N.shape}.")
            x_N, valid_N = arrays.like_public(raw_N, settings.scale, public_x, source)
            y_N = np.where(valid_N, _labels(raw_y), NO_LABEL)
    kept = np.flatnonzero((y_N >= 0) & (y_N < classes))
    if len(kept) < len(y_N):
        log.warning(
            "Expected labels in [0, %d) in %s: %d of %d records have other labels or invalid inputs, and are left out; "
            "the first is row %d.",
            classes,
            source,
            len(y_N) - len(kept),
            len(y_N),
            np.setdiff1d(np.arange(len(y_N)), kept)[0] + 1,
        )
    return x_N[kept], y_N[kept]


def public_encoder(settings: RecordSettings, folder: Path) -> EncoderEncoding | None:
    """The encoding if records go through a public encoder here, or None; reads no record. Raises DataError."""
    if settings.encoding is None or settings.path is None or Path(settings.path).suffix.lower() not in TABLES:
        return None
    encoding = encodings.load(folder / settings.encoding)
    return encoding if isinstance(encoding, EncoderEncoding) else None


def encode(settings: RecordSettings, folder: Path, progress: Progress = encoders.log_progress) -> int:
    """Put a table's records through the public encoder, cache the rows and return their number.

    Raises: SettingError if there is no encoder.
    """
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


def _encoding(settings: RecordSettings, path: Path, folder: Path) -> Encoding | None:
    """The encoding of a table, or None if its columns are read unchanged. Raises SettingError if the settings name neither."""
    if settings.encoding is not None:
        return encodings.load(folder / settings.encoding)
    if not settings.columns:
        raise SettingError(f"Expected records.encoding or records.columns to read {path}, got neither.")
    return None


def _table(
    settings: RecordSettings, path: Path, folder: Path, public_x: NDArray[np.generic]
) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    table, encoding = tables.read(path), _encoding(settings, path, folder)
    if encoding is None:
        raw_N: NDArray[np.generic] = np.stack([table.numbers(name) for name in settings.columns], 1)
    elif isinstance(encoding, EncoderEncoding):
        raw_N = _encoded(encoding, settings, table, folder, encoders.log_progress)
    else:
        raw_N = encoding(table)
    x_N, valid_N = arrays.like_public(raw_N, None, public_x, str(path))
    index = _index(settings)
    names = Names(index.items()) if index is not None else None
    labels_N = np.full(len(table), NO_LABEL, np.int64)
    invalid: list[tuple[int, str | None]] = []
    for row, cell in enumerate(table.texts(settings.label)):
        label = _label(cell, names)
        if label is None:
            invalid.append((row + 1, cell))
        else:
            labels_N[row] = label
    if invalid:
        wanted = f"one of {', '.join(index)}" if index is not None else "a whole number"
        row, cell = invalid[0]
        log.warning("Expected %s in column %r, row %d of %s, got %.60r.", wanted, settings.label, row, path, cell)
    return x_N, np.where(valid_N, labels_N, NO_LABEL)


def _images(
    settings: RecordSettings, path: Path, classes: int, public_x: NDArray[np.generic]
) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    """Grey images from the folder of every class, scaled to one size. They are bytes, whatever the public inputs are."""
    height, width = settings.image_size
    pixels, labels = [], []
    for each, label in _class_folders(settings, path, classes):
        for file in images.files(each):
            try:
                pixels.append(images.grey(images.contents(file), height, width))
            except Exception as error:  # whatever a decoder raises concerns this record alone
                log.warning(
                    "Expected an image in %r: %s: %.200r; it is left out.", str(file), type(error).__name__, str(error)
                )
                continue
            labels.append(label)
    grey_N = np.stack(pixels) if pixels else np.zeros((0, height, width), np.uint8)
    x_N, _ = arrays.like_public(grey_N, "bytes", public_x, str(path))
    return x_N, np.array(labels, np.int64)


def _from_reader(
    settings: RecordSettings, folder: Path, public_x: NDArray[np.generic]
) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    """What a site's own reader returns: arrays, or any sequences, each element of which is then a record."""
    reference = str(settings.reader)
    reader: Callable[[Path], tuple[Iterable[object], Iterable[object]]] = load_function(reference, folder, expected=READER)
    try:
        inputs, labels = reader(folder)
        inputs = inputs if isinstance(inputs, np.ndarray) else list(inputs)
        labels = labels if isinstance(labels, np.ndarray) else list(labels)
        unequal = len(inputs) != len(labels)
    except Exception as error:
        raise DataError(f"Expected inputs and labels from {reference}: {type(error).__name__}: {error}.") from error
    if unequal or getattr(labels, "ndim", 1) != 1:
        raise DataError(f"Expected as many labels as inputs from {reference}, got {len(labels)} for {len(inputs)}.")
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind != "O":
        if inputs.dtype.kind not in KINDS:
            raise DataError(f"Expected inputs of numbers from {reference}, got {inputs.dtype}.")
        x_N, valid_N = arrays.like_public(inputs, settings.scale, public_x, reference)
    else:
        x_N, valid_N = arrays.like_public_one_by_one(inputs, settings.scale, public_x, reference)
    return x_N, np.where(valid_N, _labels(labels), NO_LABEL)


# Types: a record becomes the same, whatever array the records are in.


def _labels(values: NDArray[np.generic] | list[object]) -> NDArray[np.int64]:
    """Whole numbers, each converted by itself; NO_LABEL for anything else.

    values: numbers in an array, or anything in a list or an array of objects.
    """
    kind = values.dtype.kind if isinstance(values, np.ndarray) else "O"
    if isinstance(values, np.ndarray) and kind in "buifc":
        value_N = arrays.numbers(values)
        with np.errstate(invalid="ignore"):
            whole_N = (np.abs(value_N) <= LARGEST_LABEL) & (value_N == np.rint(value_N))
        return np.where(whole_N, value_N, NO_LABEL).astype(np.int64)
    labels = np.full(len(values), NO_LABEL, np.int64)
    for row, value in enumerate(values):
        try:
            label = _label(arrays.to_text(value), None) if isinstance(value, str | bytes) else _whole(value)
        except Exception:  # whatever an object that is not a label may raise
            label = None
        labels[row] = NO_LABEL if label is None else label
    return labels


def _whole(value: object) -> int | None:
    number = int(value)  # type: ignore[call-overload]  # raises TypeError for what is no number
    return number if number == value and abs(number) <= LARGEST_LABEL else None


def _index(settings: RecordSettings) -> dict[str, int] | None:
    if settings.classes is None:
        return None
    return {
        str(value): number
        for number, values in enumerate(settings.classes)
        for value in (values if isinstance(values, tuple) else (values,))
    }


def _label(cell: str | None, names: Names | None) -> int | None:
    if cell is None:
        return None
    if names is not None:
        return names[cell.strip()]
    try:
        label = int({"true": "1", "false": "0"}.get(cell.strip().lower(), tables.plain(cell)))
    except ValueError:
        return None
    return label if abs(label) <= LARGEST_LABEL else None
