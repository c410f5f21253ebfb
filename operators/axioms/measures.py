"""How far an operator is from each axiom, row by row, and how much of that rounding explains.

Rounding is no violation. An operator that works in log space, backward stable, is off in log q_i by a few units of eps
(1 + |log q_i| + |log p_i| max(1, 1/T)): the last is what the rounding of log p itself becomes. `rounding` is 16 times
that, and every tolerance of the softening axioms follows from it.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.base.errors import SettingError

# From T to an operator: a callable from (N, K) probabilities to (N, K). If it has a method from_log, that is used, in
# log space.
Factory = Callable[[float], Any]

# The ends of the temperatures that are tried, and how near its limits (L1) an operator has to be there.
HOTTEST, COLDEST = 1e12, 1e-6
FAR_FROM_LIMIT = 0.01
# The smallest probability that is tried.
LEAST = 1e-30
LOG_OF_SMALLEST = -math.log(torch.finfo(torch.float64).tiny)


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator at every temperature, in one floating-point format; what it returns is read in float64."""

    factory: Factory
    dtype: torch.dtype

    @property
    def eps(self) -> float:
        return float(torch.finfo(self.dtype).eps)

    def __call__(self, p_NK: Tensor, temperature: float) -> Tensor:
        """log q in float64. Raises SettingError if the operator changes the shape."""
        operator = self.factory(temperature)
        log_q_NK = operator.from_log(p_NK.log()) if hasattr(operator, "from_log") else operator(p_NK).log()
        if log_q_NK.shape != p_NK.shape:
            raise SettingError(
                f"Expected an operator that keeps the shape {tuple(p_NK.shape)}, got {tuple(log_q_NK.shape)}."
            )
        result: Tensor = log_q_NK.double()
        return result

    def q(self, p_NK: Tensor, temperature: float) -> Tensor:
        """q in float64."""
        return self(p_NK, temperature).exp()


@dataclass(frozen=True, slots=True)
class Sizes:
    """A batch of rows, each tensor (N,).

    - size_N: the size of the violation.
    - tolerance_N: what rounding explains.
    - score_N: what a local search climbs on.
    - what: describes the violation of one row in words.
    """

    size_N: Tensor
    tolerance_N: Tensor
    score_N: Tensor
    what: Callable[[int], str]


Measure = Callable[..., Sizes]


def rounding(operator: Operator, p_NK: Tensor, log_q_NK: Tensor, temperature: float) -> Tensor:
    """Bound on the rounding error of log q, (N, K). A q of exactly 0 has no more than the smallest normal number."""
    log_p_NK, log_q_NK = p_NK.detach().double().log(), log_q_NK.detach().abs().clamp(max=LOG_OF_SMALLEST)
    return 16 * operator.eps * (1 + log_q_NK + log_p_NK.abs() * max(1.0, 1 / temperature))


def _times(q_NK: Tensor, value_NK: Tensor) -> Tensor:
    """q times value; 0 where q is 0, whatever the value."""
    return torch.where(q_NK > 0, q_NK * torch.where(q_NK > 0, value_NK, 0.0), 0.0)


def distribution(operator: Operator, p_NK: Tensor, temperature: float) -> Sizes:
    """|sum q - 1|; infinite where q contains NaN or a negative number (whose logarithm is NaN)."""
    log_q_NK = operator(p_NK, temperature)
    q_NK = log_q_NK.exp()
    off_N = (q_NK.sum(-1) - 1).abs()
    size_N = torch.where(log_q_NK.isnan().any(-1), math.inf, off_N)
    tolerance_N = _times(q_NK, rounding(operator, p_NK, log_q_NK, temperature)).sum(-1) + 16 * operator.eps
    tolerance_N = tolerance_N.nan_to_num(16 * operator.eps)

    def what(row: int) -> str:
        if bool(log_q_NK[row].isnan().any()):
            return f"q contains {int(log_q_NK[row].isnan().sum())} entries that are NaN or negative"
        return f"q sums to {float(q_NK[row].sum()):.6g}"

    return Sizes(size_N, tolerance_N, size_N - tolerance_N, what)


