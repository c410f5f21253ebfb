"""When does a sparse student beat its dense teacher? `python -m limbeck.experiments.theory.bias_variance`.

The paper's condition: Var(teacher) - Var(student) > Bias^2(student) - Bias^2(teacher), squared loss. It means something only against one
reference for both, here held-out labels, not the teacher's own answers [D]. On the replicates and samples that it is estimated on, it is an
identity: the difference of the two sides IS the difference of the errors. So it is tested as a prediction: estimated on one half (teachers
of one half of the private records, scored on one half of the test set), compared with what happens on the other (other records, seeds,
teachers, students, test samples), in squared error and, which the condition does not promise at all, in accuracy; then the other way round.

A replicate draws records with replacement, trains a teacher on them from a new seed and distils students of all sparsities from its answers
on the same public inputs: what varies is the algorithm A with its data. In some conditions a share of the drawn labels is replaced
at random. `STEADY` holds teachers that were trained gently, which always win; `OVERFITTED` those that learnt few or wrong labels by
heart, where the winner changes with sparsity: only there can a prediction of the sign be wrong both ways. Errors against labels hold the
noise of the labels in Bias^2, the same for both, so it cancels.

Shape legend: N samples, K classes, R replicates, B bootstrap draws.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray

from limbeck.base.files import write_durably
from limbeck.experiments.theory import common
from limbeck.experiments.theory.results import GROUPS, BiasVariance, ConditionRow, Group, Tally, Triple, Verdict, Verdicts
from limbeck.operators import Power
from limbeck.server import distil
from limbeck.simulations.report.drawing import DENSE, STUDENT

COMMAND = "python -m limbeck.experiments.theory.bias_variance"
TEMPERATURES = (1.0, 2.0)
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
REPLICATES = 8
HALVES = (0, 1)
BATCH = 64
DRAWS = 2000
CONFIDENCE = 0.95
NAMES = ("variance_gain", "bias_cost", "gain")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """records: that a teacher draws. wrong: the share of them that gets a label at random, planted, so that teachers vary and err more.
    teacher_epochs, student_epochs: of training. transfer: how many public inputs the students see; all by default."""

    data: str
    records: int
    wrong: float
    teacher_epochs: int
    student_epochs: int
    transfer: int | None = None


STEADY = {
    "digits": Condition(data="digits", records=200, wrong=0.0, teacher_epochs=40, student_epochs=30),
    "Fashion": Condition(data="fashion-mnist-part", records=600, wrong=0.0, teacher_epochs=20, student_epochs=8),
    "digits, wrong labels": Condition(data="digits", records=200, wrong=0.4, teacher_epochs=40, student_epochs=30),
    "Fashion, wrong labels": Condition(
        data="fashion-mnist-part", records=600, wrong=0.4, teacher_epochs=20, student_epochs=8
    ),
}
OVERFITTED = {
    "digits, wrong labels by heart": Condition(data="digits", records=100, wrong=0.4, teacher_epochs=300, student_epochs=30),
    "digits, few public inputs": Condition(
        data="digits", records=200, wrong=0.6, teacher_epochs=300, student_epochs=60, transfer=100
    ),
    "Fashion, wrong labels by heart": Condition(
        data="fashion-mnist-part", records=200, wrong=0.4, teacher_epochs=150, student_epochs=8
    ),
    "Fashion, few records": Condition(
        data="fashion-mnist-part", records=100, wrong=0.0, teacher_epochs=200, student_epochs=8
    ),
}
# Results by the name of their file.
SETS = {"bias_variance": STEADY, "bias_variance_overfitted": OVERFITTED}


def gram(predictions_RNK: Floats, reference_NK: Floats) -> Floats:
    """(N, R, R): inner products of the errors of every two replicates on a sample. Everything below is a sum over it."""
    error = predictions_RNK.astype(np.float64) - reference_NK
    return np.asarray(np.einsum("rnk,snk->nrs", error, error), np.float64)


def decompose(gram_NRR: Floats, weight_BN: Floats | None = None, weight_BR: Floats | None = None) -> tuple[Floats, Floats]:
    """Bias^2 = |E[S] - y|^2 and Var = E|S - E[S]|^2, means over samples, (B,) each; unbiased, so Bias^2 may come out below 0.

    From pairs of *different* replicates: E<S_r - y, S_s - y> is Bias^2, and half of E|S_r - S_s|^2 is Var. Weighted pairs stay so where a
    plain bootstrap, which draws a replicate twice, would count its distance from itself as variance 0. Weights are 1 by default (B = 1);
    weighted as in the Bayesian bootstrap otherwise. Bias^2 + Var is then the mean squared error exactly when weights are equal.
    """
    n, r, _ = gram_NRR.shape
    weight_BN = np.ones((1, n)) if weight_BN is None else weight_BN
    weight_BR = np.ones((1, r)) if weight_BR is None else weight_BR
    mean_BRR = (weight_BN @ gram_NRR.reshape(n, r * r) / weight_BN.sum(1, keepdims=True)).reshape(-1, r, r)
    pair_BRR = weight_BR[:, :, None] * weight_BR[:, None, :] * (1 - np.eye(r))
    pair_BRR = pair_BRR / pair_BRR.sum((1, 2), keepdims=True)
    square_BR = np.diagonal(mean_BRR, axis1=1, axis2=2)
    distance_BRR = square_BR[:, :, None] + square_BR[:, None, :] - 2 * mean_BRR
    return (pair_BRR * mean_BRR).sum((1, 2)), (pair_BRR * distance_BRR).sum((1, 2)) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its interval."""

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """The interval leaves zero out."""
        return self.low > 0 or self.high < 0


