"""Paths to a plan's final sparsity: how sparse the student is after each stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from limbeck.base import check
from limbeck.base.errors import SettingError


def cubic(final: float, stages: int) -> tuple[float, ...]:
    """Sparsity after each of n stages: s (1 - (1 - t/n)^3), fast at first, when there is most to prune [F: arXiv 1710.01878]."""
    return tuple(_checked(final, stages) * (1 - (1 - (t + 1) / stages) ** 3) for t in range(stages))


def linear(final: float, stages: int) -> tuple[float, ...]:
    """Sparsity after each of n stages, in equal steps."""
    return tuple(_checked(final, stages) * (t + 1) / stages for t in range(stages))


def equal_kl(final: float, stages: int, curve: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """Sparsity after each of n stages, so that each spends the same share of the divergence that pruning to `final` costs [D].

    curve: (sparsity, KL(dense || pruned so far without training)) measured on the dense student, sparsities rising from 0 to at least
    `final`; linear in between. KL between consecutive students does not add up, so what is equal is each stage's rise of this curve, not
    what its own step turns out to cost. Where the curve falls, its highest value so far counts; one that never rises gives equal steps.

    It needs a trained dense student, so no plan, which is fixed before anything is trained, can carry it: for studies, and for a
    coordinator that writes the resulting sparsities into a next plan. Raises SettingError for a curve that does not cover 0 to `final`.
    """
    _checked(final, stages)
    sparsities = [sparsity for sparsity, _ in curve]
    increasing = all(a < b for a, b in pairwise(sparsities))
    if len(curve) < 2 or not increasing or sparsities[0] != 0 or sparsities[-1] < final:
        raise SettingError(f"Expected a curve over rising sparsities from 0 to at least {final:g}, got {sparsities}.")
    if not all(math.isfinite(kl) for _, kl in curve):
        raise SettingError(f"Expected a curve of finite divergences, got {[kl for _, kl in curve]}.")
    rising = list(zip(sparsities, accumulate((kl for _, kl in curve), max), strict=True))
    start, end = rising[0][1], _at(rising, final)
    if end <= start:
        return linear(final, stages)
    inverse = [(kl, sparsity) for sparsity, kl in rising if kl <= end]
    inverse.append((end, final))
    return (*(min(_at(inverse, start + (end - start) * (t + 1) / stages), final) for t in range(stages - 1)), final)


def _at(points: Sequence[tuple[float, float]], x: float) -> float:
    """Linear interpolation of a non-decreasing polyline; on a level stretch of x, its first point."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 if x <= x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]


def _checked(final: float, stages: int) -> float:
    check.within(1, 1000, stages=stages)
    if not 0 <= final < 1:
        raise SettingError(f"Expected 0 <= sparsity < 1, got {final!r}.")
    return final
