"""Labelled inputs on which a coordinator measures its students: `limbeck status --test` and `limbeck watch --test`.

They are public, and no part of the run: nobody trains on them, and nobody is sent them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.base.errors import DataError, LimbeckError
from limbeck.base.printable import printable
from limbeck.inputs.labels import in_words, label_rule
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans.schema import Plan
from limbeck.server import checkpoint, distil, scores, student
from limbeck.server.scores import Labels, Scores

# Labels or names of classes that a message shows.
NAMED = 10
# Of a label that is of no class.
NO_CLASS = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """Labelled inputs. majority: the scores of knowing nothing but how frequent each class is. note: what is odd about them, or empty."""

    majority: Scores
    note: str


class TestData:
    """Public labelled inputs on which students are measured: an NPZ file with x (N, ...) and y (N,). Nothing else is done with them.

    Labels are matched to the plan's classes by the one rule for labels, `limbeck.inputs.labels`: names, or whole numbers from 0 on if the
    plan only counts its classes. With an array `classes`, y are whole numbers, and `classes` has the label of each.

    Raises: DataError if the file has none.
    """

    __test__ = False

    def __init__(self, path: Path) -> None:
        self._path = path
        x_N, self._labels = read_arrays(path, "x", "y")
        if not len(x_N) or self._labels.shape != (len(x_N),):
            raise DataError(
                f"Expected inputs x (N, ...) and labels y (N,) in {path}, got {x_N.shape} and {self._labels.shape}."
            )
        self._x = torch.from_numpy(x_N)
        self._classes = _optional(path, "classes")
        if self._classes is not None and (self._classes.ndim != 1 or self._labels.dtype.kind not in "iu"):
            raise DataError(
                f"Expected whole numbers y and the label of each in classes (K,) in {path}, got {self._labels.dtype} and"
                f" {self._classes.shape}."
            )
        self._matched: dict[tuple[tuple[str, ...], int], Labels] = {}
        self._known: dict[tuple[str, int], Scores] = {}

    def scores(self, folder: Path, plan: Plan, stage: int) -> Scores | None:
        """The scores of a stage's student; None if its checkpoint cannot be read. Measured once per checkpoint.

        Raises: DataError if labels are not those of the plan's classes.
        """
        path = checkpoint.path_of(folder / "checkpoints", stage)
        try:
            key = (str(path), path.stat().st_mtime_ns)
        except OSError:
            return None
        if key not in self._known:
            labels_N = self.labels(plan)
            stored = checkpoint.load(path)
            if stored is None:
                return None
            try:
                model = student.build(plan.student.architecture, tuple(self._x.shape[1:]), plan.classes, plan.public_seed)
                model.load_state_dict(stored.weights)
            except (LimbeckError, RuntimeError) as error:
                shape = ("N", *self._x.shape[1:])
                raise DataError(
                    f"Expected inputs x of the plan's shape in {self._path}, got ({', '.join(map(str, shape))})."
                ) from error
            self._known[key] = scores.score(distil.predict(model, self._x).numpy(), labels_N, plan.class_names)
        return self._known[key]

    def tested(self, plan: Plan) -> Tested:
        """What is known of these inputs without a student. Raises: DataError as `scores` does."""
        labels_N, note = self.labels(plan), ""
        if self._classes is not None:
            rule = label_rule(None, plan.class_names, plan.classes)
            order = [rule(label) for label in self._classes]
            if order != list(range(plan.classes)):
                note = "The file has other classes than the plan, or another order of them: they were matched by name."
        return Tested(majority=scores.majority(labels_N, plan.classes, plan.class_names), note=note)

    def labels(self, plan: Plan) -> Labels:
        """The plan's class of each input. Raises: DataError naming the first labels that are of none."""
        key = (plan.class_names, plan.classes)
        if key not in self._matched:
            self._matched[key] = self._match(plan)
        return self._matched[key]

    def _match(self, plan: Plan) -> Labels:
        rule = label_rule(None, plan.class_names, plan.classes)
        cells: NDArray[np.generic] = self._labels
        if self._classes is not None:
            first, last = int(cells.min()), int(cells.max())
            if not 0 <= first <= last < len(self._classes):
                raise DataError(
                    f"Expected y from 0 to {len(self._classes) - 1} in {self._path}, for as many classes, got {first} to {last}."
                )
            cells = self._classes[cells.astype(np.int64)]
        elif cells.dtype.kind in "iuf" and in_words(plan.class_names):
            # Whether 0 is the plan's first class cannot be seen in numbers; another order would be a student that looks bad.
            raise DataError(
                f"Expected labels by the plan's names, {rule}, as y in {self._path}, got numbers. If they count the classes, say in"
                f" which order: numpy.savez(..., classes=[{', '.join(map(repr, plan.class_names[:NAMED]))}"
                f"{', ...' if len(plan.class_names) > NAMED else ''}])."
            )
        found_N = rule.all(cells, NO_CLASS)
        if (found_N == NO_CLASS).any():
            unknown = [printable(str(cell)) for cell in np.unique(cells[found_N == NO_CLASS])]
            counted = "" if in_words(plan.class_names) else _counted_from_1(cells, plan)
            raise DataError(
                f"Expected labels of the plan's classes, {rule}, in {self._path}, got {', '.join(map(repr, unknown[:NAMED]))}"
                f"{', ...' if len(unknown) > NAMED else ''} in {int((found_N == NO_CLASS).sum())} of {len(found_N)} inputs.{counted}"
            )
        return found_N


def _counted_from_1(cells: NDArray[np.generic], plan: Plan) -> str:
    """A hint for labels 1 to K, which are also those of a plan with one class more."""
    numbers = cells.dtype.kind in "iuf" and cells.min() == 1 and cells.max() == plan.classes
    return f" Labels 1 to {plan.classes} begin at 1: subtract 1 from them." if numbers else ""


def _optional(path: Path, name: str) -> NDArray[np.generic] | None:
    """An array that a file may lack."""
    with ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            return None
    (found,) = read_arrays(path, name)
    return found
