"""Pooling of many sites' answers into one target per transfer sample, as they come: memory does not grow with the sites.

Sums are kept in fixed point, so the pool is the same to the last bit whatever the order in which answers arrive.

Shape legend: N samples, K classes, C sites, k kept entries per sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators import Truncated
from limbeck.protos import floor

ROWS = 1024
SCALE = 1 << 32
LARGEST_WEIGHT = 1e6
# A claim counts up to this many times the median. Honest sites differ in size by as much; a larger bound lets a liar gain more.
MOST_TIMES_MEDIAN = 3.0
# The least share of the weight in a class: far below what matters, far above the resolution of sums (2^-32).
LEAST_SHARE = 1e-5


class Pool:
    """A weighted arithmetic mean per class, renormalised: sum_c w_ck p_c(n, k) / sum_c w_ck.

    The mass of the classes that a site did not keep is spread over them evenly. Weights need no scale of their own.
    """

    def __init__(self, *, samples: int, classes: int) -> None:
        self.samples, self.classes = samples, classes
        self._sum_NK = torch.zeros(samples, classes, dtype=torch.int64)
        self._weight_BK: dict[tuple[int, int], Tensor] = {}
        self._at_floor_K, self._answers = torch.zeros(classes, dtype=torch.int64), 0
        self._named: list[Tensor] = []

    def add(self, answers: Truncated, *, first: int = 0, weights_K: Tensor | None = None) -> None:
        """Add one site's answers to samples first .. first + n - 1. weights_K: its weight per class, all 1 by default."""
        stop = first + len(answers)
        if answers.classes != self.classes or not 0 <= first <= stop <= self.samples:
            raise SettingError(
                f"Expected answers of {self.classes} classes within {self.samples} samples, got {answers.classes} at {first} to {stop}."
            )
        weights_K = torch.ones(self.classes) if weights_K is None else weights_K
        if weights_K.shape != (self.classes,) or not bool(((weights_K >= 0) & (weights_K <= LARGEST_WEIGHT)).all()):
            raise SettingError(f"Expected {self.classes} weights in [0, {LARGEST_WEIGHT:g}], got {weights_K.tolist()}.")
        # Whatever the codec lets through is finite; as an integer, what is not would be a number like any other.
        if not bool(answers.p_Nk.isfinite().all() and answers.tail_N.isfinite().all()):
            raise SettingError("Expected answers of finite probabilities, got others.")
        self._answers += len(answers)
        named_K = torch.zeros(self.classes, dtype=torch.int64)
        for start in range(0, len(answers), ROWS):
            rows = answers.rows(slice(start, start + ROWS))
            p_nK = rows.dense()
            self._at_floor_K += floor.count(p_nK)
            named_K += p_nK.argmax(1).bincount(minlength=self.classes)
            weighted = p_nK.double() * weights_K.double()
            self._sum_NK[first + start : first + start + len(rows)] += (weighted * SCALE).round().long()
        self._named.append(named_K)
        bounds = (first, stop)
        added = (weights_K.double() * SCALE).round().long()
        self._weight_BK[bounds] = self._weight_BK.get(bounds, torch.zeros(self.classes, dtype=torch.int64)) + added

    @property
    def at_floor(self) -> tuple[float, ...]:
        """(K,) the share of answers that lie on the wire's floor, in each class."""
        return tuple((self._at_floor_K / max(1, self._answers)).tolist())

    @property
    def named(self) -> Tensor:
        """(C, K) in how many of its answers each site names each class first; in no order, so that no row is anybody's."""
        return torch.stack(sorted(self._named, key=Tensor.tolist)) if self._named else torch.zeros(0, self.classes).long()

    def result(self) -> Tensor:
        """(N, K) float32 targets, rows summing to 1. Raises SettingError where a sample has no answer."""
        weight_NK = torch.zeros(self.samples, self.classes, dtype=torch.float64)
        for (first, stop), weight_K in self._weight_BK.items():
            weight_NK[first:stop] += weight_K
        pooled_NK = self._sum_NK / weight_NK.clamp(min=1)
        total_N = pooled_NK.sum(1, keepdim=True)
        if not bool((total_N > 0).all()):
            raise SettingError(
                f"Expected an answer to each of {self.samples} samples, got none to {int((total_N <= 0).sum())}."
            )
        return (pooled_NK / total_N).float()


def class_weights(claims: Sequence[Sequence[int]]) -> list[Tensor]:
    """Weights per class of every site, in (0, 1], from the noisy label counts (K,) that it claims.

    A site counts for a class in proportion to its share of the records of that class [D]: under label skew, a teacher that has hardly
    seen a class has nothing to say on it. Negative counts are 0; a class that nobody has is left to all alike.

    Nobody can check a claim, so what it buys is bounded [D]. A site's claims are scaled down to MOST_TIMES_MEDIAN times the median of all
    sites' totals, and in each class to what all other sites claim together. Whoever claims 10^9 records a class thus weighs as much as
    MOST_TIMES_MEDIAN sites in the middle, and never more than one half; with fewer than half of the sites lying, the median is an honest
    one's or between two of them. Every site is heard a little, so that any of them can answer alone.
    """
    counts_CK = torch.tensor([list(claim) for claim in claims], dtype=torch.float64).clamp(min=0)
    counts_CK = counts_CK * _within_median(counts_CK.sum(1))[:, None]
    total_K = counts_CK.sum(0)
    counts_CK = torch.where(total_K > 0, torch.maximum(counts_CK, LEAST_SHARE * total_K), 1.0)
    shares_CK = _within_half(counts_CK)
    return list((shares_CK / shares_CK.sum(0)).clamp(min=LEAST_SHARE).float())


def record_weights(claims: Sequence[float]) -> list[float]:
    """Weights in (0, 1] of every site from the noisy number of records that it claims, bounded as those of `class_weights`."""
    counts_C = torch.tensor(list(claims), dtype=torch.float64).clamp(min=1)
    counts_C = _within_half((counts_C * _within_median(counts_C))[:, None])[:, 0]
    return [float(weight) for weight in (counts_C / counts_C.max()).clamp(min=LEAST_SHARE)]


def _within_median(total_C: Tensor) -> Tensor:
    """(C,) the factors that bring totals down to MOST_TIMES_MEDIAN times their median, of two in the middle the smaller."""
    limit = MOST_TIMES_MEDIAN * total_C.median()
    return torch.where((total_C > limit) & (limit > 0), limit / total_C, 1.0)


def _within_half(counts_CK: Tensor) -> Tensor:
    """(C, K) counts of which none is more than the others of its class together; one site alone stays as it is."""
    if len(counts_CK) == 1:
        return counts_CK
    return torch.minimum(counts_CK, counts_CK.sum(0) - counts_CK)
