"""The checker of pools: it searches the axioms of `limbeck.operators.pooling` for counterexamples.

Shape legend: C teachers, N samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.base import check
from limbeck.operators.axioms.findings import PoolingAxiom, PoolingCounterexample, PoolingFinding, Worst
from limbeck.operators.axioms.measures import Sizes
from limbeck.operators.axioms.narrowing import narrow
from limbeck.operators.pooling import Pooling
from limbeck.operators.softening import Power, Softening

TOLERANCE = 1e-10
# The smallest jump that is told from a steep stretch once the ends are 2^-40 of a random distance apart.
JUMP = 1e-5
HALVINGS = 40
# If q is farther than this from its teacher in L1, it must move when the teacher's weight doubles.
AWAY = 0.05
LEAST = 1e-12
UNITS = {
    PoolingAxiom.DISTRIBUTION: "mass",
    PoolingAxiom.POSITIVE: "mass",
    PoolingAxiom.CONTINUITY: "L1",
    PoolingAxiom.WEIGHT: "nats",
    PoolingAxiom.EQUAL: "L1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What a pool is asked: answers (C, N, K), and the weight and temperature of each teacher."""

    p_CNK: Tensor
    weights_C: Tensor
    temperatures: list[float]

    def asked(self, pool: Pooling) -> Tensor:
        """(N, K) pooled distributions."""
        return pool(self.p_CNK, weights=self.weights_C, temperatures=self.temperatures)


@dataclass(slots=True, kw_only=True)
class _PoolingWorst(Worst[PoolingCounterexample]):
    """The worst point for one axiom."""

    axiom: PoolingAxiom

    def see_at(self, size_N: Tensor, tolerance: float, question: _Question, what: str) -> None:
        """Take in one batch of sizes; NaN counts as infinite."""
        size_N = size_N.nan_to_num(math.inf, posinf=math.inf, neginf=-math.inf)

        def violation(row: int, size: float, tolerance: float) -> PoolingCounterexample:
            return PoolingCounterexample(
                axiom=self.axiom,
                p_CK=question.p_CNK[:, row].clone(),
                weights=tuple(question.weights_C.tolist()),
                temperatures=tuple(question.temperatures),
                size=size,
                tolerance=tolerance,
                unit=self.unit,
                what=what,
            )

        sizes = Sizes(size_N, torch.full_like(size_N, tolerance), size_N, lambda _row: what)
        self.see(sizes, question.p_CNK.shape[-1], violation)

    def finding(self) -> PoolingFinding:
        return PoolingFinding(
            axiom=self.axiom,
            trials=self.trials,
            worst=self.size,
            tolerance=self.tolerance,
            unit=self.unit,
            counterexample=self.violation,
        )


def check_pooling(
    pool: Pooling, *, softening: Callable[[float], Softening] = Power, lowest: float = 1.0, rounds: int = 60, seed: int = 0
) -> tuple[PoolingFinding, ...]:
    """Search every axiom of a pool for a counterexample, in float64; one finding each, in the order of `PoolingAxiom`.

    - softening: F of axioms 4 and 5.
    - lowest: the lowest temperature to try.
    - rounds: of random teachers (1 to 5, of 2 to 30 classes, some nearly one-hot, entries down to 1e-12) with weights
      in [0.1, 1] and temperatures up to 8.
    - seed: of all randomness.
    """
    check.positive(lowest=lowest)
    search = _PoolingSearch(pool, softening, lowest, torch.Generator().manual_seed(seed))
    for _ in range(rounds):
        search.round()
    return tuple(worst.finding() for worst in search.worst.values())


