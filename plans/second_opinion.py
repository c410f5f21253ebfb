"""What another accountant says of the same plans: Opacus's PRV accountant [F: arXiv 2106.02848], beside the figure that decides.

The figure that decides stays that of `limbeck.plans.accounting`, by the privacy loss distributions of dp-accounting. The two share no code:
where they differ by more than the error that PRV states, one of them, or what limbeck makes of it, is wrong, and whoever reads an epsilon
is told so. Each step of a plan is given to PRV as it is; that Gaussian mechanisms compose to one is not used here.

PRV knows Gaussian mechanisms on Poisson samples, and with a rate of 1 without sampling. It has no discrete Gaussian, by which counts are
released, so a plan with counts is enclosed: from below without the counts, since whatever is left out can only cost less, and from above
with the Gaussian that dominates them (`privacy_filter.discrete_gaussian_mu`).

Like every composition by loss distributions, it is right for plans that were all fixed before the first was answered. Unit: record.
Adjacency: add or remove one; PRV looks at the removal, the direction in which sampled Gaussians lose more.

The library is loaded when the first figure is asked for.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from limbeck.base.errors import SettingError
from limbeck.plans import accounting, privacy_filter
from limbeck.plans.accounting import DiscreteGaussian, Schedule

NAME = "PRV (Opacus)"
# The error in epsilon that PRV is asked for, and the error in delta, as a part of it.
ERROR, DELTA_ERROR = 0.01, 1e-3
# The part of delta at which counts are dominated by a Gaussian.
SLACK = 1e-6
# Losses that a distribution may hold; beyond, the error in epsilon grows, up to the largest that says anything.
LARGEST_SIZE, LARGEST_ERROR = 1 << 20, 0.5
ENCLOSED = "noisy counts enclosed, since it has no discrete Gaussian"


@dataclass(frozen=True, slots=True)
class Opinion:
    """PRV's estimate of an epsilon, and between which two values it lies.

    epsilon: None where there is none; `low` and `high` are then 0 and infinite.
    note: why there is none, or what was done about mechanisms that PRV does not know.
    """

    epsilon: float | None
    low: float = 0.0
    high: float = math.inf
    note: str = ""

    @property
    def figure(self) -> str:
        """The estimate for a table, or "none"."""
        return "none" if self.epsilon is None else f"{self.epsilon:.4g}"

    @property
    def sentence(self) -> str:
        """The estimate with its error, or why there is none; without a full stop."""
        if self.epsilon is None:
            return f"{NAME} has no figure: {self.note}"
        said = f"{NAME} says {self.epsilon:.4g}, between {self.low:.4g} and {self.high:.4g}"
        return f"{said} ({self.note})" if self.note else said

    @property
    def values(self) -> dict[str, object]:
        """As JSON, which has no infinity."""
        none = self.epsilon is None
        return {
            "accountant": NAME,
            "epsilon": self.epsilon,
            "low": None if none else self.low,
            "high": None if none else self.high,
            "note": self.note,
        }

    def disagreement(self, decided: float) -> str:
        """A warning if the figure that decides, by PLD, is not between the two values; otherwise an empty text."""
        if self.epsilon is None or self.low <= decided <= self.high:
            return ""
        which = "less" if decided < self.low else "more"
        return (
            f"THE TWO ACCOUNTANTS DISAGREE: PLD, which decides, says {decided:.6g}, {which} than {NAME} allows: between {self.low:.6g} and"
            f" {self.high:.6g}. "
            + (
                "The plan may cost more than is charged: do not run it, and report this."
                if decided < self.low
                else "Nothing is charged too little; at a delta this small, PLD's tails may be rounded up."
            )
        )


def of(schedules: tuple[Schedule, ...], delta: float) -> Opinion:
    """PRV's figure at `delta` for schedules that were all fixed beforehand."""
    if not math.isfinite(accounting.epsilon(schedules, delta)):
        return Opinion(None, note="the figure that decides is infinite")
    used, counts = tuple(sorted(_mechanisms(schedules).items())), sum(_counts(schedules).values())
    return _of(used, counts, _dominating(schedules, delta), delta)


Mechanism = tuple[float, float]


