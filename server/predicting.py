"""From files to predictions: tables, arrays, images and texts, brought to what a student takes, batch by batch; torch is not needed.

What is wrong with a single row or file is that row's error, and it gets no prediction; what is wrong with all of them (another shape or
scale, a missing column, another encoding) is an error before the first prediction.

Shape legend: N inputs, K classes.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.inputs import dialects, encodings, images, tables
from limbeck.inputs.encodings import EncoderEncoding, Encoding, ImageEncoding, TableEncoding, TabularEncoding
from limbeck.inputs.rows import from_rows
from limbeck.inputs.tables import Table
from limbeck.inputs.transfer_set import read_arrays
from limbeck.server.exported import BATCH, ENCODING, Student

ARRAYS = ".npz"
NO_VALUE = "no value in any column that the encoding reads"
NOT_FINITE = "numbers that are not finite"
# Unknown names that a note shows; the share of values beyond the public ones from which on a note asks for the unit.
SHOWN, MANY = 3, 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction:
    """What a student says of several inputs.

    - names: of the inputs: the number of a row, from 1 on, or the path of a file.
    - probabilities: (N, K), each row with sum 1; NaN where there is an error.
    - class_names: of the K classes.
    - errors: why an input has no prediction, by its index.
    """

    names: tuple[str, ...]
    probabilities: NDArray[np.float32]
    class_names: tuple[str, ...]
    errors: Mapping[int, str]

    @property
    def predicted(self) -> tuple[str | None, ...]:
        """The most probable class of each input by name; None where there is an error."""
        best_N = np.nan_to_num(self.probabilities).argmax(1) if len(self.names) else []
        return tuple(None if index in self.errors else self.class_names[best] for index, best in enumerate(best_N))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Inputs of one batch that are ready. rows: the valid ones, as `Student.forward` takes them. errors: of the others, by index."""

    names: tuple[str, ...]
    rows: NDArray[np.uint8] | NDArray[np.float32]
    errors: Mapping[int, str]
    kept: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """Inputs that are about to be read.

    - what: "row" or "file", what a name is.
    - count: how many there are.
    - batch: reads those in a range.
    - kept: the table's columns that are repeated in the output.
    - notes: what somebody should know who relies on the predictions.
    """

    what: str
    count: int
    batch: Callable[[range], Batch]
    kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def open_inputs(
    student: Student,
    paths: Sequence[Path],
    *,
    encoding: Path | None = None,
    encoder: str | None = None,
    texts: bool = False,
    array: str = "x",
    keep: Sequence[str] = (),
) -> Source:
    """The inputs in files, after a check that this student can take them.

    - paths: one table, one NPZ file, one file of texts, or any number of images and folders of images.
    - encoding: the file of the public encoding, where it is not in the student's folder.
    - encoder: the user's copy of the encoding's public encoder of texts or images, as `records.encoder` of a site.
    - texts: the file holds one text a line.
    - array: the name of the NPZ file's array.
    - keep: columns of a table that are repeated beside the predictions.

    Raises: DataError or SettingError.
    """
    first = paths[0]
    single = len(paths) == 1
    if not all(path.exists() for path in paths):
        raise DataError(f"Expected inputs at {next(path for path in paths if not path.exists())}, found no such file.")
    as_table = single and first.is_file() and (texts or tables.is_table(first))
    if keep and (not as_table or texts):
        raise SettingError(f"Expected a table whose columns can be kept, got {first}.")
    if as_table:
        known = _encoding(student, encoding)
        if isinstance(known, ImageEncoding):
            raise DataError(f"Expected images for {known.model}, by which this student's inputs were made, got {first}.")
        if texts:
            return _table(student, known, _lines(first, _text_column(known)), encoder, keep, ())
        table, notes = read_table(first)
        return _table(student, known, table, encoder, keep, notes)
    is_array = single and first.is_file() and first.suffix.lower() == ARRAYS
    if encoder is not None and isinstance(known := _encoding(student, encoding), ImageEncoding):
        images_in = _colour_array(known, first, array) if is_array else _colour_files(known, paths)
        return _encoded_images(student, known, encoder, *images_in)
    if encoding is not None or encoder is not None:
        raise SettingError(f"Expected a table or texts to encode, got {first}.")
    if is_array:
        return _array(student, first, array)
    if student.card is not None and student.card.inputs.encoding is not None:
        known = _encoding(student, encoding)
        if isinstance(known, ImageEncoding):
            raise DataError(f"Expected --encoder with images for {known.model}, your copy of that encoder, got none.")
    return _images(student, paths)


