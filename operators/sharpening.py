"""Sharpening: from the pool of softened answers back to targets with differences that a student can see.

Strongly softened answers of many sites are all close to uniform, and what they say together lies in small differences of their mean. With
p_c = softmax(z_c / T), the centred logarithm of one site's answer is its centred scores over T, exactly; that of the mean of C sites is the
mean of theirs over T, up to an error of second order in 1 / T (`evidence`). A student, or a model before it, is fitted to such
differences well only if they are of the size of the logits it has to give.

Shape legend: N samples, K classes, C sites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.base import check

__all__ = ["LEAST", "Sharpen", "evidence"]

# Smaller probabilities, and zero, count as this one: it is the least that the wire carries.
LEAST = 2.0**-20
# Numbers that are worked on together.
CHUNK = 1 << 20


def evidence(p_NK: Tensor) -> Tensor:
    """(N, K) float64: the logarithms of probabilities, less their mean over the classes; those below `LEAST` count as `LEAST`.

    Guarantees, with p the mean of p_c = softmax(z_c / T) over C sites and all entries above LEAST [D]:

    - C = 1: T evidence(p) is z_c less its mean over the classes.
    - Any C: T evidence(p) differs from the mean over c of T evidence(p_c) by at most T w^2 / 8 in every entry, where w is the widest
      range over the sites of log p_ck in any class k. For each class, log-mean-exp lies above the mean by 0 to w^2 / 8 (Hoeffding's lemma),
      and the means over classes that are subtracted differ by 0 to w^2 / 8 as well. Scores do not depend on T, so w falls as 1 / T, and the
      error as 1 / T too.
    """
    return _centred(p_NK.double().clamp(min=LEAST).log())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharpen:
    """Scale the evidence of all samples by one factor, so that its root mean square over samples and classes is `spread`, then softmax.

    Guarantees: shape and dtype kept; rows sum to 1; ranking kept within every row, and the ratios of log-odds across all rows; whatever
    the temperature of the answers was, the result is the same up to the error of `evidence`, so one spread serves all temperatures.
    Distributions that are all uniform stay so.

    spread: > 0, in nats; 1 leaves most rows undecided, from about 8 on the result is nearly one-hot.
    """

    spread: float

    def __post_init__(self) -> None:
        check.positive(spread=self.spread)

    def __call__(self, p_NK: Tensor) -> Tensor:
        return self._scaled(p_NK, evidence)

    def of_logits(self, logits_NK: Tensor) -> Tensor:
        """The same from logits, of any scale and any mean over the classes."""
        return self._scaled(logits_NK, lambda part: _centred(part.double()))

    def _scaled(self, x_NK: Tensor, logits_of: Callable[[Tensor], Tensor]) -> Tensor:
        # In parts, since float64 takes twice the memory of what comes in.
        parts = x_NK.split(max(1, CHUNK // x_NK.shape[1]))
        squares = torch.stack([logits_of(part).square().sum() for part in parts]).sum()
        factor = self.spread * (x_NK.numel() / squares).sqrt() if float(squares) > 0 else torch.zeros_like(squares)
        return torch.cat([(logits_of(part) * factor).softmax(-1).to(x_NK.dtype) for part in parts])


def _centred(logits_NK: Tensor) -> Tensor:
    return logits_NK - logits_NK.mean(-1, keepdim=True)
