"""The finished student for whoever uses it: the ONNX file that `export` writes, run by onnxruntime; torch is not needed.

Shape legend: N inputs, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limbeck.base.errors import DataError, RunError, SettingError
from limbeck.inputs.sessions import open_session

ONNX = "student.onnx"
# Where the file is within a folder: of a student, of a coordinator's run, of a simulation.
PLACES = (ONNX, f"student/{ONNX}", f"server/student/{ONNX}")
# Inputs at once, so that the memory for activations is bounded.
BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A trained student.

    - path: the file its weights come from.
    - input_shape: the shape of one input, such as (28, 28) for grey images of 28 x 28 pixels.
    - classes: the number K of classes.
    """

    path: Path
    input_shape: tuple[int, ...]
    classes: int
    forward: Callable[[NDArray[np.float32]], NDArray[np.float32]] = field(repr=False, compare=False)
    """(N, *input_shape) float32 in, (N, K) probabilities out, for at most `BATCH` inputs."""

    def predict(self, inputs: ArrayLike) -> NDArray[np.float32]:
        """Probabilities (N, K) of N inputs; each row sums to 1.

        - inputs: (N, *input_shape) numbers, scaled as the public inputs of the run were. Bytes (uint8) become [0, 1].

        Raises: DataError if the inputs have another shape, are not real numbers, or are not all finite.
        """
        try:
            x_N = np.asarray(inputs)
        except ValueError as error:
            raise DataError(f"Expected inputs as an array (N, {self._sides}) of numbers: {error}.") from error
        if x_N.dtype.kind not in "buif" or x_N.shape[1:] != self.input_shape or not x_N.ndim:
            raise DataError(f"Expected inputs (N, {self._sides}) of numbers, got {x_N.shape} of {x_N.dtype}.")
        with np.errstate(over="ignore"):
            scaled_N = x_N.astype(np.float32)
        if x_N.dtype == np.uint8:
            scaled_N /= 255
        if not np.isfinite(scaled_N).all():
            raise DataError("Expected inputs that are finite as float32, got NaN or infinity among them.")
        parts = [self.forward(scaled_N[at : at + BATCH]) for at in range(0, len(scaled_N), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, self.classes), np.float32)

    @property
    def _sides(self) -> str:
        return ", ".join(map(str, self.input_shape))


def load_student(path: Path | str) -> Student:
    """The finished student of a run.

    - path: a student's ONNX file, its folder, or the folder of the run that made it.

    Raises: RunError if there is none; DataError if the file cannot be read or is not a student.
    """
    file = _locate(Path(path))
    try:
        session = open_session(file.read_bytes())
    except OSError as error:
        raise RunError(f"Expected to read a student in {file}: {error}.") from error
    except Exception as error:  # onnxruntime has a class of its own for each way in which bytes are no model
        raise DataError(f"Expected a student in {file}, got a file that onnxruntime cannot read: {error}.") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shapes = [node.shape[1:] for node in (*inputs, *outputs)]
    if (
        [node.name for node in inputs] != ["inputs"]
        or [node.name for node in outputs] != ["probabilities"]
        or not all(type(side) is int for shape in shapes for side in shape)
        or len(shapes[1]) != 1
    ):
        raise DataError(f"Expected a student in {file}, got an ONNX model with other inputs or outputs.")

    def forward(x_N: NDArray[np.float32]) -> NDArray[np.float32]:
        (p_NK,) = session.run(None, {"inputs": x_N})
        return np.asarray(p_NK, np.float32)

    return Student(path=file, input_shape=tuple(shapes[0]), classes=shapes[1][0], forward=forward)


def _locate(path: Path) -> Path:
    if path.is_dir():
        for place in PLACES:
            if (path / place).is_file():
                return path / place
        raise RunError(f"Expected a finished student in {path}, found none: neither {' nor '.join(PLACES)} is there.")
    if path.suffix != ".onnx":
        raise SettingError(f"Expected a student's folder or its ONNX file, got {str(path)!r}.")
    if not path.is_file():
        raise RunError(f"Expected a student at {path}, found no such file.")
    return path
