"""The checker of softening operators: it searches each axiom for a counterexample.

What is searched: random distributions (Dirichlet from nearly one-hot to nearly uniform, 2 to 1000 classes), the
boundary (p down to 1e-30), near ties, temperatures over the operator's whole domain. A local search then climbs from
the worst of these points: along the gradient where the operator has one, at random, by near ties, and in the
temperature.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from limbeck.operators.axioms import measures
from limbeck.operators.axioms.findings import Axiom, Counterexample, Finding, Report, Worst
from limbeck.operators.axioms.measures import COLDEST, HOTTEST, LEAST, Factory, Measure, Operator, Sizes
from limbeck.operators.axioms.narrowing import STAYS, narrow

LEAST_AT_LIMITS = 1e-4
LADDER = (0.1, 0.25, 0.5, 0.8, 0.95, 1.0, 1.05, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0, 20.0)
# Where operators tend to change their formula: a jump at exactly one of these is looked for there.
SPECIAL = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0)
STEPS = 24
# Halvings of a stretch: factor. A change that has shrunk by more than the factor after so many halvings is smooth, or
# hides a jump of at most a sixteenth of it.
SMOOTH = {3: 7.0, 5: 16.0, 8: 16.0}


def check(
    factory: Factory,
    *,
    axioms: Collection[Axiom] = tuple(Axiom),
    dtype: torch.dtype = torch.float64,
    rounds: int = 60,
    seed: int = 0,
) -> Report:
    """Search for violations of the axioms of the operators that `factory` makes.

    - factory: T -> operator; it raises a SettingError for a T outside its domain.
    - axioms: those to check; all by default.
    - dtype: float32 or float64, in which the operator works; sizes are measured in float64.
    - rounds: of the random search; the local search and the steps in T grow with it.
    - seed: of all randomness.

    Raises SettingError if the factory makes nothing at and around T = 1, or the operator changes the shape.
    """
    operator = Operator(factory, dtype)
    lowest, highest = measures.domain(factory)
    search = _Search(operator, lowest, highest, rounds, torch.Generator().manual_seed(seed))
    searches: dict[Axiom, Callable[[], Finding]] = {
        Axiom.DISTRIBUTION: partial(search.climbed, Axiom.DISTRIBUTION, measures.distribution, "mass"),
        Axiom.RANKING: partial(search.climbed, Axiom.RANKING, measures.ranking, "log q"),
        Axiom.CONTINUITY: search.continuity,
        Axiom.ENTROPY: partial(search.climbed, Axiom.ENTROPY, measures.entropy, "nats", pairs=True),
        Axiom.IDENTITY: partial(search.climbed, Axiom.IDENTITY, measures.identity, "L1"),
        Axiom.BOUNDARY: search.boundary,
    }
    findings = tuple(search_one() for axiom, search_one in searches.items() if axiom in axioms)
    return Report(findings=findings, dtype=dtype, lowest=lowest, highest=highest)


@dataclass(slots=True, kw_only=True)
class _SofteningWorst(Worst[Counterexample]):
    """The worst point for one axiom."""

    axiom: Axiom

    def see_at(self, sizes: Sizes, p_NK: Tensor, temperatures: Sequence[float]) -> None:
        """Take in one batch, measured at one or two temperatures."""

        def violation(row: int, size: float, tolerance: float) -> Counterexample:
            return Counterexample(
                axiom=self.axiom,
                p_K=p_NK[row].detach().clone(),
                temperature=1.0 if self.axiom is Axiom.IDENTITY else temperatures[0],
                other_temperature=temperatures[1] if len(temperatures) > 1 else None,
                size=size,
                tolerance=tolerance,
                unit=self.unit,
                what=sizes.what(row),
            )

        self.see(sizes, p_NK.shape[1], violation)

    def finding(self, note: str = "") -> Finding:
        return Finding(
            axiom=self.axiom,
            trials=self.trials,
            worst=self.size,
            tolerance=self.tolerance,
            unit=self.unit,
            counterexample=self.violation,
            note=note,
        )


class _Search:
    """The searches, one method for each kind of axiom.

    Their order of random draws is fixed, so one seed gives one report.
    """

    def __init__(self, operator: Operator, lowest: float, highest: float, rounds: int, generator: torch.Generator) -> None:
        self.operator, self.lowest, self.highest = operator, lowest, highest
        self.rounds, self.generator = rounds, generator
        self.ladder = [t for t in LADDER if lowest <= t <= highest] or [lowest]

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def _classes(self) -> int:
        """A number of classes: often 2 or 3, sometimes up to 1000."""
        pick = self._uniform(0, 1)
        return 2 if pick < 0.15 else 3 if pick < 0.3 else round(math.exp(self._uniform(math.log(3), math.log(1000))))

    def _temperature(self) -> float:
        if self._uniform(0, 1) < 0.5:
            return self.ladder[int(self._uniform(0, len(self.ladder)))]
        low, high = max(self.lowest, LADDER[0]), min(self.highest, LADDER[-1])
        return math.exp(self._uniform(math.log(low), math.log(high)))

    def distributions(self, classes: int, *, least: float = LEAST) -> Tensor:
        """Rows of every kind, fewer of many classes; every entry is at least about `least`."""
        rows = max(2, min(24, 2000 // classes))
        z_NK = []
        for concentration in (0.05, 0.3, 1.0, 5.0, 100.0):
            gamma_NK = torch._standard_gamma(
                torch.full((rows, classes), concentration, dtype=torch.float64), generator=self.generator
            )
            z_NK.append(gamma_NK.log())
        # The boundary: entries spread over all powers of ten, and one or a few classes that hold nearly all mass.
        spread_NK = torch.rand(rows, classes, generator=self.generator, dtype=torch.float64) * math.log(least)
        z_NK.append(spread_NK)
        z_NK.append(spread_NK.where(spread_NK > spread_NK.median(-1, keepdim=True).values, math.log(least)))
        rows_NK = torch.cat(z_NK)
        # Near ties between neighbours in rank, down to a few units in the last place.
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
        """Random search, then local search from the worst points. pairs: the axiom compares two temperatures."""
        if axiom is Axiom.IDENTITY and not self.lowest <= 1 <= self.highest:
            return _unchecked(axiom, unit, f"not checked: the domain is T in [{self.lowest:g}, {self.highest:g}]")
        worst = _SofteningWorst(axiom=axiom, unit=unit)
        starts: list[tuple[float, Tensor, tuple[float, ...]]] = []
        for _ in range(self.rounds):
            p_NK = self.distributions(self._classes())
            temperatures: tuple[float, ...] = self._pair() if pairs else (self._temperature(),)
            sizes = measure(self.operator, p_NK, *temperatures)
            worst.see_at(sizes, p_NK, temperatures)
            at = int(sizes.score_N.argmax())
            starts.append((float(sizes.score_N[at]), p_NK[at], temperatures))
        if pairs:
            # Small steps over all temperatures: entropy may fall on a stretch that no random pair would meet.
            p_NK = self._some(self.distributions(3), 16)
            for step in self._steps(6 * self.rounds):
                worst.see_at(measure(self.operator, p_NK, *step), p_NK, step)
        # The worst two, and the worst two of few classes, where random steps reach everywhere.
        starts.sort(key=lambda start: start[0], reverse=True)
        for _, p_K, temperatures in starts[:2] + [start for start in starts[2:] if len(start[1]) <= 10][:2]:
            for p_NK, sizes, tried in self._climb(measure, p_K, temperatures) if worst.violation is None else ():
                worst.see_at(sizes, p_NK, tried)
                if worst.violation is not None:
                    break
        return worst.finding()

    def _pair(self) -> tuple[float, float]:
        """T < T', close together or far apart."""
        temperature = self._temperature()
        hotter = temperature * math.exp(10 ** self._uniform(-3, 0.5))
        if hotter > self.highest:
            temperature, hotter = self.lowest + (self.highest - self.lowest) * self._uniform(0, 0.5), self.highest
        return temperature, hotter

    def _climb(
        self, measure: Measure, p_K: Tensor, temperatures: tuple[float, ...]
    ) -> Iterator[tuple[Tensor, Sizes, tuple[float, ...]]]:
        """Batches around the best point so far, which moves to the best of each batch. Without progress, steps shrink."""
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
        # Nearly tied pairs of entries.
        at_N2 = torch.stack([torch.randperm(len(z_K), generator=self.generator)[:2] for _ in range(6)])
        tied_NK = z_K.expand(6, -1).clone()
        close_N1 = 10 ** -(8 * torch.rand(6, 1, generator=self.generator, dtype=torch.float64))
        tied_NK.scatter_(1, at_N2[:, 1:], tied_NK.gather(1, at_N2[:, :1]) - close_N1)
        return self._interior(torch.cat([z_NK, tied_NK]))

    def _slope(self, measure: Measure, p_K: Tensor, temperatures: tuple[float, ...]) -> Tensor | None:
        """Gradient of the score with respect to log p, of unit length; None if the operator has no gradient there."""
        z_NK = p_K.double().log().unsqueeze(0).requires_grad_()
        try:
            score_N = measure(self.operator, z_NK.softmax(-1).to(self.operator.dtype), *temperatures).score_N
            (slope_NK,) = torch.autograd.grad(score_N.sum(), z_NK)
        except (RuntimeError, NotImplementedError):
            return None
        length = float(slope_NK.norm())
        return slope_NK[0] / length if math.isfinite(length) and length > 0 else None

    def continuity(self) -> Finding:
        """Segments in p at fixed T, and in T at fixed p, halved towards their larger change until the ends meet."""
        trials, worst, example = 0, 0.0, None
        floor = 1e-6 if self.operator.dtype == torch.float64 else 2e-3
        halvings = 40 if self.operator.dtype == torch.float64 else 18
        for classes in (2, 3, 5, 20, 200):
            for temperature in self.ladder[:: max(1, len(self.ladder) // 6)]:
                from_NK = self._some(self.distributions(classes, least=1e-12), 4 * self.rounds)
                to_NK = from_NK[torch.randperm(len(from_NK), generator=self.generator)]
                trials += len(from_NK)
                size, p_K, other_K = self._halve_p(from_NK, to_NK, temperature, halvings, floor)
                if size > worst:
                    worst = size
                    example = _jump_example(p_K, temperature, other_K, None, worst, floor)
            if worst > floor:
                break
        for classes in (2, 5, 50) if worst <= floor else ():
            p_NK = self._some(self.distributions(classes, least=1e-12), 48)
            for low, high in self._stretches():
                trials += len(p_NK)
                halved = self._halve_t(p_NK, low, high, halvings, floor)
                if halved is not None and halved[0] > worst:
                    worst, p_K, temperature, other = halved
                    example = _jump_example(p_K, temperature, None, other, worst, floor)
            if worst > floor:
                break
        return Finding(
            axiom=Axiom.CONTINUITY,
            trials=trials,
            worst=worst,
            tolerance=floor,
            unit="L1",
            counterexample=example if worst > floor else None,
        )

    def _steps(self, count: int) -> list[tuple[float, float]]:
        """Intervals that are even in log T, over the part of the domain where operators are used."""
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
        """The largest jump that stays, and its ends: each row's segment in log p is halved towards its larger change."""
        za_NK, zb_NK = a_NK.double().log(), b_NK.double().log()
        qa, qb = (self.operator.q(self._softmax(z_NK), temperature) for z_NK in (za_NK, zb_NK))
        before_N = jump_N = measures.jump(qa, qb)
        for step in range(1, halvings + 1):
            middle_NK = (za_NK + zb_NK) / 2
            qm = self.operator.q(self._softmax(middle_NK), temperature)
            left_N1 = (measures.jump(qa, qm) >= measures.jump(qm, qb)).unsqueeze(-1)
            za_NK, zb_NK = torch.where(left_N1, za_NK, middle_NK), torch.where(left_N1, middle_NK, zb_NK)
            qa, qb = torch.where(left_N1, qa, qm), torch.where(left_N1, qm, qb)
            jump_N = measures.jump(qa, qb)
            if step == halvings // 2:
                before_N = jump_N
        stays_N = torch.where(jump_N >= STAYS * before_N, jump_N, jump_N.clamp(max=floor / 2))
        at = int(stays_N.argmax())
        return float(stays_N[at]), self._softmax(za_NK)[at], self._softmax(zb_NK)[at]

    def _softmax(self, z_NK: Tensor) -> Tensor:
        return z_NK.softmax(-1).to(self.operator.dtype)

    def _halve_t(
        self, p_NK: Tensor, low: float, high: float, halvings: int, floor: float
    ) -> tuple[float, Tensor, float, float] | None:
        """The same in T, for the row that jumps most; None if the stretch proves smooth."""

        # An end is T with its logarithm: exp(log T) may differ from T in the last bit, and a jump may lie exactly at T.
        def middle(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
            log_t = (a[1] + b[1]) / 2
            return math.exp(log_t), log_t

        narrowed = narrow(
            lambda end: self.operator.q(p_NK, end[0]),
            middle,
            (low, math.log(low)),
            (high, math.log(high)),
            halvings=halvings,
            floor=floor,
            smooth=SMOOTH,
        )
        if not narrowed.stays:
            return None
        row = int(narrowed.jump_N.argmax())
        return float(narrowed.jump_N[row]), p_NK[row], narrowed.low[0], narrowed.high[0]

    def boundary(self) -> Finding:
        """At the two ends of T, for p that is bounded away from 0 and whose top two are apart or exactly tied."""
        ends = [t for t in (COLDEST, HOTTEST) if self.lowest <= t * (1 + 1e-9) and t <= self.highest * (1 + 1e-9)]
        missing = [f"T to {name}" for t, name in ((COLDEST, "0"), (HOTTEST, "infinity")) if t not in ends]
        note = (
            f"{' and '.join(missing)} not checked: the domain is T in [{self.lowest:g}, {self.highest:g}]" if missing else ""
        )
        if not ends:
            return _unchecked(Axiom.BOUNDARY, "L1", note)
        worst = _SofteningWorst(axiom=Axiom.BOUNDARY, unit="L1")
        for _ in range(max(8, self.rounds // 4)):
            classes = self._classes()
            p_NK = self.distributions(classes, least=LEAST_AT_LIMITS)
            top_N2 = p_NK.topk(2, dim=-1)
            tied_NK = p_NK.scatter(-1, top_N2.indices[:, 1:], top_N2.values[:, :1])
            # Division of both by the same sum keeps a tie exact.
            p_NK = torch.cat([p_NK, tied_NK / tied_NK.sum(-1, keepdim=True)])
            # Every entry equals the largest to the last bit, or is clearly below it.
            top_N1 = p_NK.amax(-1, keepdim=True)
            p_NK = p_NK[((p_NK == top_N1) | (1.01 * p_NK < top_N1)).all(-1)]
            for temperature in ends if len(p_NK) else []:
                worst.see_at(measures.boundary(self.operator, p_NK, temperature), p_NK, (temperature,))
        return worst.finding(note)


def _unchecked(axiom: Axiom, unit: str, note: str) -> Finding:
    return _SofteningWorst(axiom=axiom, unit=unit).finding(note)


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
