"""The tail mass of a released head after softening: an interval, computed from the head alone.

Softening moves mass into the tail: for a Zipf(1.2) distribution over 50,000 entries the mass beyond the top 20 is 0.43
at T = 1 and 0.97 at T = 2 [D]. Whoever has only the head can bound it.

Shape legend: N samples, K classes, k kept entries per sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.base import check
from limbeck.operators.truncated import Truncated

__all__ = ["TailInterval", "tail_interval"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TailInterval:
    """Bounds in float64, each of shape (N,).

    sum_low_N, sum_high_N: bounds on the tail's sum of p_i^(1/T). mass_low_N, mass_high_N: on its mass after power
    softening at T.
    """

    sum_low_N: Tensor
    sum_high_N: Tensor
    mass_low_N: Tensor
    mass_high_N: Tensor


def tail_interval(head: Truncated, temperature: float) -> TailInterval:
    """Bounds on the tail of a released head of the K - k largest entries under power softening [D].

    Guarantees: for every p whose largest entries and tail mass are the head's, the sum and the mass lie within. Both
    ends are attained. For T >= 1, x^(1/T) is concave and no tail entry exceeds the smallest kept one, p_k: the upper
    end is attained by an even tail, the lower by a tail of c = floor(m / p_k) entries of size p_k and one entry with
    the rest of the tail mass m. For T < 1 it is convex and the ends swap. Slots of probability 0 are padding and count
    among the tail.

    temperature: T > 0.
    """
    check.positive(temperature=temperature)
    p_Nk, tail_N = head.p_Nk.double(), head.tail_N.double()
    kept_Nk = p_Nk > 0
    others_N = head.classes - kept_Nk.sum(-1)
    even_N = tail_N / others_N.clamp(min=1)
    # The largest possible tail entry. Rounding, or a quantised head, may leave less room than the tail needs; then the
    # tail must be even.
    smallest_N = p_Nk.masked_fill(~kept_Nk, torch.inf).amin(-1).clamp(max=1).maximum(even_N)
    whole_N = (tail_N / smallest_N).floor().minimum(others_N)
    rest_N = (tail_N - whole_N * smallest_N).clamp(min=0)
    inverse = 1 / temperature
    crowded_N = whole_N * smallest_N**inverse + rest_N**inverse
    spread_N = others_N * even_N**inverse
    low_N, high_N = torch.minimum(crowded_N, spread_N), torch.maximum(crowded_N, spread_N)
    head_N = torch.where(kept_Nk, p_Nk**inverse, 0.0).sum(-1)
    return TailInterval(
        sum_low_N=low_N, sum_high_N=high_N, mass_low_N=low_N / (low_N + head_N), mass_high_N=high_N / (high_N + head_N)
    )
