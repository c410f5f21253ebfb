"""A site's own records: a folder of images per class, a table, an NPZ file, or a function of the site's own.

The `[records]` table of `site.toml` says which, and what the columns mean. Messages name files, columns and rows: they stay in the
site's own log.

One rule holds for all of them: what becomes of a record depends on that record, the settings and the public values of the plan, and on
nothing else. An invalid record is left out individually, and only the log says so: a label outside the plan's classes, a file that is not
an image, a row of a table with too few cells. A refusal would tell the coordinator about a single record. The scale, the type and the
shape of inputs are those of the plan's transfer set, never those that the records happen to have: one float among bytes makes an array
of floats. So adding or removing one record changes at most one of those that are kept, and the sensitivity of everything after it
stays that of one record [D].

Problems with the source as a whole (it is missing, or a column is, or an array has another shape) are errors and show as a refusal;
`check` finds them from names, headers and settings, before anything is charged. So does a source without any record: an empty array, a
header and nothing else, no image under any folder. That there is at least one record is the one thing that a site which takes part does
not hide (docs/privacy.md).
"""

from __future__ import annotations

import inspect
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from limbeck.base import progress
from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import create_private_folder
from limbeck.base.references import load_function
from limbeck.inputs import arrays, encoders, encodings, images, labels, tables
from limbeck.inputs.dialects import Dialect
from limbeck.inputs.encodings import EncoderEncoding, ImageEncoding, TabularEncoding
from limbeck.inputs.labels import LabelRule
from limbeck.inputs.transfer_set import KINDS, Header, read_arrays, read_headers
from limbeck.plans.schema import InputKind

log = logging.getLogger(__name__)

# Stands for an invalid label; outside any plan's classes.
NO_LABEL = -1
# How many of the records that are left out for one reason are named.
NAMED = 5
# How many different labels of no class are counted.
MOST_UNKNOWN = 1000
Progress = progress.Progress
Arrays = tuple[NDArray[np.generic], NDArray[np.int64]]
READER = "a function (folder) -> inputs, labels"


class RecordSettings(BaseModel):
    """Where the records are and how they are read.

    path: an .npz file with arrays x and y, a table (CSV, TSV, Parquet, compressed or not), or a folder with one sub-folder of images per
        class.
    label: the table's column of labels.
    classes: per class, in order, the value or values of its label (for a folder: its name), compared by `limbeck.inputs.labels`. Without
        it, these are the plan's names of its classes, or whole numbers from 0 on where it names none.
    delimiter, quote, decimal, text_encoding: of a text table, what its header does not show: the sign between cells, the one around them
        ("" for none), the decimal sign, and how text becomes bytes. Never taken from rows: one record would change what becomes of all.
    encoding: the file of a public encoding, for tables, texts and colour images, whose SHA-256 a plan names. For rows in an .npz file or
        from a reader it says which encoding made them.
    encoder: the site's copy of the public encoder if the encoding names one: a Hugging Face model's folder, for images the folder of an
        ONNX model, or "module:factory".
    encoded: a private folder that caches the encoder's rows.
    columns: without an encoding, the columns that are read as numbers, unchanged.
    image_size: (height, width) to which images are scaled; for an encoder of images the encoding says it.
    reader: instead of a path, a function of the site's own as "module:function", called with its folder, that returns inputs and labels.
    scale: the scale of the numbers in an .npz file or from a reader if it differs from the transfer set's: "bytes" (0 to 255) or
        "unit" (0 to 1).
    largest_mb: the limit for an array of an .npz file once inflated, in MiB.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str | None = None
    label: str = "label"
    classes: tuple[str | int | tuple[str | int, ...], ...] | None = None
    delimiter: str | None = None
    quote: str | None = None
    decimal: Literal[".", ","] | None = None
    text_encoding: str | None = None
    encoding: str | None = None
    encoder: str | None = None
    encoded: str = "encoded"
    columns: tuple[str, ...] = ()
    image_size: tuple[int, int] = Field(default=(28, 28))
    reader: str | None = None
    scale: arrays.Scale | None = None
    largest_mb: int = Field(default=8192, ge=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Records that are left out for one reason.

    expected: what was expected of them, as a message says it.
    count: how many they are.
    first: the first few of them, each by its place and what was there.
    """

    expected: str
    count: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        """As a message has it."""
        return f"Expected {self.expected}, got {self.examples}{'.' if self.count <= len(self.first) else ''}"

    @property
    def examples(self) -> str:
        """The first few, as a message has them."""
        return f"{', '.join(self.first)}{', ...' if self.count > len(self.first) else ''}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """Records as they were found.

    x_N, y_N: inputs (n, ...) and labels (n,) in [0, classes) of those that are kept.
    all: how many there are.
    left_out: why the others are not among them.
    unknown: labels that are those of no class, and how often each was found, of the first thousand of them.
    names: of the classes, for messages.
    source: what they were read from, for messages.
    """

    x_N: NDArray[np.generic]
    y_N: NDArray[np.int64]
    all: int
    left_out: tuple[LeftOut, ...]
    unknown: tuple[tuple[str, int], ...]
    names: tuple[str, ...]
    source: str

    @property
    def counts(self) -> tuple[int, ...]:
        """Records of each class."""
        return tuple(np.bincount(self.y_N, minlength=len(self.names)).tolist())

    @property
    def absent(self) -> tuple[str, ...]:
        """The names of the classes without a record."""
        return tuple(name for name, count in zip(self.names, self.counts, strict=True) if not count)

    def log(self) -> None:
        """Say in the site's own log, and nowhere else, what was left out, and what that means for the teacher."""
        for each in self.left_out:
            log.warning(
                "Expected %s in %s, got %s: %d of %d records are left out.",
                each.expected,
                self.source,
                each.examples,
                each.count,
                self.all,
            )
        if not len(self.y_N):
            log.error(
                "NO USABLE RECORD in %s, of %d: the teacher learns nothing, and its plan is charged for all the same. `limbeck site"
                " check` says what to mend.",
                self.source,
                self.all,
            )
        elif self.absent:
            log.warning(
                "Expected records of every class in %s, got none of %d of the %d: %s. The teacher cannot tell them.",
                self.source,
                len(self.absent),
                len(self.names),
                ", ".join(self.absent[: labels.SHOWN]),
            )


