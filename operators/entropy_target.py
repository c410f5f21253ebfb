"""Softening to a given entropy: power with a separate temperature for every distribution.

Shape legend: N samples (any leading shape), K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.base import check
from limbeck.base.errors import SettingError

__all__ = ["EntropyTarget"]

# Search for log T in [0, 60]: at T = e^60 any distribution whose logarithms are finite in float64 is uniform to the
# last bit.
LARGEST_LOG_TEMPERATURE = 60.0
# Newton takes under 10 steps, bisection alone would take 36. Convergence is quadratic: a step this small lands within
# rounding.
CLOSE = 1e-9
MAX_STEPS = 100


@dataclass(frozen=True, slots=True)
class EntropyTarget:
    """The distribution q nearest to p, by KL(q || p), whose Shannon entropy is at least h [D].

    It is p itself if H(p) >= h, and otherwise power with the one T(p) > 1 for which H(q) = h.

    Guarantees: shape, dtype and device kept; rows sum to 1; ranking kept for h < log K; zeros stay zero; H(q) =
    max(H(p), h) to rounding; gradients by the implicit function theorem, first order. As a family in T with h = (1 -
    1/T) log K: axioms 1 to 4 and the upper half of 5 on the interior. If p has zeros and h exceeds the logarithm of the
    size of its support, q is uniform on the support. Solved in float64 whatever the dtype of p, so p = 1e-30 in float32
    loses nothing.

    entropy: h >= 0 in nats, at most log K. relative: entropy is a share of log K instead, in [0, 1].
    """

    entropy: float
    relative: bool = False

    def __post_init__(self) -> None:
        check.at_least(0.0, entropy=self.entropy)
        if self.relative and self.entropy > 1:
            raise SettingError(f"Expected entropy <= 1 as a share of log K, got {self.entropy!r}.")

    @classmethod
    def at_temperature(cls, temperature: float) -> EntropyTarget:
        """The family in T >= 1: h = (1 - 1/T) log K."""
        check.at_least(1.0, temperature=temperature)
        return cls(1 - 1 / temperature, relative=True)

    def __call__(self, p_NK: Tensor) -> Tensor:
        return self.from_log(p_NK.log()).exp()

    def from_log(self, log_p_NK: Tensor) -> Tensor:
        """From log p to log q. Raises SettingError if h exceeds log K."""
        x_NK, support_NK = _support(log_p_NK)
        inverse_N1 = self._inverse_temperature(x_NK, support_NK)
        scaled_NK = (inverse_N1 * x_NK).masked_fill(~support_NK, -math.inf)
        return scaled_NK.log_softmax(-1).to(log_p_NK.dtype)

    def temperatures(self, log_p_NK: Tensor) -> Tensor:
        """T(p) >= 1 of every row, shape N, float64; infinite where q is uniform on the support of p."""
        return self._inverse_temperature(*_support(log_p_NK)).squeeze(-1).reciprocal()

    def _inverse_temperature(self, x_NK: Tensor, support_NK: Tensor) -> Tensor:
        """1/T, (N, 1); x_NK: float64 log-probabilities, 0 off the support."""
        classes = x_NK.shape[-1]
        h = self.entropy * math.log(classes) if self.relative else self.entropy
        if h > math.log(classes) * (1 + 1e-12):
            raise SettingError(f"Expected entropy <= log K = {math.log(classes):.6g} for K = {classes}, got {h:.6g}.")
        size_N1 = support_NK.sum(-1, keepdim=True).double().log()
        # For large T the logarithm of the distance to uniform is linear in log T, which suits Newton's method.
        wanted_N1 = size_N1 - h
        with torch.no_grad():
            active_N1 = _moments(x_NK, support_NK, torch.ones_like(wanted_N1), size_N1)[0] > wanted_N1
            inverse_N1 = torch.where(active_N1, 0.0, torch.ones_like(wanted_N1))
            # Only rows that must and can move are solved for; on the others the bracket would close slowly at one end.
            rows_N = (active_N1 & (wanted_N1 > 0)).squeeze(-1)
            s_n1 = _solve(x_NK[rows_N], support_NK[rows_N], size_N1[rows_N], wanted_N1[rows_N])
            inverse_N1[rows_N] = torch.exp(-s_n1)
        if not x_NK.requires_grad:
            return inverse_N1
        # One Newton step from the solution changes no value but carries the gradient: d(1/T) = -(dH at fixed T) / (dH /
        # d(1/T)).
        distance_N1, variance_N1 = _moments(x_NK, support_NK, inverse_N1, size_N1)
        slope_N1 = (inverse_N1 * variance_N1).detach()
        moves_N1 = active_N1 & (slope_N1 > 0)
        step_N1 = (distance_N1 - distance_N1.detach()) / slope_N1.masked_fill(~moves_N1, 1.0)
        return torch.where(moves_N1, inverse_N1 - step_N1, inverse_N1)


def _support(log_p_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised log-probabilities in float64 with 0 off the support, and the support."""
    support_NK = log_p_NK > -math.inf
    x_NK = log_p_NK.double().masked_fill(~support_NK, -math.inf).log_softmax(-1)
    return x_NK.masked_fill(~support_NK, 0.0), support_NK