class _PoolingSearch:
    """The search: in each round every axiom at one random question, on the same draws."""

    def __init__(
        self, pool: Pooling, softening: Callable[[float], Softening], lowest: float, generator: torch.Generator
    ) -> None:
        self.pool, self.softening, self.lowest, self.generator = pool, softening, lowest, generator
        self.worst = {axiom: _PoolingWorst(axiom=axiom, unit=UNITS[axiom]) for axiom in PoolingAxiom}

    def round(self) -> None:
        """One random question, and what each axiom says of it."""
        teachers, classes = 1 + int(self._uniform(0, 5)), 2 + int(self._uniform(0, 29) ** 2 / 29)
        p_CNK = self._answers(teachers, classes)
        weights_C = 0.1 + 0.9 * torch.rand(teachers, generator=self.generator, dtype=torch.float64)
        question = _Question(p_CNK=p_CNK, weights_C=weights_C, temperatures=[self._temperature() for _ in range(teachers)])
        q_NK = question.asked(self.pool)
        self._distribution(question, q_NK)
        self._positive(question, q_NK)
        self._equal(question)
        self._weight(question, q_NK, int(self._uniform(0, teachers)))
        self._continuity(question, self._answers(teachers, classes), alone=self._uniform(0, 1) < 0.5)

    def _distribution(self, question: _Question, q_NK: Tensor) -> None:
        off_N = torch.maximum((q_NK.sum(-1) - 1).abs(), -q_NK.amin(-1))
        what = "q does not sum to 1, or contains a negative number"
        self.worst[PoolingAxiom.DISTRIBUTION].see_at(off_N, TOLERANCE, question, what)

    def _positive(self, question: _Question, q_NK: Tensor) -> None:
        lost_NK = torch.where(q_NK > 0, -q_NK, question.p_CNK.amin(0))
        what = "q is 0 for a class to which every teacher gives some probability"
        self.worst[PoolingAxiom.POSITIVE].see_at(lost_NK.amax(-1), 0.0, question, what)

    def _equal(self, question: _Question) -> None:
        teachers, t = len(question.p_CNK), question.temperatures[0]
        same = _Question(
            p_CNK=question.p_CNK[:1].expand(teachers, -1, -1), weights_C=question.weights_C, temperatures=[t] * teachers
        )
        distance_N = (same.asked(self.pool) - self.softening(t)(question.p_CNK[0])).abs().sum(-1)
        self.worst[PoolingAxiom.EQUAL].see_at(distance_N, TOLERANCE, same, "q differs from F_T(p) by this in L1")

    def _weight(self, question: _Question, q_NK: Tensor, teacher: int) -> None:
        heavier_C = question.weights_C.clone()
        heavier_C[teacher] *= 2
        heavier = _Question(p_CNK=question.p_CNK, weights_C=heavier_C, temperatures=question.temperatures)
        softened_NK = self.softening(question.temperatures[teacher])(question.p_CNK[teacher])
        moved_NK = heavier.asked(self.pool)
        worst = self.worst[PoolingAxiom.WEIGHT]
        what = f"doubling the weight of teacher {teacher} raises KL(F(p) || q) by this"
        worst.see_at(_kl(softened_NK, moved_NK) - _kl(softened_NK, q_NK), TOLERANCE, question, what)
        # Over all rows at once: where one teacher dominates a mean of high exponent, single rows move by less than
        # their rounding.
        stuck = len(question.p_CNK) > 1 and bool((moved_NK == q_NK).all())
        stuck_N = (softened_NK - q_NK).abs().sum(-1) * float(stuck)
        worst.see_at(
            stuck_N, AWAY, question, f"doubling the weight of teacher {teacher} does not move q, this far from it in L1"
        )

    def _continuity(self, question: _Question, other_CNK: Tensor, *, alone: bool) -> None:
        """One straight way through answers (in log p), weights and temperatures.

        alone: only the first row moves, and decides the way.
        """
        rows = 1 if alone else question.p_CNK.shape[1]
        low = (question.p_CNK[:, :rows].log(), question.weights_C, question.temperatures)
        high = (other_CNK[:, :rows].log(), question.weights_C.flip(0), [t * 1.5 for t in question.temperatures])
        narrowed = narrow(lambda end: _asked_at(end).asked(self.pool), _middle, low, high, halvings=HALVINGS, floor=JUMP)
        jump_N = narrowed.jump_N if narrowed.stays else narrowed.jump_N.clamp(max=JUMP / 2)
        what = "q jumps by this in L1 over a vanishing distance"
        self.worst[PoolingAxiom.CONTINUITY].see_at(jump_N, JUMP, _asked_at(narrowed.low), what)

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def _temperature(self) -> float:
        if self._uniform(0, 1) < 0.3:
            return self.lowest
        return math.exp(self._uniform(math.log(self.lowest), math.log(8.0)))

    def _answers(self, teachers: int, classes: int) -> Tensor:
        """(C, 24, K) from nearly uniform to nearly one-hot."""
        scale_1N1 = torch.tensor([0.3, 1.0, 3.0, 10.0], dtype=torch.float64).repeat_interleave(6).view(1, -1, 1)
        z_CNK = scale_1N1 * torch.randn(teachers, 24, classes, generator=self.generator, dtype=torch.float64)
        p_CNK = z_CNK.softmax(-1).clamp(min=LEAST)
        return p_CNK / p_CNK.sum(-1, keepdim=True)


# One end of a way: log p, weights, temperatures.
_End = tuple[Tensor, Tensor, list[float]]


def _asked_at(end: _End) -> _Question:
    return _Question(p_CNK=end[0].softmax(-1), weights_C=end[1], temperatures=end[2])


def _middle(a: _End, b: _End) -> _End:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2, [(s + t) / 2 for s, t in zip(a[2], b[2], strict=True)]


def _kl(p_NK: Tensor, q_NK: Tensor) -> Tensor:
    return torch.where(p_NK > 0, p_NK * (p_NK.log() - q_NK.log()), 0.0).sum(-1)