@dataclass(slots=True)
class _Tally:
    """Counts what is left out, by reason."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)

    def add(self, expected: str, got: str) -> None:
        """One record. got: its place and what is there."""
        self.counts[expected] = self.counts.get(expected, 0) + 1
        if self.counts[expected] <= NAMED:
            self.first.setdefault(expected, []).append(got)

    def left_out(self) -> tuple[LeftOut, ...]:
        """The reasons, in the order in which they were met."""
        return tuple(
            LeftOut(expected=expected, count=count, first=tuple(self.first[expected]))
            for expected, count in self.counts.items()
        )


# Checks that need no record


def check(
    settings: RecordSettings,
    folder: Path,
    classes: int,
    public_x: NDArray[np.generic],
    *,
    class_names: Sequence[str] = (),
    prepare: bool = True,
) -> None:
    """Raise DataError or SettingError if records cannot be read as a plan needs them; a site asks before it is charged.

    No record is read and none has an influence, but that there is one: only names of files, columns and folders, headers of arrays, the
    settings, and the public values of the plan.

    - folder: the site's folder; paths are relative to it.
    - classes, class_names: the plan's, and its names of them, or () if it names none.
    - public_x: the public inputs, of which shape and type count.
    - prepare: make the folder that `records.encoded` names, which a training needs.
    """
    _check_source(settings)
    rule = labels.label_rule(settings.classes, class_names, classes)
    if settings.reader is not None:
        _check_names_are_said(settings, class_names, settings.reader)
        _check_reader(settings.reader, folder)
        return
    path = folder / str(settings.path)
    _check_path(path)
    of_images = image_encoding(settings, folder)
    if of_images is not None:
        arrays.check_shape((of_images.dimensions,), public_x, f"records.encoding of {path}")
        _prepare(settings, folder, prepare)
    if path.is_dir():
        folders = class_folders(path, rule)
        if of_images is None:
            arrays.check_shape(settings.image_size, public_x, f"records.image_size of the images in {path}")
        check_images(path, [each for each, _ in folders])
    elif tables.is_table(path):
        _check_table(settings, path, folder, public_x, prepare)
    else:
        _check_names_are_said(settings, class_names, str(path))
        x, _ = read_array_headers(settings, path)
        if of_images is None:
            arrays.check_shape(x.shape[1:], public_x, f"x in {path}")
        elif x.shape[1:] != of_images.shape:
            raise DataError(
                f"Expected images of shape {of_images.shape} for {of_images.model} as x in {path}, got {x.shape[1:]}."
            )


def _prepare(settings: RecordSettings, folder: Path, prepare: bool) -> None:
    """Make the folder that keeps encoded records, if that is wanted. Raises DataError."""
    if not prepare:
        return
    try:
        create_private_folder(folder / settings.encoded)
    except OSError as error:
        raise DataError(f"Expected a folder as records.encoded at {folder / settings.encoded}: {error.strerror}.") from error


def _check_source(settings: RecordSettings) -> None:
    if (settings.path is None) == (settings.reader is None):
        raise SettingError("Expected records.path or records.reader, one of them.")
    if min(settings.image_size) < 1:
        raise SettingError(f"Expected a height and a width of at least 1 as records.image_size, got {settings.image_size}.")


def _check_names_are_said(settings: RecordSettings, class_names: Sequence[str], source: str) -> None:
    """Raise SettingError if numbers would have to be guessed to be the places of the plan's names; whatever labels there are."""
    if settings.classes is None and labels.in_words(class_names):
        raise SettingError(
            f"Expected records.classes for the labels in {source}, got none: the plan names its classes by words. If they are numbers from"
            f" 0 on, write under [records]: {labels.setting_line(class_names)}. If they are names, write these."
        )


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