def ranking(operator: Operator, p_NK: Tensor, temperature: float) -> Sizes:
    """How far an entry ends above (or, across a clear gap, not below) one that was larger, in log q.

    A collapse, where q ties across a clear gap, has the size of the gap in log p, so every violation has a size above
    0.
    """
    log_q_NK = operator(p_NK, temperature)
    noise_NK = rounding(operator, p_NK, log_q_NK, temperature)
    p_NK, order_NK = p_NK.detach().double().sort(dim=-1, descending=True, stable=True)
    log_q_NK, noise_NK = log_q_NK.gather(-1, order_NK), noise_NK.gather(-1, order_NK)
    # Entries that underflow even under power are no evidence: log p / T below the logarithm of the smallest normal
    # number.
    seen_NK = p_NK.log() / min(temperature, 1.0) > math.log(torch.finfo(operator.dtype).tiny)
    # The lowest log q among the entries that are larger in p: by any amount, and by the gap.
    lowest_NK, at_NK = torch.where(seen_NK, log_q_NK, math.inf).cummin(-1)
    gap = 8 * math.sqrt(operator.eps) * max(1.0, temperature)

    def above(distance: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of each entry: the lowest log q among entries larger in p by more than `distance`, its index, its rounding."""
        count_NK = torch.searchsorted(-p_NK.contiguous(), -(p_NK + distance).contiguous(), right=False)
        none_NK = (count_NK == 0) | ~seen_NK
        last_NK = (count_NK - 1).clamp(min=0)
        value_NK = lowest_NK.gather(-1, last_NK).masked_fill(none_NK, math.inf)
        from_NK = at_NK.gather(-1, last_NK)
        return value_NK, from_NK, noise_NK.gather(-1, from_NK) + noise_NK

    any_NK, any_from_NK, rounding_NK = above(0.0)
    clear_NK, clear_from_NK, _ = above(gap)
    # Two entries with log q = minus infinity tie, although their difference is NaN.
    reversed_NK = torch.where(log_q_NK == any_NK, 0.0, log_q_NK - any_NK)
    tied_NK = torch.where(log_q_NK == clear_NK, 0.0, log_q_NK - clear_NK)
    fall_NK = p_NK.gather(-1, clear_from_NK).log() - p_NK.log()
    collapse_NK = torch.where(tied_NK >= 0, tied_NK + fall_NK, -math.inf)
    reversal_NK = reversed_NK - rounding_NK
    size_NK = torch.where(reversal_NK > 0, reversed_NK, collapse_NK)
    size_N, at_N = size_NK.masked_fill(size_NK.isnan(), -math.inf).max(-1)
    tolerance_N = rounding_NK.gather(-1, at_N.unsqueeze(-1)).squeeze(-1).nan_to_num(0.0)
    # The score is the least slope of log q against log p over clear gaps, with its sign turned: below 0 for a sound
    # operator.
    tied_NK = tied_NK.masked_fill(tied_NK.isnan(), -math.inf)
    score_N = (tied_NK / fall_NK.clamp(min=1e-12)).amax(-1)
    # Without a violation: how close it came, or minus infinity if no two entries were a clear gap apart.
    size_N = torch.where(size_N == -math.inf, tied_NK.amax(-1), size_N)
    tolerance_N = torch.where(size_N <= 0, 0.0, tolerance_N)

    def what(row: int) -> str:
        low = int(at_N[row])
        high = int((any_from_NK if bool(reversal_NK[row, low] > 0) else clear_from_NK)[row, low])
        i, j = int(order_NK[row, high]), int(order_NK[row, low])
        q_i, q_j = (float(log_q_NK[row, at].exp()) for at in (high, low))
        sign = "<" if q_i < q_j else "="
        return (
            f"p[{i}] = {float(p_NK[row, high]):.9g} > p[{j}] = {float(p_NK[row, low]):.9g}, "
            f"but q[{i}] = {q_i:.9g} {sign} q[{j}] = {q_j:.9g}"
        )

    return Sizes(size_N, tolerance_N, score_N, what)


def _entropy_of(log_q_NK: Tensor) -> Tensor:
    return -_times(log_q_NK.exp(), log_q_NK).sum(-1)


def entropy(operator: Operator, p_NK: Tensor, temperature: float, hotter: float) -> Sizes:
    """H at T minus H at T' > T, in nats."""
    log_q_NK, log_hot_NK = operator(p_NK, temperature), operator(p_NK, hotter)
    h_N, hot_N = _entropy_of(log_q_NK), _entropy_of(log_hot_NK)
    tolerance_N = torch.zeros(len(p_NK), dtype=torch.float64)
    for log_NK, entropy_N, t in ((log_q_NK.detach(), h_N, temperature), (log_hot_NK.detach(), hot_N, hotter)):
        slope_NK = log_NK.abs() + entropy_N.detach().unsqueeze(-1) + 1
        tolerance_N += _times(log_NK.exp(), rounding(operator, p_NK, log_NK, t) * slope_NK).sum(-1)
    size_N = h_N - hot_N

    def what(row: int) -> str:
        return f"H = {float(h_N[row]):.9g} at T = {temperature:.9g}, but {float(hot_N[row]):.9g} at T' = {hotter:.9g}"

    return Sizes(size_N, tolerance_N, size_N / math.log(hotter / temperature), what)


def identity(operator: Operator, p_NK: Tensor, temperature: float) -> Sizes:
    """L1 distance of F_1(p) from p. temperature: ignored; T is 1."""
    log_q_NK = operator(p_NK, 1.0)
    exact_NK = p_NK.double()
    size_N = (log_q_NK.exp() - exact_NK).abs().sum(-1)
    tolerance_N = _times(exact_NK.detach(), rounding(operator, p_NK, torch.zeros_like(log_q_NK), 1.0)).sum(-1) + operator.eps

    def what(row: int) -> str:
        at = int((log_q_NK[row].exp() - exact_NK[row]).abs().argmax())
        return f"p[{at}] = {float(exact_NK[row, at]):.9g}, but q[{at}] = {float(log_q_NK[row, at].exp()):.9g} at T = 1"

    return Sizes(size_N, tolerance_N, size_N, what)


def boundary(operator: Operator, p_NK: Tensor, temperature: float) -> Sizes:
    """L1 distance from the limit: uniform for T > 1, uniform over the largest entries for T < 1."""
    q_NK = operator(p_NK, temperature).exp()
    top_NK = p_NK == p_NK.amax(-1, keepdim=True) if temperature < 1 else torch.ones_like(p_NK, dtype=torch.bool)
    limit_NK = top_NK.double() / top_NK.sum(-1, keepdim=True)
    size_N = (q_NK - limit_NK).abs().sum(-1)
    goal = "uniform" if temperature > 1 else "the one-hot of the largest, or uniform over ties"

    def what(row: int) -> str:
        return (
            f"at T = {temperature:g}, q is {float(size_N[row]):.4g} in L1 from {goal}; max q = {float(q_NK[row].max()):.6g}"
        )

    size_N = size_N.nan_to_num(math.inf)
    return Sizes(size_N, torch.full_like(size_N, FAR_FROM_LIMIT), size_N, what)


def jump(q_NK: Tensor, other_NK: Tensor) -> Tensor:
    """L1 distance of each row, (N,); infinite where it is NaN."""
    return torch.sub(q_NK, other_NK).abs_().sum(-1).nan_to_num_(math.inf)


def domain(factory: Factory) -> tuple[float, float]:
    """The lowest and highest T around 1 that the factory accepts, within [COLDEST, HOTTEST], by bisection on log T.

    Raises SettingError if it accepts none of 1, 2 and 0.5.
    """

    def accepts(log_t: float) -> bool:
        try:
            factory(math.exp(log_t))
        except SettingError:
            return False
        return True

    inside = next((log_t for log_t in (0.0, 0.7, -0.7) if accepts(log_t)), None)
    if inside is None:
        raise SettingError("Expected an operator at T = 1, 2 or 0.5, but its factory refuses all three.")
    ends = []
    for end in (math.log(COLDEST), math.log(HOTTEST)):
        low, high = inside, end
        if accepts(end):
            low = end
        else:
            while abs(high - low) > 1e-9:
                middle = (low + high) / 2
                low, high = (middle, high) if accepts(middle) else (low, middle)
        ends.append(math.exp(low))
    # Bisection stops just inside: an end of exactly 1 is restored to 1.
    return tuple(1.0 if abs(end - 1) < 1e-6 else end for end in ends)  # type: ignore[return-value]
