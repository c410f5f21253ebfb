"""Truncation: partial access to a distribution.

It breaks ranking and continuity, so truncations are not softening operators.

"Soften, then truncate" and "truncate, then soften" are different operators: softening moves mass into the tail, which
the second order has already lost [D].

Here: the top k with its tail, and both orders for any truncation. `heads` has other heads, `sampling` has random draws
and labels only.

Shape legend: N samples, K classes, k kept entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.base import check
from limbeck.base.errors import SettingError
from limbeck.operators.softening import Power, Softening
from limbeck.operators.truncated import Truncated, concatenate, rows_per_chunk

__all__ = ["SoftenThenTruncate", "TopK", "TruncateThenSoften", "Truncation"]

# With fewer columns per group than this, searching groups first does not pay.
MINIMUM_GROUP = 4

# A truncation takes (N, K) probabilities. One that needs more, as `Sampled` needs uniforms, is adapted by
# functools.partial.
Truncation = Callable[[Tensor], Truncated]


@dataclass(frozen=True, slots=True)
class TopK:
    """Keep the k largest entries and the mass of the others as one tail bucket.

    Guarantees: kept probabilities are those of p, in descending order, ties by the smaller id; kept + tail = 1.
    Renormalised to the kept entries alone it would be off by 2 (1 - kept mass) in L1 [F: Sparse Logit Sampling, arXiv
    2503.16870].

    k: 1 <= k <= K.
    """

    k: int

    def __post_init__(self) -> None:
        check.within(1, 2**31 - 1, k=self.k)

    def __call__(self, p_NK: Tensor) -> Truncated:
        classes = _classes(p_NK, self.k)
        parts = [_top(part_BK, self.k) for part_BK in _chunks(p_NK)]
        ids_Nk, kept_Nk = _in_order(torch.cat([ids for ids, _ in parts]), torch.cat([kept for _, kept in parts]))
        tail_N = (1 - kept_Nk.sum(-1)).clamp_(min=0) if self.k < classes else kept_Nk.new_zeros(len(kept_Nk))
        return Truncated(ids_Nk=ids_Nk, p_Nk=kept_Nk, tail_N=tail_N, classes=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftenThenTruncate:
    """Soften over all classes, then truncate the result: only what the truncation drops is lost.

    Guarantees: the result is the truncation of softening(p).
    """

    softening: Softening
    truncation: Truncation

    def __call__(self, p_NK: Tensor) -> Truncated:
        return self.truncation(self.softening(p_NK))

    def from_log(self, log_p_NK: Tensor) -> Truncated:
        """From log-probabilities or logits.

        Power with top-k has a shortcut: top-k of the logits and one sum of exponentials.
        """
        if not isinstance(self.truncation, TopK):
            return self.truncation(self.softening.from_log(log_p_NK.log_softmax(-1)).exp())
        k, classes = self.truncation.k, _classes(log_p_NK, self.truncation.k)
        if not isinstance(self.softening, Power):
            return concatenate(
                [self.truncation(self.softening.from_log(part.log_softmax(-1)).exp()) for part in _chunks(log_p_NK)]
            )
        # Powers of two, because torch's exp2 takes a third of the time of its exp on a CPU.
        rate = math.log2(math.e) / self.softening.temperature
        parts = []
        for log_p_BK in _chunks(log_p_NK):
            ids_Bk, top_Bk = _top(log_p_BK, k)
            sum_B1 = log_p_BK.sub(top_Bk[:, :1]).mul_(rate).exp2_().sum(-1, keepdim=True)
            parts.append((ids_Bk, top_Bk.sub(top_Bk[:, :1]).mul_(rate).exp2_().div_(sum_B1)))
        ids_Nk, kept_Nk = _in_order(torch.cat([ids for ids, _ in parts]), torch.cat([kept for _, kept in parts]))
        tail_N = (1 - kept_Nk.sum(-1)).clamp_(min=0) if k < classes else kept_Nk.new_zeros(len(kept_Nk))
        return Truncated(ids_Nk=ids_Nk, p_Nk=kept_Nk, tail_N=tail_N, classes=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncateThenSoften:
    """Truncate p, renormalise the head, then soften among its entries. The tail is lost.

    Guarantees: rows sum to 1 on the kept entries alone, whatever tail the truncation kept; padding stays padding.
    """

    truncation: Truncation
    softening: Softening

    def __call__(self, p_NK: Tensor) -> Truncated:
        head = self.truncation(p_NK)
        count_N = (head.p_Nk > 0).sum(-1)
        softened_Nk = torch.zeros_like(head.p_Nk)
        # Rows with the same number of entries together: no mass may move to a padding slot. A head may come in any
        # order.
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


def _chunks(values_NK: Tensor) -> tuple[Tensor, ...]:
    """Rows in chunks that stay in cache."""
    parts: tuple[Tensor, ...] = values_NK.split(rows_per_chunk(values_NK))
    return parts


def _top(values_BK: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids and values of the k largest entries of each row, largest first.

    The k largest lie in the k groups with the largest maxima; among many columns this finds them several times faster
    than topk alone. A group is every m-th column, so that its maximum is taken over contiguous memory.
    """
    samples, classes = values_BK.shape
    size = math.isqrt(classes // k)
    if size < MINIMUM_GROUP:
        top = values_BK.topk(k, dim=-1)
        return top.indices, top.values
    groups = classes // size
    maxima_Bm = values_BK[:, : groups * size].unflatten(1, (size, groups)).amax(1)
    chosen_Bk, _ = _top(maxima_Bm, k)
    members_Bsk = chosen_Bk.unsqueeze(1) + torch.arange(0, groups * size, groups, device=values_BK.device).unsqueeze(-1)
    rest = torch.arange(groups * size, classes, device=values_BK.device).expand(samples, -1)
    ids_Bc = torch.cat([members_Bsk.flatten(1), rest], dim=1)
    among_Bk, top_Bk = _top(values_BK.gather(1, ids_Bc), k)
    return ids_Bc.gather(1, among_Bk), top_Bk


def _in_order(ids_Nk: Tensor, p_Nk: Tensor) -> tuple[Tensor, Tensor]:
    """Canonical order of rows that are already in descending order: only rows with ties are sorted."""
    tied_n = (p_Nk[:, 1:] >= p_Nk[:, :-1]).any(-1).nonzero().squeeze(-1)
    if len(tied_n):
        ids_Nk[tied_n], p_Nk[tied_n] = _canonical(ids_Nk[tied_n], p_Nk[tied_n])
    return ids_Nk, p_Nk


def _canonical(ids_Nk: Tensor, p_Nk: Tensor) -> tuple[Tensor, Tensor]:
    """Descending probability, ties by the smaller id, so that a distribution has exactly one representation."""
    ids_Nk, order = ids_Nk.sort(dim=-1)
    p_Nk = p_Nk.gather(-1, order)
    p_Nk, order = p_Nk.sort(dim=-1, descending=True, stable=True)
    return ids_Nk.gather(-1, order), p_Nk