def predict_batches(student: Student, source: Source) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
    """Batch by batch: what was read, and (N, K) probabilities, NaN where there is an error."""
    for first in range(0, source.count, BATCH):
        batch = source.batch(range(first, min(first + BATCH, source.count)))
        p_NK = np.full((len(batch.names), student.classes), np.nan, np.float32)
        valid = [index for index in range(len(batch.names)) if index not in batch.errors]
        if valid:
            p_NK[valid] = student.forward(batch.rows)
        yield batch, p_NK


def read_all(source: Source) -> Batch:
    """All inputs as one batch."""
    batches = [source.batch(range(first, min(first + BATCH, source.count))) for first in range(0, source.count, BATCH)]
    if not batches:
        raise DataError("Expected inputs, got none.")
    starts = np.cumsum([0, *(len(batch.names) for batch in batches)]).tolist()
    return Batch(
        names=tuple(name for batch in batches for name in batch.names),
        rows=np.concatenate([batch.rows for batch in batches]),
        errors={
            first + index: why for first, batch in zip(starts, batches, strict=False) for index, why in batch.errors.items()
        },
    )


def predict_file(student: Student, path: Path) -> Prediction:
    """All predictions at once. Raises DataError or SettingError."""
    source = open_inputs(student, [path])
    names: list[str] = []
    errors: dict[int, str] = {}
    parts = [np.zeros((0, student.classes), np.float32)]
    for batch, p_NK in predict_batches(student, source):
        errors.update({len(names) + index: why for index, why in batch.errors.items()})
        names.extend(batch.names)
        parts.append(p_NK)
    return Prediction(
        names=tuple(names), probabilities=np.concatenate(parts), class_names=student.class_names, errors=errors
    )


# Tables and texts


def _encoding(student: Student, path: Path | None) -> Encoding:
    """The encoding by which this student's inputs were made. Raises DataError for another one, or where there is none."""
    wanted = student.card.inputs.encoding if student.card is not None else None
    if student.card is not None and wanted is None:
        raise DataError(
            f"Expected an NPZ file with inputs ({', '.join(map(str, student.input_shape))} numbers each) or images: the plan of this"
            " student names no encoding, so that nothing says how a table becomes inputs."
        )
    file = path or student.path.parent / ENCODING
    if not file.is_file():
        raise DataError(
            f"Expected the public encoding of this student{f' (SHA-256 {wanted})' if wanted else ''} at {file}, found none: ask the"
            " coordinator for it, and name it by --encoding."
        )
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if wanted is not None and found != wanted:
        raise DataError(
            f"Expected the encoding with SHA-256 {wanted}, by which this student was made, got {found} in {file}."
        )
    encoding = encodings.load(file)
    if student.input_shape != (encoding.dimensions,):
        raise DataError(
            f"Expected an encoding that makes inputs of shape {student.input_shape}, got {encoding.dimensions} numbers from {file}."
        )
    return encoding


def _text_column(encoding: Encoding) -> str:
    if len(encoding.reads) != 1:
        raise SettingError(
            f"Expected a student of texts, got one that reads the columns {', '.join(encoding.reads)} of a table."
        )
    return encoding.reads[0]


def _lines(path: Path, column: str) -> Table:
    """A file of texts, one a line, UTF-8; an empty line is a missing text."""
    lines = path.read_bytes().decode("utf-8-sig", errors="replace").splitlines()
    return Table(columns={column: [line if line.strip() else None for line in lines]}, source=str(path))


