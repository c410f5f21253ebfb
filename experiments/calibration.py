"""What calibrates a student: `python -m limbeck.experiments.calibration SCENARIO --seeds 0 1 2 3 4 --out FILE [--set key=value ...]`.

A student may be calibrated on the labels of the very public inputs that it learnt from. Is that honest? For each seed, one run, and four
temperatures for its student, each judged on the test set:

- none: 1, as trained.
- own: fitted to the labels of all its own public inputs, as a simulation does.
- held_out: fitted to those of a fifth of the public inputs, by a student that was trained as this one on the other four fifths.
- test: fitted to the test set itself: the best that any temperature reaches.

Runs are kept under --runs, one folder a seed: the same command continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.experiments.experiment import RUNS, finished
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans.schema import Plan
from limbeck.server import calibration, checkpoint, distil, lessons, pruning, scores, student
from limbeck.simulations import measure
from limbeck.simulations.scenario import load

HELD_OUT = 0.2
TEMPERATURES = ("none", "own", "held_out", "test")
FIGURES = ("temperature", "log_loss", "calibration_error", "confidence")


def compare(folder: Path, seed: int, *, held_out: bool = True) -> dict[str, dict[str, float]]:
    """The figures of the student of a finished run, by what it was calibrated on. Errors and confidence in per cent."""
    model, plan = measure.load_student(folder)
    truth = measure.Truth(folder)
    (x_N,) = read_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    public_x, public_y = torch.from_numpy(x_N), truth.public_y
    test_NK = distil.predict(model, torch.from_numpy(truth.test_x)).numpy()
    test_y = truth.test_y.astype(np.int64)
    temperatures = {
        "none": 1.0,
        "own": _fitted(distil.predict(model, public_x).numpy(), public_y),
        "test": _fitted(test_NK, test_y),
    }
    if held_out:
        order = np.random.default_rng(seed).permutation(len(public_y))
        out, rest = np.split(order, [round(HELD_OUT * len(order))])
        other = _trained_on(np.sort(rest), folder, plan, public_x)
        temperatures["held_out"] = _fitted(distil.predict(other, public_x[out]).numpy(), public_y[out])
    return {name: _judged(test_NK, test_y, temperature) for name, temperature in temperatures.items()}


def _fitted(p_NK: calibration.Probabilities, y_N: measure.Inputs) -> float:
    fitted = calibration.fit(p_NK, y_N.astype(np.int64), held_out=False, what="")
    return 1.0 if fitted is None else fitted.temperature


def _judged(p_NK: calibration.Probabilities, y_N: measure.Inputs, temperature: float) -> dict[str, float]:
    found = scores.score(calibration.sharpen(p_NK, temperature), y_N)
    return {
        "temperature": temperature,
        "log_loss": found.log_loss,
        "calibration_error": 100 * found.calibration_error,
        "confidence": 100 * found.confidence,
        "accuracy": 100 * found.accuracy,
    }


def _trained_on(rows: measure.Inputs, folder: Path, plan: Plan, x_N: torch.Tensor) -> torch.nn.Module:
    """A student that is trained as that of the run, on the same pooled answers, but to these public inputs alone."""
    model = student.build(plan.student.architecture, x_N.shape[1:], plan.classes, plan.public_seed)
    masks = pruning.Masks.ones(model)
    device = torch.device("cpu")
    taught = lessons.Lessons(plan, x_N[rows], cache=folder / "cache", device=device)
    for stage, settings in enumerate(plan.stages):
        saved = checkpoint.load(checkpoint.path_of(folder / "server" / "checkpoints", stage))
        if saved is None:
            raise RunError(f"Expected the checkpoint of stage {stage} in {folder}, but there is none that can be read.")
        lesson = taught.of(saved.targets_NK[rows], stage)
        distil.distil_stage(
            model,
            masks,
            x_N[rows],
            lesson.targets_NK,
            stage=stage,
            sparsity=settings.sparsity,
            temperature=lesson.temperature,
            student=lesson.student,
            seed=plan.public_seed,
            device=device,
        )
    return model


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    parser.add_argument("--without-held-out", action="store_true", help="which trains another student for every seed")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="default: runs/experiments/NAME, with the name of --out")
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        folder = (options.runs or RUNS / options.out.stem) / f"seed-{seed}"
        finished(load(options.scenario, [*options.overrides, f"run.seed={seed}"]), folder)
        compared = compare(folder, seed, held_out=not options.without_held_out)
        rows.append({"seed": seed, **{name: _rounded(values) for name, values in compared.items()}})
        print(rows[-1], flush=True)
    overrides = f" --set {' '.join(options.overrides)}" if options.overrides else ""
    seeds = " ".join(map(str, options.seeds))
    left_out = " --without-held-out" if options.without_held_out else ""
    by = {
        name: {figure: [row[name][figure] for row in rows] for figure in FIGURES} for name in TEMPERATURES if name in rows[0]
    }
    result = {
        "command": f"python -m limbeck.experiments.calibration {options.scenario} --seeds {seeds}{overrides}{left_out} --out {options.out}",
        "noise": "system-entropy",
        "mean": {
            name: {figure: round(statistics.mean(values), 3) for figure, values in of.items()} for name, of in by.items()
        },
        "spread": {
            name: {figure: round(statistics.stdev(values), 3) if len(values) > 1 else None for figure, values in of.items()}
            for name, of in by.items()
        },
        "seeds": rows,
    }
    write_durably(options.out, (json.dumps(result, indent=1) + "\n").encode())


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


if __name__ == "__main__":
    main()
