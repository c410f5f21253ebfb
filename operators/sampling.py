"""Partial access by sampling: random draws with importance weights, and answers of a teacher that gives labels only.

Shape legend: N samples, K classes, k kept entries, M draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.base import check
from limbeck.base.errors import SettingError
from limbeck.operators.heads import Raw
from limbeck.operators.softening import Mixing
from limbeck.operators.truncated import Truncated
from limbeck.operators.truncation import TopK

__all__ = ["MOST_DRAWS", "LabelsOnly", "Sampled"]

MOST_DRAWS = 2**24


@dataclass(frozen=True, slots=True)
class Sampled:
    """Draw M ids with replacement from q proportional to p^tau, and keep for each id the sum of its weights p / q / M.

    Guarantees: unbiased, E[estimate_i] = p_i, with E||error||^2 = (sum p^2 / q - sum p^2) / M, which is (1 - sum p^2) /
    M at tau = 1, where the estimate is counts / M and rows sum to 1 [F: Sparse Logit Sampling, arXiv 2503.16870]; at
    another tau they sum to 1 only on average. There is no tail: what was not drawn is 0. Draw from the softened
    distribution: softening an estimate afterwards is biased unless the operator is affine [D]. The result has min(M, K)
    slots per row, padded with ids of probability 0.

    draws: M >= 1. exponent: tau >= 0; below 1 rare classes are drawn more often, at 0 all classes equally often.
    """

    draws: int
    exponent: float = 1.0

    def __post_init__(self) -> None:
        check.within(1, MOST_DRAWS, draws=self.draws)
        check.at_least(0.0, exponent=self.exponent)

    def __call__(self, p_NK: Tensor, uniform_NM: Tensor) -> Truncated:
        """uniform_NM: (N, M) numbers in [0, 1), independent, and secret if p is private; randomness is an argument."""
        if uniform_NM.shape != (len(p_NK), self.draws):
            raise SettingError(f"Expected uniforms of shape {(len(p_NK), self.draws)}, got {tuple(uniform_NM.shape)}.")
        exact_NK = p_NK.double()
        # A class of probability 0 is never drawn, also at exponent 0, where 0^0 would be 1.
        proposal_NK = torch.where(exact_NK > 0, exact_NK**self.exponent, 0.0)
        cumulative_NK = proposal_NK.cumsum(-1)
        total_N1 = cumulative_NK[:, -1:]
        drawn_NM = torch.searchsorted(cumulative_NK / total_N1, uniform_NM.double(), right=True)
        counts_NK = _counts(drawn_NM.clamp_(max=p_NK.shape[-1] - 1), p_NK.shape[-1])
        # Exactly counts / M at exponent 1, where every weight is 1 up to rounding.
        weight_NK = exact_NK / (proposal_NK / total_N1).masked_fill(counts_NK == 0, 1.0) if self.exponent != 1 else 1.0
        return _largest((counts_NK * weight_NK / self.draws).to(p_NK.dtype), self.draws)


@dataclass(frozen=True, slots=True)
class LabelsOnly:
    """Repeated answers of a teacher that only names classes: how often it named each, mixed with uniform.

    Guarantees: for answers drawn independently from p it estimates Mixing(T)(p) without bias, with E||error||^2 = (1 -
    sum p^2) / (M T^2); rows sum to 1 with their tail, and `dense()` is exact [D]. Mixing is the natural operator here:
    it is affine, so it may follow the counting, and it gives a probability to classes that were never named. A teacher
    that can answer *at* temperature T draws from Power(T)(p); count its answers with temperature 1: any other softening
    of counts is biased.

    classes: K >= 2. temperature: T >= 1, of the mixing; 1 keeps the frequencies as they are.
    """

    classes: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check.within(2, 2**31 - 1, classes=self.classes)
        check.at_least(1.0, temperature=self.temperature)

    def __call__(self, labels_NM: Tensor) -> Truncated:
        """labels_NM: (N, M) int64, the classes named in M >= 1 answers on each input.

        The result has min(M, K) slots per row.

        Raises SettingError for another shape or a label outside [0, K).
        """
        if labels_NM.ndim != 2 or labels_NM.shape[1] < 1:
            raise SettingError(f"Expected labels of N inputs in M >= 1 answers each, got shape {tuple(labels_NM.shape)}.")
        outside_NM = (labels_NM < 0) | (labels_NM >= self.classes)
        if bool(outside_NM.any()):
            raise SettingError(f"Expected labels in [0, {self.classes}), got {int(labels_NM[outside_NM][0])}.")
        draws = labels_NM.shape[1]
        named = _largest(_counts(labels_NM, self.classes).float() / draws, draws)
        softened_Nk = Mixing(self.temperature)(torch.nn.functional.pad(named.p_Nk, (0, self.classes - named.kept)))
        tail_N = softened_Nk[:, named.kept :].sum(-1)
        return Truncated(ids_Nk=named.ids_Nk, p_Nk=softened_Nk[:, : named.kept], tail_N=tail_N, classes=self.classes)


def _counts(drawn_NM: Tensor, classes: int) -> Tensor:
    counts_NK = torch.zeros(len(drawn_NM), classes, dtype=torch.float64, device=drawn_NM.device)
    return counts_NK.scatter_add_(1, drawn_NM, torch.ones_like(drawn_NM, dtype=torch.float64))


def _largest(estimate_NK: Tensor, draws: int) -> Truncated:
    """Slots for the classes that were drawn: at most as many have an estimate above 0 as there were draws."""
    return Raw(TopK(min(draws, estimate_NK.shape[-1])))(estimate_NK)
