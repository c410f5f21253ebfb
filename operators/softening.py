"""Softening operators: F_T on the simplex, with temperature T.

The five axioms [P, wording of 5 is D]: ranking preservation; continuity in (p, T); entropy does not fall as T rises; T
= 1 is the identity; T to infinity gives the uniform distribution (on the support of p), T to 0 the one-hot of the
arg-max. Each docstring says which of them the family keeps; `limbeck.operators.axioms` searches for counterexamples.
That several inequivalent families keep them is a theorem of the paper [P]; the families themselves are [D], except
power [P].

All families except `entropy_target.EntropyTarget` are separable: F_T(p)_i = f_T(p_i) / sum_j f_T(p_j). Each offers
`log_weight`, log f_T of log-probabilities, so that the sufficient condition by majorisation can be checked on it.
`families` names those that a plan may use.

Shape legend: N samples (any leading shape), K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, logaddexp

from limbeck.base import check
from limbeck.base.errors import SettingError

__all__ = ["Hybrid", "Mixing", "Power", "Separable", "SeparableSoftening", "Softening", "TemperedSoftening", "Tsallis"]

# From this argument on, exp stays in log space; exp(60) = 1e26 is far from overflow in float32.
FAR = 60.0


class Softening(Protocol):
    """A frozen callable from distributions to distributions over the last axis."""

    def __call__(self, p_NK: Tensor) -> Tensor:
        """Soften probabilities."""

    def from_log(self, log_p_NK: Tensor) -> Tensor:
        """Soften log-probabilities; the result is log-probabilities."""


class TemperedSoftening(Softening, Protocol):
    """A softening operator that has one temperature."""

    @property
    def temperature(self) -> float:
        """T, dimensionless; above 1 softens."""


class SeparableSoftening(Softening, Protocol):
    """A softening operator that is f_T(p_i) / sum_j f_T(p_j)."""

    def log_weight(self, log_p_NK: Tensor) -> Tensor:
        """log f_T of log-probabilities, up to a constant per row."""


@dataclass(frozen=True, slots=True)
class Power:
    """p_i^(1/T) / sum_j p_j^(1/T), which is softmax(z / T) of logits z [P].

    Guarantees: shape, dtype and device kept; rows sum to 1; ranking kept; T = 1 is the identity; zeros stay zero;
    axioms 1 to 5 on the interior for every T > 0; dH/dT = Var_{F_T(p)}(log p) / T^3; the minimiser of KL(q || p) - (T -
    1) H(q) for T >= 1 [D]. Stable in log space down to p = 1e-30 in float32.

    temperature: T > 0, dimensionless; above 1 softens.
    """

    temperature: float

    def __post_init__(self) -> None:
        check.positive(temperature=self.temperature)

    def __call__(self, p_NK: Tensor) -> Tensor:
        return self.from_log(p_NK.log()).exp()

    def from_log(self, log_p_NK: Tensor) -> Tensor:
        return self.log_weight(log_p_NK).log_softmax(-1)

    def log_weight(self, log_p_NK: Tensor) -> Tensor:
        return log_p_NK / self.temperature


@dataclass(frozen=True, slots=True)
class Mixing:
    """(1 - l) p + l u with u uniform and l = 1 - 1/T [D].

    Guarantees: shape, dtype and device kept; rows sum to 1; ranking kept; T = 1 is the identity; axioms 1 to 4 and the
    upper half of 5; affine in p, so it commutes with averaging over clients and with expectations; the minimiser of
    KL(p || q) + (T - 1) KL(u || q).

    temperature: T >= 1, dimensionless.
    """

    temperature: float

    def __post_init__(self) -> None:
        check.at_least(1.0, temperature=self.temperature)

    def __call__(self, p_NK: Tensor) -> Tensor:
        return p_NK / self.temperature + (1 - 1 / self.temperature) / p_NK.shape[-1]

    def from_log(self, log_p_NK: Tensor) -> Tensor:
        if self.temperature == 1:
            return log_p_NK.clone()
        floor = math.log((1 - 1 / self.temperature) / log_p_NK.shape[-1])
        return logaddexp(log_p_NK - math.log(self.temperature), log_p_NK.new_full((), floor))

    def log_weight(self, log_p_NK: Tensor) -> Tensor:
        return self.from_log(log_p_NK)


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Power for T < 1, mixing for T >= 1 [D]: the witness that power is not the only family with all five axioms.

    Guarantees: shape, dtype and device kept; rows sum to 1; ranking kept; T = 1 is the identity; axioms 1 to 5 on the
    interior for every T > 0; differs from power at every T > 1.

    temperature: T > 0, dimensionless; above 1 softens.
    """

    temperature: float

    def __post_init__(self) -> None:
        check.positive(temperature=self.temperature)

    def __call__(self, p_NK: Tensor) -> Tensor:
        return self._side(p_NK)

    def from_log(self, log_p_NK: Tensor) -> Tensor:
        return self._side.from_log(log_p_NK)

    def log_weight(self, log_p_NK: Tensor) -> Tensor:
        return self._side.log_weight(log_p_NK)

    @property
    def _side(self) -> Power | Mixing:
        return Power(self.temperature) if self.temperature < 1 else Mixing(self.temperature)


