"""The finished student for whoever uses it: the ONNX file that `export` writes, run by onnxruntime; torch is not needed.

Shape legend: N inputs, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limbeck.base.errors import DataError, RunError, SettingError
from limbeck.inputs.sessions import open_session
from limbeck.server import card as cards
from limbeck.server.card import Card, Epsilon, InputKind

if TYPE_CHECKING:
    from limbeck.server.predicting import Prediction

ONNX, ENCODING = "student.onnx", "encoding.json"
# The key of its metadata under which an ONNX file carries the card.
CARD = "limbeck_card"
# Where the file is within a folder: of a student, of a coordinator's or a finished simulation's run, of a simulation's coordinator.
PLACES = (ONNX, f"student/{ONNX}", f"server/student/{ONNX}")
# Inputs at once, so that the memory for activations is bounded.
BATCH = 1024
# How far beyond the range of the public inputs a number may be, in widths of that range, before it is taken for one on another scale; and
# the bounds of rows that an encoding makes, which are standardised and clipped.
BEYOND = 10.0
ENCODED = 6.0

Inputs = NDArray[np.uint8] | NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A trained student.

    - path: the file its weights come from.
    - input_shape: the shape of one input, such as (28, 28) for grey images of 28 x 28 pixels.
    - classes: the number K of classes.
    - class_names: of the K classes, in the order of the probabilities; "0", "1" ... if the student does not know them.
    - input_kind: "bytes" (whole numbers from 0 to 255), "unit" (numbers from 0 to 1) or "numbers" (any, such as the rows of an encoding);
      None for a student of limbeck 0.1.0, which does not say.
    - card: all that is known of the student; None for one of limbeck 0.1.0.
    """

    path: Path
    input_shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...]
    input_kind: InputKind | None
    card: Card | None = field(repr=False)
    forward: Callable[[Inputs], NDArray[np.float32]] = field(repr=False, compare=False)
    """(N, *input_shape) in, as bytes if that is their kind and else as float32; (N, K) probabilities out; at most `BATCH` inputs."""

    def predict(self, inputs: ArrayLike) -> NDArray[np.float32]:
        """Probabilities (N, K) of N inputs; each row sums to 1.

        - inputs: (N, *input_shape) numbers. A student of bytes, or of numbers from 0 to 1, takes whole numbers from 0 to 255, of any type,
          and floats from 0 to 1 in place of them; another one takes numbers on the scale of its public inputs, as they are.

        Raises: DataError if the inputs have another shape, are not finite real numbers, or are on another scale, as far as that shows.
        """
        prepared_N = self.prepare(inputs)
        parts = [self.forward(prepared_N[at : at + BATCH]) for at in range(0, len(prepared_N), BATCH)]
        return np.concatenate(parts) if parts else np.empty((0, self.classes), np.float32)

    def predict_file(self, path: Path | str) -> Prediction:
        """Probabilities of all inputs in a table, an NPZ file, a folder of images or an image, with the names of rows or files.

        Raises: DataError if the file as a whole is none that this student can take; what is wrong with a single row is in the result.
        """
        from limbeck.server.predicting import predict_file

        return predict_file(self, Path(path))

    @property
    def plan_hash(self) -> str | None:
        """SHA-256 of the plan by which it was made, in hexadecimal; None for a student of limbeck 0.1.0."""
        return self.card.plan_hash if self.card is not None else None

    @property
    def epsilon(self) -> Epsilon | None:
        """The most that it can have cost a record of any site that answered, as the plan claims; None for a student of limbeck 0.1.0."""
        return self.card.epsilon if self.card is not None else None

    def prepare(self, inputs: ArrayLike) -> Inputs:
        """Inputs as `forward` takes them. Raises: as `predict` does."""
        try:
            x_N = np.asarray(inputs)
        except ValueError as error:
            raise DataError(f"Expected inputs as an array (N, {self._sides}) of numbers: {error}.") from error
        if x_N.dtype.kind not in "buif" or x_N.shape[1:] != self.input_shape or not x_N.ndim:
            raise DataError(f"Expected inputs (N, {self._sides}) of numbers, got {x_N.shape} of {x_N.dtype}.")
        if self.input_kind == "bytes":
            return _bytes(x_N)
        # A student of 0.1.0 does not say what it takes: bytes were scaled for it.
        are_bytes = x_N.dtype == np.uint8 and self.input_kind is None
        if are_bytes or (self.input_kind == "unit" and x_N.dtype.kind in "iu" and len(self.input_shape) > 1):
            return _bytes(x_N).astype(np.float32) / np.float32(255)
        with np.errstate(over="ignore"):
            float_N = x_N.astype(np.float32)
        if not np.isfinite(float_N).all():
            raise DataError("Expected inputs that are finite as float32, got NaN or infinity among them.")
        if self.card is not None and float_N.size:
            _check_scale(float_N, self.card)
        return float_N

    @property
    def _sides(self) -> str:
        return ", ".join(map(str, self.input_shape))


