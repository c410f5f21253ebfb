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
import io
import logging
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from limbeck.base import progress
from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import create_private_folder
from limbeck.base.references import load_function
from limbeck.inputs import encoders, encodings, tables
from limbeck.inputs.encodings import EncoderEncoding, Encoding
from limbeck.inputs.tables import Names
from limbeck.inputs.transfer_set import KINDS, Header, read_arrays, read_headers

log = logging.getLogger(__name__)

# Stands for an invalid label; outside any plan's classes.
NO_LABEL = -1
LARGEST_LABEL = 1 << 62
TABLES = frozenset({".csv", ".parquet"})
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
# Formats whose readers may look at a file, whatever its name says; other readers run programs or follow references.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
# Limits for one image: pixels, some hundred megabytes while it is read, and bytes of its file. A larger one is left out.
LARGEST_IMAGE = 1 << 26
LARGEST_IMAGE_FILE = 1 << 28
# Inputs whose type is converted at a time.
CHUNK = 4096
Progress = progress.Progress
Arrays = tuple[NDArray[np.generic], NDArray[np.int64]]
READER = "a function (folder) -> inputs, labels"
Scale = Literal["bytes", "unit"]


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
    scale: Scale | None = None
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
        _check_shape(settings.image_size, public_x, f"records.image_size of the images in {path}")
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
        _check_shape((len(settings.columns),), public_x, f"records.columns of {path}")
    else:
        tables.require(header, encoding.reads, f"{path} for records.encoding")
        _check_shape((encoding.dimensions,), public_x, f"records.encoding of {path}")
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
        _check_shape(x.shape[1:], public_x, f"x in {path}")


def _check_shape(shape: Sequence[int], public_x: NDArray[np.generic], what: str) -> None:
    if tuple(shape) != public_x.shape[1:]:
        raise DataError(
            f"Expected inputs of shape {public_x.shape[1:]} like the transfer set's, got {tuple(shape)} by {what}."
        )


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
            x_N, valid_N = _like_public(raw_N, settings.scale, public_x, source)
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
    x_N, valid_N = _like_public(raw_N, None, public_x, str(path))
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
    images, labels = [], []
    for each, label in _class_folders(settings, path, classes):
        for file in _files(each):
            try:
                images.append(_grey(_contents(file), height, width))
            except Exception as error:  # whatever a decoder raises concerns this record alone
                log.warning(
                    "Expected an image in %r: %s: %.200r; it is left out.", str(file), type(error).__name__, str(error)
                )
                continue
            labels.append(label)
    grey_N = np.stack(images) if images else np.zeros((0, height, width), np.uint8)
    x_N, _ = _like_public(grey_N, "bytes", public_x, str(path))
    return x_N, np.array(labels, np.int64)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGES)
    except OSError as error:
        raise DataError(f"Expected a folder of images at {folder}: {error.strerror}.") from error


def _contents(file: Path) -> bytes:
    """The bytes of a regular file; raises ValueError for anything else, without waiting for a pipe or a device."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("found no regular file")
        data = stream.read(LARGEST_IMAGE_FILE + 1)
    if len(data) > LARGEST_IMAGE_FILE:
        raise ValueError(f"found more than {LARGEST_IMAGE_FILE} bytes")
    return data


def _grey(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """(height, width) bytes of the image in `data`, a function of `data` alone: the first frame, without transparency or rotation.

    Of 16 bits per pixel the upper eight are used; for 32-bit numbers no file declares a scale. Raises whatever decoders raise.
    """
    from PIL import Image

    # Load all decoders now: if they were loaded on demand, a record could change which of them see the next one.
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise ValueError(f"found {image.width} x {image.height} pixels, more than {LARGEST_IMAGE}")
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
                grey = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            elif image.mode in {"I", "F"}:
                raise ValueError(f"found pixels of mode {image.mode}, which have no scale")
            else:
                grey = image.convert("L")
            return np.array(grey.resize((width, height)), np.uint8)


def _from_reader(
    settings: RecordSettings, folder: Path, public_x: NDArray[np.generic]
) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
    """What a site's own reader returns: arrays, or any sequences, each element of which is then a record."""
    reference = str(settings.reader)
    reader: Callable[..., Any] = load_function(reference, folder, expected=READER)
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
        x_N, valid_N = _like_public(inputs, settings.scale, public_x, reference)
    else:
        x_N, valid_N = _one_by_one(inputs, settings.scale, public_x, reference)
    return x_N, np.where(valid_N, _labels(labels), NO_LABEL)


# Types: a record becomes the same, whatever array the records are in.