def condition(teacher_NRR: Floats, student_NRR: Floats, *, seed: int, draws: int = DRAWS) -> dict[str, Estimate]:
    """Both sides of the paper's condition and their difference, with bootstrap intervals over replicates and samples together.

    variance_gain = Var(teacher) - Var(student); bias_cost = Bias^2(student) - Bias^2(teacher); gain = variance_gain - bias_cost: the
    student should win where it is > 0. Replicate r of the student comes from replicate r of the teacher, so they are weighted alike.
    At least 3 replicates.
    """
    n, r, _ = teacher_NRR.shape
    generator = np.random.default_rng(seed)
    weights = generator.exponential(size=(draws, n)), generator.exponential(size=(draws, r))

    def sides(*w: Floats) -> Floats:
        (bias_t, variance_t), (bias_s, variance_s) = decompose(teacher_NRR, *w), decompose(student_NRR, *w)
        gain, cost = variance_t - variance_s, bias_s - bias_t
        return np.stack([gain, cost, gain - cost])

    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(sides(*weights), [tail, 1 - tail], axis=1)
    return {
        name: Estimate(value=float(v), low=float(a), high=float(b))
        for name, v, a, b in zip(NAMES, sides()[:, 0], low, high, strict=True)
    }


def mean_difference(x_RN: Floats, *, seed: int, draws: int = DRAWS) -> Estimate:
    """The mean over replicates and samples with the same kind of interval."""
    r, n = x_RN.shape
    generator = np.random.default_rng(seed)
    weight_BN, weight_BR = generator.exponential(size=(draws, n)), generator.exponential(size=(draws, r))
    weight_BN, weight_BR = (w / w.sum(1, keepdims=True) for w in (weight_BN, weight_BR))
    drawn_B = ((weight_BR @ x_RN) * weight_BN).sum(1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn_B, [tail, 1 - tail])
    return Estimate(value=float(x_RN.mean()), low=float(low), high=float(high))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Half:
    """Predictions on one half of the test set by the replicates of one half of the private records, and its labels."""

    teacher_RNK: Floats
    student_RNK: dict[tuple[float, float], Floats]
    y_N: NDArray[np.int64]

    def reference(self) -> Floats:
        """(N, K) one-hot labels."""
        return np.asarray(np.eye(self.teacher_RNK.shape[2])[self.y_N], np.float64)

    def correct(self, predictions_RNK: Floats) -> Floats:
        """(R, N): 1 where the arg-max is the label."""
        return np.asarray(predictions_RNK.argmax(2) == self.y_N, np.float64)


