"""Distillation losses from soft targets.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.protos.messages import Loss


def ttm(target_NK: Tensor, logits_NK: Tensor) -> Tensor:
    """Transformed teacher matching: mean KL(target || softmax(z)), the student untempered [F: arXiv 2402.11148]. Nats."""
    return _divergence(target_NK, logits_NK)


def hinton(target_NK: Tensor, logits_NK: Tensor, temperature: float) -> Tensor:
    """Hinton's loss: T^2 times the mean KL(target || softmax(z / T)), the target softened at the same T [F: arXiv 1503.02531]."""
    return temperature**2 * _divergence(target_NK, logits_NK / temperature)


def by_name(loss: Loss, target_NK: Tensor, logits_NK: Tensor, temperature: float) -> Tensor:
    """The loss that a plan names."""
    return ttm(target_NK, logits_NK) if loss is Loss.TTM else hinton(target_NK, logits_NK, temperature)


def _divergence(target_NK: Tensor, logits_NK: Tensor) -> Tensor:
    entropy = torch.xlogy(target_NK, target_NK).sum(-1)
    return (entropy - (target_NK * logits_NK.log_softmax(-1)).sum(-1)).mean()
