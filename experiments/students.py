"""What a student makes of its pool: `python -m limbeck.experiments.students SCENARIO --out FILE [--seeds 0 1 ...] [--variants ...]`.

For each seed one run, whose last pool then teaches several students, each as a plan with other settings of the student would have it. All
have the scenario's stages, and learn from the same answers. With --held-out a part of the public inputs is kept from all students, and
labels of these inputs judge them: for choices. Without it the test set does: for figures.

Runs are kept under --runs, one folder a seed: the same command continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.experiments.experiment import RUNS, finished
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans.schema import Plan, Student
from limbeck.server import checkpoint, distil, lessons, pruning, student
from limbeck.simulations import measure
from limbeck.simulations.prepare import read_prepared
from limbeck.simulations.scenario import load

# Settings of the student beside the scenario's own, by name; FEATURES stands for those of --features.
FEATURES = "FEATURES"
VARIANTS: dict[str, dict[str, str | float | bool]] = {
    "pool": {"augment": False},
    "pool augmented": {"augment": True},
    "sharpened": {"augment": False, "sharpen": 3.0},
    "refined": {"augment": False, "sharpen": 3.0, "refine": FEATURES},
    "refined mixup": {"augment": False, "sharpen": 3.0, "refine": FEATURES, "mixup": 0.3},
    "refined augmented": {"augment": True, "sharpen": 3.0, "refine": FEATURES},
    "refined chosen": {"augment": True, "choose_augment": True, "sharpen": 3.0, "refine": FEATURES},
    "linear": {"augment": False, "sharpen": 3.0, "architecture": "scattering-linear"},
    "refined linear": {"augment": False, "sharpen": 3.0, "refine": FEATURES, "architecture": "scattering-linear"},
    "refined mlp": {"augment": False, "sharpen": 3.0, "refine": FEATURES, "architecture": "scattering-mlp"},
    "refined mlp mixup": {
        "augment": False,
        "sharpen": 3.0,
        "refine": FEATURES,
        "mixup": 1.0,
        "architecture": "scattering-mlp",
    },
}
SHARE_HELD_OUT = 0.4


def settings_of(name: str, own: Student, features: str) -> Student:
    """A variant of the scenario's student."""
    changes = {key: features if value == FEATURES else value for key, value in VARIANTS[name].items()}
    return replace(own, **changes)  # type: ignore[arg-type]


def compare(folder: Path, names: list[str], *, features: str, held_out: bool) -> dict[str, dict[str, float]]:
    """Accuracy in per cent and seconds, by variant; and of the pool itself on the public inputs, "pooled"."""
    _, plan, _ = read_prepared(folder)
    truth = measure.Truth(folder)
    (x_N,) = read_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    saved = checkpoint.load_last(folder / "server" / "checkpoints")
    if saved is None:
        raise RunError(f"Expected a finished run in {folder}, found none of its checkpoints.")
    public_x, pool_NK = torch.from_numpy(x_N), saved.targets_NK
    judged_x, judged_y = torch.from_numpy(truth.test_x), truth.test_y
    found = {"pooled": {"public": 100 * float((pool_NK.argmax(1).numpy() == truth.public_y).mean())}}
    if held_out:
        order = np.random.default_rng(plan.public_seed).permutation(len(x_N))
        out, rest = np.split(order, [round(SHARE_HELD_OUT * len(order))])
        judged_x, judged_y = public_x[np.sort(out)], truth.public_y[np.sort(out)]
        public_x, pool_NK = public_x[np.sort(rest)], pool_NK[np.sort(rest)]
    for name in names:
        varied = replace(plan, student=settings_of(name, plan.student, features))
        started = time.perf_counter()
        model = trained(varied, public_x, pool_NK, cache=folder / "cache")
        seconds = time.perf_counter() - started
        answers_n = distil.predict(model, judged_x).argmax(1).numpy()
        found[name] = {"accuracy": 100 * float((answers_n == judged_y).mean()), "seconds": seconds}
    return found


def trained(plan: Plan, x_N: Tensor, pool_NK: Tensor, *, cache: Path) -> torch.nn.Module:
    """The student of a plan whose every stage had this pool."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = student.build(plan.student.architecture, x_N.shape[1:], plan.classes, plan.public_seed).to(device)
    masks, taught = pruning.Masks.ones(model), lessons.Lessons(plan, x_N, cache=cache, device=device)
    for index, stage in enumerate(plan.stages):
        lesson = taught.of(pool_NK, index)
        distil.distil_stage(
            model,
            masks,
            x_N,
            lesson.targets_NK,
            stage=index,
            sparsity=stage.sparsity,
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
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--features", default="scattering", help="on which the pool is refined")
    parser.add_argument("--held-out", action="store_true", help="judge by labels of public inputs that no student has seen")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="default: runs/experiments/NAME, with the name of --out")
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        folder = (options.runs or RUNS / options.out.stem) / f"seed-{seed}"
        measured = finished(load(options.scenario, [*options.overrides, f"run.seed={seed}"]), folder)
        compared = compare(folder, options.variants, features=options.features, held_out=options.held_out)
        pool = next((row.test.get("accuracy") for row in measured.comparison if row.role == "pool"), None)
        if pool is not None and not options.held_out:
            compared["pooled"]["accuracy"] = 100 * pool
        rows.append({"seed": seed, **{name: {key: round(v, 2) for key, v in of.items()} for name, of in compared.items()}})
        print(rows[-1], flush=True)
    names = ("pooled", *options.variants)
    accuracies = {name: [row[name]["accuracy"] for row in rows] for name in names if "accuracy" in rows[0][name]}
    command = [
        "python -m limbeck.experiments.students",
        *(options.scenario, "--seeds", *map(str, options.seeds)),
        *(("--set", *options.overrides) if options.overrides else ()),
        *("--variants", *(repr(name) if " " in name else name for name in options.variants)),
        *("--features", options.features, *(("--held-out",) if options.held_out else ())),
        *("--out", str(options.out)),
    ]
    result = {
        "command": " ".join(command),
        "noise": measured.noise,
        "judged_on": "held-out public inputs" if options.held_out else "test set",
        "mean": {name: round(statistics.mean(values), 2) for name, values in accuracies.items()},
        "spread": {
            name: round(statistics.stdev(values), 2) if len(values) > 1 else None for name, values in accuracies.items()
        },
        "seeds": rows,
    }
    write_durably(options.out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
