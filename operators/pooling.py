"""Pooling of several teachers' answers, dense: G(p_1..p_C, T_1..T_C, w_1..w_C) -> q.

`axioms.check_pooling` searches a pool's axioms.

The axioms [F: arXiv 2601.09165]: q is a distribution; positive where all teachers are; continuous; raising w_c moves q
towards teacher c; equal teachers give F_T(p). "Towards" is made precise as: KL(F(p_c) || q) falls [D]. For a power mean
of any exponent its slope along w_c is minus the covariance of two increasing functions of one variable, so it does.

Over the wire answers arrive one by one and truncated: `limbeck.server.pooling.Pool` streams them and equals
`Arithmetic` on the dense answers. Only the arithmetic pool is a sum, so only it works under secure aggregation. Pooling
more teachers helps only as far as they are independent: the mean of C teachers of variance s^2 and correlation r has
variance s^2 (1 + (C - 1) r) / C.

Shape legend: C teachers, N samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators.softening import Power, Softening

__all__ = ["Arithmetic", "Geometric", "Pooling", "PowerMean"]


class Pooling(Protocol):
    """From C teachers' answers to one."""

    def __call__(
        self, p_CNK: Tensor, *, weights: Tensor | None = None, temperatures: Sequence[float] | None = None
    ) -> Tensor:
        """(N, K) distributions.

        weights: (C,) or (C, K), >= 0, equal by default. temperatures: one for each teacher, 1 by default.
        """


@dataclass(frozen=True, slots=True)
class PowerMean:
    """(sum_c w_ck F_{T_c}(p_c)_k^r)^(1/r), renormalised, with weights that sum to 1 over the teachers of each class.

    Guarantees: rows sum to 1; positive where all teachers of positive weight are; with weights per teacher, raising w_c
    lowers KL(F(p_c) || q); equal teachers at equal temperatures give F_T(p) whatever the weights. For r <= 0 one
    teacher's zero is final; for r > 0 the mass of one teacher is enough. Stable in log space, also near r = 0, where it
    approaches the geometric mean.

    exponent: r, any finite number; 1 is arithmetic, 0 geometric, -1 harmonic. softening: from T to the operator of each
    teacher.
    """

    exponent: float
    softening: Callable[[float], Softening] = Power

    def __post_init__(self) -> None:
        if not math.isfinite(self.exponent):
            raise SettingError(f"Expected exponent to be a finite number, got {self.exponent!r}.")

    def __call__(
        self, p_CNK: Tensor, *, weights: Tensor | None = None, temperatures: Sequence[float] | None = None
    ) -> Tensor:
        """The pooled distributions, as `Pooling`.

        Raises SettingError for weights or temperatures that do not fit the teachers, or if in some row no class is
        left.
        """
        r, share_C1K, log_CNK = self.exponent, _shares(p_CNK, weights), self._softened(p_CNK, temperatures)
        if r == 0:
            # A teacher of weight 0 has no influence, not even by a zero: 0 times minus infinity would be NaN.
            log_q_NK = torch.where(share_C1K > 0, share_C1K * log_CNK, 0.0).sum(0)
        else:
            # log1p of expm1 about the dominant term keeps the digits near r = 0, where (sum w F^r)^(1/r) would lose
            # them all.
            heard_CNK = torch.where(share_C1K > 0, log_CNK, -math.inf if r > 0 else math.inf)
            most_NK = heard_CNK.amax(0) if r > 0 else heard_CNK.amin(0)
            finite_NK = most_NK > -math.inf
            apart_CNK = torch.where((share_C1K > 0) & finite_NK, r * (log_CNK - most_NK.masked_fill(~finite_NK, 0.0)), 0.0)
            mean_NK = torch.log1p((share_C1K * torch.expm1(apart_CNK)).sum(0)) / r
            log_q_NK = torch.where(finite_NK, most_NK + mean_NK, -math.inf)
        empty_N = (log_q_NK == -math.inf).all(-1)
        if bool(empty_N.any()):
            raise SettingError(
                f"Expected a class that every teacher allows in each row, got none in {int(empty_N.sum())} of {len(empty_N)}."
            )
        return log_q_NK.softmax(-1)

    def _softened(self, p_CNK: Tensor, temperatures: Sequence[float] | None) -> Tensor:
        if temperatures is None:
            temperatures = [1.0] * len(p_CNK)
        if len(temperatures) != len(p_CNK):
            raise SettingError(f"Expected a temperature for each of {len(p_CNK)} teachers, got {len(temperatures)}.")
        return torch.stack([self.softening(t).from_log(p_NK.log()) for p_NK, t in zip(p_CNK, temperatures, strict=True)])


def Arithmetic(softening: Callable[[float], Softening] = Power) -> PowerMean:  # noqa: N802
    """sum_c w_c F_{T_c}(p_c): a sum, so the only pool that secure aggregation can carry.

    With weights per class, renormalised.
    """
    return PowerMean(1.0, softening)


def Geometric(softening: Callable[[float], Softening] = Power) -> PowerMean:  # noqa: N802
    """Proportional to prod_c F_{T_c}(p_c)^w_c, with power prod_c p_c^(w_c / T_c): any teacher can rule a class out."""
    return PowerMean(0.0, softening)


def _shares(p_CNK: Tensor, weights: Tensor | None) -> Tensor:
    """(C, 1, K) weights that sum to 1 over the teachers."""
    if p_CNK.ndim != 3 or len(p_CNK) < 1:
        raise SettingError(f"Expected answers of shape (C, N, K) with C >= 1, got {tuple(p_CNK.shape)}.")
    teachers, _, classes = p_CNK.shape
    weights = torch.ones(teachers) if weights is None else weights
    if weights.shape not in {(teachers,), (teachers, classes)}:
        raise SettingError(
            f"Expected weights of shape ({teachers},) or ({teachers}, {classes}), got {tuple(weights.shape)}."
        )
    weights_C1K = weights.to(p_CNK.dtype).to(p_CNK.device).reshape(teachers, 1, -1).expand(-1, -1, classes)
    total_1K = weights_C1K.sum(0)
    if not bool(((weights_C1K >= 0) & weights_C1K.isfinite()).all()) or not bool((total_1K > 0).all()):
        raise SettingError(f"Expected weights >= 0 with some weight on every class, got {weights.tolist()}.")
    return weights_C1K / total_1K