def replicate(parts: common.Parts, condition: Condition, half: int, index: int) -> dict[str, NDArray[np.float32]]:
    """One teacher and its students, all sparsities and temperatures: probabilities on this half's test samples."""
    seed = 1 + half * REPLICATES + index
    test_x = parts.test_x[half::2]
    half_of_records = torch.arange(half, len(parts.private_y), 2)
    generator = torch.Generator().manual_seed(seed)
    drawn = half_of_records[torch.randint(len(half_of_records), (condition.records,), generator=generator)]
    others = torch.randint(parts.classes, (condition.records,), generator=generator)
    wrong = torch.rand(condition.records, generator=generator) < condition.wrong
    teacher, masks = common.fresh(parts.private_x, parts.classes, seed)
    labels = common.one_hot(torch.where(wrong, others, parts.private_y[drawn]), parts.classes)
    common.train(
        teacher,
        masks,
        parts.private_x[drawn],
        labels,
        common.settings(epochs=condition.teacher_epochs, batch=BATCH),
        seed=seed,
    )
    public_x = parts.public_x[: condition.transfer]
    answers_NK = distil.predict(teacher, public_x)
    probabilities = {"teacher": distil.predict(teacher, test_x).numpy()}
    for temperature, sparsity in itertools.product(TEMPERATURES, SPARSITIES):
        student, masks = common.fresh(public_x, parts.classes, 1000 + seed)
        common.train(
            student,
            masks,
            public_x,
            Power(temperature)(answers_NK),
            common.settings(epochs=condition.student_epochs, batch=BATCH),
            seed=seed,
            sparsity=sparsity,
        )
        probabilities[_key(temperature, sparsity)] = distil.predict(student, test_x).numpy()
    return probabilities


def _key(temperature: float, sparsity: float) -> str:
    return f"T={temperature:g} s={sparsity:g}"


def gather(parts: common.Parts, condition: Condition, half: int, work: Path, done: Callable[[], None]) -> Half:
    """All replicates of a half; those that an earlier run finished are read."""
    settings = [asdict(condition), TEMPERATURES, SPARSITIES, REPLICATES, BATCH]
    tag = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:10]
    replicates = []
    for index in range(REPLICATES):
        path = work / "bias_variance" / f"{condition.data}-{tag}-{half}-{index}.npz"
        if not path.exists():
            buffer = io.BytesIO()
            np.savez(buffer, **replicate(parts, condition, half, index))  # type: ignore[arg-type]
            write_durably(path, buffer.getvalue())
        with np.load(path, allow_pickle=False) as arrays:
            replicates.append({key: arrays[key].astype(np.float64) for key in arrays.files})
        done()
    students = {
        (t, s): np.stack([arrays[_key(t, s)] for arrays in replicates])
        for t, s in itertools.product(TEMPERATURES, SPARSITIES)
    }
    return Half(
        teacher_RNK=np.stack([arrays["teacher"] for arrays in replicates]),
        student_RNK=students,
        y_N=parts.test_y[half::2].numpy(),
    )


