"""When does averaging answers add up what sites know? `python -m limbeck.experiments.theory.additive`.

The arithmetic pool of softmax answers is affine in the sum of the sites' scores, up to an error of second order in 1 / T [D]. With
p_c = softmax(z_c / T), K classes, C sites, the mean over classes z'_c of a site's scores and their range r_c = max z_c - min z_c:

    | mean_c p_ck - 1/K - mean_c (z_ck - z'_c) / (K T) |  <=  mean_c b(r_c / T),      b(r) = min(2/27, e^r / (2 K)) r^2.

Proof. Let f(s) = softmax(s z) for one site, s = 1 / T. With m = sum_j f_j z_j and v = sum_j f_j (z_j - m)^2,

    f_k' = f_k (z_k - m),    f_k'' = f_k ((z_k - m)^2 - v).

f_k(0) = 1/K and f_k'(0) = (z_k - z') / K, so by Taylor's theorem f_k(s) differs from 1/K + s (z_k - z') / K by s^2 |f_k''| / 2 at some
point between. Both terms of f_k'' are non-negative and have opposite signs, so |f_k''| is at most the larger of them. First, z_k - m =
sum_j f_j (z_k - z_j), of which the term j = k is zero, so |z_k - m| <= (1 - f_k) r, and f_k (z_k - m)^2 <= f_k (1 - f_k)^2 r^2, at most
4/27 r^2. Second, v <= r^2 / 4 always, so f_k v <= r^2 / 8 where f_k <= 1/2; where f_k >= 1/2, v <= f_k (1 - f_k) r^2, so f_k v <= f_k^2
(1 - f_k) r^2, at most 4/27 r^2. (v is convex in z_k, so it is largest with z_k at an end of the range. Measured from there, let the
other classes have the mean a, and so a variance of at most a (r - a): v <= (1 - f_k) (a r - (1 - f_k) a^2), which rises with a up to a
= r.) That is 2/27 r^2 s^2. Third, f_k <= e^(s r) / K, and (z_k - m)^2 and v are at most r^2: that is e^(s r) / (2 K) r^2 s^2. The
pool's error is at most the mean of the sites' errors.

So where the sum's best class leads the next by more than 2 K T mean_c b(r_c / T), which is about mean_c r_c^2 / T, the pool decides as the
sum does: every decision that is not a tie, at a T that is high enough. And softmax(z / T) at a T that is low is a vote.

Measured: evidence teachers on Fashion-MNIST, whose scores add up exactly. How many public inputs the pool of all sites names rightly, and
where it names another class than the sum of scores does, by T and by how labels differ between sites; of whole answers, and of answers as
they are sent: the most probable classes and the rest's mass, in 8-bit codes. Labels of public inputs measure, and choose nothing.

Shape legend: N public inputs, D features, K classes, C sites, J eigenvalues.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from limbeck.client import release
from limbeck.client.noise import UnsafeSeeded
from limbeck.client.teachers import evidence
from limbeck.experiments.theory import common
from limbeck.experiments.theory.common import INK
from limbeck.experiments.theory.results import Additive, AdditiveCell, AdditiveCurve, AtTemperature, Spread
from limbeck.inputs import covariance, features
from limbeck.operators import Power
from limbeck.plans import evidence_constants
from limbeck.plans.author import make_plan
from limbeck.plans.evidence_constants import Expected
from limbeck.plans.schema import EvidenceTeaching, Plan
from limbeck.plans.settings import PlanTables, PrivacySettings, ReleaseSettings, StageSettings, TeacherSettings
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Share
from limbeck.server.pooling import Pool
from limbeck.simulations import data
from limbeck.simulations.partition import Dirichlet, Iid, Parts
from limbeck.simulations.report.drawing import DENSE, POOL, STUDENT, TEACHER

COMMAND = "python -m limbeck.experiments.theory.additive"
DATA, FEATURES = "fashion-mnist-part", "scattering"
SITES, SEEDS = 10, (1, 2, 3, 4, 5)
EPSILON, DELTA, KEPT = 3.0, 1e-5, 3
TEMPERATURES = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 200.0, 1000.0)
COLOURS = {"labels alike": TEACHER, "Dirichlet 0.5": POOL, "Dirichlet 0.1": STUDENT, "one class each": DENSE}

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def one_class_each(y_N: Labels, sites: int, seed: int) -> Parts:
    """Site c holds class c, all of it."""
    del seed
    return [np.flatnonzero(y_N == label) for label in range(sites)]


SKEWS: dict[str, Callable[[Labels, int, int], Parts]] = {
    "labels alike": Iid(),
    "Dirichlet 0.5": Dirichlet(alpha=0.5),
    "Dirichlet 0.1": Dirichlet(alpha=0.1),
    "one class each": one_class_each,
}


def first_order(z_NK: Tensor, temperature: float) -> Tensor:
    """(..., K) what softmax(z / T) is to first order in 1 / T; its entries add up to 1 and may be negative."""
    classes = z_NK.shape[-1]
    return 1 / classes + (z_NK - z_NK.mean(-1, keepdim=True)) / (classes * temperature)


def bound(z_NK: Tensor, temperature: float) -> Tensor:
    """(...) the most by which an entry of softmax(z / T) can differ from `first_order`."""
    range_N = (z_NK.amax(-1) - z_NK.amin(-1)) / temperature
    return torch.minimum(torch.full_like(range_N, 2 / 27), range_N.exp() / (2 * z_NK.shape[-1])) * range_N**2


@dataclass(frozen=True, slots=True, eq=False)
class Federation:
    """What does not depend on skew or seed.

    f_ND: rows of public inputs, of norm 1. row_ND, label_N: records, in integers. cache: a folder for what is solved with them."""

    cache: Path
    f_ND: features.Rows
    public_y: Labels
    row_ND: NDArray[np.int64]
    label_N: Labels
    e_J: Floats
    classes: int


def federation(cache: Path) -> Federation:
    """The data, with its features: a minute, the first time. cache: a folder; the records here are public too."""
    found = data.load(DATA)
    assert isinstance(found.private_x, np.ndarray)
    public_ND = features.compute(FEATURES, found.public_x, cache=cache)
    balance = features.balance(FEATURES, public_ND)
    own_ND = features.balanced(features.compute(FEATURES, found.private_x, cache=cache), balance)
    defaults = TeacherSettings(kind="evidence", normaliser=1.0)
    return Federation(
        cache=cache,
        f_ND=features.unit_rows(public_ND, balance, defaults.constant),
        public_y=found.public_y,
        row_ND=evidence.rows(own_ND, defaults.constant, np.full(len(own_ND), defaults.resolution)),
        label_N=found.private_y,
        e_J=evidence_constants.eigenvalues(features.of_evidence(FEATURES, public_ND, defaults.constant)),
        classes=len(found.class_names),
    )


def plan_of(found: Federation, *, private: bool) -> Plan:
    """The plan of an author who expects `SITES` sites of equal size; without privacy, noise that does not matter."""
    records = len(found.label_N) / SITES
    plan = make_plan(
        PlanTables(
            name="additive",
            teacher=TeacherSettings(kind="evidence", features=FEATURES, normaliser=records, ridge=1.0, noise_to_signal=0.0),
            privacy=PrivacySettings(epsilon=EPSILON, delta=DELTA),
            release=ReleaseSettings(k=KEPT),
            stages=StageSettings(count=1, temperature=1.0),
        ),
        transfer_set=bytes(32),
        samples=len(found.f_ND),
        classes=found.classes,
    )
    assert isinstance(plan.teaching, EvidenceTeaching)
    noise = plan.teaching.noise_multiplier if private else 1e-9
    expected = Expected(classes=plan.classes, inputs=plan.samples, sites=SITES, records=records, noise=noise)
    # What is measured holds for any public filter; a ridge alone is the plainest.
    constants = evidence_constants.choose(found.e_J, expected, noise_to_signal=0.0)
    stage = replace(plan.stages[0], temperature=constants.temperature)
    return replace(plan, teaching=replace(plan.teaching, ridge=constants.filter.ridge), stages=(stage,))


def scores(found: Federation, plan: Plan, parts: Parts, *, private: bool, seed: int) -> Tensor:
    """(C, N, K) float64 scores of every site."""
    teaching = plan.teaching
    assert isinstance(teaching, EvidenceTeaching)
    sums_CKD = np.zeros((len(parts), plan.classes, found.f_ND.shape[1]), np.int64)
    for site, rows in enumerate(parts):
        for label in range(plan.classes):
            sums_CKD[site, label] = found.row_ND[rows[found.label_N[rows] == label]].sum(0)
        if private:
            noise = UnsafeSeeded(1000 * seed + site)
            sums_CKD[site] += noise.discrete_gaussian(*sums_CKD[site].shape, variance=evidence.variance(teaching))
    flat_MD = sums_CKD.reshape(-1, sums_CKD.shape[-1]).astype(np.float64)
    solved_MD = covariance.solve(
        flat_MD, found.f_ND, teaching.ridge, cache=found.cache, key=f"{DATA} {teaching.constant}".encode()
    )
    scale = plan.classes / (teaching.resolution * teaching.normaliser)
    z_NM = found.f_ND.astype(np.float64) @ (solved_MD * scale).T
    return torch.from_numpy(z_NM).reshape(len(z_NM), len(parts), plan.classes).transpose(0, 1).contiguous()


def as_sent(z_CNK: Tensor, plan: Plan, noise: UnsafeSeeded) -> Tensor:
    """(N, K) the coordinator's pool of what it decodes. noise: of which the largest answers need none."""
    pool = Pool(samples=plan.samples, classes=plan.classes)
    ask = Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=plan.samples)
    for z_NK in z_CNK:
        answers = release.answers(z_NK.log_softmax(-1).float(), plan, plan.stages[0].temperature, noise)
        sent = codec.encode_reply(Share(plan_hash=ask.plan_hash, stage=0, first=0, answers=answers), plan=plan)
        reply = codec.decode_reply(sent, plan=plan, expecting=ask)
        assert isinstance(reply, Share)
        pool.add(reply.answers)
    return pool.result()


