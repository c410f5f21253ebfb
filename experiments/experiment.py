"""A scenario over several seeds: `python -m limbeck.experiments.experiment SCENARIO --out FILE [--seeds 1 2 ...] [--set key=value ...]`.

Writes one small JSON file with the settings and the figures that the README quotes, for each seed and as mean and spread (standard
deviation over seeds). All that is compared in a run (sites alone, central teacher, pool, student) has the same records, partition and test
set in each seed: differences are given per seed, and their spread is that of the pairs. Runs are kept under --runs, one folder a seed: the
same command continues where it was interrupted.
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
from limbeck.simulations.metrics import Metrics, Role
from limbeck.simulations.prepare import read_prepared
from limbeck.simulations.scenario import Scenario, load

RUNS = Path("runs") / "experiments"
SEEDS = (1, 2, 3, 4, 5)
# By the role of a row of `Metrics.comparison`, the name of its figures.
NAMED: dict[Role, str] = {
    "majority": "majority",
    "best site": "best_site",
    "mean site": "mean_site",
    "worst site": "worst_site",
    "central": "central",
    "without privacy": "central_without_privacy",
    "pool": "pool",
    "dense": "dense",
    "student": "student",
    "calibrated": "calibrated",
}
# Of what the student is compared with.
PAIRED: tuple[Role, ...] = ("best site", "central", "pool", "dense")
# What is also compared on the public inputs.
ON_PUBLIC: tuple[Role, ...] = ("majority", "pool", "student")
IN_PER_CENT = {"accuracy", "balanced_accuracy", "f1", "calibration_error"}


def figures(measured: Metrics) -> dict[str, float]:
    """What is compared over seeds: accuracies, F1, calibration error and sparsity in per cent, areas from 0 to 1, log-loss in nats.

    Figures of "student_test" are those of the finished student on the test set, as it was trained, those of "student_public" on the public
    inputs, and so on for all that is compared; "student_over_pool" is the difference of their main measures on the test set.
    """
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
    if teachers:  # noisy votes are none
        values["teacher_best"] = max(teachers)
        values["teacher_mean"] = statistics.mean(teachers)
        values["teacher_worst"] = min(teachers)
        values["sparse_over_best_teacher"] = 100 * student.accuracy - max(teachers)
    if measured.pool.accuracy is not None:
        values["pool_on_public"] = 100 * measured.pool.accuracy
    if student.dense_accuracy is not None:
        values["student_dense"] = 100 * student.dense_accuracy
        values["sparse_over_dense"] = 100 * (student.accuracy - student.dense_accuracy)
    rows = {row.role: row for row in measured.comparison}
    for role, row in rows.items():
        parts = {"test": row.test, **({"public": row.public} if role in ON_PUBLIC else {})}
        for part, of_part in parts.items():
            for name, value in of_part.items():
                if value is not None:
                    values[f"{NAMED[role]}_{part}.{name}"] = 100 * value if name in IN_PER_CENT else value
    main = {role: row.test.get(measured.main) for role, row in rows.items()}
    own = main.get("student")
    for role in PAIRED:
        if own is not None and (other := main.get(role)) is not None:
            values[f"student_over_{NAMED[role]}"] = 100 * (own - other)
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
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, help="default: runs/experiments/NAME, with the name of --out")
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        scenario = load(options.scenario, [*options.overrides, f"run.seed={seed}"])
        measured = finished(scenario, (options.runs or RUNS / options.out.stem) / f"seed-{seed}")
        rows.append({"seed": seed, **{name: round(value, 4) for name, value in figures(measured).items()}})
        print(rows[-1], flush=True)
    # A figure that one seed lacks, as that of a class that is absent there, has no mean.
    names = [name for name in rows[0] if name != "seed" and all(name in row for row in rows)]
    overrides = f" --set {' '.join(options.overrides)}" if options.overrides else ""
    seeds = " ".join(map(str, options.seeds))
    result = {
        "command": f"python -m limbeck.experiments.experiment {options.scenario} --seeds {seeds}{overrides} --out {options.out}",
        "machine": f"{measured.machine.cores} cores, {measured.machine.processor}, {measured.machine.device}",
        "noise": measured.noise,
        "delta": measured.clients[0].delta,
        "unit": measured.clients[0].unit,
        "adjacency": measured.clients[0].adjacency,
        "mean": {name: round(statistics.mean(row[name] for row in rows), 3) for name in names},
        "spread": {name: round(statistics.stdev(row[name] for row in rows), 3) if len(rows) > 1 else None for name in names},
        "seeds": rows,
    }
    write_durably(options.out, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
