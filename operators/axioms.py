"""The checker: searches each axiom of softening operators for a counterexample, and shows it.

A search proves nothing when it finds nothing; it says in how many trials it found nothing and how near it came. What it finds is real: a
counterexample is one p and one or two temperatures, and `Counterexample.reproduce` evaluates it anew.

What is searched: random distributions (Dirichlet from nearly one-hot to nearly uniform, 2 to 1000 classes), the boundary (p down to 1e-30),
near ties, temperatures over the operator's whole domain; and from the worst of these on a local search that climbs: along the
gradient where the operator has one, at random, by near ties, and in the temperature.

Rounding is no violation. An operator that works in log space, backward stable, is off in log q_i by a few units of eps (1 + |log q_i| +
|log p_i| max(1, 1/T)): the last is what the rounding of log p itself becomes. `_noise` is 16 times that, and every tolerance
follows from it.

Axioms [P, wording of 5 is D]; the criteria for finding them broken are [D]:
1 ranking      q_j above q_i though p_i > p_j, or no lower though p_i is above p_j by more than 8 sqrt(eps) max(1, T) (an operator may be
               flat to second order); entries count where p^(1/T) does not underflow.
2 continuity   a jump that stays while the two ends, in p or in T, are brought together to the resolution of the floating-point format.
3 entropy      H at T' below H at T for T' > T.
4 identity     F_1(p) away from p in L1.
5 boundary     more than 0.01 in L1 from uniform at T = 1e12, or from the one-hot (uniform over ties) at T = 1e-6, for p >= 1e-4 and the
               top two apart by 1 % or tied: the limits are pointwise, not uniform in p.
Before these, the premise that F_T maps distributions to distributions.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators.softening import SeparableSoftening

# From T to an operator: a callable from (N, K) probabilities to (N, K). One with a method from_log is taken in log space.
Factory = Callable[[float], Any]

HOTTEST, COLDEST = 1e12, 1e-6
FAR_FROM_LIMIT = 0.01
LEAST = 1e-30
LEAST_AT_LIMITS = 1e-4
LADDER = (0.1, 0.25, 0.5, 0.8, 0.95, 1.0, 1.05, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0, 20.0)
# Where operators like to change their formula: a jump at exactly one of these is looked for at it.
SPECIAL = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0)
STEPS = 24
# A change that has shrunk so many fold after so many halvings of a stretch is smooth, or hides a jump of at most a sixteenth of it.
SMOOTH = {3: 7.0, 5: 16.0, 8: 16.0}
LOG_OF_SMALLEST = -math.log(torch.finfo(torch.float64).tiny)


class Axiom(Enum):
    """What is checked, in this order."""

    DISTRIBUTION = "distributions stay distributions"
    RANKING = "1 ranking preservation"
    CONTINUITY = "2 continuity"
    ENTROPY = "3 entropy monotonicity"
    IDENTITY = "4 identity at T = 1"
    BOUNDARY = "5 boundary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterexample:
    """A violation at one point.

    p_K: the distribution. temperature: T. other_p_K, other_temperature: the other end of a jump, and T' > T, where there is one. size: of
    the violation, in the unit that `unit` names. tolerance: what rounding could explain. what: the violation in words.
    """

    axiom: Axiom
    p_K: Tensor
    temperature: float
    other_p_K: Tensor | None = None
    other_temperature: float | None = None
    size: float
    tolerance: float
    unit: str
    what: str

    def reproduce(self, factory: Factory) -> float:
        """The size of this violation under any operator: as found for the broken one, at most the tolerance for a sound one."""
        operator = _Operator(factory, self.p_K.dtype)
        p_NK = self.p_K.unsqueeze(0)
        other = self.other_temperature if self.other_temperature is not None else self.temperature
        match self.axiom:
            case Axiom.DISTRIBUTION:
                sizes = _distribution(operator, p_NK, self.temperature)
            case Axiom.RANKING:
                sizes = _ranking(operator, p_NK, self.temperature)
            case Axiom.CONTINUITY:
                other_NK = p_NK if self.other_p_K is None else self.other_p_K.unsqueeze(0)
                return float(_jump(operator.q(p_NK, self.temperature), operator.q(other_NK, other)))
            case Axiom.ENTROPY:
                sizes = _entropy(operator, p_NK, self.temperature, other)
            case Axiom.IDENTITY:
                sizes = _identity(operator, p_NK, 1.0)
            case Axiom.BOUNDARY:
                sizes = _boundary(operator, p_NK, self.temperature)
        return float(sizes.size_N)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the search for violations of one axiom came to.

    trials: distributions, each at one temperature or pair. worst: the largest size seen, against its tolerance, which is what rounding
    explains there; a size below 0 is the least distance from a violation. note: what could not be checked, and why.
    """

    axiom: Axiom
    trials: int
    worst: float
    tolerance: float
    unit: str
    counterexample: Counterexample | None
    note: str = ""

    @property
    def holds(self) -> bool:
        """No violation was found; that none exists is not said."""
        return self.counterexample is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Findings on the axioms that were checked. lowest, highest: ends of the domain in T, as far as they were looked for."""

    findings: tuple[Finding, ...]
    dtype: torch.dtype
    lowest: float
    highest: float

    @property
    def holds(self) -> bool:
        """No violation was found of any axiom that was checked."""
        return all(finding.holds for finding in self.findings)

    def __getitem__(self, axiom: Axiom) -> Finding:
        return next(finding for finding in self.findings if finding.axiom is axiom)


def check(
    factory: Factory,
    *,
    axioms: Collection[Axiom] = tuple(Axiom),
    dtype: torch.dtype = torch.float64,
    rounds: int = 60,
    seed: int = 0,
) -> Report:
    """Search all axioms, or those that are named, of the operator that `factory` makes for every T.

    factory: T -> operator; a T outside its domain is refused with a SettingError. dtype: float32 or float64, in which the operator works;
    sizes are measured in float64. rounds: of the random search; local search and
    the steps in T grow with it. seed: of all randomness.

    Raises SettingError where the factory makes nothing at T = 1 and around, or the operator changes the shape.
    """
    operator = _Operator(factory, dtype)
    lowest, highest = _domain(factory)
    search = _Search(operator, lowest, highest, rounds, torch.Generator().manual_seed(seed))
    searches: dict[Axiom, Callable[[], Finding]] = {
        Axiom.DISTRIBUTION: partial(search.climbed, Axiom.DISTRIBUTION, _distribution, "mass"),
        Axiom.RANKING: partial(search.climbed, Axiom.RANKING, _ranking, "log q"),
        Axiom.CONTINUITY: search.continuity,
        Axiom.ENTROPY: partial(search.climbed, Axiom.ENTROPY, _entropy, "nats", pairs=True),
        Axiom.IDENTITY: partial(search.climbed, Axiom.IDENTITY, _identity, "L1"),
        Axiom.BOUNDARY: search.boundary,
    }
    findings = tuple(search_one() for axiom, search_one in searches.items() if axiom in axioms)
    return Report(findings=findings, dtype=dtype, lowest=lowest, highest=highest)


@dataclass(frozen=True, slots=True)
class _Operator:
    factory: Factory
    dtype: torch.dtype

    @property
    def eps(self) -> float:
        return float(torch.finfo(self.dtype).eps)

    def __call__(self, p_NK: Tensor, temperature: float) -> Tensor:
        """log q in float64."""
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
class _Sizes:
    """Of a batch of rows: size of the violation, what rounding explains, and a score that is worth climbing, each (N,)."""

    size_N: Tensor
    tolerance_N: Tensor
    score_N: Tensor
    what: Callable[[int], str]


Measure = Callable[..., _Sizes]


def _noise(operator: _Operator, p_NK: Tensor, log_q_NK: Tensor, temperature: float) -> Tensor:
    """Bound on the rounding error of log q, (N, K). A q of exactly 0 has no more of it than the smallest number."""
    log_p_NK, log_q_NK = p_NK.detach().double().log(), log_q_NK.detach().abs().clamp(max=LOG_OF_SMALLEST)
    return 16 * operator.eps * (1 + log_q_NK + log_p_NK.abs() * max(1.0, 1 / temperature))


def _times(q_NK: Tensor, value_NK: Tensor) -> Tensor:
    """q times value, 0 where q is 0 whatever the value."""
    return torch.where(q_NK > 0, q_NK * torch.where(q_NK > 0, value_NK, 0.0), 0.0)


def _distribution(operator: _Operator, p_NK: Tensor, temperature: float) -> _Sizes:
    """|sum q - 1|; infinite where q holds NaN or a negative number (whose logarithm is NaN)."""
    log_q_NK = operator(p_NK, temperature)
    q_NK = log_q_NK.exp()
    off_N = (q_NK.sum(-1) - 1).abs()
    size_N = torch.where(log_q_NK.isnan().any(-1), math.inf, off_N)
    tolerance_N = _times(q_NK, _noise(operator, p_NK, log_q_NK, temperature)).sum(-1) + 16 * operator.eps
    tolerance_N = tolerance_N.nan_to_num(16 * operator.eps)

    def what(row: int) -> str:
        if bool(log_q_NK[row].isnan().any()):
            return f"q holds {int(log_q_NK[row].isnan().sum())} entries that are NaN or negative"
        return f"q sums to {float(q_NK[row].sum()):.6g}"

    return _Sizes(size_N, tolerance_N, size_N - tolerance_N, what)


def _ranking(operator: _Operator, p_NK: Tensor, temperature: float) -> _Sizes:
    """How far an entry ends above (or, across a clear gap, not below) one that was larger, in log q.

    A collapse, where q ties across a clear gap, has the size of the gap in log p, so that every size is above 0.
    """
    log_q_NK = operator(p_NK, temperature)
    noise_NK = _noise(operator, p_NK, log_q_NK, temperature)
    p_NK, order_NK = p_NK.detach().double().sort(dim=-1, descending=True, stable=True)
    log_q_NK, noise_NK = log_q_NK.gather(-1, order_NK), noise_NK.gather(-1, order_NK)
    # What even power would let underflow is no evidence: log p / T below the logarithm of the smallest normal number.
    seen_NK = p_NK.log() / min(temperature, 1.0) > math.log(torch.finfo(operator.dtype).tiny)
    # The lowest log q among the entries that are larger in p: by anything, and by the gap.
    lowest_NK, at_NK = torch.where(seen_NK, log_q_NK, math.inf).cummin(-1)
    gap = 8 * math.sqrt(operator.eps) * max(1.0, temperature)

    def above(distance: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of each entry: the lowest log q above it by more than `distance` in p, where that is, and its rounding."""
        count_NK = torch.searchsorted(-p_NK.contiguous(), -(p_NK + distance).contiguous(), right=False)
        none_NK = (count_NK == 0) | ~seen_NK
        last_NK = (count_NK - 1).clamp(min=0)
        value_NK = lowest_NK.gather(-1, last_NK).masked_fill(none_NK, math.inf)
        from_NK = at_NK.gather(-1, last_NK)
        return value_NK, from_NK, noise_NK.gather(-1, from_NK) + noise_NK

    any_NK, any_from_NK, rounding_NK = above(0.0)
    clear_NK, clear_from_NK, _ = above(gap)
    # Two entries of log q = minus infinity tie: their difference is not a number, but a tie.
    reversed_NK = torch.where(log_q_NK == any_NK, 0.0, log_q_NK - any_NK)
    tied_NK = torch.where(log_q_NK == clear_NK, 0.0, log_q_NK - clear_NK)
    fall_NK = p_NK.gather(-1, clear_from_NK).log() - p_NK.log()
    collapse_NK = torch.where(tied_NK >= 0, tied_NK + fall_NK, -math.inf)
    reversal_NK = reversed_NK - rounding_NK
    size_NK = torch.where(reversal_NK > 0, reversed_NK, collapse_NK)
    size_N, at_N = size_NK.masked_fill(size_NK.isnan(), -math.inf).max(-1)
    tolerance_N = rounding_NK.gather(-1, at_N.unsqueeze(-1)).squeeze(-1).nan_to_num(0.0)
    # Climb on the least slope of log q against log p over clear gaps: it is above 0 for a sound operator.
    tied_NK = tied_NK.masked_fill(tied_NK.isnan(), -math.inf)
    score_N = (tied_NK / fall_NK.clamp(min=1e-12)).amax(-1)
    # Nothing wrong: how near it came, or minus infinity where no two entries were apart.
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

    return _Sizes(size_N, tolerance_N, score_N, what)


