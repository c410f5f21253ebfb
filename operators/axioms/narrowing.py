"""Halving a segment towards its larger change: a steep but continuous stretch flattens as its ends meet, a jump stays.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from limbeck.operators.axioms.measures import jump

End = TypeVar("End")
# A change that keeps this share of its size over the second half of the halvings is a jump.
STAYS = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowed(Generic[End]):
    """A segment after halving. jump_N: L1 change of each row between its ends. stays: the largest of them is a jump."""

    low: End
    high: End
    jump_N: Tensor
    stays: bool


def narrow(
    q: Callable[[End], Tensor],
    middle: Callable[[End, End], End],
    low: End,
    high: End,
    *,
    halvings: int,
    floor: float,
    smooth: Mapping[int, float] | None = None,
) -> Narrowed[End]:
    """Halve the segment from `low` to `high` towards the half in which some row changes most; all rows share the way.

    - q: from an end to (N, K) distributions.
    - middle: between two ends.
    - floor: a change of at most this in L1 is no jump; the search ends there.
    - smooth: the search also ends if after so many halvings the change has shrunk by more than this factor.
    """
    q_low, q_high = q(low), q(high)
    first = half_way = math.inf
    for step in range(halvings + 1):
        jump_N = jump(q_low, q_high)
        largest = float(jump_N.max())
        if step == 0:
            first = largest
        shrunk = smooth is not None and step > 0 and largest < first / smooth.get(step, math.inf)
        if largest <= floor or shrunk:
            return Narrowed(low=low, high=high, jump_N=jump_N, stays=False)
        if step == halvings // 2:
            half_way = largest
        if step < halvings:
            between = middle(low, high)
            q_between = q(between)
            if float(jump(q_low, q_between).max()) >= float(jump(q_between, q_high).max()):
                high, q_high = between, q_between
            else:
                low, q_low = between, q_between
    return Narrowed(low=low, high=high, jump_N=jump_N, stays=largest >= STAYS * half_way)
