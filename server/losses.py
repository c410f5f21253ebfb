"""The distillation losses that a plan names, from dense pooled targets; the mathematics is `limbeck.operators.losses`.

A pool of truncated answers is dense: every site keeps other classes, and each site's tail is spread evenly over those it does not keep.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

from torch import Tensor

from limbeck.operators.losses import hinton, jensen_shannon, reverse, ttm
from limbeck.plans.schema import Loss

__all__ = ["by_name", "hinton", "jensen_shannon", "reverse", "ttm"]


def by_name(loss: Loss, target_NK: Tensor, logits_NK: Tensor, temperature: float) -> Tensor:
    """The loss that a plan names. temperature: of the targets; Hinton's loss alone tempers the student too."""
    match loss:
        case Loss.TTM:
            return ttm(target_NK, logits_NK)
        case Loss.HINTON:
            return hinton(target_NK, logits_NK, temperature)
        case Loss.REVERSE:
            return reverse(target_NK, logits_NK)
        case Loss.JENSEN_SHANNON:
            return jensen_shannon(target_NK, logits_NK)