def read_table(path: Path) -> tuple[Table, tuple[str, ...]]:
    """A table of the user's own, each row by itself, in the dialect that its rows show; and a sentence about that dialect."""
    dialect = tables.detect_dialect(path)
    notes = () if dialect == dialects.DEFAULT else (f"{path}: read with {dialect.describe()}.",)
    # Workbooks have no lines that could break.
    return tables.read(path, public=tables.suffix(path) in tables.WORKBOOKS, dialect=dialect), notes


def _table(
    student: Student,
    encoding: TabularEncoding,
    table: Table,
    encoder: str | None,
    keep: Sequence[str],
    notes: tuple[str, ...],
) -> Source:
    tables.require(table.columns, [*encoding.reads, *keep], table.source)
    encode = _encode(encoding, encoder)

    def batch(rows: range) -> Batch:
        part = table.rows(rows)
        x_N = encode(part)
        errors: dict[int, str] = {}
        for index in range(len(part)):
            if all(part.columns[name][index] is None for name in encoding.reads):
                errors[index] = NO_VALUE
            elif not np.isfinite(x_N[index]).all():
                errors[index] = NOT_FINITE
        valid = [index for index in range(len(part)) if index not in errors]
        return Batch(
            names=tuple(str(row + 1) for row in rows),
            rows=student.prepare(x_N[valid]),
            errors=errors,
            kept=tuple(tuple(part.columns[name][index] or "" for name in keep) for index in range(len(part))),
        )

    return Source(what="row", count=len(table), batch=batch, kept=tuple(keep), notes=(*notes, *_unlike(encoding, table)))


def _encode(encoding: TabularEncoding, encoder: str | None) -> Callable[[Table], NDArray[np.float32]]:
    if not isinstance(encoding, EncoderEncoding):
        return encoding
    from limbeck.inputs import encoders

    model, known = encoders.open_encoder(encoding, encoder, Path()), encoding

    def encode(table: Table) -> NDArray[np.float32]:
        # The cache of rows is for records that are read again; here each text is read once.
        with tempfile.TemporaryDirectory() as kept:
            return encoders.encode(known, table.texts(known.column), model, kept=Path(kept))

    return encode


def _unlike(encoding: Encoding, table: Table) -> Iterator[str]:
    """Sentences about columns that look unlike what the encoding saw."""
    for column in encodings.compare(encoding, table) if isinstance(encoding, TableEncoding) else ():
        unknown = sum(rows for _, rows in column.unknown)
        if unknown:
            shown = ", ".join(repr(name) for name, _ in column.unknown[:SHOWN])
            yield (
                f"Column {column.name!r}: {unknown} of {column.rows} values are unknown to the encoding, such as {shown}; they say no more"
                " than a missing value does."
            )
        beyond = column.below + column.above
        if beyond > MANY * column.rows:
            yield (
                f"Column {column.name!r}: {beyond} of {column.rows} values are beyond all public ones, {column.seen[0]:g} to"
                f" {column.seen[-1]:g}; is it the same unit?"
            )


# Arrays


def _array(student: Student, path: Path, name: str) -> Source:
    (x_N,) = read_arrays(path, name)
    encoding = _of_rows(student, x_N)
    if encoding is not None:
        return _table(student, encoding, from_rows(x_N, str(path)), None, (), ())
    finite_N = (
        np.isfinite(x_N).reshape(len(x_N), -1).all(1) if x_N.dtype.kind == "f" and x_N.ndim else np.ones(len(x_N), np.bool_)
    )
    # Whole, because the scale is a property of the file and not of a row.
    prepared_N = student.prepare(x_N[finite_N])
    place_N = np.cumsum(finite_N) - 1

    def batch(rows: range) -> Batch:
        errors = {index: NOT_FINITE for index, row in enumerate(rows) if not finite_N[row]}
        valid = [place_N[row] for row in rows if finite_N[row]]
        return Batch(names=tuple(str(row + 1) for row in rows), rows=prepared_N[valid], errors=errors)

    return Source(what="row", count=len(x_N), batch=batch)