def _check_table(settings: RecordSettings, path: Path, folder: Path, public_x: NDArray[np.generic], prepare: bool) -> None:
    dialect = read_dialect(settings, path)
    header = tables.read_header(path, dialect)
    tables.require(header, [settings.label], f"{path} for records.label")
    encoding = read_encoding(settings, path, folder)
    if encoding is None:
        tables.require(header, settings.columns, f"{path} for records.columns")
        arrays.check_shape((len(settings.columns),), public_x, f"records.columns of {path}")
    else:
        tables.require(header, encoding.reads, f"{path} for records.encoding")
        arrays.check_shape((encoding.dimensions,), public_x, f"records.encoding of {path}")
    if not tables.has_rows(path, dialect):
        raise DataError(f"Expected records in {path}, found a header and nothing else.")
    if isinstance(encoding, EncoderEncoding):
        _prepare(settings, folder, prepare)


def read_array_headers(settings: RecordSettings, path: Path) -> tuple[Header, Header]:
    """The headers of x and y in an NPZ file of as many labels as inputs, and of one at least. Raises DataError."""
    try:
        x, y = read_headers(path, "x", "y", largest=settings.largest_mb << 20)
    except DataError as error:
        if path.suffix.lower() == ".npz":
            raise
        known = ", ".join(sorted(tables.SUFFIXES))
        raise DataError(f"Expected a folder of images, a table ({known}) or an NPZ file at {path}: {error}") from error
    if not x.shape or len(y.shape) != 1 or x.shape[0] != y.shape[0]:
        raise DataError(f"Expected as many labels as inputs in {path}, got {y.shape} for {x.shape}.")
    if not x.shape[0]:
        raise DataError(f"Expected records in {path}, found arrays of none.")
    return x, y


def _check_reader(reference: str, folder: Path) -> None:
    reader = load_function(reference, folder, expected=READER)
    try:
        inspect.signature(reader).bind(folder)
    except TypeError as error:
        raise SettingError(f"Expected a function of the site's folder as records.reader {reference}: {error}.") from error
    except ValueError:  # a function without a signature, such as a built-in one
        pass


def class_folders(path: Path, rule: LabelRule) -> list[tuple[Path, int]]:
    """The folder of every class, by its name alone, and its class; folders whose names begin with a dot do not count."""
    try:
        folders = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        raise DataError(f"Expected one folder per class in {path}: {error.strerror}.") from error
    names = [each.name for each in folders]
    classes = labels.folder_classes(names, rule)
    if not folders or classes is None:
        odd = [name for name in names if rule(name) is None]
        raise DataError(
            f"Expected one folder per class in {path}, found {_shown(odd or names)}; the classes are {rule}.{_hint(folders, rule)}"
        )
    for each in folders:
        if not os.access(each, os.R_OK | os.X_OK):
            raise DataError(f"Expected a folder that this process may read at {each}.")
    return list(zip(folders, classes, strict=True))