@dataclass(frozen=True, slots=True)
class Tsallis:
    """Proportional to [(1 - 1/T) + p_i^(1-q) / T]^(1/(1-q)) [D].

    Guarantees: shape, dtype and device kept; rows sum to 1; ranking kept; T = 1 is the identity; axioms 1 to 4 and the
    upper half of 5 on the interior; q -> 1 is power at T; q = 0 is mixing with l = K (T - 1) / (K (T - 1) + 1). At one
    T entropy does not rise with q: the slope of log f_T against log p, p^(1-q) / (T - 1 + p^(1-q)), rises with q, so
    the result for a lower q is majorised. Stable in log space down to p = 1e-30 in float32. Zeros stay zero only for q
    >= 1. The further q lies below 0, the sooner small probabilities become equal in floating point.

    q: any finite number, the order of the entropy. temperature: T >= 1, dimensionless: below 1 the bracket becomes
    negative if q < 1, and T -> 0 does not reach the one-hot if q > 1.
    """

    q: float
    temperature: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.q):
            raise SettingError(f"Expected q to be a finite number, got {self.q!r}.")
        check.at_least(1.0, temperature=self.temperature)

    def __call__(self, p_NK: Tensor) -> Tensor:
        return self.from_log(p_NK.log()).exp()

    def from_log(self, log_p_NK: Tensor) -> Tensor:
        return self.log_weight(log_p_NK).log_softmax(-1)

    def log_weight(self, log_p_NK: Tensor) -> Tensor:
        temperature, order = self.temperature, 1 - self.q
        if temperature == 1:
            return log_p_NK
        if order == 0:
            return log_p_NK / temperature
        # log[1 + (e^a - 1) / T] with a = (1 - q) log p. Near a = 0, where q is close to 1 or T is large, only log1p and
        # expm1 keep the digits; where e^a overflows or most of the bracket cancels, only the sum of two logarithms
        # does. Each form gets a harmless argument where the other is used; otherwise its gradient would be NaN there.
        a_NK = order * log_p_NK
        near_NK = (a_NK < FAR) & (torch.expm1(a_NK.clamp(max=FAR)) > -temperature / 2)
        near = torch.log1p(torch.expm1(a_NK.masked_fill(~near_NK, 0.0)) / temperature)
        floor = log_p_NK.new_full((), math.log1p(-1 / temperature))
        far = logaddexp(floor, a_NK.masked_fill(near_NK, 0.0) - math.log(temperature))
        return torch.where(near_NK, near, far) / order


@dataclass(frozen=True, slots=True)
class Separable:
    """f_T(p_i) / sum_j f_T(p_j) for an f of your own.

    Guarantees: rows sum to 1. Axiom 1 holds where f_T is strictly increasing, axiom 3 where f_T'(x) / f_T(x) does not
    increase in x for every T' > T (by majorisation) [D]: `axioms.majorisation` checks both on a grid.

    - f: (p, T) -> f_T(p), elementwise and differentiable, > 0 for p in (0, 1]. It raises a SettingError for a T outside
      its domain.
    - temperature: T > 0, handed to f.
    - log_space: f maps log p to log f_T(p) instead, which keeps probabilities that underflow.
    """

    f: Callable[[Tensor, float], Tensor]
    temperature: float
    log_space: bool = False

    def __post_init__(self) -> None:
        check.positive(temperature=self.temperature)

    def __call__(self, p_NK: Tensor) -> Tensor:
        return self.from_log(p_NK.log()).exp()

    def from_log(self, log_p_NK: Tensor) -> Tensor:
        return self.log_weight(log_p_NK).log_softmax(-1)

    def log_weight(self, log_p_NK: Tensor) -> Tensor:
        """log f_T of log-probabilities.

        Raises SettingError if f changes the shape or returns something other than a weight.
        """
        weight_NK = self.f(log_p_NK if self.log_space else log_p_NK.exp(), self.temperature)
        if weight_NK.shape != log_p_NK.shape:
            raise SettingError(f"Expected f to keep the shape {tuple(log_p_NK.shape)}, got {tuple(weight_NK.shape)}.")
        wrong_NK = (
            weight_NK.isnan() | (weight_NK == math.inf) if self.log_space else ~((weight_NK >= 0) & weight_NK.isfinite())
        )
        if bool(wrong_NK.any()):
            wanted = "log f < infinity" if self.log_space else "0 <= f < infinity"
            at, got = float(log_p_NK[wrong_NK][0].exp()), float(weight_NK[wrong_NK][0])
            raise SettingError(f"Expected {wanted} at T = {self.temperature:g}, got {got:g} at p = {at:g}.")
        return weight_NK if self.log_space else weight_NK.log()