def _entropy_of(log_q_NK: Tensor) -> Tensor:
    return -_times(log_q_NK.exp(), log_q_NK).sum(-1)


def _entropy(operator: _Operator, p_NK: Tensor, temperature: float, hotter: float) -> _Sizes:
    """H at T less H at T' > T, in nats."""
    log_q_NK, log_hot_NK = operator(p_NK, temperature), operator(p_NK, hotter)
    h_N, hot_N = _entropy_of(log_q_NK), _entropy_of(log_hot_NK)
    tolerance_N = torch.zeros(len(p_NK), dtype=torch.float64)
    for log_NK, entropy_N, t in ((log_q_NK.detach(), h_N, temperature), (log_hot_NK.detach(), hot_N, hotter)):
        slope_NK = log_NK.abs() + entropy_N.detach().unsqueeze(-1) + 1
        tolerance_N += _times(log_NK.exp(), _noise(operator, p_NK, log_NK, t) * slope_NK).sum(-1)
    size_N = h_N - hot_N

    def what(row: int) -> str:
        return f"H = {float(h_N[row]):.9g} at T = {temperature:.9g}, but {float(hot_N[row]):.9g} at T' = {hotter:.9g}"

    return _Sizes(size_N, tolerance_N, size_N / math.log(hotter / temperature), what)


