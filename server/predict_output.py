"""Predictions as a file: CSV or Parquet, written batch by batch and complete or absent.

Columns: "row" or "file"; those of the inputs that are kept; "predicted", the name of a class; "p_CLASS", the probability of each class;
"error", empty where there is none.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import SettingError
from limbeck.server.exported import Student
from limbeck.server.predicting import Batch, Source

STANDARD = Path("-")
PARQUET = (".parquet", ".pq")
# Significant digits of a probability as text: those of float32.
DIGITS = 7

Write = Callable[[Batch, NDArray[np.float32]], None]


def columns(student: Student, source: Source) -> tuple[str, ...]:
    """The names of the columns. Raises SettingError if one that is kept has the name of another."""
    own = (source.what, "predicted", *(f"p_{name}" for name in student.class_names), "error")
    for name in source.kept:
        if name in own or source.kept.count(name) > 1:
            raise SettingError(
                f"Expected columns to keep with names of their own, got {name!r}, which the output has already."
            )
    return (source.what, *source.kept, *own[1:])


def check(out: Path, *, force: bool) -> None:
    """Raise SettingError if the file must not, or cannot, be written."""
    if out == STANDARD:
        return
    if out.exists() and not force:
        raise SettingError(f"Expected no file at {out} yet, found one; it was left as it is. --force replaces it.")
    if not out.parent.is_dir():
        raise SettingError(f"Expected a folder {out.parent} for {out.name}, found none.")
    if out.suffix.lower() in PARQUET:
        _parquet()


@contextmanager
def writer(out: Path, student: Student, source: Source) -> Iterator[Write]:
    """Writes batches to `out`, or to standard output for "-". After an error no file is left."""
    names = columns(student, source)
    if out == STANDARD:
        yield _csv(sys.stdout, names, student)
        sys.stdout.flush()
        return
    descriptor, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    os.close(descriptor)
    try:
        if out.suffix.lower() in PARQUET:
            with _parquet_writer(Path(temporary), names, student, source) as write:
                yield write
        else:
            with Path(temporary).open("w", encoding="utf-8", newline="") as file:
                yield _csv(file, names, student)
        os.replace(temporary, out)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _csv(file: TextIO, names: Sequence[str], student: Student) -> Write:
    out = csv.writer(file, lineterminator="\n")
    out.writerow(names)

    def write(batch: Batch, p_NK: NDArray[np.float32]) -> None:
        for index, name in enumerate(batch.names):
            kept = batch.kept[index] if batch.kept else ()
            why = batch.errors.get(index)
            if why is None:
                best = student.class_names[int(p_NK[index].argmax())]
                cells = [best, *(f"{p:.{DIGITS}g}" for p in p_NK[index].tolist()), ""]
            else:
                cells = ["", *[""] * student.classes, why]
            out.writerow([name, *kept, *cells])

    return write


@contextmanager
def _parquet_writer(path: Path, names: Sequence[str], student: Student, source: Source) -> Iterator[Write]:
    arrow, parquet = _parquet()
    numbers = source.what == "row"
    kinds = [arrow.int64() if numbers else arrow.string(), *[arrow.string()] * (len(source.kept) + 1)]
    kinds += [*[arrow.float32()] * student.classes, arrow.string()]
    schema = arrow.schema(list(zip(names, kinds, strict=True)))
    with parquet.ParquetWriter(path, schema) as out:

        def write(batch: Batch, p_NK: NDArray[np.float32]) -> None:
            valid_N = [index not in batch.errors for index in range(len(batch.names))]
            best = [student.class_names[int(p_NK[index].argmax())] if valid else None for index, valid in enumerate(valid_N)]
            columns = [
                [int(name) for name in batch.names] if numbers else list(batch.names),
                *([row[place] for row in batch.kept] for place in range(len(source.kept))),
                best,
                *([float(p) if valid else None for p, valid in zip(p_N, valid_N, strict=True)] for p_N in p_NK.T),
                [batch.errors.get(index) for index in range(len(batch.names))],
            ]
            out.write_table(arrow.Table.from_pydict(dict(zip(names, columns, strict=True)), schema=schema))

        yield write


def _parquet() -> tuple[Any, Any]:  # pyarrow has no types
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise SettingError(
            "Expected the package pyarrow to write Parquet; install it with: pip install limbeck[parquet]"
        ) from error
    return pyarrow, parquet
