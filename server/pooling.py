"""Pooling of many sites' answers into one target per transfer sample, as they come: memory does not grow with the sites.

Sums are kept in fixed point, so the pool is the same to the last bit whatever the order in which answers arrive.

Shape legend: N samples, K classes, k kept entries per sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.operators import Truncated
from limbeck.operators.errors import SettingError

ROWS = 1024
SCALE = 1 << 32
LARGEST_WEIGHT = 1e6


class Pool:
    """A weighted arithmetic mean per class, renormalised: sum_c w_ck p_c(n, k) / sum_c w_ck.

    The mass of the classes that a site did not keep is spread over them evenly. Weights need no scale of their own.
    """

    def __init__(self, *, samples: int, classes: int) -> None:
        self.samples, self.classes = samples, classes
        self._sum_NK = torch.zeros(samples, classes, dtype=torch.int64)
        self._weight_BK: dict[tuple[int, int], Tensor] = {}

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
        for start in range(0, len(answers), ROWS):
            rows = answers.rows(slice(start, start + ROWS))
            weighted = rows.dense().double() * weights_K.double()
            self._sum_NK[first + start : first + start + len(rows)] += (weighted * SCALE).round().long()
        bounds = (first, stop)
        added = (weights_K.double() * SCALE).round().long()
        self._weight_BK[bounds] = self._weight_BK.get(bounds, torch.zeros(self.classes, dtype=torch.int64)) + added

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


def class_weights(label_counts: Sequence[Tensor]) -> list[Tensor]:
    """Weights per class of every site from the noisy label counts (K,) that it released.

    A site counts for a class in proportion to its share of the records of that class [D]: under label skew, a teacher that has hardly
    seen a class has nothing to say on it. Negative counts become 0; a class that nobody has is left to all alike.
    """
    counts_CK = torch.stack(list(label_counts)).clamp(min=0)
    total_K = counts_CK.sum(0)
    even = torch.full_like(counts_CK, 1 / len(counts_CK))
    return list(torch.where(total_K > 0, counts_CK / total_K.clamp(min=1e-9), even))