def _identity(operator: _Operator, p_NK: Tensor, temperature: float) -> _Sizes:
    """L1 distance of F_1(p) from p. temperature: not used; it is 1."""
    log_q_NK = operator(p_NK, 1.0)
    exact_NK = p_NK.double()
    size_N = (log_q_NK.exp() - exact_NK).abs().sum(-1)
    tolerance_N = _times(exact_NK.detach(), _noise(operator, p_NK, torch.zeros_like(log_q_NK), 1.0)).sum(-1) + operator.eps

    def what(row: int) -> str:
        at = int((log_q_NK[row].exp() - exact_NK[row]).abs().argmax())
        return f"p[{at}] = {float(exact_NK[row, at]):.9g}, but q[{at}] = {float(log_q_NK[row, at].exp()):.9g} at T = 1"

    return _Sizes(size_N, tolerance_N, size_N, what)


def _boundary(operator: _Operator, p_NK: Tensor, temperature: float) -> _Sizes:
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
    return _Sizes(size_N, torch.full_like(size_N, FAR_FROM_LIMIT), size_N, what)


def _jump(q_NK: Tensor, other_NK: Tensor) -> Tensor:
    return torch.sub(q_NK, other_NK).abs_().sum(-1).nan_to_num_(math.inf)


def _domain(factory: Factory) -> tuple[float, float]:
    """The ends of the temperatures that the factory accepts around 1, within [COLDEST, HOTTEST]; by bisection on log T."""

    def accepts(log_t: float) -> bool:
        try:
            factory(math.exp(log_t))
        except SettingError:
            return False
        return True

    inside = next((log_t for log_t in (0.0, 0.7, -0.7) if accepts(log_t)), None)
    if inside is None:
        raise SettingError("Expected an operator at T = 1, 2 or 0.5, but its factory refuses all of them.")
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
    # The last bisection stops next to the end: an end of exactly 1 is 1.
    return tuple(1.0 if abs(end - 1) < 1e-6 else end for end in ends)  # type: ignore[return-value]


