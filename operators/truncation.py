"""Truncation: partial access to a distribution. Not softening operators: truncation breaks ranking and continuity, so a separate kind.

"Soften, then truncate" and "truncate, then soften" are different objects: softening moves mass into the tail, which the second
order cannot know any more [D].

Here: the top k with its tail, and both orders for any truncation. Other heads are in `heads`, sampling and labels only in `sampling`.

Shape legend: N samples, K classes, k kept entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.operators import check
from limbeck.operators.errors import SettingError
from limbeck.operators.softening import Power, Softening
from limbeck.operators.truncated import Truncated

# Of (N, K) probabilities. One that needs more, as `Sampled` needs uniforms, is made one by functools.partial.
Truncation = Callable[[Tensor], Truncated]


@dataclass(frozen=True, slots=True)
class TopK:
    """Keep the k largest entries and the mass of the others as one tail bucket.

    Guarantees: kept probabilities are those of p, in descending order, ties by the smaller id; kept + tail = 1. Renormalised to the
    kept entries alone it would be off by 2 (1 - kept mass) in L1 [F: Sparse Logit Sampling].

    k: 1 <= k <= K.
    """

    k: int

    def __post_init__(self) -> None:
        check.within(1, 2**31 - 1, k=self.k)

    def __call__(self, p_NK: Tensor) -> Truncated:
        classes = _classes(p_NK, self.k)
        top = p_NK.topk(self.k, dim=-1)
        ids_Nk, kept_Nk = _canonical(top.indices, top.values)
        tail_N = (1 - kept_Nk.sum(-1)).clamp_(min=0) if self.k < classes else kept_Nk.new_zeros(len(kept_Nk))
        return Truncated(ids_Nk=ids_Nk, p_Nk=kept_Nk, tail_N=tail_N, classes=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftenThenTruncate:
    """Soften over all classes, then truncate the result: nothing of the softened distribution is lost but what the truncation drops.

    Guarantees: the result is the truncation of softening(p).
    """

    softening: Softening
    truncation: Truncation

    def __call__(self, p_NK: Tensor) -> Truncated:
        return self.truncation(self.softening(p_NK))

    def from_log(self, log_p_NK: Tensor) -> Truncated:
        """From log-probabilities or logits. Power has a short cut: top-k of the logits and one log-sum-exp, no dense softmax."""
        if not isinstance(self.softening, Power) or not isinstance(self.truncation, TopK):
            return self.truncation(self.softening.from_log(log_p_NK.log_softmax(-1)).exp())
        classes = _classes(log_p_NK, self.truncation.k)
        z_NK = log_p_NK / self.softening.temperature
        top = z_NK.topk(self.truncation.k, dim=-1)
        kept_Nk = (top.values - z_NK.logsumexp(-1, keepdim=True)).exp()
        ids_Nk, kept_Nk = _canonical(top.indices, kept_Nk)
        tail_N = (1 - kept_Nk.sum(-1)).clamp_(min=0) if self.truncation.k < classes else kept_Nk.new_zeros(len(kept_Nk))
        return Truncated(ids_Nk=ids_Nk, p_Nk=kept_Nk, tail_N=tail_N, classes=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncateThenSoften:
    """Truncate p, renormalise the head, then soften among its entries: what softening a released head can do; the tail is lost.

    Guarantees: rows sum to 1 on the kept entries alone, whatever tail the truncation kept; padding stays padding.
    """

    truncation: Truncation
    softening: Softening

    def __call__(self, p_NK: Tensor) -> Truncated:
        head = self.truncation(p_NK)
        count_N = (head.p_Nk > 0).sum(-1)
        softened_Nk = torch.zeros_like(head.p_Nk)
        # Rows of one number of entries at a time: a padding slot is no class that mass may be moved to. A head may come in any order.
        order_Nk = head.p_Nk.argsort(dim=-1, descending=True, stable=True)
        for count in count_N.unique().tolist():
            rows_N = count_N == count
            slots_nk = order_Nk[rows_N, :count]
            p_nk = head.p_Nk[rows_N].gather(-1, slots_nk)
            filled_nk = torch.zeros_like(head.p_Nk[rows_N])
            softened_Nk[rows_N] = filled_nk.scatter(-1, slots_nk, self.softening(p_nk / p_nk.sum(-1, keepdim=True)))
        return Truncated(ids_Nk=head.ids_Nk, p_Nk=softened_Nk, tail_N=torch.zeros_like(head.tail_N), classes=head.classes)


def _classes(p_NK: Tensor, k: int) -> int:
    if p_NK.ndim != 2:
        raise SettingError(f"Expected a matrix of N distributions, got shape {tuple(p_NK.shape)}.")
    if k > p_NK.shape[1]:
        raise SettingError(f"Expected k <= {p_NK.shape[1]} classes, got {k}.")
    return int(p_NK.shape[1])


def _canonical(ids_Nk: Tensor, p_Nk: Tensor) -> tuple[Tensor, Tensor]:
    """Descending probability, ties by the smaller id: one distribution has one representation."""
    ids_Nk, order = ids_Nk.sort(dim=-1)
    p_Nk = p_Nk.gather(-1, order)
    p_Nk, order = p_Nk.sort(dim=-1, descending=True, stable=True)
    return ids_Nk.gather(-1, order), p_Nk
