"""Public features of inputs: fixed functions; nothing is learnt from private records.

Features of public inputs are cached in a folder by content hash, so that many clients on one machine compute them only once.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.base.files import write_durably
from limbeck.inputs.arrays import unit_scale
from limbeck.inputs.scattering import scatter
from limbeck.inputs.transfer_set import digest

VERSION = 4
SMALL = 16
# A fraction of the root mean square deviation. A feature that hardly varies on public inputs is given this deviation, so that it cannot
# dominate a private record.
LEAST_DEVIATION = 0.1
# Images that are transformed at a time where each must be computed by itself.
SLOTS = 8

Rows = NDArray[np.float32]
N = TypeVar("N", bound=np.generic)


def _pixels(x_N: NDArray[np.generic]) -> Rows:
    return unit_scale(x_N).reshape(len(x_N), math.prod(x_N.shape[1:]))


def _hog(x_N: NDArray[np.generic]) -> Rows:
    from skimage.feature import hog

    images = unit_scale(_images(x_N))
    side = min(images.shape[1:])
    # Four cells per side of a small image: fewer leave hardly anything of it. Cells of 7 pixels cost two to three points on Fashion-MNIST.
    cell = max(2, side // 4) if side <= SMALL else 4

    def one(image: Rows) -> Rows:
        # An image that is not finite has features that are not, and `normalise` turns them into zeros: no reason to warn.
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(hog(image, orientations=9, pixels_per_cell=(cell, cell), cells_per_block=(2, 2)), np.float32)

    width = len(one(np.zeros(images.shape[1:], np.float32)))
    return np.stack([one(image) for image in images]) if len(images) else np.zeros((0, width), np.float32)


def _scattering(x_N: NDArray[np.generic]) -> Rows:
    images = unit_scale(_images(x_N))
    coefficients = scatter(images, scales=scales_of(images.shape[1]))
    return coefficients.reshape(len(images), math.prod(coefficients.shape[1:]))


def scales_of(height: int) -> int:
    """Scales of the wavelets for images of so many rows."""
    return 1 if height <= SMALL else 2


def _rows(x_N: NDArray[np.generic]) -> Rows:
    """Rows of a table or of text, as a public encoding made them (`limbeck.inputs.encodings`)."""
    if x_N.ndim != 2:
        raise DataError(f"Expected rows of shape (N, D), got {x_N.shape}.")
    with np.errstate(over="ignore"):
        return x_N.astype(np.float32)


def _images(x_N: NDArray[np.generic]) -> NDArray[np.generic]:
    if x_N.ndim != 3:
        raise DataError(f"Expected grey images of shape (N, H, W), got {x_N.shape}.")
    return x_N


FEATURES: dict[str, Callable[[NDArray[np.generic]], Rows]] = {
    "pixels": _pixels,
    "hog": _hog,
    "scattering": _scattering,
    "rows": _rows,
}
BALANCED = ("scattering", "hog")


def compute(name: str, x_N: NDArray[np.generic], *, cache: Path | None = None) -> Rows:
    """(N, D) features of N inputs.

    cache: a folder for features of PUBLIC inputs; None for private ones. Processes that want the same features wait for each other.

    Raises: SettingError for an unknown name, DataError for inputs from which the features cannot be computed.
    """
    function = _named(name)
    return function(x_N) if cache is None else kept(cache, name, digest(x_N), lambda: function(x_N))


def kept(cache: Path, name: str, key: bytes, make: Callable[[], NDArray[N]]) -> NDArray[N]:
    """What `make` makes, or made earlier, of PUBLIC values: an array in a folder, mapped into memory.

    - name: the first part of the file's name.
    - key: all that the array depends on besides its name and this version.

    Processes that want the same array wait for each other.
    """
    stem = f"{name}-{hashlib.sha256(f'{name} {VERSION} '.encode() + key).hexdigest()[:32]}"
    path = cache / f"{stem}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / f"{stem}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                buffer = io.BytesIO()
                np.save(buffer, make())
                write_durably(path, buffer.getvalue())
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def compute_each(name: str, x_N: NDArray[np.generic]) -> Rows:
    """(N, D) features as `compute` has them, and each row depends on its own input alone, to the last bit, whatever else is in the array.

    Pixels and rows are made number by number, and HOG image by image. Scattering multiplies matrices for several images at a time, and
    nothing promises that the place of an image among them, or their number, leaves its last bits as they are. So there are always SLOTS
    images, of the same size, and an image's own content says which place it has: what is computed for it is the same program on the same
    numbers. Places that are empty hold zeros. An image that occurs again is computed once.

    Raises: SettingError for an unknown name, DataError for inputs from which the features cannot be computed.
    """
    function = _named(name)
    return _scattering_each(x_N) if name == "scattering" and len(x_N) else function(x_N)


def _scattering_each(x_N: NDArray[np.generic]) -> Rows:
    content_N = [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in x_N]
    first: dict[bytes, int] = {}
    queues: list[list[int]] = [[] for _ in range(SLOTS)]
    for index, content in enumerate(content_N):
        if first.setdefault(content, index) == index:
            queues[content[0] % SLOTS].append(index)
    out_ND: Rows | None = None
    for images in zip_longest(*queues):
        block = np.zeros((SLOTS, *x_N.shape[1:]), x_N.dtype)
        filled = [slot for slot, index in enumerate(images) if index is not None]
        indices = [images[slot] for slot in filled]
        block[filled] = x_N[indices]
        row_nD = _scattering(block)
        out_ND = np.empty((len(x_N), row_nD.shape[1]), np.float32) if out_ND is None else out_ND
        out_ND[indices] = row_nD[filled]
    assert out_ND is not None  # there is at least one image
    for index, content in enumerate(content_N):
        out_ND[index] = out_ND[first[content]]
    return out_ND


def _named(name: str) -> Callable[[NDArray[np.generic]], Rows]:
    if name not in FEATURES:
        raise SettingError(f"Expected features out of {', '.join(FEATURES)}, got {name!r}.")
    return FEATURES[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The transform of features before a linear head, from public inputs alone: subtract a mean, multiply by a weight."""

    mean_D: Rows
    weight_D: Rows


