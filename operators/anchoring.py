"""Anchoring: the target of a stage, between the teachers' answers and the student of the previous stage.

Shape legend: N samples (any leading shape), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limbeck.base import check

__all__ = ["Anchoring"]


@dataclass(frozen=True, slots=True)
class Anchoring:
    """alpha b + (1 - alpha) s, b the pooled answers and s the previous student's probabilities [F: arXiv 2601.13100].

    Guarantees: shape kept; rows sum to 1; alpha = 1 is b and alpha = 0 is s; a contraction towards the teachers,
    KL(b || target) <= (1 - alpha) KL(b || s), because KL is convex in its second argument [D].

    alpha: the teachers' share, in [0, 1]. A plan states the student's share, `Student.relabel` = 1 - alpha.
    """

    alpha: float

    def __post_init__(self) -> None:
        check.fraction(alpha=self.alpha)

    def __call__(self, pooled_NK: Tensor, previous_NK: Tensor) -> Tensor:
        return self.alpha * pooled_NK + (1 - self.alpha) * previous_NK