def examine(half: Half, temperature: float, sparsity: float) -> dict[str, Estimate]:
    """The condition on a half, and how much more accurate its student is than its teacher."""
    student_RNK = half.student_RNK[temperature, sparsity]
    reference = half.reference()
    sides = condition(gram(half.teacher_RNK, reference), gram(student_RNK, reference), seed=1)
    gained = half.correct(student_RNK) - half.correct(half.teacher_RNK)
    return {**sides, "accuracy_gain": mean_difference(gained, seed=2)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One condition at one temperature and sparsity. halves: what `examine` found on each."""

    data: str
    temperature: float
    sparsity: float
    halves: Sequence[Mapping[str, Estimate]]


def verdicts(points: Sequence[Point]) -> Verdicts:
    """How often the sign predicted on one half was the sign seen on the other, in both directions.

    "decided": the interval of the prediction does not contain zero; "clear": nor does that of what was seen. "constant": how often the
    better of the two rules is right that always name the same winner; a prediction that does not beat it has not been tested.
    """
    return {
        "squared_error": _verdict(points, "gain"),
        "accuracy": _verdict(points, "accuracy_gain"),
    }


def _verdict(points: Sequence[Point], outcome: str) -> Verdict:
    """outcome: the estimate that says who won."""
    tally: dict[Group, Tally] = {group: {"right": 0, "of": 0} for group in GROUPS}
    wrong, student_won = [], 0
    for point, (a, b) in itertools.product(points, (HALVES, HALVES[::-1])):
        predicted, seen = point.halves[a]["gain"], point.halves[b][outcome]
        right = (predicted.value > 0) == (seen.value > 0)
        student_won += int(seen.value > 0)
        counted: list[Group] = ["all"]
        if predicted.decided:
            counted.append("decided")
            if seen.decided:
                counted.append("decided_and_clear")
            if predicted.value > 0:
                counted.append("student_predicted_decided")
        for group in counted:
            tally[group]["of"] += 1
            tally[group]["right"] += int(right)
        if predicted.decided and not right:
            wrong.append(f"{point.data}, T = {point.temperature:g}, {point.sparsity:.0%}, half {a} to {b}")
    of = tally["all"]["of"]
    return {
        "all": tally["all"],
        "decided": tally["decided"],
        "decided_and_clear": tally["decided_and_clear"],
        "student_predicted_decided": tally["student_predicted_decided"],
        "constant": {"right": max(student_won, of - student_won), "of": of},
        "decided_but_wrong": wrong,
    }


def draw(points: Sequence[Point], names: Sequence[str]) -> Callable[[list[Axes]], None]:
    """Per condition: the squared error that the student should save, from one half, and the one it saves on the other."""
    ticks = [f"{s:.0%}" for s in SPARSITIES]

    def panels(axes: list[Axes]) -> None:
        for axis, name in zip(axes, names, strict=True):
            for temperature, shift, marker in zip(TEMPERATURES, (-0.12, 0.12), "os", strict=True):
                curve = [point for point in points if point.data == name and point.temperature == temperature]
                for half, colour, label in ((0, STUDENT, "predicted"), (1, DENSE, "seen on the other half")):
                    gains = [point.halves[half]["gain"] for point in curve]
                    value = np.array([e.value for e in gains])
                    spread = np.abs([[e.value - e.low for e in gains], [e.high - e.value for e in gains]])
                    x = np.arange(len(curve)) + shift + 0.06 * half
                    axis.errorbar(
                        x,
                        value,
                        spread,
                        fmt=marker,
                        color=colour,
                        label=f"{label}, T = {temperature:g}",
                        capsize=2,
                        markersize=4,
                    )
            axis.axhline(0, color=common.INK, linewidth=0.8)
            axis.set_xticks(range(len(ticks)), ticks, fontsize=8)
            axis.set_xlabel("sparsity")
            axis.set_yscale("symlog", linthresh=0.02)
            axis.set_yticks([-0.5, -0.1, -0.01, 0, 0.01, 0.1], ["-0.5", "-0.1", "-0.01", "0", "0.01", "0.1"])
            axis.minorticks_off()
            axis.set_ylim(-1, 0.3)
            axis.set_title(name, size=10)
        axes[0].set_ylabel("squared error saved by the student")
        axes[0].legend(fontsize=7, loc="best")

    return panels


def run(name: str, conditions: dict[str, Condition], out: Path, work: Path, done: Callable[[], None]) -> None:
    """One set of conditions, to its results and its plot."""
    points: list[Point] = []
    accuracies = {}
    for condition_name, given in conditions.items():
        parts = common.parts(given.data)
        halves = [gather(parts, given, half, work, done) for half in HALVES]
        accuracies[condition_name] = common.significant(float(np.mean([h.correct(h.teacher_RNK).mean() for h in halves])))
        for temperature, sparsity in itertools.product(TEMPERATURES, SPARSITIES):
            examined = [examine(half, temperature, sparsity) for half in halves]
            points.append(Point(data=condition_name, temperature=temperature, sparsity=sparsity, halves=examined))
    result: BiasVariance = {
        "command": COMMAND,
        "machine": common.machine(),
        "replicates_per_half": REPLICATES,
        "seeds": [1, len(HALVES) * REPLICATES],
        "confidence": CONFIDENCE,
        "bootstrap_draws": DRAWS,
        "conditions": {key: ConditionRow(**asdict(given)) for key, given in conditions.items()},  # type: ignore[typeddict-item]
        "teacher_accuracy": accuracies,
        "verdicts": verdicts(points),
        "points": [
            {
                "data": point.data,
                "temperature": point.temperature,
                "sparsity": point.sparsity,
                "halves": [
                    {
                        "variance_gain": _triple(half["variance_gain"]),
                        "bias_cost": _triple(half["bias_cost"]),
                        "gain": _triple(half["gain"]),
                        "accuracy_gain": _triple(half["accuracy_gain"]),
                    }
                    for half in point.halves
                ],
            }
            for point in points
        ],
    }
    common.write_json(out / f"{name}.json", result)
    common.plot(out / f"{name}.png", draw(points, list(conditions)), columns=len(conditions), width=15, height=3.8)


def _triple(estimate: Estimate) -> Triple:
    value, low, high = (common.significant(number) for number in (estimate.value, estimate.low, estimate.high))
    return value, low, high


def main() -> None:
    """The command."""
    options = common.options(__doc__, parts=SETS)
    with common.bars() as progress:
        for name in options.only:
            task = progress.add_task(name, total=len(SETS[name]) * len(HALVES) * REPLICATES)
            run(name, SETS[name], options.out, options.work, lambda task=task: progress.advance(task))  # type: ignore[misc]


if __name__ == "__main__":
    main()