@dataclass(slots=True)
class _Worst:
    """The worst point of a search so far; of violations, the one that is easiest to read: of the fewest classes."""

    axiom: Axiom
    unit: str
    trials: int = 0
    size: float = -math.inf
    tolerance: float = 0.0
    found: Counterexample | None = None

    def see(self, sizes: _Sizes, p_NK: Tensor, temperatures: Sequence[float]) -> None:
        self.trials += len(p_NK)
        excess_N = sizes.size_N - sizes.tolerance_N
        at = int(excess_N.argmax())
        if self.found is not None and p_NK.shape[1] != len(self.found.p_K):
            # By a clear violation only: one that rounding comes near is no improvement.
            better = p_NK.shape[1] < len(self.found.p_K) and float(sizes.size_N[at]) > 10 * float(sizes.tolerance_N[at])
        else:
            better = float(excess_N[at]) > self.size - self.tolerance
        if better:
            self.size, self.tolerance = float(sizes.size_N[at]), float(sizes.tolerance_N[at])
            if self.size > self.tolerance:
                self.found = Counterexample(
                    axiom=self.axiom,
                    p_K=p_NK[at].detach().clone(),
                    temperature=1.0 if self.axiom is Axiom.IDENTITY else temperatures[0],
                    other_temperature=temperatures[1] if len(temperatures) > 1 else None,
                    size=self.size,
                    tolerance=self.tolerance,
                    unit=self.unit,
                    what=sizes.what(at),
                )

    def finding(self, note: str = "") -> Finding:
        return Finding(
            axiom=self.axiom,
            trials=self.trials,
            worst=self.size,
            tolerance=self.tolerance,
            unit=self.unit,
            counterexample=self.found,
            note=note,
        )


