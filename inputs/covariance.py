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


def solve(
    b_KD: Array,
    f_ND: features.Rows,
    ridge: float,
    noise_to_signal: float = 0.0,
    *,
    cache: Path | None = None,
    key: bytes = b"",
) -> Array:
    """(K, D) b G (G^2 + ridge G + noise_to_signal I)^-1, in float64; b (G + ridge I)^-1 where noise_to_signal is 0.

    - f_ND: the features of public inputs, N >= 1.
    - ridge: > 0. noise_to_signal: >= 0.
    - cache, key: a folder to keep the factor in, and what the features depend on.

    With fewer inputs than features, and M = F F^T / N, (G + ridge I)^-1 = (I - F^T (M + ridge I)^-1 F / N) / ridge, and
    G h(G) = F^T h(M) F / N for any function h.
    """
    count, width = f_ND.shape
    name = f"covariance-{np.float64(ridge).hex()}" + (f"-{np.float64(noise_to_signal).hex()}" if noise_to_signal else "")
    make = lambda: _factor(f_ND, ridge, noise_to_signal)  # noqa: E731
    factor = make() if cache is None else features.kept(cache, name, key, make)

    def solved(right_KJ: Array) -> Array:
        return np.asarray(linalg.cho_solve((factor, True), right_KJ.T, check_finite=False).T, np.float64)

    if count >= width and not noise_to_signal:
        return solved(b_KD)
    inner_KN = np.concatenate([b_KD @ part_nD.T for _, part_nD in _rows(f_ND)], 1) / count
    if count < width:
        inner_KN = solved(inner_KN)
    out_KD = np.zeros_like(b_KD)
    for rows, part_nD in _rows(f_ND):
        out_KD += inner_KN[:, rows] @ part_nD
    if not noise_to_signal:
        return (b_KD - out_KD) / ridge
    return out_KD if count < width else solved(out_KD)


def _factor(f_ND: features.Rows, ridge: float, noise_to_signal: float) -> Array:
    """The lower Cholesky factor of G + ridge I, or of G^2 + ridge G + noise_to_signal I; of M in place of G if that is smaller."""
    count, width = f_ND.shape
    gram = np.zeros((min(count, width),) * 2)
    if count >= width:
        for _, part_nD in _rows(f_ND):
            gram += part_nD.T @ part_nD
    else:
        for first in range(0, width, CHUNK):
            part_Nn = f_ND[:, first : first + CHUNK].astype(np.float64)
            gram += part_Nn @ part_Nn.T
    gram /= count
    diagonal = np.diag_indices(len(gram))
    if noise_to_signal:
        gram[diagonal] += ridge
        # G (G + ridge I), symmetric but for rounding; its lower half is what is used.
        with_ridge = gram.copy()
        gram[diagonal] -= ridge
        gram = gram @ with_ridge
        gram[diagonal] += noise_to_signal
    else:
        gram[diagonal] += ridge
    return np.asarray(linalg.cholesky(gram, lower=True, overwrite_a=True, check_finite=False), np.float64)


def _rows(f_ND: features.Rows) -> Iterator[tuple[slice, Array]]:
    for first in range(0, len(f_ND), CHUNK):
        rows = slice(first, first + CHUNK)
        yield rows, f_ND[rows].astype(np.float64)
