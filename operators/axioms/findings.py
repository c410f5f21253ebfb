"""What the checkers report: axioms, counterexamples, findings.

Shape legend: N samples, K classes, C teachers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

import torch
from torch import Tensor

from limbeck.operators.axioms import measures
from limbeck.operators.axioms.measures import Factory, Operator, Sizes


class Axiom(Enum):
    """The axioms of softening operators, in the order in which they are checked."""

    DISTRIBUTION = "distributions stay distributions"
    RANKING = "1 ranking preservation"
    CONTINUITY = "2 continuity"
    ENTROPY = "3 entropy monotonicity"
    IDENTITY = "4 identity at T = 1"
    BOUNDARY = "5 boundary"


class PoolingAxiom(Enum):
    """The axioms of pools, in the order in which they are checked."""

    DISTRIBUTION = "1 q is a distribution"
    POSITIVE = "2 positive where all teachers are"
    CONTINUITY = "3 continuity"
    WEIGHT = "4 raising a weight moves q towards its teacher"
    EQUAL = "5 equal teachers give F_T(p)"


AnyAxiom = TypeVar("AnyAxiom", bound=Enum)
AnyViolation = TypeVar("AnyViolation", bound="Violation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A violation at one point. size: in the unit named.

    tolerance: what rounding could explain. what: the violation in words.
    """

    size: float
    tolerance: float
    unit: str
    what: str

    @property
    def classes(self) -> int:
        """K at this point."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterexample(Violation):
    """A violation of an axiom of softening operators.

    - p_K: the distribution.
    - temperature: T.
    - other_p_K: the other end of a jump in p, or None.
    - other_temperature: the other end of a jump in T, or T' > T, or None.
    """

    axiom: Axiom
    p_K: Tensor
    temperature: float
    other_p_K: Tensor | None = None
    other_temperature: float | None = None

    @property
    def classes(self) -> int:
        return len(self.p_K)

    def reproduce(self, factory: Factory) -> float:
        """The size of this violation under any operator: `size` for the broken one, at most `tolerance` for a sound one."""
        operator = Operator(factory, self.p_K.dtype)
        p_NK = self.p_K.unsqueeze(0)
        other = self.other_temperature if self.other_temperature is not None else self.temperature
        match self.axiom:
            case Axiom.DISTRIBUTION:
                sizes = measures.distribution(operator, p_NK, self.temperature)
            case Axiom.RANKING:
                sizes = measures.ranking(operator, p_NK, self.temperature)
            case Axiom.CONTINUITY:
                other_NK = p_NK if self.other_p_K is None else self.other_p_K.unsqueeze(0)
                return float(measures.jump(operator.q(p_NK, self.temperature), operator.q(other_NK, other)))
            case Axiom.ENTROPY:
                sizes = measures.entropy(operator, p_NK, self.temperature, other)
            case Axiom.IDENTITY:
                sizes = measures.identity(operator, p_NK, 1.0)
            case Axiom.BOUNDARY:
                sizes = measures.boundary(operator, p_NK, self.temperature)
        return float(sizes.size_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingCounterexample(Violation):
    """A violation of an axiom of pools: answers (C, K) and the weights and temperatures of the C teachers."""

    axiom: PoolingAxiom
    p_CK: Tensor
    weights: tuple[float, ...]
    temperatures: tuple[float, ...]

    @property
    def classes(self) -> int:
        return int(self.p_CK.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[AnyAxiom, AnyViolation]):
    """The outcome of the search for violations of one axiom.

    - trials: points tried, each at one temperature, or pair of temperatures.
    - worst: the largest size seen; below 0 it is the smallest distance from a violation.
    - tolerance: what rounding explains at that point.
    - counterexample: the violation that is easiest to read, or None if no violation was found.
    - note: what could not be checked, and why.
    """

    axiom: AnyAxiom
    trials: int
    worst: float
    tolerance: float
    unit: str
    counterexample: AnyViolation | None
    note: str = ""

    @property
    def holds(self) -> bool:
        """No violation was found. This does not prove that there is none."""
        return self.counterexample is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Outcome[Axiom, Counterexample]):
    """The outcome for one axiom of softening operators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingFinding(Outcome[PoolingAxiom, PoolingCounterexample]):
    """The outcome for one axiom of pools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Findings on the axioms that were checked.

    lowest, highest: the ends of the domain in T, as far as they were looked for.
    """

    findings: tuple[Finding, ...]
    dtype: torch.dtype
    lowest: float
    highest: float

    @property
    def holds(self) -> bool:
        """No violation of any checked axiom was found."""
        return all(finding.holds for finding in self.findings)

    def __getitem__(self, axiom: Axiom) -> Finding:
        return next(finding for finding in self.findings if finding.axiom is axiom)


@dataclass(slots=True, kw_only=True)
class Worst(Generic[AnyViolation]):
    """The worst point of a search so far.

    Of the violations it keeps the one that is easiest to read, with the fewest classes.
    """

    unit: str
    trials: int = 0
    size: float = -math.inf
    tolerance: float = 0.0
    violation: AnyViolation | None = None

    def see(self, sizes: Sizes, classes: int, violation: Callable[[int, float, float], AnyViolation]) -> None:
        """Take in one batch of rows over `classes` classes. violation: made of a row, its size and its tolerance."""
        self.trials += len(sizes.size_N)
        excess_N = sizes.size_N - sizes.tolerance_N
        at = int(excess_N.argmax())
        if self.violation is not None and classes != self.violation.classes:
            # Only a clear violation replaces another: one that is close to rounding is no improvement.
            better = classes < self.violation.classes and float(sizes.size_N[at]) > 10 * float(sizes.tolerance_N[at])
        else:
            better = float(excess_N[at]) > self.size - self.tolerance
        if better:
            self.size, self.tolerance = float(sizes.size_N[at]), float(sizes.tolerance_N[at])
            if self.size > self.tolerance:
                self.violation = violation(at, self.size, self.tolerance)