def cell(found: Federation, plan: Plan, skew: str, *, private: bool, seed: int) -> AdditiveCell:
    """One federation, at every temperature."""
    z_CNK = scores(found, plan, SKEWS[skew](found.label_N, SITES, seed), private=private, seed=seed)
    sum_N = z_CNK.sum(0).argmax(-1)
    y_N, noise = torch.from_numpy(found.public_y), UnsafeSeeded(seed)

    def at(temperature: float) -> AtTemperature:
        softened = replace(plan, stages=(replace(plan.stages[0], temperature=temperature),))
        p_CNK = Power(temperature).from_log(z_CNK.log_softmax(-1)).exp()
        pool_NK, sent_NK = p_CNK.mean(0), as_sent(z_CNK, softened, noise)
        error_NK = (pool_NK - first_order(z_CNK, temperature).mean(0)).abs()
        most_N = bound(z_CNK, temperature).mean(0)
        return {
            "temperature": temperature,
            "whole": _share(pool_NK.argmax(-1), y_N),
            "sent": _share(sent_NK.argmax(-1), y_N),
            "other_than_sum": 1 - _share(pool_NK.argmax(-1), sum_N),
            "error": float(error_NK.max()),
            "error_over_bound": float((error_NK.amax(-1) / most_N).max()),
            "certain": _share(_margin(z_CNK.mean(0)), most_N * 2 * plan.classes * temperature, above=True),
        }

    return {
        "sum": _share(sum_N, y_N),
        "deviation": float(z_CNK.std()),
        "temperatures": [at(each) for each in sorted({*TEMPERATURES, plan.stages[0].temperature})],
    }


