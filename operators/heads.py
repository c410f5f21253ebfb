"""Heads other than a fixed top k: the nucleus, and heads whose tail mass is not kept.

A head that keeps its tail mass in one bucket (`TopK`, `Nucleus`) gives the right gradient on the kept classes; only how
the tail is spread is unknown. `Renormalised` and `Raw` are common in practice; their docstrings say what they lose.

Shape legend: N samples, K classes, k kept entries per sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from limbeck.base import check
from limbeck.operators.truncated import Truncated
from limbeck.operators.truncation import TopK, Truncation

__all__ = ["Nucleus", "Raw", "Renormalised"]


@dataclass(frozen=True, slots=True)
class Nucleus:
    """Keep the fewest largest entries that hold at least `mass`, and the mass of the others as one tail bucket.

    Guarantees: kept probabilities are those of p, in descending order; they sum to at least `mass` up to rounding, and
    to less without the last one; kept + tail = 1; at least one entry is kept. Rows keep different numbers of entries: k
    is the largest of any row, and rows that need fewer are padded with slots of probability 0, whose classes belong to
    the tail.

    mass: in (0, 1].
    """

    mass: float

    def __post_init__(self) -> None:
        check.share(mass=self.mass)

    def __call__(self, p_NK: Tensor) -> Truncated:
        whole = TopK(p_NK.shape[-1])(p_NK)
        before_NK = whole.p_Nk.cumsum(-1) - whole.p_Nk
        needed_NK = (before_NK < self.mass) & (whole.p_Nk > 0)
        most = max(int(needed_NK.sum(-1).max()), 1) if len(whole) else 1
        kept_Nk = whole.p_Nk.masked_fill(~needed_NK, 0)[:, :most]
        dropped_NK = whole.p_Nk.masked_fill(needed_NK, 0)
        # The sum of what is dropped, not 1 minus what is kept: rounding must not give mass to an empty tail.
        return Truncated(
            ids_Nk=whole.ids_Nk[:, :most].contiguous(), p_Nk=kept_Nk, tail_N=dropped_NK.sum(-1), classes=whole.classes
        )


@dataclass(frozen=True, slots=True)
class Renormalised:
    """A truncation's head scaled to sum to 1, with an empty tail.

    Guarantees: rows sum to 1; the error in L1 is 2 (1 - a) for a head of mass a, and a student fitted to it learns zero
    tail [F: Sparse Logit Sampling, arXiv 2503.16870].
    """

    truncation: Truncation

    def __call__(self, p_NK: Tensor) -> Truncated:
        head = self.truncation(p_NK)
        return replace(head, p_Nk=head.p_Nk / head.p_Nk.sum(-1, keepdim=True), tail_N=torch.zeros_like(head.tail_N))


@dataclass(frozen=True, slots=True)
class Raw:
    """A truncation's head without its tail mass: rows sum to the head's mass a < 1, not to 1.

    Guarantees: kept probabilities are those of p. A student fitted to it by cross-entropy on the head alone learns p_i
    / a there and zero tail, as from the renormalised head, with the gradient scaled by a [F: Sparse Logit Sampling,
    arXiv 2503.16870].
    """

    truncation: Truncation

    def __call__(self, p_NK: Tensor) -> Truncated:
        head = self.truncation(p_NK)
        return replace(head, tail_N=torch.zeros_like(head.tail_N))
