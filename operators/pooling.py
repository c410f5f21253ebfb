"""Pooling of several teachers' answers, dense: G(p_1..p_C, T_1..T_C, w_1..w_C) -> q, and a checker of its axioms.

The axioms [F: arXiv 2601.09165]: q is a distribution; positive where all teachers are; continuous; raising w_c moves q towards teacher c;
equal teachers give F_T(p). "Towards" is made precise as: KL(F(p_c) || q) falls [D]. For a power mean of any exponent its slope along w_c is
minus a covariance of two increasing functions of one variable, so it does.

Over the wire answers come one by one, truncated: `limbeck.server.pooling.Pool` streams them, and equals `Arithmetic` on the dense answers.
Only the arithmetic pool is a sum, so only it works under secure aggregation. Weights are not the teachers' accuracy by magic: the
variance of C teachers of variance s^2 and correlation r is s^2 (1 + (C - 1) r) / C, so correlated teachers gain little.

Shape legend: C teachers, N samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from limbeck.base import check
from limbeck.base.errors import SettingError
from limbeck.operators.softening import Power, Softening


class Pooling(Protocol):
    """From C teachers' answers to one."""

    def __call__(
        self, p_CNK: Tensor, *, weights: Tensor | None = None, temperatures: Sequence[float] | None = None
    ) -> Tensor:
        """(N, K) distributions. weights: (C,) or (C, K), >= 0, all alike by default. temperatures: one for each teacher, 1 by default."""


@dataclass(frozen=True, slots=True)
class PowerMean:
    """(sum_c w_ck F_{T_c}(p_c)_k^r)^(1/r), renormalised, with weights that sum to 1 over the teachers of each class.

    Guarantees: rows sum to 1; positive where all teachers of positive weight are; with weights per teacher, raising w_c lowers
    KL(F(p_c) || q); equal teachers at equal temperatures give F_T(p) whatever the weights. For r <= 0 one teacher's zero is final;
    for r > 0 one teacher's belief is enough. Stable in log space, also near r = 0, where it passes into the geometric mean.

    exponent: r, any finite number; 1 is arithmetic, 0 geometric, -1 harmonic. softening: from T to the operator of each teacher.
    """

    exponent: float
    softening: Callable[[float], Softening] = Power

    def __post_init__(self) -> None:
        if not math.isfinite(self.exponent):
            raise SettingError(f"Expected exponent to be a finite number, got {self.exponent!r}.")

    def __call__(
        self, p_CNK: Tensor, *, weights: Tensor | None = None, temperatures: Sequence[float] | None = None
    ) -> Tensor:
        """Raises SettingError for weights or temperatures that do not fit the teachers, or rows in which nothing is left."""
        r, share_C1K, log_CNK = self.exponent, _shares(p_CNK, weights), self._softened(p_CNK, temperatures)
        if r == 0:
            # A teacher of no weight has no say, not even by a zero: 0 times minus infinity is not a number.
            log_q_NK = torch.where(share_C1K > 0, share_C1K * log_CNK, 0.0).sum(0)
        else:
            # log1p of expm1 about the term that counts most keeps the digits near r = 0, where (sum w F^r)^(1/r) would lose them all.
            heard_CNK = torch.where(share_C1K > 0, log_CNK, -math.inf if r > 0 else math.inf)
            most_NK = heard_CNK.amax(0) if r > 0 else heard_CNK.amin(0)
            finite_NK = most_NK > -math.inf
            apart_CNK = torch.where((share_C1K > 0) & finite_NK, r * (log_CNK - most_NK.masked_fill(~finite_NK, 0.0)), 0.0)
            mean_NK = torch.log1p((share_C1K * torch.expm1(apart_CNK)).sum(0)) / r
            log_q_NK = torch.where(finite_NK, most_NK + mean_NK, -math.inf)
        empty_N = (log_q_NK == -math.inf).all(-1)
        if bool(empty_N.any()):
            raise SettingError(
                f"Expected a class that every teacher allows in each row, got none in {int(empty_N.sum())} of {len(empty_N)}."
            )
        return log_q_NK.softmax(-1)

    def _softened(self, p_CNK: Tensor, temperatures: Sequence[float] | None) -> Tensor:
        if temperatures is None:
            temperatures = [1.0] * len(p_CNK)
        if len(temperatures) != len(p_CNK):
            raise SettingError(f"Expected a temperature for each of {len(p_CNK)} teachers, got {len(temperatures)}.")
        return torch.stack([self.softening(t).from_log(p_NK.log()) for p_NK, t in zip(p_CNK, temperatures, strict=True)])


def Arithmetic(softening: Callable[[float], Softening] = Power) -> PowerMean:  # noqa: N802
    """sum_c w_c F_{T_c}(p_c): a sum, so the only pool that secure aggregation can carry. With weights per class, renormalised."""
    return PowerMean(1.0, softening)


