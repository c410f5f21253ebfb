"""When do two softening operators give the same student?

Calibrate the second to the first, then see which class they share.

The paper proves that distinct operators can give the same student under limited capacity [P]. The conditions are ours
[D], on a given transfer set, strongest first:

1. equal targets: F(p(x)) = G(p(x)) on every sample, at one temperature each. Families that reach this are
   reparametrisations of one another. For K = 2 any two families that keep the ranking and reach every entropy are,
   *sample by sample*: a distribution over two classes is determined by its ranking and its entropy. The temperature
   then depends on the input, and one common temperature still gives different targets unless it is the same for all
   inputs. `reparametrise` finds it per sample, `compare` judges a common temperature.
2. equal moments: a student softmax(phi(x)^T W) that minimises KL(F || student), with or without a penalty on W, depends
   on its targets only through E[phi(x) F(p(x))^T]. This holds for these features and this transfer set, not for others.
3. equal decisions: the same arg-max everywhere. Every operator that keeps the ranking gives it.

Approximate equality: let the student's objective be mu-strongly convex in W. Then two students differ by at most |E[phi
(F - G)^T]| / mu <= mean(|phi| |F - G|_2) / mu <= max|phi| mean|F - G|_1 / mu in Frobenius norm [D].

Shape legend: N samples, K classes, D features of the student (with a constant 1 among them if it has an intercept).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import torch
from torch import Tensor

from limbeck.base import check
from limbeck.base.errors import SettingError
from limbeck.operators.softening import TemperedSoftening

__all__ = [
    "Calibration",
    "Comparison",
    "Match",
    "Reparametrised",
    "Shared",
    "TemperedFamily",
    "calibrate",
    "compare",
    "compare_targets",
    "mean_entropy",
    "moments",
    "reparametrise",
]

TemperedFamily = Callable[[float], TemperedSoftening]
Match = Literal["mean-entropy", "moments"]

# Entropy rises with T and T = 1 is the identity (axioms 3 and 4), so the match lies on the first operator's side of 1.
# Beyond these ends power is uniform or one-hot in float64 for all p > 1e-30.
HOTTEST, COLDEST = 1e6, 1e-4
BISECTIONS = 80
GRID = 81


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The operator of the second family that is closest to the first operator.

    softening: the second family at that temperature. residual: the mismatch that is left; for "mean-entropy" the
    second's mean entropy minus the first's, in nats; for "moments" the Frobenius norm of E[phi (F - G)^T].
    """

    softening: TemperedSoftening
    residual: float

    @property
    def temperature(self) -> float:
        """T of the second operator, dimensionless."""
        return self.softening.temperature


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reparametrised:
    """temperature_N: of the second family, for each sample.

    residual_N: |F(p) - G(p)|_1 there; near 0 everywhere for K = 2.
    """

    temperature_N: Tensor
    residual_N: Tensor