def _mechanisms(schedules: tuple[Schedule, ...]) -> Counter[Mechanism]:
    """How often each Gaussian mechanism is used: noise multiplier and sampling rate."""
    import dp_accounting as dp

    used = Counter[Mechanism]()
    for leaf, count in _leaves(schedules):
        match leaf:
            case dp.GaussianDpEvent():
                used[leaf.noise_multiplier, 1.0] += count
            case dp.PoissonSampledDpEvent(event=dp.GaussianDpEvent()):
                used[leaf.event.noise_multiplier, leaf.sampling_probability] += count
            case DiscreteGaussian():
                pass
            case _:
                raise SettingError(f"Expected a mechanism out of (sampled) Gaussian and discrete Gaussian, got {leaf}.")
    return used


def _counts(schedules: tuple[Schedule, ...]) -> Counter[float]:
    """How often a discrete Gaussian of each scale is used."""
    used = Counter[float]()
    for leaf, count in _leaves(schedules):
        if isinstance(leaf, DiscreteGaussian):
            used[leaf.sigma] += count
    return used


def _leaves(schedules: tuple[Schedule, ...]) -> list[tuple[Any, int]]:
    return [leaf for schedule in schedules for leaf in accounting.leaves(accounting.event(*schedule), 1)]


def _dominating(schedules: tuple[Schedule, ...], delta: float) -> tuple[tuple[Mechanism, int], ...]:
    """A Gaussian for each discrete one, which dominates it but for SLACK of delta."""
    import numpy as np

    return tuple(
        ((1 / float(privacy_filter.discrete_gaussian_mu(sigma, np.array([SLACK * delta]))[0]), 1.0), count)
        for sigma, count in sorted(_counts(schedules).items())
    )


@lru_cache(maxsize=1024)
def _of(
    used: tuple[tuple[Mechanism, int], ...], counts: int, dominating: tuple[tuple[Mechanism, int], ...], delta: float
) -> Opinion:
    if not used and not counts:
        return Opinion(0.0, 0.0, 0.0)
    try:
        low, middle, high = _composed((*used, *dominating), delta * (1 - counts * SLACK))
        if counts:
            low = _composed(used, delta)[0] if used else 0.0
    except (ArithmeticError, RuntimeError, ValueError) as error:
        # Opacus raises these where losses are beyond what it can represent.
        return Opinion(None, note=str(error).rstrip(".") or type(error).__name__)
    return Opinion(middle, max(0.0, low), high, ENCLOSED if counts else "")


def _composed(used: tuple[tuple[Mechanism, int], ...], delta: float) -> tuple[float, float, float]:
    """Lower bound, estimate and upper bound of epsilon, as `opacus.accountants.PRVAccountant` gives its upper bound.

    Raises ArithmeticError where the distribution would be too large or the figure is not finite, and what Opacus raises.
    """
    import numpy as np

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # A rate of 1 makes it take the logarithm of 0, whose infinity it means; its bounds by Renyi orders warn where they are wide.
        warnings.simplefilter("ignore")
        from opacus.accountants.analysis import prv

        variables = [prv.PoissonSubsampledGaussianPRV(rate, noise) for (noise, rate), _ in used]
        uses, delta_error, error = [count for _, count in used], delta * DELTA_ERROR, ERROR
        while True:
            reach = prv.compute_safe_domain_size(variables, uses, error, delta_error)
            mesh = error / math.sqrt(sum(uses) * math.log(12 / delta_error) / 2)
            if not 2 * reach / mesh > LARGEST_SIZE:
                break
            error *= max(2.0, 2 * reach / mesh / LARGEST_SIZE)
            if not error <= LARGEST_ERROR:
                raise ArithmeticError("there is hardly any noise")
        domain = prv.Domain.create_aligned(-reach, reach, mesh)
        discrete = [
            prv.discretize(prv.TruncatedPrivacyRandomVariable(variable, domain.t_min, domain.t_max), domain)
            for variable in variables
        ]
        composed = prv.compose_heterogeneous(discrete, uses)
        low, middle, high = (float(value) for value in composed.compute_epsilon(delta, delta_error, error))
    if not all(math.isfinite(value) for value in (low, middle, high)):
        raise ArithmeticError("its figure is not finite")
    return low, max(0.0, middle), max(0.0, high)