def balance(name: str, public_ND: Rows) -> Balance:
    """The balance for features with the given name, from those of public inputs.

    Scattering and HOG features are divided by the square root of their standard deviations [D]. Undivided, a few strong ones take up most
    of a row's norm, to which the noise is relative; divided by the whole deviation, as in whitening, weak ones are mostly noise. Of the
    powers 0, 1/4, 1/2 and 1 the square root is best at every epsilon on Fashion-MNIST, MNIST and digits (docs/decisions.md). Pixels gain
    nothing, and the encodings of tables and texts have scales of their own: for these all weights are 1.
    """
    mean_D = public_ND.mean(0)
    weight_D = np.ones_like(mean_D)
    if name in BALANCED:
        deviation_D = public_ND.std(0, dtype=np.float64)
        typical = math.sqrt(float((deviation_D**2).mean()))
        if math.isfinite(typical) and typical > 0:
            weight_D = ((deviation_D / typical) ** 2 + LEAST_DEVIATION**2) ** -0.25
    return Balance(mean_D=mean_D, weight_D=weight_D.astype(np.float32))


def balanced(f_ND: Rows, balance: Balance) -> Rows:
    """Features centred and weighted, number by number: each result is one rounding away from its own number's."""
    with np.errstate(invalid="ignore", over="ignore"):
        found: Rows = (f_ND - balance.mean_D) * balance.weight_D
        return found


def unit_rows(f_ND: Rows, balance: Balance, constant: float) -> Rows:
    """(N, D + 1) rows of norm 1: features, balanced and normalised, and this constant, in [0, 1), as one more."""
    rows_ND = normalise(f_ND, math.sqrt(1 - constant**2), balance)
    return np.pad(rows_ND, ((0, 0), (0, 1)), constant_values=constant)


def of_evidence(name: str, public_ND: Rows, constant: float) -> Rows:
    """(N, D) the part of public inputs' unit rows that is centred: without the constant, which has a direction of its own."""
    return unit_rows(public_ND, balance(name, public_ND), constant)[:, :-1]


def normalise(f_ND: Rows, norm: float, balance: Balance) -> Rows:
    """Centre and weight features, then scale every row to this L2 norm.

    Row by row, so no record affects another. A row that is not finite becomes zero: harmless, and its presence does not show.
    """
    found_ND = balanced(f_ND, balance)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        length = np.sqrt(np.einsum("nd,nd->n", found_ND, found_ND, dtype=np.float64))[:, None]
        scaled = found_ND * np.where(length > 0, norm / length, 0)
    finite = np.isfinite(length) & np.isfinite(scaled).all(1, keepdims=True)
    return np.where(finite, scaled, 0).astype(np.float32)
