"""Masks of a sparse student, which only ever close."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Masks:
    """Which weights of a model are kept: one boolean tensor per weight of two or more dimensions; biases are all kept."""

    def __init__(self, kept: dict[str, Tensor]) -> None:
        self.kept = kept

    @classmethod
    def ones(cls, model: nn.Module) -> Masks:
        """Nothing pruned."""
        return cls({name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model)})

    @property
    def sparsity(self) -> float:
        """The share of prunable weights that is pruned."""
        total = sum(mask.numel() for mask in self.kept.values())
        return 1 - sum(int(mask.sum()) for mask in self.kept.values()) / total

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set pruned weights to zero."""
        for name, weight in prunable(model):
            weight.mul_(self.kept[name])

    @torch.no_grad()
    def prune(self, model: nn.Module, sparsity: float) -> None:
        """Prune the smallest magnitudes of the whole model until `sparsity` of all weights are pruned; what is pruned stays so.

        The largest weight of each layer is never pruned, so no layer goes empty. A sparsity below today's changes nothing.
        """
        weights = dict(prunable(model))
        total = sum(weight.numel() for weight in weights.values())
        target = round(sparsity * total)
        scores = []
        for name, weight in weights.items():
            score = weight.abs().flatten().clone()
            score[int(score.argmax())] = torch.inf
            score[~self.kept[name].flatten()] = -1
            scores.append(score)
        flat = torch.cat(scores)
        if target <= int((flat < 0).sum()):
            return
        dropped = torch.zeros_like(flat, dtype=torch.bool)
        dropped[flat.argsort(stable=True)[:target]] = True
        dropped &= flat < torch.inf
        for (name, weight), part in zip(
            weights.items(), torch.split(dropped, [weight.numel() for weight in weights.values()]), strict=True
        ):
            self.kept[name] = ~part.view_as(weight)
        self.apply(model)


def prunable(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Weights of two or more dimensions, by name."""
    return [(name, weight) for name, weight in model.named_parameters() if weight.ndim > 1]
