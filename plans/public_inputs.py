"""What the numbers of public inputs are: how a plan declares them, and the two types of array in which they are published.

The same values mean the same in whatever type of array they come. Images of whole numbers from 0 to 255 are bytes, whether an array of
int64 or of floats holds them; everything else is float32, which is what features, teachers and students calculate with. Rows of whole
numbers stay numbers: a column of ages is no column of pixels.

Shape legend: N public inputs.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import SettingError
from limbeck.plans.schema import InputKind, PublicInputs

# Images of which no pixel is above this are not taken for bytes: sixteen levels of grey, say, would become nearly black.
HALF_OF_WHITE = 127
WHITE = 255
# Inputs that are looked at together.
CHUNK = 4096


def normalised(x_N: NDArray[np.generic]) -> NDArray[np.uint8] | NDArray[np.float32]:
    """The same inputs in the array in which they are published: bytes or float32, in C order.

    Raises SettingError for images from 0 to 255 that are no whole numbers, which nobody could scale without guessing.
    """
    if x_N.dtype == np.uint8 or (are_bytes_of_another_type(x_N) and are_whole(x_N)):
        return np.ascontiguousarray(x_N, dtype=np.uint8)
    if are_bytes_of_another_type(x_N):
        low, high = span(x_N)
        raise SettingError(
            f"Expected images as whole numbers from 0 to 255, or as numbers from 0 to 1, got {x_N.dtype} from {low:g} to {high:g} with"
            " fractions: round them, or divide them by 255."
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x_N, dtype=np.float32)


def declared(x_N: NDArray[np.generic]) -> PublicInputs:
    """What a plan says of such inputs: their kind and their range."""
    low, high = span(x_N)
    if x_N.dtype == np.uint8:
        return PublicInputs(kind=InputKind.BYTES, low=low, high=high)
    return PublicInputs(kind=InputKind.UNIT if low >= 0 and high <= 1 else InputKind.NUMBERS, low=low, high=high)


def span(x_N: NDArray[np.generic]) -> tuple[float, float]:
    """The least and the greatest number, as float32 holds them, and no zero with a sign. NaN if one is among them, and for no numbers at
    all."""
    if not x_N.size:
        return float("nan"), float("nan")
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = (float(end(x_N).astype(np.float32)) for end in (np.min, np.max))
    return low + 0.0, high + 0.0


def are_bytes_of_another_type(x_N: NDArray[np.generic]) -> bool:
    """Whether these are images whose pixels go from 0 to 255, in an array of anything but bytes."""
    if x_N.ndim < 3 or x_N.dtype == np.uint8:
        return False
    low, high = span(x_N)
    return low >= 0 and HALF_OF_WHITE < high <= WHITE


def differing(x_N: NDArray[np.generic], enough: int | None = None) -> int:
    """How many inputs differ from all before them. enough: after so many, no more are counted."""
    seen: set[bytes] = set()
    for first in range(0, len(x_N), CHUNK):
        # As they are calculated with, and so that 0 and -0 are one.
        with np.errstate(over="ignore"):
            part_n = np.ascontiguousarray(x_N[first : first + CHUNK], dtype=np.float32) + np.float32(0)
        seen.update(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in part_n)
        if enough is not None and len(seen) >= enough:
            break
    return len(seen)


def are_whole(x_N: NDArray[np.generic]) -> bool:
    """Whether all numbers are whole."""
    return x_N.dtype.kind in "bui" or all(
        bool((part == np.rint(part)).all()) for part in (x_N[first : first + CHUNK] for first in range(0, len(x_N), CHUNK))
    )