def _margin(z_NK: Tensor) -> Tensor:
    """(N,) by how much the best class leads the next."""
    best_N2 = z_NK.topk(2, -1).values
    return best_N2[:, 0] - best_N2[:, 1]


def _share(a_N: Tensor, b_N: Tensor, *, above: bool = False) -> float:
    return float((a_N > b_N if above else a_N == b_N).double().mean())


def spread(values: list[float]) -> Spread:
    """Mean and standard deviation over seeds."""
    return {"mean": statistics.mean(values), "deviation": statistics.stdev(values)}


def curve(skew: str, epsilon: float | None, plan: Plan, cells: list[AdditiveCell]) -> AdditiveCurve:
    """All seeds of one skew, with or without privacy."""
    teaching = plan.teaching
    assert isinstance(teaching, EvidenceTeaching)
    return {
        "skew": skew,
        "epsilon": epsilon,
        "ridge": teaching.ridge,
        "advised": plan.stages[0].temperature,
        "deviation": spread([each["deviation"] for each in cells]),
        "sum": spread([each["sum"] for each in cells]),
        "points": [
            {
                "temperature": rows[0]["temperature"],
                "whole": spread([row["whole"] for row in rows]),
                "sent": spread([row["sent"] for row in rows]),
                "other_than_sum": spread([row["other_than_sum"] for row in rows]),
                "error": max(row["error"] for row in rows),
                "error_over_bound": max(row["error_over_bound"] for row in rows),
                "certain": spread([row["certain"] for row in rows]),
            }
            for rows in zip(*(each["temperatures"] for each in cells), strict=True)
        ],
    }


