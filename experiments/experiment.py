"""A scenario over several seeds: `python -m limbeck.experiments.experiment SCENARIO --seeds 1 2 3 --out FILE [--set key=value ...]`.

Writes one small JSON file with the settings and the figures that the README quotes, for each seed and as mean and spread (standard
deviation over seeds). Runs are kept under --runs, one folder a seed: the same command continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path

from rich.console import Console

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.simulations import metrics, run
from limbeck.simulations.metrics import Metrics
from limbeck.simulations.prepare import read_prepared
from limbeck.simulations.scenario import Scenario, load

RUNS = Path("runs") / "experiments"


def figures(measured: Metrics) -> dict[str, float]:
    """What is compared over seeds. Accuracies and sparsity in per cent."""
    teachers = [100 * accuracy for accuracy in measured.teacher_accuracies]
    student, first = measured.student, measured.stages[0]
    values = {
        "teacher_best": max(teachers),
        "teacher_mean": statistics.mean(teachers),
        "teacher_worst": min(teachers),
        "pool_on_public": math.nan if measured.pool.accuracy is None else 100 * measured.pool.accuracy,
        "student_sparse": 100 * student.accuracy,
        "sparse_over_best_teacher": 100 * student.accuracy - max(teachers),
        # Of the sites that have one: those with a black-box teacher are counted, and have no guarantee.
        "epsilon": max((client.epsilon for client in measured.clients if client.epsilon is not None), default=math.inf),
        "sites_without_dp_guarantee": len(measured.sites_without_guarantee),
        "kilobytes_up_per_client_and_stage": first.bytes_up / first.clients / 1000,
        "sparsity": 100 * measured.stages[-1].sparsity,
    }
    if student.dense_accuracy is not None:
        values["student_dense"] = 100 * student.dense_accuracy
        values["sparse_over_dense"] = 100 * (student.accuracy - student.dense_accuracy)
    return values


def finished(scenario: Scenario, folder: Path) -> Metrics:
    """The metrics of a run of this scenario in `folder`, which is read, resumed or made.

    Raises: RunError if there is a run of another scenario.
    """
    if not (folder / "scenario.json").exists():
        return run.simulate(scenario, folder, console=Console(stderr=True))
    earlier, _, _ = read_prepared(folder)
    if earlier != scenario:
        raise RunError(f"Expected runs of these settings in {folder}, got others; give another --runs.")
    if not (folder / metrics.FILE).exists():
        return run.resume(folder, console=Console(stderr=True))
    return metrics.read(folder)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="default: runs/experiments/NAME, with the name of --out")
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        scenario = load(options.scenario, [*options.overrides, f"run.seed={seed}"])
        measured = finished(scenario, (options.runs or RUNS / options.out.stem) / f"seed-{seed}")
        rows.append({"seed": seed, **{name: round(value, 3) for name, value in figures(measured).items()}})
        print(rows[-1], flush=True)
    names = [name for name in rows[0] if name != "seed"]
    overrides = f" --set {' '.join(options.overrides)}" if options.overrides else ""
    seeds = " ".join(map(str, options.seeds))
    result = {
        "command": f"python -m limbeck.experiments.experiment {options.scenario} --seeds {seeds}{overrides} --out {options.out}",
        "machine": f"{measured.machine.cores} cores, {measured.machine.processor}, {measured.machine.device}",
        "noise": measured.noise,
        "delta": measured.clients[0].delta,
        "unit": measured.clients[0].unit,
        "adjacency": measured.clients[0].adjacency,
        "mean": {name: round(statistics.mean(row[name] for row in rows), 2) for name in names},
        "spread": {name: round(statistics.stdev(row[name] for row in rows), 2) if len(rows) > 1 else None for name in names},
        "seeds": rows,
    }
    write_durably(options.out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