def _hint(folders: Sequence[Path], rule: LabelRule) -> str:
    """What to write in the settings instead, as far as the names of folders show it."""
    for each in folders:
        try:
            inner = [path.name for path in each.iterdir() if path.is_dir()] if os.access(each, os.R_OK | os.X_OK) else []
        except OSError:
            continue
        if inner and labels.folder_classes(inner, rule) is not None:
            return f" Those in {each} are: set records.path to one of these folders."
    if len(folders) == len(rule.names):
        names = ", ".join(f'"{each.name}"' for each in sorted(folders, key=lambda path: labels.natural(path.name)))
        return f" Write the folders' names in the order of the plan's classes under [records], such as: classes = [{names}]"
    return ""


def check_images(path: Path, folders: Sequence[Path]) -> None:
    """Raise DataError if no folder holds an image, by its name. Which of them hold one does not count."""
    if any(images.contains(each) for each in folders):
        return
    found: dict[str, int] = {}
    for each in folders:
        for kind, count in images.others(each).items():
            found[kind] = found.get(kind, 0) + count
    there = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items(), key=lambda item: -item[1])[:NAMED])
    raise DataError(
        f"Expected images ({', '.join(sorted(images.SUFFIXES))}) in the folders of {path}, found {there or 'no file'}: convert them, or"
        " read them by a function of your own (records.reader)."
    )


def _shown(names: Sequence[str]) -> str:
    return f"{', '.join(names[: labels.SHOWN])}{', ...' if len(names) > labels.SHOWN else ''}" or "none"


# Records


def read(
    settings: RecordSettings,
    folder: Path,
    classes: int,
    public_x: NDArray[np.generic],
    *,
    class_names: Sequence[str] = (),
    kind: InputKind | None = None,
) -> Arrays:
    """Inputs (n, ...) and labels (n,) in [0, classes) of the valid records; the log says what is left out.

    Parameters and errors: see `find`.
    """
    found = find(settings, folder, classes, public_x, class_names=class_names, kind=kind)
    found.log()
    return found.x_N, found.y_N


def find(
    settings: RecordSettings,
    folder: Path,
    classes: int,
    public_x: NDArray[np.generic],
    *,
    class_names: Sequence[str] = (),
    kind: InputKind | None = None,
    encode_texts: bool = True,
) -> Found:
    """All records, and what of them is left out.

    - folder: the site's folder; paths are relative to it.
    - classes, class_names: the plan's, and its names of them, or () if it names none.
    - public_x: the public inputs. If they are bytes, so are the records' inputs; otherwise these are float32.
    - kind: what the plan says that the public inputs are; without it, what they show themselves.
    - encode_texts: put texts or images through a public encoder if there is one, which takes long and keeps their rows in a file; else
      their rows are zeros.

    Raises: DataError or SettingError for problems that concern all records.
    """
    _check_source(settings)
    rule = labels.label_rule(settings.classes, class_names, classes)
    unit_images = public_x.ndim >= 3 and kind is InputKind.UNIT if kind is not None else arrays.holds_unit_images(public_x)
    tally = _Tally()
    if settings.reader is not None:
        source = settings.reader
        _check_names_are_said(settings, class_names, source)
        x_N, y_N = _from_reader(settings, folder, public_x, rule, unit_images, tally)
    else:
        path = folder / str(settings.path)
        source = str(path)
        _check_path(path)
        of_images = image_encoding(settings, folder)
        if path.is_dir() and of_images is not None:
            pixel_N, y_N = _read_images(path, class_folders(path, rule), tally, images.colour, of_images.size)
            rows_N = _encoded_images(of_images, settings, pixel_N, folder, encode_texts, encoders.log_progress)
            x_N, _ = arrays.like_public(rows_N, None, public_x, source)
        elif path.is_dir():
            x_N, y_N = _images(settings, path, public_x, rule, tally)
        elif tables.is_table(path):
            x_N, y_N = _table(settings, path, folder, public_x, rule, tally, encode_texts)
        else:
            _check_names_are_said(settings, class_names, source)
            raw_N, raw_y = read_arrays(path, "x", "y", largest=settings.largest_mb << 20)
            if not raw_N.ndim or raw_y.shape != raw_N.shape[:1]:
                raise DataError(f"Expected as many labels as inputs in {path}, got {raw_y.shape} for {raw_N.shape}.")
            if of_images is not None:
                blank = np.zeros((0, *of_images.shape), np.uint8)
                bytes_N, valid_N = arrays.like_public(raw_N, settings.scale, blank, source)
                y_N = _valid(rule, raw_y, valid_N, _inputs_wanted(blank, False), tally)
                rows_N = _encoded_images(
                    of_images, settings, bytes_N.astype(np.uint8), folder, encode_texts, encoders.log_progress
                )
                x_N, _ = arrays.like_public(rows_N, None, public_x, source)
            else:
                x_N, valid_N = arrays.like_public(raw_N, settings.scale, public_x, source, unit_images=unit_images)
                y_N = _valid(rule, raw_y, valid_N, _inputs_wanted(public_x, unit_images), tally)
    kept = np.flatnonzero(y_N != NO_LABEL)
    names = tuple(class_names) or tuple("/".join(values) for values in rule.names)
    left_out = tally.left_out()
    # An image that cannot be read has no row.
    unread = sum(each.count for each in left_out) - (len(y_N) - len(kept))
    return Found(
        x_N=x_N[kept],
        y_N=y_N[kept],
        all=len(y_N) + unread,
        left_out=left_out,
        unknown=tuple(tally.unknown.most_common()),
        names=names,
        source=source,
    )