def _of_rows(student: Student, x_N: NDArray[np.generic]) -> TableEncoding | None:
    """The encoding of a student of arrays, if these are rows as they were before it; None if they are inputs as they are."""
    if x_N.ndim != 2 or x_N.shape[1:] == student.input_shape or student.card is None or student.card.inputs.encoding is None:
        return None
    encoding = _encoding(student, None)
    known = {f"x{place}" for place in range(x_N.shape[1])}
    return encoding if isinstance(encoding, TableEncoding) and known.issuperset(encoding.reads) else None


# Images


def _images(student: Student, paths: Sequence[Path]) -> Source:
    if len(student.input_shape) != 2 or student.input_kind == "numbers":
        raise DataError(
            f"Expected inputs that are no images, since this student takes {', '.join(map(str, student.input_shape))} numbers each, got"
            f" {paths[0]}: give it an NPZ file{' or a table' if student.input_kind == 'numbers' else ''}."
        )
    named = _named(paths)
    height, width = student.input_shape

    def batch(rows: range) -> Batch:
        read: list[NDArray[np.uint8]] = []
        errors: dict[int, str] = {}
        for index, (_, path) in enumerate(named[rows.start : rows.stop]):
            try:
                read.append(images.grey(images.contents(path), height, width))
            except Exception as error:  # whatever decoders raise
                errors[index] = _unread(error)
        stacked = np.stack(read) if read else np.zeros((0, height, width), np.uint8)
        return Batch(
            names=tuple(name for name, _ in named[rows.start : rows.stop]), rows=student.prepare(stacked), errors=errors
        )

    return Source(what="file", count=len(named), batch=batch)


def _named(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """The image files that are given or in folders that are given, each with its name in the output. Raises DataError."""
    named = [(str(path), path) for path in paths if path.is_file()]
    for folder in (path for path in paths if path.is_dir()):
        inside = sorted(path for path in folder.rglob("*") if path.suffix.lower() in images.SUFFIXES)
        named += [(str(path.relative_to(folder) if len(paths) == 1 else path), path) for path in inside]
    if not named:
        raise DataError(f"Expected images ({', '.join(sorted(images.SUFFIXES))}) in {paths[0]}, found none.")
    return named


def _unread(error: Exception) -> str:
    unknown = type(error).__name__ == "UnidentifiedImageError"
    return "no image in a known format" if unknown else f"no image that can be read: {error}"


# Images through a public encoder

# What an input is called, its names, and how one is read; reading may raise whatever decoders raise.
ColourImages = tuple[str, Sequence[str], Callable[[int], NDArray[np.uint8]]]


def _colour_files(encoding: ImageEncoding, paths: Sequence[Path]) -> ColourImages:
    named = _named(paths)
    return "file", [name for name, _ in named], lambda row: images.colour(images.contents(named[row][1]), *encoding.size)


def _colour_array(encoding: ImageEncoding, path: Path, name: str) -> ColourImages:
    (x_N,) = read_arrays(path, name)
    if x_N.shape[1:] != encoding.shape or x_N.dtype != np.uint8:
        raise DataError(
            f"Expected bytes of shape (N, {', '.join(map(str, encoding.shape))}) as {name} in {path}, got {x_N.shape} of {x_N.dtype}."
        )
    return "row", [str(row + 1) for row in range(len(x_N))], x_N.__getitem__


def _encoded_images(
    student: Student,
    encoding: ImageEncoding,
    reference: str,
    what: str,
    names: Sequence[str],
    read: Callable[[int], NDArray[np.uint8]],
) -> Source:
    from limbeck.inputs import encoders

    encoder = encoders.open_encoder(encoding, reference, Path())

    def batch(rows: range) -> Batch:
        errors: dict[int, str] = {}
        encoded = [np.zeros((0, encoding.dimensions), np.float32)]
        for index, row in enumerate(rows):
            try:
                encoded.append(np.asarray(encoder(read(row)), np.float32).reshape(1, -1))
            except Exception as error:  # whatever decoders and encoders raise
                errors[index] = _unread(error)
        return Batch(names=tuple(names[row] for row in rows), rows=student.prepare(np.concatenate(encoded)), errors=errors)

    return Source(what=what, count=len(names), batch=batch)
