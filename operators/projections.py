"""Maps to sparse distributions, which are not softening operators.

Sparsemax and arg-max break axioms; the checker shows which.

Shape legend: N samples (any leading shape), K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.base import check

__all__ = ["ArgMax", "Sparsemax", "nearest"]


@dataclass(frozen=True, slots=True)
class Sparsemax:
    """The point of the simplex nearest to log(p) / T in the Euclidean norm [F: arXiv 1602.02068].

    Guarantees: rows sum to 1; ranking kept up to ties; T -> infinity gives the uniform distribution and T -> 0 the
    one-hot. Not a softening operator: entries far below the largest become 0 and tie, so it breaks axiom 1, and 4: at T
    = 1 it is not the identity. It is continuous (axiom 2), unlike truncation and arg-max.

    temperature: T > 0, dimensionless.
    """

    temperature: float

    def __post_init__(self) -> None:
        check.positive(temperature=self.temperature)

    def __call__(self, p_NK: Tensor) -> Tensor:
        # Scores are relative to the largest, so that exact zeros (minus infinity) and tiny temperatures do no harm.
        z_NK = (p_NK.log() - p_NK.log().amax(-1, keepdim=True)) / self.temperature
        return nearest(z_NK.clamp(min=-2.0))  # An entry 1 or more below the largest is outside the support, however far.


def nearest(z_NK: Tensor) -> Tensor:
    """The point of the simplex nearest to z in the Euclidean norm, over the last axis."""
    sorted_NK = z_NK.sort(-1, descending=True).values
    size_K = torch.arange(1, z_NK.shape[-1] + 1, dtype=z_NK.dtype, device=z_NK.device)
    excess_NK = sorted_NK.cumsum(-1) - 1
    support_N1 = (sorted_NK * size_K > excess_NK).sum(-1, keepdim=True)
    threshold_N1 = excess_NK.gather(-1, support_N1 - 1) / support_N1
    return (z_NK - threshold_N1).clamp(min=0)


@dataclass(frozen=True, slots=True)
class ArgMax:
    """One-hot of the largest entry, ties by the smaller id. Breaks axioms 1, 2 and 4, and 5 for T -> infinity."""

    def __call__(self, p_NK: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(p_NK.argmax(-1), p_NK.shape[-1]).to(p_NK.dtype)