def _moments(x_NK: Tensor, support_NK: Tensor, inverse_N1: Tensor, size_N1: Tensor) -> tuple[Tensor, Tensor]:
    """Of q ~ exp(x / T) on the support: its distance to uniform, log(support size) - H(q), and the variance of x."""
    log_q_NK = (inverse_N1 * x_NK).masked_fill(~support_NK, -math.inf).log_softmax(-1)
    q_NK = log_q_NK.exp()
    log_q_NK = log_q_NK.masked_fill(~support_NK, 0.0)
    distance_N1 = (q_NK * (log_q_NK + size_N1)).sum(-1, keepdim=True)
    mean_N1 = (q_NK * x_NK).sum(-1, keepdim=True)
    return distance_N1, (q_NK * (x_NK - mean_N1).square()).sum(-1, keepdim=True)


def _solve(x_NK: Tensor, support_NK: Tensor, size_N1: Tensor, wanted_N1: Tensor) -> Tensor:
    """The s = log T in [0, 60] that gives the wanted distance to uniform: Newton's method in a shrinking bracket."""
    low_N1, high_N1 = torch.zeros_like(size_N1), torch.full_like(size_N1, LARGEST_LOG_TEMPERATURE)
    log_wanted_N1 = wanted_N1.clamp(min=torch.finfo(torch.float64).tiny).log()
    variance_N1 = _moments(x_NK, support_NK, torch.zeros_like(size_N1), size_N1)[1]
    s_N1 = (0.5 * ((variance_N1 / 2).log() - log_wanted_N1)).nan_to_num().clamp(0.0, LARGEST_LOG_TEMPERATURE)
    for _ in range(MAX_STEPS):
        inverse_N1 = torch.exp(-s_N1)
        distance_N1, variance_N1 = _moments(x_NK, support_NK, inverse_N1, size_N1)
        above_N1 = distance_N1 > wanted_N1
        low_N1, high_N1 = torch.where(above_N1, s_N1, low_N1), torch.where(above_N1, high_N1, s_N1)
        next_N1 = s_N1 + (distance_N1.log() - log_wanted_N1) * distance_N1 / (variance_N1 * inverse_N1.square())
        # NaN compares false: where Newton's step is undefined, the bracket is halved.
        inside_N1 = (next_N1 >= low_N1) & (next_N1 <= high_N1)
        next_N1 = torch.where(inside_N1, next_N1, (low_N1 + high_N1) / 2)
        moved = (next_N1 - s_N1).abs() / (1 + s_N1)
        s_N1 = next_N1
        if not bool((moved > CLOSE).any()):
            break
    return s_N1