class _Search:
    """Where counterexamples are looked for."""

    def __init__(self, operator: _Operator, lowest: float, highest: float, rounds: int, generator: torch.Generator) -> None:
        self.operator, self.lowest, self.highest = operator, lowest, highest
        self.rounds, self.generator = rounds, generator
        self.ladder = [t for t in LADDER if lowest <= t <= highest] or [lowest]

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def _classes(self) -> int:
        """2 and 3 often, up to 1000 now and then."""
        pick = self._uniform(0, 1)
        return 2 if pick < 0.15 else 3 if pick < 0.3 else round(math.exp(self._uniform(math.log(3), math.log(1000))))

    def _temperature(self) -> float:
        if self._uniform(0, 1) < 0.5:
            return self.ladder[int(self._uniform(0, len(self.ladder)))]
        low, high = max(self.lowest, LADDER[0]), min(self.highest, LADDER[-1])
        return math.exp(self._uniform(math.log(low), math.log(high)))

    def distributions(self, classes: int, *, least: float = LEAST) -> Tensor:
        """Rows of every kind, fewer where there are many classes; every entry at least about `least`."""
        rows = max(2, min(24, 2000 // classes))
        z_NK = []
        for concentration in (0.05, 0.3, 1.0, 5.0, 100.0):
            gamma_NK = torch._standard_gamma(
                torch.full((rows, classes), concentration, dtype=torch.float64), generator=self.generator
            )
            z_NK.append(gamma_NK.log())
        # The boundary: spread over all powers of ten, and one or a few classes that hold nearly all.
        spread_NK = torch.rand(rows, classes, generator=self.generator, dtype=torch.float64) * math.log(least)
        z_NK.append(spread_NK)
        z_NK.append(spread_NK.where(spread_NK > spread_NK.median(-1, keepdim=True).values, math.log(least)))
        rows_NK = torch.cat(z_NK)
        # Near ties, of every closeness down to a few units of the last place, between neighbours in rank.
        order_NK = rows_NK.argsort(-1, descending=True)
        at_N1 = torch.randint(0, classes - 1, (len(rows_NK), 1), generator=self.generator)
        first_N1, second_N1 = order_NK.gather(-1, at_N1), order_NK.gather(-1, at_N1 + 1)
        close_N1 = 10 ** -(16 * torch.rand(len(rows_NK), 1, generator=self.generator, dtype=torch.float64))
        tied_NK = rows_NK.scatter(-1, second_N1, rows_NK.gather(-1, first_N1) - close_N1)
        return self._interior(torch.cat([rows_NK, tied_NK]), least)

    def _some(self, p_NK: Tensor, most: int) -> Tensor:
        return p_NK[torch.randperm(len(p_NK), generator=self.generator)[:most]]

    def _interior(self, z_NK: Tensor, least: float = LEAST) -> Tensor:
        p_NK = z_NK.double().nan_to_num(0.0, neginf=-1e3).softmax(-1)
        least = min(least, 0.1 / z_NK.shape[-1])
        p_NK = p_NK.clamp(min=least)
        return (p_NK / p_NK.sum(-1, keepdim=True)).to(self.operator.dtype)

    def climbed(self, axiom: Axiom, measure: Measure, unit: str, *, pairs: bool = False) -> Finding:
        """Random search, then local search from the worst points of a few shapes."""
        if axiom is Axiom.IDENTITY and not self.lowest <= 1 <= self.highest:
            return _unchecked(axiom, unit, f"not checked: the domain is T in [{self.lowest:g}, {self.highest:g}]")
        worst = _Worst(axiom, unit)
        starts: list[tuple[float, Tensor, tuple[float, ...]]] = []
        for _ in range(self.rounds):
            p_NK = self.distributions(self._classes())
            temperatures: tuple[float, ...] = self._pair() if pairs else (self._temperature(),)
            sizes = measure(self.operator, p_NK, *temperatures)
            worst.see(sizes, p_NK, temperatures)
            at = int(sizes.score_N.argmax())
            starts.append((float(sizes.score_N[at]), p_NK[at], temperatures))
        if pairs:
            # Every temperature in small steps: entropy may fall on a stretch that no random pair would meet.
            p_NK = self._some(self.distributions(3), 16)
            for step in self._steps(6 * self.rounds):
                worst.see(measure(self.operator, p_NK, *step), p_NK, step)
        # The worst two, and the worst two of few classes, where steps at random reach everywhere.
        starts.sort(key=lambda start: start[0], reverse=True)
        for _, p_K, temperatures in starts[:2] + [start for start in starts[2:] if len(start[1]) <= 10][:2]:
            for p_NK, sizes, tried in self._climb(measure, p_K, temperatures) if worst.found is None else ():
                worst.see(sizes, p_NK, tried)
                if worst.found is not None:
                    break
        return worst.finding()

    def _pair(self) -> tuple[float, float]:
        """T < T', near each other or far."""
        temperature = self._temperature()
        hotter = temperature * math.exp(10 ** self._uniform(-3, 0.5))
        if hotter > self.highest:
            temperature, hotter = self.lowest + (self.highest - self.lowest) * self._uniform(0, 0.5), self.highest
        return temperature, hotter

    def _climb(
        self, measure: Measure, p_K: Tensor, temperatures: tuple[float, ...]
    ) -> Iterator[tuple[Tensor, _Sizes, tuple[float, ...]]]:
        """Batches around the best point so far, which moves to the best of each batch; steps shrink where nothing is better."""
        best, reach = -math.inf, 1.0
        for step in range(min(STEPS, self.rounds)):
            p_NK = self._neighbours(measure, p_K, temperatures, reach)
            tries = [temperatures] if step % 2 == 0 else [temperatures, *self._other_temperatures(temperatures, reach)]
            improved = False
            for tried in tries:
                sizes = measure(self.operator, p_NK, *tried)
                yield p_NK, sizes, tried
                at = int(sizes.score_N.argmax())
                if float(sizes.score_N[at]) > best:
                    best, p_K, temperatures, improved = float(sizes.score_N[at]), p_NK[at], tried, True
            reach = min(reach * 1.5, 4.0) if improved else reach * 0.5

    def _other_temperatures(self, temperatures: tuple[float, ...], reach: float) -> list[tuple[float, ...]]:
        moved = []
        for factor in (math.exp(0.5 * reach), math.exp(-0.5 * reach), math.exp(0.05 * reach)):
            tried = tuple(min(max(t * factor, self.lowest, COLDEST), self.highest) for t in temperatures)
            if len(tried) == 1 or tried[0] < tried[1]:
                moved.append(tried)
        return moved

    def _neighbours(self, measure: Measure, p_K: Tensor, temperatures: tuple[float, ...], reach: float) -> Tensor:
        z_K = p_K.double().log()
        noise_NK = torch.randn(12, len(z_K), generator=self.generator, dtype=torch.float64)
        one_NK = torch.zeros(12, len(z_K), dtype=torch.float64)
        one_NK.scatter_(1, torch.randint(0, len(z_K), (12, 1), generator=self.generator), 3 * noise_NK[:, :1])
        moves = [torch.zeros(1, len(z_K), dtype=torch.float64), reach * noise_NK, reach * one_NK]
        slope_K = self._slope(measure, p_K, temperatures)
        if slope_K is not None:
            moves += [scale * reach * slope_K.unsqueeze(0) for scale in (0.01, 0.1, 1.0, 5.0)]
        z_NK = z_K + torch.cat(moves)
        # Two entries nearly tied.
        at_N2 = torch.stack([torch.randperm(len(z_K), generator=self.generator)[:2] for _ in range(6)])
        tied_NK = z_K.expand(6, -1).clone()
        close_N1 = 10 ** -(8 * torch.rand(6, 1, generator=self.generator, dtype=torch.float64))
        tied_NK.scatter_(1, at_N2[:, 1:], tied_NK.gather(1, at_N2[:, :1]) - close_N1)
        return self._interior(torch.cat([z_NK, tied_NK]))

    def _slope(self, measure: Measure, p_K: Tensor, temperatures: tuple[float, ...]) -> Tensor | None:
        """Of the score by log p, of unit length; None where the operator has no gradient there."""
        z_NK = p_K.double().log().unsqueeze(0).requires_grad_()
        try:
            score_N = measure(self.operator, z_NK.softmax(-1).to(self.operator.dtype), *temperatures).score_N
            (slope_NK,) = torch.autograd.grad(score_N.sum(), z_NK)
        except (RuntimeError, NotImplementedError):
            return None
        length = float(slope_NK.norm())
        return slope_NK[0] / length if math.isfinite(length) and length > 0 else None

    def continuity(self) -> Finding:
        """Segments in p at fixed T, and in T at fixed p, halved towards their larger jump until the ends meet."""
        trials, worst, found = 0, 0.0, None
        floor = 1e-6 if self.operator.dtype == torch.float64 else 2e-3
        halvings = 40 if self.operator.dtype == torch.float64 else 18
        for classes in (2, 3, 5, 20, 200):
            for temperature in self.ladder[:: max(1, len(self.ladder) // 6)]:
                from_NK = self._some(self.distributions(classes, least=1e-12), 4 * self.rounds)
                to_NK = from_NK[torch.randperm(len(from_NK), generator=self.generator)]
                trials += len(from_NK)
                jump, p_K, other_K = self._halve_p(from_NK, to_NK, temperature, halvings, floor)
                if jump > worst:
                    worst = jump
                    found = _jump_example(p_K, temperature, other_K, None, jump, floor)
            if worst > floor:
                break
        for classes in (2, 5, 50) if worst <= floor else ():
            p_NK = self._some(self.distributions(classes, least=1e-12), 48)
            for low, high in self._stretches():
                trials += len(p_NK)
                halved = self._halve_t(p_NK, low, high, halvings, floor)
                if halved is not None and halved[0] > worst:
                    worst, p_K, temperature, other = halved
                    found = _jump_example(p_K, temperature, None, other, worst, floor)
            if worst > floor:
                break
        return Finding(
            axiom=Axiom.CONTINUITY,
            trials=trials,
            worst=worst,
            tolerance=floor,
            unit="L1",
            counterexample=found if worst > floor else None,
        )

    def _steps(self, count: int) -> list[tuple[float, float]]:
        """From one temperature to the next, even in log T over the part of the domain where operators are used."""
        low, high = math.log(max(self.lowest, LADDER[0])), math.log(min(self.highest, 50.0))
        return list(pairwise(math.exp(low + (high - low) * i / count) for i in range(count + 1)))

    def _stretches(self) -> list[tuple[float, float]]:
        low, high = max(self.lowest, LADDER[0]), min(self.highest, 50.0)
        stretches = self._steps(min(120, 15 * self.rounds))
        for special in SPECIAL:
            stretches += [(t, special) for t in (special * 0.99,) if low <= t]
            stretches += [(special, t) for t in (special * 1.01,) if low <= special and t <= high]
        return [(a, min(b, high)) for a, b in stretches if a < high]

    def _halve_p(
        self, a_NK: Tensor, b_NK: Tensor, temperature: float, halvings: int, floor: float
    ) -> tuple[float, Tensor, Tensor]:
        """The largest jump that stays, and its two ends: each segment is cut where more of the change is, in log p."""
        za_NK, zb_NK = a_NK.double().log(), b_NK.double().log()
        qa, qb = (self.operator.q(self._softmax(z_NK), temperature) for z_NK in (za_NK, zb_NK))
        before_N = jump_N = _jump(qa, qb)
        for step in range(1, halvings + 1):
            middle_NK = (za_NK + zb_NK) / 2
            qm = self.operator.q(self._softmax(middle_NK), temperature)
            left_N1 = (_jump(qa, qm) >= _jump(qm, qb)).unsqueeze(-1)
            za_NK, zb_NK = torch.where(left_N1, za_NK, middle_NK), torch.where(left_N1, middle_NK, zb_NK)
            qa, qb = torch.where(left_N1, qa, qm), torch.where(left_N1, qm, qb)
            jump_N = _jump(qa, qb)
            if step == halvings // 2:
                before_N = jump_N
        # A steep but continuous stretch flattens as its ends meet; a jump stays.
        stays_N = torch.where(jump_N >= 0.9 * before_N, jump_N, jump_N.clamp(max=floor / 2))
        at = int(stays_N.argmax())
        return float(stays_N[at]), self._softmax(za_NK)[at], self._softmax(zb_NK)[at]

    def _softmax(self, z_NK: Tensor) -> Tensor:
        return z_NK.softmax(-1).to(self.operator.dtype)

    def _halve_t(
        self, p_NK: Tensor, low: float, high: float, halvings: int, floor: float
    ) -> tuple[float, Tensor, float, float] | None:
        """The same in T, for the row that jumps most; None where it soon proves smooth."""
        log_low, log_high = math.log(low), math.log(high)
        q_low, q_high = self.operator.q(p_NK, low), self.operator.q(p_NK, high)
        before = math.inf
        for step in range(halvings + 1):
            jump_N = _jump(q_low, q_high)
            at = int(jump_N.argmax())
            if float(jump_N[at]) <= floor:
                return None
            if step == halvings // 2:
                before = float(jump_N[at])
            if step == 0:
                first = float(jump_N[at])
            elif float(jump_N[at]) < first / SMOOTH.get(step, math.inf):
                return None
            if step < halvings:
                middle = (log_low + log_high) / 2
                q_middle = self.operator.q(p_NK, math.exp(middle))
                if float(_jump(q_low, q_middle).max()) >= float(_jump(q_middle, q_high).max()):
                    log_high, q_high, high = middle, q_middle, math.exp(middle)
                else:
                    log_low, q_low, low = middle, q_middle, math.exp(middle)
        return (float(jump_N[at]), p_NK[at], low, high) if float(jump_N[at]) >= 0.9 * before else None

    def boundary(self) -> Finding:
        """At the two ends of T, for p bounded away from 0 and its top two apart or exactly tied."""
        ends = [t for t in (COLDEST, HOTTEST) if self.lowest <= t * (1 + 1e-9) and t <= self.highest * (1 + 1e-9)]
        missing = [f"T to {name}" for t, name in ((COLDEST, "0"), (HOTTEST, "infinity")) if t not in ends]
        note = (
            f"{' and '.join(missing)} not checked: the domain is T in [{self.lowest:g}, {self.highest:g}]" if missing else ""
        )
        if not ends:
            return _unchecked(Axiom.BOUNDARY, "L1", note)
        worst = _Worst(Axiom.BOUNDARY, "L1")
        for _ in range(max(8, self.rounds // 4)):
            classes = self._classes()
            p_NK = self.distributions(classes, least=LEAST_AT_LIMITS)
            top_N2 = p_NK.topk(2, dim=-1)
            tied_NK = p_NK.scatter(-1, top_N2.indices[:, 1:], top_N2.values[:, :1])
            # Dividing both by one sum keeps a tie exact.
            p_NK = torch.cat([p_NK, tied_NK / tied_NK.sum(-1, keepdim=True)])
            # Every entry is the largest to the last bit, or clearly below it.
            top_N1 = p_NK.amax(-1, keepdim=True)
            p_NK = p_NK[((p_NK == top_N1) | (1.01 * p_NK < top_N1)).all(-1)]
            for temperature in ends if len(p_NK) else []:
                worst.see(_boundary(self.operator, p_NK, temperature), p_NK, (temperature,))
        return worst.finding(note)


def _unchecked(axiom: Axiom, unit: str, note: str) -> Finding:
    return _Worst(axiom, unit).finding(note)


def _jump_example(
    p_K: Tensor, temperature: float, other_K: Tensor | None, other: float | None, jump: float, floor: float
) -> Counterexample:
    if other_K is None:
        apart = f"T' - T = {(other or temperature) - temperature:.3g}"
    else:
        apart = f"the p differ by {float((other_K.double() - p_K.double()).abs().sum()):.3g} in L1"
    return Counterexample(
        axiom=Axiom.CONTINUITY,
        p_K=p_K.clone(),
        temperature=temperature,
        other_p_K=other_K.clone() if other_K is not None else None,
        other_temperature=other,
        size=jump,
        tolerance=floor,
        unit="L1",
        what=f"q jumps by {jump:.6g} in L1 while {apart}",
    )


# The sufficient condition


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Where a condition of majorisation fails: between p < other_p, at T, or from T to other_temperature. size: in log f, above 0."""

    p: float
    other_p: float
    temperature: float
    other_temperature: float | None
    size: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Majorisation:
    """The sufficient condition for axioms 1 and 3 on a grid: where it fails worst, or None where it holds.

    increasing: f_T rises strictly in p, which gives axiom 1. ratio: f_T'(p) / f_T(p) does not rise in p for T' > T, which gives axiom 3. A
    failure says that the condition is not met; axiom 3 may hold all the same.
    """

    increasing: Failure | None
    ratio: Failure | None
    points: int
    temperatures: int

    @property
    def holds(self) -> bool:
        """Both conditions hold on the grid."""
        return self.increasing is None and self.ratio is None


def majorisation(
    factory: Callable[[float], SeparableSoftening], *, points: int = 400, temperatures: Sequence[float] | None = None
) -> Majorisation:
    """Check on a grid that f_T rises and that f_T' / f_T does not, for F_T(p)_i = f_T(p_i) / sum f_T(p_j) [D].

    Why: F_T' is then F_T times weights that fall where F_T rises, so F_T majorises F_T', and entropy is Schur-concave. Neighbours on the
    grid are enough: both conditions chain.

    points: of p, spread evenly in log p over [1e-30, 1] and in p over (0, 1). temperatures: ascending; by default 60 over the domain within
    [0.05, 50].
    """
    lowest, highest = _domain(factory)
    low, high = math.log(max(lowest, 0.05)), math.log(min(highest, 50.0))
    grid = list(temperatures) if temperatures is not None else [math.exp(low + (high - low) * i / 59) for i in range(60)]
    even_K = torch.linspace(0, 1, points // 2 + 1, dtype=torch.float64)[1:]
    log_p_K = torch.cat([torch.linspace(math.log(LEAST), 0, points // 2, dtype=torch.float64), even_K.log()]).unique()
    log_f_TK = torch.stack([factory(t).log_weight(log_p_K.unsqueeze(0))[0] for t in grid])
    scale_TK = 64 * torch.finfo(torch.float64).eps * (1 + log_f_TK.abs() + log_p_K.abs() * max(1.0, 1 / grid[0]))
    slack_TK = scale_TK[:, 1:] + scale_TK[:, :-1]
    # A rise too small for float64 is no failure: mixing's f is flat to the last bit at p = 1e-30. A fall is one, and so is a tie across a
    # clear gap in p.
    fall_TK = -log_f_TK.diff(dim=-1)
    clear_K = log_p_K.exp().diff() > 8 * math.sqrt(torch.finfo(torch.float64).eps)
    wrong_TK = (fall_TK > slack_TK) | ((fall_TK >= 0) & clear_K)
    rise_TK = log_f_TK.diff(dim=0).diff(dim=-1)
    over_TK = rise_TK - slack_TK[1:] - slack_TK[:-1]

    def worst(size_TK: Tensor, wrong_TK: Tensor, *, pair: bool) -> Failure | None:
        if not bool(wrong_TK.any()):
            return None
        t, k = divmod(int(size_TK.masked_fill(~wrong_TK, -math.inf).argmax()), size_TK.shape[1])
        return Failure(
            p=float(log_p_K[k].exp()),
            other_p=float(log_p_K[k + 1].exp()),
            temperature=grid[t],
            other_temperature=grid[t + 1] if pair else None,
            size=float(size_TK[t, k]),
        )

    return Majorisation(
        increasing=worst(fall_TK, wrong_TK, pair=False),
        ratio=worst(rise_TK, over_TK > 0, pair=True),
        points=len(log_p_K),
        temperatures=len(grid),
    )
