"""Truncation: partial access to a distribution. Not softening operators: truncation breaks ranking and continuity, so a separate kind.

"Soften, then truncate" and "truncate, then soften" are different objects: softening moves mass into the tail, which the second
order cannot know any more [D].

Shape legend: N samples, K classes, k kept entries, M draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.operators import check
from limbeck.operators.errors import SettingError
from limbeck.operators.softening import Power, Softening
from limbeck.operators.truncated import Truncated


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


@dataclass(frozen=True, slots=True)
class Sampled:
    """Draw M ids with replacement from p and keep counts / M.

    Guarantees: unbiased, E[counts_i / M] = p_i, with E||error||^2 = (1 - sum p^2) / M [F: Sparse Logit Sampling]; rows sum to 1, no
    tail. Draw from the softened distribution: softening counts afterwards is biased unless the operator is affine [D].

    draws: M >= 1. The result has min(M, K) slots a row, padded with ids of probability 0.
    """

    draws: int

    def __post_init__(self) -> None:
        check.within(1, 255, draws=self.draws)

    def __call__(self, p_NK: Tensor, uniform_NM: Tensor) -> Truncated:
        """uniform_NM: (N, M) numbers in [0, 1), independent and secret where p is private; randomness is an argument."""
        classes = _classes(p_NK, 1)
        if uniform_NM.shape != (len(p_NK), self.draws):
            raise SettingError(f"Expected uniforms of shape {(len(p_NK), self.draws)}, got {tuple(uniform_NM.shape)}.")
        cumulative_NK = p_NK.double().cumsum(-1)
        cumulative_NK = cumulative_NK / cumulative_NK[:, -1:]
        drawn_NM = torch.searchsorted(cumulative_NK, uniform_NM.double(), right=True).clamp_(max=classes - 1)
        counts_NK = torch.zeros(len(p_NK), classes, dtype=p_NK.dtype, device=p_NK.device)
        counts_NK.scatter_add_(1, drawn_NM, torch.ones_like(drawn_NM, dtype=p_NK.dtype))
        top = counts_NK.topk(min(self.draws, classes), dim=-1)
        ids_Nk, count_Nk = _canonical(top.indices, top.values)
        return Truncated(ids_Nk=ids_Nk, p_Nk=count_Nk / self.draws, tail_N=count_Nk.new_zeros(len(p_NK)), classes=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftenThenTruncate:
    """Soften over all classes, then keep the top k of the result and its tail mass."""

    softening: Softening
    truncation: TopK

    def __call__(self, p_NK: Tensor) -> Truncated:
        return self.truncation(self.softening(p_NK))

    def from_log(self, log_p_NK: Tensor) -> Truncated:
        """From log-probabilities or logits. Power has a short cut: top-k of the logits and one log-sum-exp, no dense softmax."""
        if not isinstance(self.softening, Power):
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
    """Keep the top k of p renormalised, then soften among them: what softening a released head can do; the tail is lost."""

    truncation: TopK
    softening: Softening

    def __call__(self, p_NK: Tensor) -> Truncated:
        head = self.truncation(p_NK)
        softened_Nk = self.softening(head.p_Nk / head.p_Nk.sum(-1, keepdim=True))
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
