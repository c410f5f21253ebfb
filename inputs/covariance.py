"""The covariance of public inputs' features, G = mean f f^T, and what it takes to solve with it.

Public arithmetic. G has as many eigenvalues other than zero as there are inputs at most, so it is solved with in the smaller of two forms.

Shape legend: N public inputs, D features, K right-hand sides, n rows or columns at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from limbeck.inputs import features

# Rows or columns that are converted to float64 at a time.
CHUNK = 512

Array = NDArray[np.float64]


def solve(b_KD: Array, f_ND: features.Rows, ridge: float, *, cache: Path | None = None, key: bytes = b"") -> Array:
    """(K, D) b (G + ridge I)^-1, in float64.

    - f_ND: the features of public inputs, N >= 1.
    - ridge: > 0.
    - cache, key: a folder to keep the factor in, and what the features depend on.

    With fewer inputs than features, (G + ridge I)^-1 = (I - F^T (F F^T + N ridge I)^-1 F) / ridge.
    """
    count, width = f_ND.shape
    name = f"covariance-{np.float64(ridge).hex()}"
    make = lambda: _factor(f_ND, ridge)  # noqa: E731
    factor = make() if cache is None else features.kept(cache, name, key, make)
    if count >= width:
        return np.asarray(linalg.cho_solve((factor, True), b_KD.T, check_finite=False).T, np.float64)
    inner_KN = np.concatenate([b_KD @ part_nD.T for _, part_nD in _rows(f_ND)], 1)
    solved_KN = linalg.cho_solve((factor, True), inner_KN.T, check_finite=False).T
    out_KD = b_KD.copy()
    for rows, part_nD in _rows(f_ND):
        out_KD -= solved_KN[:, rows] @ part_nD
    return out_KD / ridge


def _factor(f_ND: features.Rows, ridge: float) -> Array:
    """The lower Cholesky factor of G + ridge I, or of F F^T + N ridge I if that is smaller."""
    count, width = f_ND.shape
    if count >= width:
        gram = np.zeros((width, width))
        for _, part_nD in _rows(f_ND):
            gram += part_nD.T @ part_nD
        gram /= count
        gram[np.diag_indices(width)] += ridge
    else:
        gram = np.zeros((count, count))
        for first in range(0, width, CHUNK):
            part_Nn = f_ND[:, first : first + CHUNK].astype(np.float64)
            gram += part_Nn @ part_Nn.T
        gram[np.diag_indices(count)] += count * ridge
    return np.asarray(linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False), np.float64)


def _rows(f_ND: features.Rows) -> Iterator[tuple[slice, Array]]:
    for first in range(0, len(f_ND), CHUNK):
        rows = slice(first, first + CHUNK)
        yield rows, f_ND[rows].astype(np.float64)