def Geometric(softening: Callable[[float], Softening] = Power) -> PowerMean:  # noqa: N802
    """Proportional to prod_c F_{T_c}(p_c)^w_c, which is prod_c p_c^(w_c / T_c) with power: a class that one teacher rules out is out."""
    return PowerMean(0.0, softening)


def _shares(p_CNK: Tensor, weights: Tensor | None) -> Tensor:
    """(C, 1, K) weights that sum to 1 over the teachers."""
    if p_CNK.ndim != 3 or len(p_CNK) < 1:
        raise SettingError(f"Expected answers of shape (C, N, K) with C >= 1, got {tuple(p_CNK.shape)}.")
    teachers, _, classes = p_CNK.shape
    weights = torch.ones(teachers) if weights is None else weights
    if weights.shape not in {(teachers,), (teachers, classes)}:
        raise SettingError(
            f"Expected weights of shape ({teachers},) or ({teachers}, {classes}), got {tuple(weights.shape)}."
        )
    weights_C1K = weights.to(p_CNK.dtype).to(p_CNK.device).reshape(teachers, 1, -1).expand(-1, -1, classes)
    total_1K = weights_C1K.sum(0)
    if not bool(((weights_C1K >= 0) & weights_C1K.isfinite()).all()) or not bool((total_1K > 0).all()):
        raise SettingError(f"Expected weights >= 0 with some weight on every class, got {weights.tolist()}.")
    return weights_C1K / total_1K


# The checker


class PoolingAxiom(Enum):
    """What is checked, in this order."""

    DISTRIBUTION = "1 q is a distribution"
    POSITIVE = "2 positive where all teachers are"
    CONTINUITY = "3 continuity"
    WEIGHT = "4 raising a weight moves q towards its teacher"
    EQUAL = "5 equal teachers give F_T(p)"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingCounterexample:
    """A violation at one point: answers (C, K), weights, temperatures, its size against what rounding explains, and words."""

    axiom: PoolingAxiom
    p_CK: Tensor
    weights: tuple[float, ...]
    temperatures: tuple[float, ...]
    size: float
    tolerance: float
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingFinding:
    """What the search for violations of one axiom came to: trials, the largest size seen, and a counterexample or None."""

    axiom: PoolingAxiom
    trials: int
    worst: float
    tolerance: float
    counterexample: PoolingCounterexample | None

    @property
    def holds(self) -> bool:
        """No violation was found; that none exists is not said."""
        return self.counterexample is None


TOLERANCE = 1e-10
# The least jump that is told from a steep stretch once the ends are 2^-40 of a random distance apart.
JUMP = 1e-5
HALVINGS = 40
# Farther than this from its teacher in L1, q must move when the teacher's weight doubles.
AWAY = 0.05


