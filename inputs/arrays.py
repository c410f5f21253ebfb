"""Arrays of inputs: their scale and the order of their axes, the same for sites, the coordinator and whoever uses the student.

One rule holds for whoever brings records to the form of public inputs: what becomes of a record depends on that record and on the public
inputs alone, whatever array it comes in. Torch is not needed here, so that a student can be used without it.

Shape legend: N samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError
from limbeck.inputs import tables
from limbeck.inputs.transfer_set import KINDS

# Inputs whose type is converted at a time.
CHUNK = 4096
Scale = Literal["bytes", "unit"]
# By how much of white an image's numbers may lie outside its scale, as those of resized images do.
OVERSHOOT = 0.25


def unit_scale(x_N: NDArray[np.generic]) -> NDArray[np.float32]:
    """Bytes become [0, 1]; other numbers stay, as float32. A number too large for it becomes infinite."""
    scale = np.float32(255 if x_N.dtype == np.uint8 else 1)
    with np.errstate(over="ignore"):
        return (x_N.astype(np.float32) / scale).astype(np.float32)


def check_shape(shape: Sequence[int], public_x: NDArray[np.generic], what: str) -> None:
    if tuple(shape) != public_x.shape[1:]:
        raise DataError(
            f"Expected inputs of shape {public_x.shape[1:]} like the transfer set's, got {tuple(shape)} by {what}."
        )


def holds_unit_images(public_x: NDArray[np.generic]) -> bool:
    """Whether public inputs are images of numbers from 0 to 1, where no plan says what they are."""
    return bool(
        public_x.ndim >= 3 and public_x.dtype.kind == "f" and public_x.size and public_x.min() >= 0 and public_x.max() <= 1
    )


def like_public(
    x_N: NDArray[np.generic], scale: Scale | None, public_x: NDArray[np.generic], source: str, *, unit_images: bool = False
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """The inputs as numbers like the public ones, and which of them are valid, (n,).

    If the public inputs are bytes, an input is valid if it consists of whole numbers from 0 to 255. If they are images of numbers from 0 to
    1, an input of such numbers is valid, and so is one of numbers from 0 to 255, which are divided by 255: each image decides for itself.
    Otherwise every input is valid and becomes float32.

    - x_N: any numbers or texts of numbers; what a number means does not depend on the array's type.
    - scale: of the numbers, whatever they are: "bytes" (0 to 255) or "unit" (0 to 1); None for that of the public inputs.
    - source: the origin of the records, for messages.
    - unit_images: whether the public inputs are images of numbers from 0 to 1.

    Raises: DataError if their shape differs from that of the public inputs.
    """
    if not len(x_N):
        return np.zeros((0, *public_x.shape[1:]), dtype_like(public_x)), np.zeros(0, np.bool_)
    check_shape(x_N.shape[1:], public_x, source)
    guessed = unit_images and scale is None
    if x_N.dtype == dtype_like(public_x) and scale != ("unit" if x_N.dtype == np.uint8 else "bytes") and not guessed:
        return x_N, np.ones(len(x_N), np.bool_)
    converted_N, valid_N = np.zeros(x_N.shape, dtype_like(public_x)), np.zeros(len(x_N), np.bool_)
    for first in range(0, len(x_N), CHUNK):
        rows = slice(first, first + CHUNK)
        converted_N[rows], valid_N[rows] = _converted(numbers(x_N[rows]), scale, public_x.dtype == np.uint8, guessed)
    return converted_N, valid_N


def dtype_like(public_x: NDArray[np.generic]) -> type[np.uint8] | type[np.float32]:
    return np.uint8 if public_x.dtype == np.uint8 else np.float32


def _converted(
    value_N: NDArray[np.float64], scale: Scale | None, to_bytes: bool, guessed: bool
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """The numbers as the public inputs have them, and which records are valid; each number is converted by itself."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not to_bytes:
            # As features do with public bytes, to the last bit.
            float_N = value_N.astype(np.float32)
            if guessed:
                return _unit_images(float_N)
            return (float_N / np.float32(255) if scale == "bytes" else float_N), np.ones(len(value_N), np.bool_)
        whole_N = np.rint(value_N * 255) if scale == "unit" else value_N
        is_byte_N = (whole_N >= 0) & (whole_N <= 255) & (whole_N == np.rint(whole_N))
        valid_N = is_byte_N.reshape(len(value_N), -1).all(1)
        return np.where(is_byte_N, whole_N, 0).astype(np.uint8), valid_N


def _unit_images(float_N: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Images from 0 to 1, or from 0 to 255 and then divided, each by its own least and greatest number; a resized one may exceed both."""
    if not float_N.size:
        return float_N, np.ones(len(float_N), np.bool_)
    pixel_NP = float_N.reshape(len(float_N), -1)
    low_N, high_N = pixel_NP.min(1), pixel_NP.max(1)
    is_unit_N, is_bytes_N = (
        (low_N >= -OVERSHOOT * white) & (high_N <= (1 + OVERSHOOT) * white) for white in (np.float32(1), np.float32(255))
    )
    divisor_N = np.where(is_unit_N, 1, 255).astype(np.float32).reshape(-1, *[1] * (float_N.ndim - 1))
    return (float_N / divisor_N).astype(np.float32), is_unit_N | is_bytes_N


def numbers(x_N: NDArray[np.generic]) -> NDArray[np.float64]:
    """The numbers as float64, which holds the values of any smaller type: an array's type is that of its largest record."""
    with np.errstate(over="ignore", invalid="ignore"):
        if x_N.dtype.kind == "c":
            return np.where(x_N.imag == 0, x_N.real, np.nan).astype(np.float64)
        if x_N.dtype.kind in "US":
            return np.array([_number(cell) for cell in x_N.ravel()], np.float64).reshape(x_N.shape)
        return x_N.astype(np.float64)


def _number(cell: object) -> float:
    text = to_text(cell)
    with suppress(ValueError):
        return tables.to_number(text)
    with suppress(ValueError):
        number = complex(text)
        return number.real if number.imag == 0 else np.nan
    return np.nan


def to_text(cell: object) -> str:
    return cell.decode("utf-8", errors="replace") if isinstance(cell, bytes) else str(cell)


def like_public_one_by_one(
    inputs: Iterable[object], scale: Scale | None, public_x: NDArray[np.generic], *, unit_images: bool = False
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """The same for records in a list or an array of objects, where one of another shape or kind forms no array with the rest."""
    values, valid = [], []
    for each in inputs:
        value = np.zeros(public_x.shape[1:], dtype_like(public_x))
        is_valid = False
        # Whatever an object that is not a record may raise.
        with suppress(Exception):
            raw_1 = np.asarray(each)[None]
            if raw_1.dtype.kind in KINDS and raw_1.shape[1:] == value.shape:
                x_1, valid_1 = _converted(numbers(raw_1), scale, public_x.dtype == np.uint8, unit_images and scale is None)
                value, is_valid = np.asarray(x_1[0], value.dtype), bool(valid_1[0])
        values.append(value)
        valid.append(is_valid)
    if not values:
        return np.zeros((0, *public_x.shape[1:]), dtype_like(public_x)), np.zeros(0, np.bool_)
    return np.stack(values), np.array(valid, np.bool_)
