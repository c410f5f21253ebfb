"""Is pruning in stages better than at once, and at what rate? `python -m limbeck.experiments.theory.stages`.

The paper: error O(1/n) in the number of stages n. Ours [D]: a stage costs a jump, quadratic in its size, so n jumps cost about A / n,
and an estimation error each, so the whole is about A / n + b + c n. Every n gets the SAME TOTAL of training steps. A dense student is
trained first, the same for every n; then each stage prunes to its sparsity at once and trains for its share of the steps, by the
coordinator's own `distil_stage` (which finds nothing left to prune). n = 1 is the one-shot control; "within" is one stage that prunes in
the eight small steps over its first half that `distil_stage` takes by itself.

Error: KL(softened teacher || student) on held-out inputs. The jumps are measured too: KL(student before pruning || just after), summed
over the stages. Each seed is fitted on its own, by least squares without constraints, so that coefficients of seeds are independent and a
Student t interval over seeds is right for the mean. Five values of n cannot tell 1/n from other falling curves; nothing here claims it.

Shape legend: N samples, K classes, S seeds, P values of n.
"""

from __future__ import annotations

import copy
import csv
import io
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from limbeck.base.files import write_durably
from limbeck.experiments.theory import common
from limbeck.experiments.theory.common import INK
from limbeck.experiments.theory.results import (
    COEFFICIENTS,
    AnchoredStages,
    Fit,
    Interval,
    StageGroup,
    Stages,
    StageSummary,
    Trained,
)
from limbeck.operators import Anchoring, Power
from limbeck.plans.paths import cubic, equal_kl, linear
from limbeck.server import distil
from limbeck.server.pruning import Masks
from limbeck.simulations.report.drawing import DENSE, POOL, STUDENT, TEACHER

COMMAND = "python -m limbeck.experiments.theory.stages"
STAGES = (1, 2, 4, 8, 16)
TEACHER_SEED = 1
CONFIDENCE = 0.95
CURVE = (*(i / 20 for i in range(18)), 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.99, 0.995)
COLOURS = {0.5: POOL, 0.9: STUDENT, 0.98: DENSE, 0.95: "#cc79a7", 0.99: INK}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """What is trained on a data set. epochs: in all, whatever n. cubic: (T, sparsity) of the cubic path; paths: (path, sparsity) of others,
    and alphas: of anchored stages at 98 % sparsity, at T = 2 as the control within one stage."""

    data: str
    seeds: tuple[int, ...]
    epochs: int
    batch: int
    teacher_epochs: int
    cubic: tuple[tuple[float, float], ...]
    paths: tuple[tuple[str, float], ...] = ()
    alphas: tuple[float, ...] = ()

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Those tried at T = 2."""
        return tuple(sparsity for temperature, sparsity in self.cubic if temperature == 2)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Lowest first."""
        return tuple(sorted({temperature for temperature, _ in self.cubic}))