def check_pooling(
    pool: Pooling, *, softening: Callable[[float], Softening] = Power, lowest: float = 1.0, rounds: int = 60, seed: int = 0
) -> tuple[PoolingFinding, ...]:
    """Search every axiom of a pool for a counterexample, in float64; a finding each, in the order of `PoolingAxiom`.

    softening: F of axioms 4 and 5. lowest: least temperature to try. rounds: of random teachers (1 to 5, of 2 to 30 classes, some nearly
    one-hot, some of 1e-12), weights in [0.1, 1] and temperatures up to 8. seed: of all randomness.
    """
    check.positive(lowest=lowest)
    generator = torch.Generator().manual_seed(seed)
    worst = dict.fromkeys(PoolingAxiom, (-math.inf, 0.0))
    found: dict[PoolingAxiom, PoolingCounterexample] = {}
    trials = dict.fromkeys(PoolingAxiom, 0)

    def see(
        axiom: PoolingAxiom, size_N: Tensor, tolerance: float, p_CNK: Tensor, weights: Tensor, ts: Sequence[float], what: str
    ) -> None:
        size_N = size_N.nan_to_num(math.inf, posinf=math.inf, neginf=-math.inf)
        at = int(size_N.argmax())
        size = float(size_N[at])
        trials[axiom] += len(size_N)
        if size > worst[axiom][0]:
            worst[axiom] = (size, tolerance)
            if size > tolerance:
                found[axiom] = PoolingCounterexample(
                    axiom=axiom,
                    p_CK=p_CNK[:, at].clone(),
                    weights=tuple(weights.tolist()),
                    temperatures=tuple(ts),
                    size=size,
                    tolerance=tolerance,
                    what=what,
                )

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    def answers(teachers: int, classes: int) -> Tensor:
        scale = torch.tensor([0.3, 1.0, 3.0, 10.0], dtype=torch.float64).repeat_interleave(6).view(1, -1, 1)
        z_CNK = scale * torch.randn(teachers, 24, classes, generator=generator, dtype=torch.float64)
        return z_CNK.softmax(-1).clamp(min=1e-12) / z_CNK.softmax(-1).clamp(min=1e-12).sum(-1, keepdim=True)

    for _ in range(rounds):
        teachers, classes = 1 + int(uniform(0, 5)), 2 + int(uniform(0, 29) ** 2 / 29)
        p_CNK = answers(teachers, classes)
        weights = 0.1 + 0.9 * torch.rand(teachers, generator=generator, dtype=torch.float64)
        ts = [lowest if uniform(0, 1) < 0.3 else math.exp(uniform(math.log(lowest), math.log(8.0))) for _ in range(teachers)]
        q_NK = pool(p_CNK, weights=weights, temperatures=ts)
        off_N = torch.maximum((q_NK.sum(-1) - 1).abs(), -q_NK.amin(-1))
        see(
            PoolingAxiom.DISTRIBUTION,
            off_N,
            TOLERANCE,
            p_CNK,
            weights,
            ts,
            "q does not sum to 1, or holds a negative number",
        )
        lost_NK = torch.where(q_NK > 0, -q_NK, p_CNK.amin(0))
        see(
            PoolingAxiom.POSITIVE,
            lost_NK.amax(-1),
            0.0,
            p_CNK,
            weights,
            ts,
            "q is 0 for a class to which every teacher gives some",
        )

        # Equal teachers.
        same_CNK, t = p_CNK[:1].expand(teachers, -1, -1), ts[0]
        equal_NK = pool(same_CNK, weights=weights, temperatures=[t] * teachers)
        distance_N = (equal_NK - softening(t)(p_CNK[0])).abs().sum(-1)
        see(PoolingAxiom.EQUAL, distance_N, TOLERANCE, same_CNK, weights, [t] * teachers, "q is off F_T(p) in L1")

        # A raised weight.
        c = int(uniform(0, teachers))
        heavier = weights.clone()
        heavier[c] *= 2
        own_NK = softening(ts[c])(p_CNK[c])
        moved_NK = pool(p_CNK, weights=heavier, temperatures=ts)
        rise_N = _kl(own_NK, moved_NK) - _kl(own_NK, q_NK)
        see(
            PoolingAxiom.WEIGHT,
            rise_N,
            TOLERANCE,
            p_CNK,
            weights,
            ts,
            f"doubling the weight of teacher {c} raises KL(F(p) || q) by this",
        )
        # Of all rows at once: where one teacher dominates a mean of high exponent, single rows move by less than their rounding.
        stuck = teachers > 1 and bool((moved_NK == q_NK).all())
        stuck_N = (own_NK - q_NK).abs().sum(-1) * float(stuck)
        see(
            PoolingAxiom.WEIGHT,
            stuck_N,
            AWAY,
            p_CNK,
            weights,
            ts,
            f"doubling the weight of teacher {c} does not move q, this far from it",
        )

        # Continuity: one straight way through answers (in log p), weights and temperatures, halved towards its larger change.
        other_CNK, other_ts = answers(teachers, classes), [t * 1.5 for t in ts]
        ends = [(p_CNK.log(), weights, ts), (other_CNK.log(), weights.flip(0), other_ts)]
        jump_N, low = _stays(pool, ends, alone=uniform(0, 1) < 0.5)
        see(
            PoolingAxiom.CONTINUITY,
            jump_N,
            JUMP,
            low[0].softmax(-1),
            low[1],
            low[2],
            "q jumps by this in L1 over a vanishing distance",
        )
    return tuple(
        PoolingFinding(axiom=a, trials=trials[a], worst=worst[a][0], tolerance=worst[a][1], counterexample=found.get(a))
        for a in PoolingAxiom
    )


End = tuple[Tensor, Tensor, list[float]]


def _kl(p_NK: Tensor, q_NK: Tensor) -> Tensor:
    return torch.where(p_NK > 0, p_NK * (p_NK.log() - q_NK.log()), 0.0).sum(-1)


def _stays(pool: Pooling, ends: list[End], *, alone: bool) -> tuple[Tensor, End]:
    """The jump (N,) that is left when the ends have been brought together; rows share the way, which follows the one that jumps most.

    alone: only that row moves, so that it alone says where to cut.
    """
    low, high = ends
    if alone:
        low, high = ((z_CNK[:, :1], w_C, ts) for z_CNK, w_C, ts in (low, high))

    def at(end: End) -> Tensor:
        return pool(end[0].softmax(-1), weights=end[1], temperatures=end[2])

    q_low, q_high = at(low), at(high)
    half_way = math.inf
    for step in range(HALVINGS):
        middle: End = (
            (low[0] + high[0]) / 2,
            (low[1] + high[1]) / 2,
            [(a + b) / 2 for a, b in zip(low[2], high[2], strict=True)],
        )
        q_middle = at(middle)
        if float((q_low - q_middle).abs().sum(-1).max()) >= float((q_middle - q_high).abs().sum(-1).max()):
            high, q_high = middle, q_middle
        else:
            low, q_low = middle, q_middle
        if step == HALVINGS // 2:
            half_way = float((q_low - q_high).abs().sum(-1).max())
    jump_N = (q_low - q_high).abs().sum(-1)
    # What is steep but continuous has flattened over the last half; a jump has not.
    return (jump_N if float(jump_N.max()) >= 0.9 * half_way else jump_N.clamp(max=JUMP / 2)), low