def _check_scale(x_N: NDArray[np.float32], card: Card) -> None:
    """Raises DataError for numbers that are plainly on another scale than the public inputs."""
    low, high, known = float(x_N.min()), float(x_N.max()), card.inputs
    if known.encoding is not None:
        least, most = min(known.low, -ENCODED), max(known.high, ENCODED)
    elif known.kind == "unit":
        least, most = 0.0, 1.0
    else:
        room = BEYOND * max(known.high - known.low, 1.0)
        least, most = known.low - room, known.high + room
    if not least <= low <= high <= most:
        raise DataError(
            f"Expected numbers like those of the public inputs, from {known.low:g} to {known.high:g}, got {low:g} to {high:g}: they are on"
            " another scale."
        )


def _bytes(x_N: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Inputs as bytes; floats and truth values from 0 to 1 become 0 to 255. Raises DataError where it is not plain which they are."""
    if x_N.dtype == np.uint8 or not x_N.size:
        return x_N.astype(np.uint8)
    low, high = x_N.min(), x_N.max()
    if x_N.dtype.kind in "iu":
        if not (low >= 0 and high <= 255):
            raise DataError(f"Expected bytes from 0 to 255, got whole numbers from {low} to {high}.")
        if high == 1:
            raise DataError(
                "Expected bytes from 0 to 255, got whole numbers that are all 0 or 1: give them as uint8 if they are bytes, as floats if 1"
                " is white."
            )
        return x_N.astype(np.uint8)
    if not np.isfinite(x_N).all():
        raise DataError("Expected inputs that are finite, got NaN or infinity among them.")
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"Expected bytes (uint8), whole numbers from 0 to 255 or floats from 0 to 1, got floats from {low:g} to {high:g}: bytes that"
            " were read as floats are given by x.astype(numpy.uint8)."
        )
    return np.rint(x_N.astype(np.float64) * 255).astype(np.uint8)


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
    shape, classes = tuple(shapes[0]), shapes[1][0]
    card = _card(session.get_modelmeta().custom_metadata_map, file)
    if card is not None and (
        card.inputs.shape != shape
        or len(card.class_names) != classes
        or (card.inputs.kind == "bytes") != (inputs[0].type == "tensor(uint8)")
    ):
        raise DataError(f"Expected a student in {file} whose card fits its graph, got another.")

    def forward(x_N: Inputs) -> NDArray[np.float32]:
        (p_NK,) = session.run(None, {"inputs": x_N})
        return np.asarray(p_NK, np.float32)

    return Student(
        path=file,
        input_shape=shape,
        classes=classes,
        class_names=card.class_names if card is not None else tuple(map(str, range(classes))),
        input_kind=card.inputs.kind if card is not None else None,
        card=card,
        forward=forward,
    )


def _card(metadata: dict[str, str], file: Path) -> Card | None:
    if CARD not in metadata:
        return None
    try:
        return cards.read(metadata[CARD])
    except DataError as error:
        raise DataError(f"Expected a student in {file}: {error}") from error


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