# By the name of the file of results.
DESIGNS = {
    "stages": Design(
        data="digits",
        seeds=(1, 2, 3, 4, 5),
        epochs=96,
        batch=32,
        teacher_epochs=30,
        cubic=(*itertools.product((1.0, 2.0, 4.0), (0.5, 0.9, 0.98)), (2.0, 0.95), (2.0, 0.99)),
        paths=(("linear", 0.9), ("linear", 0.98), ("equal-kl", 0.9), ("equal-kl", 0.98)),
        alphas=(0.5, 0.75),
    ),
    "stages_fashion": Design(
        data="fashion-mnist-part",
        seeds=(1, 2, 3, 4, 5),
        epochs=32,
        batch=64,
        teacher_epochs=30,
        cubic=((2.0, 0.9), (2.0, 0.98), (2.0, 0.99)),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One training: n stages to `sparsity` along `path`, on answers at `temperature`; alpha < 1 anchors every stage to the one before."""

    stages: int
    sparsity: float
    temperature: float
    path: str
    alpha: float
    seed: int


def cells(design: Design) -> Iterator[Cell]:
    """All trainings of the experiment."""
    for (temperature, sparsity), stages, seed in itertools.product(design.cubic, STAGES, design.seeds):
        yield Cell(stages=stages, sparsity=sparsity, temperature=temperature, path="cubic", alpha=1.0, seed=seed)
    for sparsity, seed in itertools.product(design.sparsities, design.seeds):
        yield Cell(stages=1, sparsity=sparsity, temperature=2.0, path="within", alpha=1.0, seed=seed)
    for (path, sparsity), stages, seed in itertools.product(design.paths, STAGES[1:], design.seeds):
        yield Cell(stages=stages, sparsity=sparsity, temperature=2.0, path=path, alpha=1.0, seed=seed)
    for alpha, stages, seed in itertools.product(design.alphas, STAGES, design.seeds):
        yield Cell(stages=stages, sparsity=0.98, temperature=2.0, path="cubic", alpha=alpha, seed=seed)


@cache
def _parts(data: str) -> common.Parts:
    return common.parts(data)


@cache
def _teacher(design: Design) -> nn.Module:
    parts = _parts(design.data)
    model, masks = common.fresh(parts.private_x, parts.classes, TEACHER_SEED)
    labels = common.one_hot(parts.private_y, parts.classes)
    student = common.settings(epochs=design.teacher_epochs, batch=64)
    common.train(model, masks, parts.private_x, labels, student, seed=TEACHER_SEED)
    return model


@cache
def _targets(design: Design, temperature: float) -> tuple[Tensor, Tensor]:
    """The teacher's softened answers on public and on held-out inputs."""
    softening, parts, teacher = Power(temperature), _parts(design.data), _teacher(design)
    return softening(distil.predict(teacher, parts.public_x)), softening(distil.predict(teacher, parts.test_x))


@cache
def _dense(design: Design, temperature: float, seed: int) -> tuple[nn.Module, tuple[tuple[float, float], ...]]:
    """h(0), and KL(dense || pruned without training) against sparsity."""
    parts = _parts(design.data)
    model, masks = common.fresh(parts.public_x, parts.classes, seed)
    student = common.settings(epochs=design.epochs, batch=design.batch)
    common.train(model, masks, parts.public_x, _targets(design, temperature)[0], student, seed=seed)
    return model, pruning_curve(model, parts.public_x, CURVE)


def pruning_curve(model: nn.Module, x_N: Tensor, sparsities: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(sparsity, mean KL(model || model pruned to it at once), nats) on inputs; what `equal_kl` takes. The model is left as it is."""
    before_NK = distil.predict(model, x_N)
    curve = []
    for sparsity in sparsities:
        pruned = copy.deepcopy(model)
        Masks.ones(pruned).prune(pruned, sparsity)
        curve.append((sparsity, common.divergence(before_NK, distil.predict(pruned, x_N))))
    return tuple(curve)


def _mean_curve(design: Design, temperature: float) -> list[list[float]]:
    """[sparsity, KL(dense || pruned at once)], mean over seeds."""
    mean = np.mean([[kl for _, kl in _dense(design, temperature, seed)[1]] for seed in design.seeds], axis=0)
    return [[sparsity, common.significant(float(kl))] for sparsity, kl in zip(CURVE, mean, strict=True)]


def train(design: Design, cell: Cell) -> Trained:
    """Prune and train stage by stage; measures where that ends."""
    parts = _parts(design.data)
    public_NK, test_NK = _targets(design, cell.temperature)
    dense, curve = _dense(design, cell.temperature, cell.seed)
    model = copy.deepcopy(dense)
    masks = Masks.ones(model)
    student = common.settings(epochs=design.epochs // cell.stages, batch=design.batch)
    if student.epochs * cell.stages != design.epochs:
        raise ValueError(f"Expected a divisor of {design.epochs} epochs as the number of stages, got {cell.stages}.")
    jumps, contractions = [], []
    for stage, sparsity in enumerate(path(cell, curve)):
        previous_NK = distil.predict(model, parts.public_x)
        if cell.path != "within":
            masks.prune(model, sparsity)
        jumps.append(common.divergence(previous_NK, distil.predict(model, parts.public_x)))
        target_NK = Anchoring(cell.alpha)(public_NK, previous_NK)
        contractions.append(common.divergence(public_NK, target_NK) / common.divergence(public_NK, previous_NK))
        common.train(model, masks, parts.public_x, target_NK, student, seed=cell.seed, stage=stage, sparsity=sparsity)
    on_test_NK = distil.predict(model, parts.test_x)
    return {
        "error": common.divergence(test_NK, on_test_NK),
        "error_public": common.divergence(public_NK, distil.predict(model, parts.public_x)),
        "accuracy": float((on_test_NK.argmax(1) == parts.test_y).double().mean()),
        "dense_error": common.divergence(test_NK, distil.predict(dense, parts.test_x)),
        "jumps": jumps,
        "contractions": contractions,
        "sparsity": masks.sparsity,
    }


def path(cell: Cell, curve: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """Sparsity after each stage."""
    if cell.path == "equal-kl":
        return equal_kl(cell.sparsity, cell.stages, curve)
    return (linear if cell.path == "linear" else cubic)(cell.sparsity, cell.stages)


def interval(x_S: Floats) -> Interval:
    """Mean over seeds with a Student t interval. At least two seeds."""
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(x_S) - 1)) * float(x_S.std(ddof=1)) / math.sqrt(len(x_S))
    return {"mean": float(x_S.mean()), "low": float(x_S.mean()) - half, "high": float(x_S.mean()) + half}


def fit(n_P: Sequence[int], error_SP: Floats) -> Fit:
    """A / n + b + c n by least squares on the curve of every seed; mean and interval over seeds.

    - explained: share of the variance of the mean curve over n that the fit accounts for; 0 if the curve is flat.
    - p_value: of Hotelling's test that the mean residual over seeds is zero; small if no A / n + b + c n passes through the mean curve.
    - separated: which of A and c have intervals above 0.
    - best_n: sqrt(A / c) if both have, else None, because the data do not decide.
    """
    n = np.asarray(n_P, float)
    design = np.stack([1 / n, np.ones_like(n), n], 1)
    coefficients_S3 = np.linalg.lstsq(design, error_SP.T, rcond=None)[0].T
    a, b, c = (interval(coefficients_S3[:, i]) for i in range(3))
    mean_P = error_SP.mean(0)
    spread = float(((mean_P - mean_P.mean()) ** 2).sum())
    left = float(((mean_P - design @ coefficients_S3.mean(0)) ** 2).sum())
    both = a["low"] > 0 and c["low"] > 0
    return {
        "A": a,
        "b": b,
        "c": c,
        "explained": 1 - left / spread if spread > 0 else 0.0,
        "p_value": common.significant(_p_value(design, error_SP), 2),
        "separated": [
            name for name, coefficient in zip(COEFFICIENTS, (a, b, c), strict=True) if name != "b" and coefficient["low"] > 0
        ],
        "best_n": math.sqrt(a["mean"] / c["mean"]) if both else None,
    }


def _p_value(design_P3: Floats, error_SP: Floats) -> float:
    """p-value of T^2 over seeds in the space that the fit cannot reach. NaN-free: 1 where there are too few seeds, or no spread at all."""
    complement_PQ = np.linalg.svd(design_P3)[0][:, design_P3.shape[1] :]
    residual_SQ = error_SP @ complement_PQ
    s, q = residual_SQ.shape
    if s <= q:
        return 1.0
    mean_Q, covariance_QQ = residual_SQ.mean(0), np.cov(residual_SQ.T)
    if np.linalg.matrix_rank(covariance_QQ) < q:
        return 1.0
    t2 = s * float(mean_Q @ np.linalg.solve(covariance_QQ, mean_Q))
    return float(stats.f.sf(t2 * (s - q) / (q * (s - 1)), q, s - q))


def slope(n_P: Sequence[int], value_SP: Floats) -> Interval:
    """The exponent r of value ~ n^r, by least squares on logarithms, mean and interval over seeds. Values > 0."""
    x = np.log(np.asarray(n_P, float))
    x = x - x.mean()
    return interval(np.log(value_SP) @ x / float(x @ x))


def summarise(design: Design, rows: Mapping[Cell, Trained]) -> StageSummary:
    """Fits, one-shot comparisons and jumps of every group of cells that differ in n and seed only."""
    summary: StageSummary = {
        "groups": [
            _group(design, rows, cell)
            for cell in {replace(c, stages=1, seed=design.seeds[0]): None for c in rows if c.path != "within"}
        ],
        "within_error": {
            f"{sparsity:g}": interval(
                np.array(
                    [
                        rows[Cell(stages=1, sparsity=sparsity, temperature=2.0, path="within", alpha=1.0, seed=seed)][
                            "error"
                        ]
                        for seed in design.seeds
                    ]
                )
            )
            for sparsity in design.sparsities
        },
    }
    if design.alphas:
        summary["anchoring"] = _anchoring(design, rows)
    return summary


def _group(design: Design, rows: Mapping[Cell, Trained], example: Cell) -> StageGroup:
    """All numbers of stages and seeds of cells that are otherwise like the example."""

    def grid(value: Callable[[Trained], float]) -> Floats:
        """(S, P). A single stage is the same on every path, and is computed on the cubic one."""
        cells_SP = [
            [replace(example, stages=n, seed=seed, path="cubic" if n == 1 else example.path) for n in STAGES]
            for seed in design.seeds
        ]
        return np.array([[value(rows[cell]) for cell in cells_P] for cells_P in cells_SP])

    error, accuracy = grid(lambda row: row["error"]), grid(lambda row: row["accuracy"])
    jumps = grid(lambda row: sum(row["jumps"]))
    uneven = grid(lambda row: max(row["jumps"]) / max(min(row["jumps"]), 1e-12))
    return {
        "path": example.path,
        "alpha": example.alpha,
        "temperature": example.temperature,
        "sparsity": example.sparsity,
        "n": list(STAGES),
        "error": [interval(error[:, i]) for i in range(len(STAGES))],
        "one_shot_minus_n": [interval(error[:, 0] - error[:, i]) for i in range(1, len(STAGES))],
        "accuracy": [interval(accuracy[:, i]) for i in range(len(STAGES))],
        "dense_error": interval(grid(lambda row: row["dense_error"])[:, 0]),
        "fit": fit(STAGES, error),
        "jumps": [interval(jumps[:, i]) for i in range(len(STAGES))],
        "jumps_slope": slope(STAGES, jumps),
        "largest_over_smallest_jump_median": [float(np.median(uneven[:, i])) for i in range(len(STAGES))],
    }


def _anchoring(design: Design, rows: Mapping[Cell, Trained]) -> AnchoredStages:
    """How far below its bound the contraction of every anchored stage is."""
    anchored = [(cell, row) for cell, row in rows.items() if cell.alpha < 1]
    worst = max(ratio / (1 - cell.alpha) for cell, row in anchored for ratio in row["contractions"])
    mean = {
        f"{alpha:g}": float(np.mean([r for cell, row in anchored if cell.alpha == alpha for r in row["contractions"]]))
        for alpha in design.alphas
    }
    stages = sum(len(row["contractions"]) for _, row in anchored)
    return {"stages": stages, "worst_ratio_to_bound": worst, "mean_ratio": mean}


def table(rows: Mapping[Cell, Trained]) -> bytes:
    """A CSV of all trainings."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*Cell.__slots__, "error", "error_public", "accuracy", "dense_error", "jumps"])
    for cell, row in rows.items():
        figures = (row["error"], row["error_public"], row["accuracy"], row["dense_error"], sum(row["jumps"]))
        writer.writerow([*asdict(cell).values(), *(f"{value:.5g}" for value in figures)])
    return out.getvalue().encode()


def _line(axes: Axes, n: Sequence[int], values: Sequence[Interval], colour: str, style: str, label: str) -> None:
    mean = np.array([value["mean"] for value in values])
    half = np.array([value["high"] for value in values]) - mean
    axes.errorbar(n, mean, np.minimum(half, 0.999 * mean), fmt=style, color=colour, label=label, capsize=2)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, size=10)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(STAGES, [str(n) for n in STAGES])
    axes.set_xlabel("stages n")


def draw_temperatures(design: Design, summary: StageSummary) -> Callable[[list[Axes]], None]:
    """Error against n for each temperature, with the fits."""

    def panels(axes: list[Axes]) -> None:
        for group in summary["groups"]:
            if group["path"] != "cubic" or group["alpha"] < 1:
                continue
            at, colour = axes[design.temperatures.index(group["temperature"])], COLOURS[group["sparsity"]]
            _line(at, group["n"], group["error"], colour, "o", f"{group['sparsity']:.0%} sparse")
            a, b, c = (group["fit"][name]["mean"] for name in COEFFICIENTS)
            n = np.geomspace(STAGES[0], STAGES[-1], 60)
            at.plot(n, a / n + b + c * n, color=colour, linewidth=1)
        for at, temperature in zip(axes, design.temperatures, strict=True):
            if len(axes) > 1:
                at.set_ylim(2e-4, 3)
            _finish(at, f"T = {temperature:g}")
        axes[0].set_ylabel("KL(teacher || student), held out, nats")
        handles, labels = axes[design.temperatures.index(2.0)].get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: float(labels[i].split("%")[0]), reverse=True)
        axes[-1].legend(
            [handles[i] for i in order], [labels[i] for i in order], fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
        )

    return panels


def draw_paths(summary: StageSummary) -> Callable[[list[Axes]], None]:
    """The paths and the control within one stage at T = 2, 98 %; then the sum of the jumps."""

    def panels(axes: list[Axes]) -> None:
        for group in summary["groups"]:
            if group["temperature"] != 2 or group["alpha"] < 1:
                continue
            if group["sparsity"] == 0.98:
                colour = {"cubic": STUDENT, "linear": TEACHER, "equal-kl": DENSE}[group["path"]]
                _line(axes[0], group["n"], group["error"], colour, "o-", group["path"])
            if group["path"] == "cubic":
                _line(
                    axes[1], group["n"], group["jumps"], COLOURS[group["sparsity"]], "o-", f"{group['sparsity']:.0%} sparse"
                )
        within = summary["within_error"]["0.98"]["mean"]
        axes[0].axhline(within, linestyle="--", color=POOL, label="one stage, gradual")
        n = np.array(STAGES, float)
        axes[1].plot(n, 2 / n, ":", color=TEACHER, label="slope -1")
        _finish(axes[0], "T = 2, 98 % sparse: paths")
        _finish(axes[1], "T = 2, cubic: sum of the jumps")
        axes[0].set_yticks([0.2, 0.5, 1, 1.5], ["0.2", "0.5", "1", "1.5"])
        axes[0].minorticks_off()
        axes[0].set_ylabel("KL(teacher || student), held out, nats")
        axes[1].set_ylabel("sum of KL(before || after pruning), nats")
        for at in axes:
            at.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

    return panels


def run(name: str, design: Design, out: Path, work: Path) -> None:
    """One design, to its results and plots."""
    rows, finished = {}, common.Rows(work / f"{name}.jsonl", Trained)
    constants = {
        "data": design.data,
        "epochs": design.epochs,
        "batch": design.batch,
        "teacher": [TEACHER_SEED, design.teacher_epochs],
    }
    with common.bars() as progress:
        for cell in progress.track(list(cells(design)), description=name):
            rows[cell] = finished.get({**asdict(cell), **constants}, lambda cell=cell: train(design, cell))  # type: ignore[misc]
    summary = common.rounded(summarise(design, rows), StageSummary)
    result: Stages = {
        "command": COMMAND,
        "machine": common.machine(),
        "data": design.data,
        "seeds": list(design.seeds),
        "confidence": CONFIDENCE,
        "epochs_in_all": design.epochs,
        "steps_in_all": design.epochs * math.ceil(len(_parts(design.data).public_x) / design.batch),
        "pruning_curve": _mean_curve(design, 2.0),
        **summary,
    }
    common.write_json(out / f"{name}.json", result)
    write_durably(out / f"{name}.csv", table(rows))
    columns = len(design.temperatures)
    common.plot(
        out / f"{name}.png", draw_temperatures(design, summary), columns=columns, width=2.5 + 2.5 * columns, height=3.6
    )
    if design.paths:
        common.plot(out / f"{name}_paths.png", draw_paths(summary), columns=2, width=10, height=3.4)


def main() -> None:
    """The command."""
    options = common.options(__doc__, parts=DESIGNS)
    for name in options.only:
        run(name, DESIGNS[name], options.out, options.work)


if __name__ == "__main__":
    main()
