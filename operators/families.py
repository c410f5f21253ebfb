"""The softening families that a plan can name: one table of their names, formulas, domains and makers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from limbeck.base.errors import SettingError
from limbeck.operators.entropy_target import EntropyTarget
from limbeck.operators.softening import Hybrid, Mixing, Power, Softening, Tsallis

__all__ = ["Family", "family"]


class Family(Enum):
    """A softening family, by its name on the wire, in plans, policies and on the command line."""

    POWER = "power"
    MIXING = "mixing"
    HYBRID = "hybrid"
    TSALLIS = "tsallis"
    ENTROPY_TARGET = "entropy-target"

    @property
    def formula(self) -> str:
        """F_T(p) in one line of plain text."""
        return _TABLE[self].formula

    @property
    def lowest_temperature(self) -> float:
        """The infimum of its temperatures: 0, which is not one of them, or 1, which is."""
        return 0.0 if _TABLE[self].sharpens else 1.0

    @property
    def domain(self) -> str:
        """The domain of T in plain text."""
        return "T > 0" if _TABLE[self].sharpens else "T >= 1"

    @property
    def takes_order(self) -> bool:
        """Whether it is a family in two parameters, T and the order q."""
        return _TABLE[self].takes_order

    def at(self, temperature: float, *, order: float | None = None) -> Softening:
        """The operator at T. order: q, for a family that takes one.

        Raises SettingError for a temperature outside the domain, or an order that is missing or not wanted.
        """
        if (order is not None) != self.takes_order:
            raise SettingError(
                f"Expected an order with {Family.TSALLIS.value} and only then, got {order!r} with {self.value}."
            )
        return _TABLE[self].make(*(() if order is None else (order,)), temperature)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """make: from T, or from q and T, to the operator. sharpens: T < 1 is in the domain. takes_order: `make` takes q."""

    formula: str
    make: Callable[..., Softening]
    sharpens: bool = False
    takes_order: bool = False


_TABLE = {
    Family.POWER: _Facts(formula="p^(1/T), which is softmax(z / T)", make=Power, sharpens=True),
    Family.MIXING: _Facts(formula="(1 - l) p + l u with l = 1 - 1/T", make=Mixing),
    Family.HYBRID: _Facts(formula="power below T = 1, mixing above", make=Hybrid, sharpens=True),
    Family.TSALLIS: _Facts(formula="[(1 - 1/T) + p^(1-Q) / T]^(1/(1-Q))", make=Tsallis, takes_order=True),
    Family.ENTROPY_TARGET: _Facts(
        formula="nearest to p with entropy at least (1 - 1/T) log K", make=EntropyTarget.at_temperature
    ),
}


def family(name: str, temperature: float, *, order: float | None = None) -> Softening:
    """The operator of the family of this name, as `Family.at`. Raises SettingError also for an unknown name."""
    if name not in {each.value for each in Family}:
        raise SettingError(f"Expected a softening family out of {', '.join(each.value for each in Family)}, got {name!r}.")
    return Family(name).at(temperature, order=order)