def _like_public(
    x_N: NDArray[np.generic], scale: Scale | None, public_x: NDArray[np.generic], source: str
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """The inputs as numbers like the public ones, and which of them are valid, (n,).

    If the public inputs are bytes, an input is valid if it consists of whole numbers from 0 to 255; otherwise every input is valid and
    becomes float32.

    x_N: any numbers or texts of numbers; what a number means does not depend on the array's type.
    scale: see `RecordSettings`.
    source: the origin of the records, for messages.

    Raises: DataError if their shape differs from that of the public inputs.
    """
    if not len(x_N):
        return np.zeros((0, *public_x.shape[1:]), _dtype(public_x)), np.zeros(0, np.bool_)
    _check_shape(x_N.shape[1:], public_x, source)
    if x_N.dtype == _dtype(public_x) and scale != ("unit" if x_N.dtype == np.uint8 else "bytes"):
        return x_N, np.ones(len(x_N), np.bool_)
    converted_N, valid_N = np.zeros(x_N.shape, _dtype(public_x)), np.zeros(len(x_N), np.bool_)
    for first in range(0, len(x_N), CHUNK):
        rows = slice(first, first + CHUNK)
        converted_N[rows], valid_N[rows] = _converted(_numbers(x_N[rows]), scale, public_x.dtype == np.uint8)
    if not valid_N.all() and scale is None:
        log.warning(
            "Expected whole numbers from 0 to 255 in %s like the transfer set's, found others in %d of %d records: they are left "
            'out. If all numbers are from 0 to 1, set scale = "unit" under [records].',
            source,
            int((~valid_N).sum()),
            len(valid_N),
        )
    return converted_N, valid_N


def _dtype(public_x: NDArray[np.generic]) -> type[np.uint8] | type[np.float32]:
    return np.uint8 if public_x.dtype == np.uint8 else np.float32


def _converted(
    value_N: NDArray[np.float64], scale: Scale | None, to_bytes: bool
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """The numbers as the public inputs have them, and which records are valid; each number is converted by itself."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not to_bytes:
            # As features do with public bytes, to the last bit.
            float_N = value_N.astype(np.float32)
            return (float_N / np.float32(255) if scale == "bytes" else float_N), np.ones(len(value_N), np.bool_)
        whole_N = np.rint(value_N * 255) if scale == "unit" else value_N
        is_byte_N = (whole_N >= 0) & (whole_N <= 255) & (whole_N == np.rint(whole_N))
        valid_N = is_byte_N.reshape(len(value_N), -1).all(1)
        return np.where(is_byte_N, whole_N, 0).astype(np.uint8), valid_N


def _numbers(x_N: NDArray[np.generic]) -> NDArray[np.float64]:
    """The numbers as float64, which holds the values of any smaller type: an array's type is that of its largest record."""
    with np.errstate(over="ignore", invalid="ignore"):
        if x_N.dtype.kind == "c":
            return np.where(x_N.imag == 0, x_N.real, np.nan).astype(np.float64)
        if x_N.dtype.kind in "US":
            return np.array([_number(cell) for cell in x_N.ravel()], np.float64).reshape(x_N.shape)
        return x_N.astype(np.float64)


def _number(cell: object) -> float:
    text = _text(cell)
    with suppress(ValueError):
        return tables.to_number(text)
    with suppress(ValueError):
        number = complex(text)
        return number.real if number.imag == 0 else np.nan
    return np.nan


def _text(cell: object) -> str:
    return cell.decode("utf-8", errors="replace") if isinstance(cell, bytes) else str(cell)


def _one_by_one(
    inputs: Iterable[object], scale: Scale | None, public_x: NDArray[np.generic], source: str
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """The same for records in a list or an array of objects, where one of another shape or kind forms no array with the rest."""
    values, valid = [], []
    for row, each in enumerate(inputs, start=1):
        value = np.zeros(public_x.shape[1:], _dtype(public_x))
        is_valid = False
        try:
            raw_1 = np.asarray(each)[None]
            if raw_1.dtype.kind in KINDS and raw_1.shape[1:] == value.shape:
                x_1, valid_1 = _converted(_numbers(raw_1), scale, public_x.dtype == np.uint8)
                value, is_valid = np.asarray(x_1[0], value.dtype), bool(valid_1[0])
        except Exception:  # whatever an object that is not a record may raise
            log.warning("Expected an input in record %d from %s.", row, source, exc_info=True)
        if not is_valid:
            log.warning("Expected an input like the transfer set's in record %d from %s: it is left out.", row, source)
        values.append(value)
        valid.append(is_valid)
    if not values:
        return np.zeros((0, *public_x.shape[1:]), _dtype(public_x)), np.zeros(0, np.bool_)
    return np.stack(values), np.array(valid, np.bool_)


def _labels(values: NDArray[np.generic] | list[Any]) -> NDArray[np.int64]:
    """Whole numbers, each converted by itself; NO_LABEL for anything else.

    values: numbers in an array, or anything in a list or an array of objects.
    """
    kind = values.dtype.kind if isinstance(values, np.ndarray) else "O"
    if isinstance(values, np.ndarray) and kind in "buifc":
        value_N = _numbers(values)
        with np.errstate(invalid="ignore"):
            whole_N = (np.abs(value_N) <= LARGEST_LABEL) & (value_N == np.rint(value_N))
        return np.where(whole_N, value_N, NO_LABEL).astype(np.int64)
    labels = np.full(len(values), NO_LABEL, np.int64)
    for row, value in enumerate(values):
        try:
            label = _label(_text(value), None) if isinstance(value, str | bytes) else _whole(value)
        except Exception:  # whatever an object that is not a label may raise
            label = None
        labels[row] = NO_LABEL if label is None else label
    return labels


def _whole(value: Any) -> int | None:
    number = int(value)
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