def draw(curves: list[AdditiveCurve]) -> Callable[[list[Axes]], None]:
    """Accuracy against temperature, with privacy on the left."""

    def onto(axes: list[Axes]) -> None:
        for axis, epsilon in zip(axes, (EPSILON, None), strict=True):
            for found in (each for each in curves if each["epsilon"] == epsilon):
                t = [point["temperature"] for point in found["points"]]
                colour = COLOURS[found["skew"]]
                mean = np.array([100 * point["sent"]["mean"] for point in found["points"]])
                deviation = np.array([100 * point["sent"]["deviation"] for point in found["points"]])
                axis.plot(t, mean, color=colour, label=found["skew"], linewidth=1.6)
                axis.fill_between(t, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
                axis.plot(
                    t, [100 * point["whole"]["mean"] for point in found["points"]], color=colour, linestyle=":", linewidth=1
                )
            advised = next(each["advised"] for each in curves if each["epsilon"] == epsilon)
            axis.axvline(advised, color=INK, linewidth=0.8, linestyle="--")
            axis.set_xscale("log")
            axis.set_xticks([0.1, 1, 10, 100, 1000], ["0.1", "1", "10", "100", "1000"])
            axis.set_xlabel("temperature T")
            axis.set_title(f"ε = {epsilon:g}" if epsilon is not None else "without privacy", fontsize=9)
        axes[0].set_ylabel("pool, public inputs, %")
        axes[0].legend(loc="lower center", fontsize=8, frameon=True, framealpha=1, facecolor="white", edgecolor="none")

    return onto


def main() -> None:
    """The command."""
    parsed = common.options(__doc__)
    rows = common.Rows(parsed.work / "additive.jsonl", AdditiveCell)
    curves: list[AdditiveCurve] = []
    with common.bars() as bar:
        task = bar.add_task("Federations", total=2 * len(SKEWS) * len(SEEDS))
        found = federation(parsed.work / "cache")
        plans = {private: plan_of(found, private=private) for private in (True, False)}
        for private, plan in plans.items():
            for skew in SKEWS:
                cells = []
                for seed in SEEDS:
                    key = {"skew": skew, "private": private, "seed": seed, "plan": _described(plan)}
                    compute = partial(cell, found, plan, skew, private=private, seed=seed)
                    cells.append(rows.get(key, compute))
                    bar.advance(task)
                curves.append(curve(skew, EPSILON if private else None, plan, cells))
    result: Additive = {
        "command": COMMAND,
        "machine": common.machine(),
        "data": DATA,
        "sites": SITES,
        "seeds": list(SEEDS),
        "delta": DELTA,
        "kept": KEPT,
        "curves": curves,
    }
    common.write_json(parsed.out / "additive.json", common.rounded(result, Additive))
    common.plot(parsed.out / "additive.png", draw(curves), columns=2)


def _described(plan: Plan) -> dict[str, object]:
    return {"teaching": asdict(plan.teaching), "temperature": plan.stages[0].temperature, "tried": list(TEMPERATURES)}


if __name__ == "__main__":
    main()