class Shared(Enum):
    """The strongest class that two operators share on a transfer set."""

    TARGETS = "equal targets"
    MOMENTS = "equal moments"
    DECISIONS = "equal decisions"
    NOTHING = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The strongest class that two operators share, and the residual of every class, all dimensionless.

    - shared: the strongest class within the tolerance.
    - targets: the maximum over samples of |F - G|_1.
    - mean_l1: the mean of |F - G|_1.
    - moments: the Frobenius norm of E[phi (F - G)^T]; None without features.
    - decisions: the share of samples whose arg-max differs.
    - pull: the mean of |phi| |F - G|_2; None without features.
    """

    shared: Shared
    targets: float
    mean_l1: float
    moments: float | None
    decisions: float
    pull: float | None

    def shift_bound(self, mu: float) -> float:
        """A bound on the distance of the two log-linear students, in Frobenius norm of W [D].

        mu: their objective is mu-strongly convex, mu > 0. The bound follows from the moments; `pull / mu` is the looser
        bound that ignores signs. Raises SettingError if the comparison has no features.
        """
        check.positive(mu=mu)
        if self.moments is None:
            raise SettingError("Expected a comparison with features for a bound on the student, got one without.")
        return self.moments / mu


def mean_entropy(log_p_NK: Tensor) -> float:
    """Mean Shannon entropy of N distributions, nats."""
    return float(torch.special.entr(log_p_NK.exp()).sum(-1).mean())


def moments(features_ND: Tensor, p_NK: Tensor) -> Tensor:
    """(D, K): E[phi(x) p(x)^T], all that a log-linear student depends on in its targets."""
    return features_ND.T @ p_NK / len(p_NK)


def calibrate(
    first: TemperedSoftening,
    family: TemperedFamily,
    log_p_NK: Tensor,
    *,
    match: Match = "mean-entropy",
    features_ND: Tensor | None = None,
) -> Calibration:
    """The temperature at which a second family is closest to `first` on a transfer set.

    - family: from a temperature to an operator, for instance `Mixing`.
    - log_p_NK: the teacher's log-probabilities.
    - match: "mean-entropy" bisects, because entropy rises with the temperature. "moments" minimises the distance
      between the moments over a grid of temperatures, then locally; a global minimum is not guaranteed.
    - features_ND: of the student, for "moments".

    If the family cannot reach the first operator, the residual says by how much. Raises SettingError for an unknown
    match, shapes that do not fit, or a family without operators on the first operator's side of T = 1.
    """
    log_f_NK = first.from_log(log_p_NK)
    low, high = (0.0, math.log(HOTTEST)) if first.temperature >= 1 else (math.log(COLDEST), 0.0)
    if match == "mean-entropy":
        wanted = mean_entropy(log_f_NK)
        log_t = _bisect(lambda t: mean_entropy(family(math.exp(t)).from_log(log_p_NK)) < wanted, low, high)
        calibrated = family(math.exp(log_t))
        return Calibration(softening=calibrated, residual=mean_entropy(calibrated.from_log(log_p_NK)) - wanted)
    if match != "moments":
        raise SettingError(f"Expected match out of mean-entropy, moments, got {match!r}.")
    if features_ND is None:
        raise SettingError("Expected features to match moments against, got none.")
    _check_rows(features_ND, log_p_NK)
    wanted_DK = moments(features_ND, log_f_NK.exp())

    def distance(t: float) -> float:
        return float((moments(features_ND, family(math.exp(t)).from_log(log_p_NK).exp()) - wanted_DK).norm())

    step = (high - low) / (GRID - 1)
    best = min((low + i * step for i in range(GRID)), key=distance)
    best = _golden(distance, max(low, best - step), min(high, best + step))
    return Calibration(softening=family(math.exp(best)), residual=distance(best))


def reparametrise(first: TemperedSoftening, family: TemperedFamily, log_p_NK: Tensor) -> Reparametrised:
    """The temperature of a second family, for every sample, that gives the first operator's entropy; what still differs.

    For K = 2 nothing differs, to about 1e-7 in float64 (entropy is flat at the uniform distribution). For K > 2 the
    residual is the part of the difference that no temperature removes, not even an input-dependent one [D].
    """
    low, high = (0.0, math.log(HOTTEST)) if first.temperature >= 1 else (math.log(COLDEST), 0.0)
    log_f_NK = first.from_log(log_p_NK)
    temperatures, residuals = [], []
    for log_p_1K, log_f_1K in zip(log_p_NK.split(1), log_f_NK.split(1), strict=True):
        wanted = mean_entropy(log_f_1K)

        def colder(t: float, log_p_1K: Tensor = log_p_1K, wanted: float = wanted) -> bool:
            return mean_entropy(family(math.exp(t)).from_log(log_p_1K)) < wanted

        temperatures.append(math.exp(_bisect(colder, low, high)))
        residuals.append(float((family(temperatures[-1]).from_log(log_p_1K).exp() - log_f_1K.exp()).abs().sum()))
    return Reparametrised(temperature_N=log_p_NK.new_tensor(temperatures), residual_N=log_p_NK.new_tensor(residuals))


def compare(
    first: TemperedSoftening,
    second: TemperedSoftening,
    log_p_NK: Tensor,
    *,
    features_ND: Tensor | None = None,
    tolerance: float = 1e-6,
) -> Comparison:
    """`compare_targets` of two operators on a transfer set. log_p_NK: the teacher's log-probabilities."""
    return compare_targets(
        first.from_log(log_p_NK).exp(), second.from_log(log_p_NK).exp(), features_ND=features_ND, tolerance=tolerance
    )


def compare_targets(f_NK: Tensor, g_NK: Tensor, *, features_ND: Tensor | None = None, tolerance: float = 1e-6) -> Comparison:
    """The strongest class that two sets of targets share, with the residual of each class.

    - features_ND: of the student; without them, equal moments are not checked.
    - tolerance: for targets, of |F - G|_1 on the worst sample; for moments, relative to the root mean square of |phi|;
      for decisions, the lead in probability below which an arg-max counts as tied.

    Raises SettingError for a tolerance <= 0 or shapes that do not fit.
    """
    check.positive(tolerance=tolerance)
    difference_NK = f_NK - g_NK
    l1_N = difference_NK.abs().sum(-1)
    targets, mean_l1 = float(l1_N.max()), float(l1_N.mean())
    decisions = float(
        (_decides_otherwise(f_NK, g_NK, tolerance) | _decides_otherwise(g_NK, f_NK, tolerance)).double().mean()
    )
    moment, pull, scale = None, None, 1.0
    if features_ND is not None:
        _check_rows(features_ND, f_NK)
        moment = float(moments(features_ND, difference_NK).norm())
        pull = float((features_ND.norm(dim=-1) * difference_NK.norm(dim=-1)).mean())
        scale = float(features_ND.square().sum(-1).mean().sqrt())
    if targets <= tolerance:
        shared = Shared.TARGETS
    elif moment is not None and moment <= tolerance * scale:
        shared = Shared.MOMENTS
    elif decisions == 0:
        shared = Shared.DECISIONS
    else:
        shared = Shared.NOTHING
    return Comparison(shared=shared, targets=targets, mean_l1=mean_l1, moments=moment, decisions=decisions, pull=pull)


def _decides_otherwise(f_NK: Tensor, g_NK: Tensor, tolerance: float) -> Tensor:
    """(N,) whether G puts F's arg-max behind another class by more than the tolerance."""
    chosen_N1 = g_NK.gather(-1, f_NK.argmax(-1, keepdim=True))
    return (g_NK.max(-1, keepdim=True).values - chosen_N1 > tolerance).squeeze(-1)


def _check_rows(features_ND: Tensor, p_NK: Tensor) -> None:
    if features_ND.ndim != 2 or len(features_ND) != len(p_NK):
        raise SettingError(f"Expected features of {len(p_NK)} samples, got shape {tuple(features_ND.shape)}.")


def _bisect(below: Callable[[float], bool], low: float, high: float) -> float:
    """The point where `below` turns from true to false; an end of the interval if it does not turn inside."""
    if not below(low):
        return low
    if below(high):
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high


def _golden(value: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a unimodal function, by golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = value(left), value(right)
    for _ in range(BISECTIONS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = value(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = value(right)
    return (low + high) / 2
