"""Operators for the checker to find: some break exactly one axiom, others several."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.operators import Mixing, Power, Renormalised, SoftenThenTruncate, TopK
from limbeck.operators.projections import ArgMax, Sparsemax


class Levelled:
    """Axiom 1 only: above T = 1 small entries are raised to one level, so they tie.

    The level rises with T, so entropy does.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, p_NK: Tensor) -> Tensor:
        if self.temperature < 1:
            return Power(self.temperature)(p_NK)
        raised_NK = p_NK.clamp(min=1 - 1 / self.temperature)
        return raised_NK / raised_NK.sum(-1, keepdim=True)


def warped(warp: Callable[[float], float]) -> Callable[[float], Power]:
    """Power at another temperature."""
    return lambda temperature: Power(warp(temperature))


# Axiom 2 only: the temperature moves in steps, through 1.
stepped = warped(lambda t: 2 ** (round(4 * math.log2(t)) / 4))
# Axiom 3 only: the temperature swings, through 1 and to both ends.
swinging = warped(lambda t: t * math.exp(0.5 * math.sin(4 * math.log(t))))
# Axiom 4 only.
too_warm = warped(lambda t: 1.001 * t)
# Axiom 5 only, at either end.
never_uniform = warped(lambda t: min(t, 100.0))
never_one_hot = warped(lambda t: max(t, 0.05))


class Torn:
    """Axiom 2 only, in p: power where the largest entry is above one half, mixing elsewhere."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, p_NK: Tensor) -> Tensor:
        power_NK = Power(self.temperature)(p_NK)
        if self.temperature <= 1:
            return power_NK
        return torch.where(p_NK.amax(-1, keepdim=True) > 0.5, power_NK, Mixing(self.temperature)(p_NK))


class Reversed:
    """Axiom 1, where few draws fall: the order turns round as the largest entry comes within 1e-4 of 0.73."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, p_NK: Tensor) -> Tensor:
        near_N1 = 1 / (1 + ((p_NK.amax(-1, keepdim=True) - 0.73) / 1e-4) ** 2)
        return (p_NK.log() * (1 - 1.5 * near_N1) / self.temperature).softmax(-1)


class Unnormalised:
    """Not a distribution: it sums to 1.01."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, p_NK: Tensor) -> Tensor:
        return 1.01 * Power(self.temperature)(p_NK)


class UncheckedTsallis:
    """Tsallis without the check of its domain."""

    def __init__(self, q: float, temperature: float) -> None:
        self.q, self.temperature = q, temperature

    def __call__(self, p_NK: Tensor) -> Tensor:
        order = 1 - self.q
        weight_NK = ((1 - 1 / self.temperature) + p_NK**order / self.temperature) ** (1 / order)
        return weight_NK / weight_NK.sum(-1, keepdim=True)


def top_k(k: int) -> Callable[[float], Any]:
    """Soften, keep only the top k, renormalise, as is common in practice."""

    def make(temperature: float) -> Callable[[Tensor], Tensor]:
        chain = SoftenThenTruncate(softening=Power(temperature), truncation=Renormalised(TopK(k)))
        return lambda p_NK: chain(p_NK).dense()

    return make


def arg_max(temperature: float) -> ArgMax:
    """Arg-max at every temperature."""
    return ArgMax()


sparsemax = Sparsemax
