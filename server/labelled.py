"""Labelled public inputs, on which a student is calibrated.

Shape legend: N inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.inputs import tables
from limbeck.inputs.labels import label_rule
from limbeck.inputs.transfer_set import digest, read_arrays
from limbeck.server import predicting
from limbeck.server.card import Card
from limbeck.server.exported import Student

# Where the run's public inputs may be, relative to the folder of its student.
PLACES = ("../transfer", "../../transfer", "../../transfer-sets")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """x_N, y_N: inputs as the student takes them, and their classes. left_out: inputs without a class, or that cannot be used.

    held_out: whether the student has learnt from other inputs than these. what: these inputs, in words.
    """

    x_N: NDArray[np.generic]
    y_N: NDArray[np.int64]
    left_out: int
    held_out: bool
    what: str


def read(
    student: Student, card: Card, path: Path, *, label: str | None, transfer: Path | None, encoder: str | None
) -> Labelled:
    """The labelled inputs in a table, or in an NPZ file with arrays x and y, or with y alone for the run's own public inputs.

    Raises: DataError or SettingError.
    """
    if tables.is_table(path):
        if label is None:
            raise SettingError(f"Expected --label, the column of labels in {path}, got none.")
        cells = predicting.read_table(path)[0].texts(label)
        source = predicting.open_inputs(student, [path], encoder=encoder)
        y_N = _classes(cells, card, path)
        return _labelled(predicting.read_all(source), y_N, held_out=True, what=_of_their_own(path))
    (labels_N,) = read_arrays(path, "y")
    if labels_N.ndim != 1:
        raise DataError(f"Expected one label for each input as y in {path}, got shape {labels_N.shape}.")
    own = _holds(path, "x")
    source = predicting.open_inputs(student, [path if own else _transfer_set(student, card, transfer)])
    if len(labels_N) != source.count:
        raise DataError(f"Expected a label for each of {source.count} inputs as y in {path}, got {len(labels_N)}.")
    what = _of_their_own(path) if own else "the run's own public inputs"
    return _labelled(predicting.read_all(source), _classes(labels_N, card, path), held_out=own, what=what)


def _classes(labels: Sequence[object] | NDArray[np.generic], card: Card, path: Path) -> NDArray[np.int64]:
    """The class of each label, by the one rule for labels; -1 where it is none. Raises DataError if none is one."""
    y_N = label_rule(None, card.class_names, len(card.class_names)).all(labels, -1)
    if len(y_N) and not (y_N >= 0).any():
        raise DataError(
            f"Expected labels out of {', '.join(card.class_names)} in {path}, got others, such as {labels[0]!r}."
        )
    return y_N


def _of_their_own(path: Path) -> str:
    return f"public inputs of their own ({path.name})"


def _labelled(read: predicting.Batch, y_N: NDArray[np.int64], *, held_out: bool, what: str) -> Labelled:
    valid_N = np.array([index not in read.errors for index in range(len(y_N))], np.bool_)
    known_N = valid_N & (y_N >= 0)
    return Labelled(
        x_N=read.rows[known_N[valid_N]],
        y_N=y_N[known_N],
        left_out=int((~known_N).sum()),
        held_out=held_out,
        what=what,
    )


def _holds(path: Path, array: str) -> bool:
    with ZipFile(path) as archive:
        return f"{array}.npy" in archive.namelist()


def _transfer_set(student: Student, card: Card, given: Path | None) -> Path:
    """The file of the run's public inputs, by its hash."""
    name = f"{card.transfer_set}.npz"
    if given is not None:
        file = given / name if given.is_dir() else given
        places = [file]
    else:
        places = [student.path.parent / place / name for place in PLACES]
    file = next((place for place in places if place.is_file()), places[0])
    if not file.is_file():
        raise DataError(
            f"Expected the run's public inputs, to which the labels belong, in {name}, found none: name it or its folder by --transfer."
        )
    (x_N,) = read_arrays(file, "x")
    if digest(x_N).hex() != card.transfer_set:
        raise DataError(f"Expected the public inputs with SHA-256 {card.transfer_set} in {file}, got others.")
    return file
