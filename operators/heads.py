"""Other heads than a fixed top k: the nucleus, and what becomes of a head whose tail mass is not kept.

With its tail mass in one bucket (`TopK`, `Nucleus`) a head is as good as can be: the gradient on the kept classes is right, only which tail
class is not known. `Renormalised` and `Raw` are what is met in the wild, and what they lose is in their docstrings.

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

    Guarantees: kept probabilities are those of p, in descending order; they sum to at least `mass` up to rounding, and without the last of
    them to less; kept + tail = 1; at least one entry is kept. Rows keep different numbers of entries: k is the most of any row, and
    rows that need fewer are padded with slots of probability 0, whose classes belong to the tail.

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
        # The sum of what is dropped, not 1 less what is kept: no rounding turns an empty tail into one.
        return Truncated(
            ids_Nk=whole.ids_Nk[:, :most].contiguous(), p_Nk=kept_Nk, tail_N=dropped_NK.sum(-1), classes=whole.classes
        )


@dataclass(frozen=True, slots=True)
class Renormalised:
    """A truncation's head scaled to sum to 1: the tail is declared empty.

    Guarantees: rows sum to 1; the error in L1 is 2 (1 - a) for a head of mass a, and a student fitted to it learns zero tail
    [F: Sparse Logit Sampling, arXiv 2503.16870].
    """

    truncation: Truncation

    def __call__(self, p_NK: Tensor) -> Truncated:
        head = self.truncation(p_NK)
        return replace(head, p_Nk=head.p_Nk / head.p_Nk.sum(-1, keepdim=True), tail_N=torch.zeros_like(head.tail_N))


@dataclass(frozen=True, slots=True)
class Raw:
    """A truncation's head as it is, its tail mass thrown away: rows sum to the head's mass a < 1, not to 1.

    Guarantees: kept probabilities are those of p. A student fitted to it by cross-entropy on the head alone learns p_i / a there and zero
    tail, as from the renormalised head, with its gradient scaled by a [F: Sparse Logit Sampling, arXiv 2503.16870].
    """

    truncation: Truncation

    def __call__(self, p_NK: Tensor) -> Truncated:
        head = self.truncation(p_NK)
        return replace(head, tail_N=torch.zeros_like(head.tail_N))