def written_labels(settings: RecordSettings, folder: Path) -> Sequence[object] | NDArray[np.generic]:
    """All labels as they are written, for their owner; of images, the names of their folders. Raises DataError or SettingError."""
    _check_source(settings)
    if settings.reader is not None:
        return _read_by(settings.reader, folder)[1]
    path = folder / str(settings.path)
    _check_path(path)
    if path.is_dir():
        return sorted(each.name for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    if tables.is_table(path):
        return read_table(settings, path).texts(settings.label)
    return read_arrays(path, "y", largest=settings.largest_mb << 20)[0]


def shape_of_inputs(settings: RecordSettings, folder: Path) -> tuple[int, ...]:
    """The shape of an input, as settings and headers show it; of a reader, as its first input does. Raises DataError or SettingError."""
    _check_source(settings)
    if settings.reader is not None:
        return next((np.shape(each) for each in _read_by(settings.reader, folder)[0]), ())  # type: ignore[arg-type]
    path = folder / str(settings.path)
    _check_path(path)
    of_images = image_encoding(settings, folder)
    if of_images is not None:
        return (of_images.dimensions,)
    if path.is_dir():
        return settings.image_size
    if tables.is_table(path):
        encoding = read_encoding(settings, path, folder)
        return (len(settings.columns) if encoding is None else encoding.dimensions,)
    return read_headers(path, "x", largest=settings.largest_mb << 20)[0].shape[1:]


def public_encoder(settings: RecordSettings, folder: Path) -> EncoderEncoding | ImageEncoding | None:
    """The encoding if records go through a public encoder here, or None; reads no record. Raises DataError."""
    if settings.encoding is None or settings.path is None or not tables.is_table(Path(settings.path)):
        return image_encoding(settings, folder)
    encoding = encodings.load(folder / settings.encoding)
    return encoding if isinstance(encoding, EncoderEncoding) else None


def image_encoding(settings: RecordSettings, folder: Path) -> ImageEncoding | None:
    """The encoding if records are images for a public encoder: a folder of them, or an array (N, H, W, C); else None. Raises DataError."""
    if settings.encoding is None or settings.path is None:
        return None
    path = folder / settings.path
    if tables.is_table(path) or not path.exists():
        return None
    if not path.is_dir() and len(read_array_headers(settings, path)[0].shape) != 4:
        return None
    encoding = encodings.load(folder / settings.encoding)
    return encoding if isinstance(encoding, ImageEncoding) else None


def encode(settings: RecordSettings, folder: Path, progress: Progress = encoders.log_progress) -> int:
    """Put records through the public encoder, cache the rows and return their number; an image that cannot be read is left out.

    Raises: SettingError if there is no encoder.
    """
    encoding, path = public_encoder(settings, folder), folder / str(settings.path)
    if encoding is None:
        raise SettingError("Expected records.encoding to name a public encoder, of a table or of images, found none.")
    if isinstance(encoding, EncoderEncoding):
        return len(_encoded(encoding, settings, read_table(settings, path), folder, progress))
    if path.is_dir():
        folders = [(each, 0) for each in sorted(path.iterdir()) if each.is_dir() and not each.name.startswith(".")]
        pixel_N, _ = _read_images(path, folders, _Tally(), images.colour, encoding.size)
    else:
        (raw_N,) = read_arrays(path, "x", largest=settings.largest_mb << 20)
        blank = np.zeros((0, *encoding.shape), np.uint8)
        pixel_N = arrays.like_public(raw_N, settings.scale, blank, str(path))[0].astype(np.uint8)
    return len(_encoded_images(encoding, settings, pixel_N, folder, True, progress))


def read_dialect(settings: RecordSettings, path: Path) -> Dialect:
    """How a table is written, by its header and by what the settings say; no record is read. Raises DataError or SettingError."""
    return tables.read_dialect(
        path,
        delimiter=settings.delimiter,
        quote=settings.quote,
        decimal=settings.decimal,
        text_encoding=settings.text_encoding,
    )


def read_table(settings: RecordSettings, path: Path) -> tables.Table:
    """The table with the records. Raises DataError or SettingError."""
    return tables.read(path, dialect=read_dialect(settings, path))


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


def _encoded_images(
    encoding: ImageEncoding,
    settings: RecordSettings,
    pixel_N: NDArray[np.uint8],
    folder: Path,
    encode_them: bool,
    progress: Progress,
) -> NDArray[np.float32]:
    """Rows of images; zeros if they are not to be encoded."""
    if not encode_them:
        return np.zeros((len(pixel_N), encoding.dimensions), np.float32)
    return encoders.encode_images(
        encoding,
        pixel_N,
        encoders.open_encoder(encoding, settings.encoder, folder),
        kept=folder / settings.encoded,
        progress=progress,
    )


def read_encoding(settings: RecordSettings, path: Path, folder: Path) -> TabularEncoding | None:
    """The encoding of a table, or None if its columns are read unchanged. Raises SettingError if the settings name neither."""
    if settings.encoding is not None:
        encoding = encodings.load(folder / settings.encoding)
        if isinstance(encoding, ImageEncoding):
            raise DataError(
                f"Expected an encoding of a table in {folder / settings.encoding}, got one of images, by {encoding.model}."
            )
        return encoding
    if not settings.columns:
        raise SettingError(f"Expected records.encoding or records.columns to read {path}, got neither.")
    return None


def _table(
    settings: RecordSettings,
    path: Path,
    folder: Path,
    public_x: NDArray[np.generic],
    rule: LabelRule,
    tally: _Tally,
    encode_texts: bool,
) -> Arrays:
    table, encoding = read_table(settings, path), read_encoding(settings, path, folder)
    if encoding is None:
        raw_N: NDArray[np.generic] = np.stack([table.numbers(name) for name in settings.columns], 1)
    elif isinstance(encoding, EncoderEncoding) and not encode_texts:
        raw_N = np.zeros((len(table), encoding.dimensions), np.float32)
    elif isinstance(encoding, EncoderEncoding):
        raw_N = _encoded(encoding, settings, table, folder, encoders.log_progress)
    else:
        raw_N = encoding(table)
    # A table's numbers are what its columns say, whatever their range.
    x_N, valid_N = arrays.like_public(raw_N, None, public_x, str(path))
    return x_N, _valid(rule, table.texts(settings.label), valid_N, _inputs_wanted(public_x, False), tally, settings.label)


def _images(settings: RecordSettings, path: Path, public_x: NDArray[np.generic], rule: LabelRule, tally: _Tally) -> Arrays:
    """Grey images from the folder of every class, scaled to one size. They are bytes, whatever the public inputs are."""
    grey_N, y_N = _read_images(path, class_folders(path, rule), tally, images.grey, settings.image_size)
    x_N, _ = arrays.like_public(grey_N, "bytes", public_x, str(path))
    return x_N, y_N


def _read_images(
    path: Path,
    folders: Iterable[tuple[Path, int]],
    tally: _Tally,
    decode: Callable[[bytes, int, int], NDArray[np.uint8]],
    size: tuple[int, int],
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images from the folders of classes, as `decode` makes them of a file's bytes, and their labels."""
    pixels, found = [], []
    for each, label in folders:
        for file in images.files(each):
            try:
                pixels.append(decode(images.contents(file), *size))
            except Exception as error:  # whatever a decoder raises concerns this record alone
                tally.add("an image", f"{images.why_unread(error)} in {str(file.relative_to(path))!r}")
                continue
            found.append(label)
    colours = () if decode is images.grey else (3,)
    pixel_N = np.stack(pixels) if pixels else np.zeros((0, *size, *colours), np.uint8)
    return pixel_N, np.array(found, np.int64)


Sequences = list[object] | NDArray[np.generic]


def _read_by(reference: str, folder: Path) -> tuple[Sequences, Sequences]:
    """What a reader returns, as many labels as inputs. Raises DataError."""
    reader: Callable[[Path], tuple[Iterable[object], Iterable[object]]] = load_function(reference, folder, expected=READER)
    try:
        given, given_labels = reader(folder)
        inputs = given if isinstance(given, np.ndarray) else list(given)
        found = given_labels if isinstance(given_labels, np.ndarray) else list(given_labels)
        unequal = len(inputs) != len(found)
    except Exception as error:
        raise DataError(f"Expected inputs and labels from {reference}: {type(error).__name__}: {error}.") from error
    if unequal or getattr(found, "ndim", 1) != 1:
        raise DataError(f"Expected as many labels as inputs from {reference}, got {len(found)} for {len(inputs)}.")
    return inputs, found


def _from_reader(
    settings: RecordSettings,
    folder: Path,
    public_x: NDArray[np.generic],
    rule: LabelRule,
    unit_images: bool,
    tally: _Tally,
) -> Arrays:
    """What a site's own reader returns: arrays, or any sequences, each element of which is then a record."""
    reference = str(settings.reader)
    inputs, found = _read_by(reference, folder)
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind != "O":
        if inputs.dtype.kind not in KINDS:
            raise DataError(f"Expected inputs of numbers from {reference}, got {inputs.dtype}.")
        x_N, valid_N = arrays.like_public(inputs, settings.scale, public_x, reference, unit_images=unit_images)
    else:
        x_N, valid_N = arrays.like_public_one_by_one(inputs, settings.scale, public_x, unit_images=unit_images)
    return x_N, _valid(rule, found, valid_N, _inputs_wanted(public_x, unit_images), tally)


def _valid(
    rule: LabelRule,
    found: Sequence[object] | NDArray[np.generic],
    valid_N: NDArray[np.bool_],
    wanted: str,
    tally: _Tally,
    column: str | None = None,
) -> NDArray[np.int64]:
    """The label of each record, NO_LABEL where it or the input is invalid; counts those. column: of a table, where the labels are."""
    label_N = rule.all(found, NO_LABEL)
    where = f"{rule} in column {column!r}" if column is not None else f"{rule} as label"
    for row in np.flatnonzero((label_N == NO_LABEL) | ~valid_N).tolist():
        if valid_N[row]:
            label = _short(found[row])
            tally.add(where, f"{label} in row {row + 1}")
            if len(tally.unknown) < MOST_UNKNOWN or label in tally.unknown:
                tally.unknown[label] += 1
        else:
            tally.add(wanted, f"another in row {row + 1}")
    return np.where(valid_N, label_N, NO_LABEL)


def _short(value: object) -> str:
    """A label as a message shows it; an object of a reader's own may fail at that."""
    try:
        return f"{value.item() if isinstance(value, np.generic) else value!r:.60}"
    except Exception:
        return f"something of type {type(value).__name__}"


def _inputs_wanted(public_x: NDArray[np.generic], unit_images: bool) -> str:
    """What an input must be, for messages."""
    if public_x.dtype == np.uint8:
        return 'inputs of whole numbers from 0 to 255 like the transfer set\'s (scale = "unit" under [records] if yours are from 0 to 1)'
    scale = "from 0 to 1, or from 0 to 255, " if unit_images else ""
    return f"inputs of shape {public_x.shape[1:]}, of numbers {scale}like the transfer set's"
