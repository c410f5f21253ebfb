"""Softening operators: F_T on the simplex, with temperature T.

The five axioms [P, wording of 5 is D]: ranking preservation; continuity in (p, T); entropy does not fall as T rises; T = 1 is the
identity; T to infinity gives the uniform distribution (on the support of p), T to 0 the one-hot of the arg-max.

Shape legend: N samples (any leading shape), K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, logaddexp

from limbeck.operators import check
from limbeck.operators.errors import SettingError


class Softening(Protocol):
    """A frozen callable from distributions to distributions over the last axis."""

    @property
    def temperature(self) -> float:
        """T, dimensionless; above 1 softens."""

    def __call__(self, p_NK: Tensor) -> Tensor:
        """Soften probabilities."""

    def from_log(self, log_p_NK: Tensor) -> Tensor:
        """Soften log-probabilities; the result is log-probabilities too."""


@dataclass(frozen=True, slots=True)
class Power:
    """p_i^(1/T) / sum_j p_j^(1/T), which is softmax(z / T) of logits z [P].

    Guarantees: shape, dtype and device kept; rows sum to 1; ranking kept; T = 1 is the identity; zeros stay zero; axioms 1 to 5 on the
    interior for every T > 0; dH/dT = Var_{F_T(p)}(log p) / T^3 [D]. Stable in log space down to p = 1e-30 in float32.

    temperature: T > 0, dimensionless; above 1 softens.
    """

    temperature: float

    def __post_init__(self) -> None:
        check.positive(temperature=self.temperature)

    def __call__(self, p_NK: Tensor) -> Tensor:
        return self.from_log(p_NK.log()).exp()

    def from_log(self, log_p_NK: Tensor) -> Tensor:
        return (log_p_NK / self.temperature).log_softmax(-1)


@dataclass(frozen=True, slots=True)
class Mixing:
    """(1 - l) p + l u with u uniform and l = 1 - 1/T [D].

    Guarantees: shape, dtype and device kept; rows sum to 1; ranking kept; T = 1 is the identity; axioms 1 to 4 and the upper half of 5;
    affine in p, so it commutes with averaging over clients and with expectations.

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


FAMILIES: dict[str, type[Power] | type[Mixing]] = {"power": Power, "mixing": Mixing}


def family(name: str, temperature: float) -> Power | Mixing:
    """The operator of a family by name. Raises SettingError for an unknown name or a temperature outside its domain."""
    if name not in FAMILIES:
        raise SettingError(f"Expected a softening family out of {', '.join(FAMILIES)}, got {name!r}.")
    return FAMILIES[name](temperature)
