"""What privacy costs in accuracy: `python -m limbeck.experiments.sweep SCENARIO --epsilons 1 3 8 --seeds 1 2 3 --out FILE`.

`limbeck sweep` over privacy.epsilon and without privacy (limbeck.simulations.sweep), its figures in one file of experiments/results/. The
runs themselves stay in the sweep's folder below runs/, and a sweep that was stopped goes on from there.

The pool on test inputs is softened, truncated and pooled as that on public inputs. In files of before `limbeck sweep` it was the plain
mean of the teachers.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.simulations.scenario import load
from limbeck.simulations.sweep import cells, run
from limbeck.simulations.sweep.baseline import Baseline

NAMES = ("teacher_mean", "teacher_best", "pool_on_test", "pool_on_public", "student")


def figures(finished: run.Finished) -> dict[str, float | None]:
    """Accuracies of one run in per cent; None where one cannot be known, such as the pool of noisy votes on test inputs."""
    reached = finished.measured
    if isinstance(reached, Baseline):
        alone = [100 * each.accuracy for each in reached.teachers]
        pool, student = reached.pool, reached.student
    else:
        alone = [100 * accuracy for accuracy in reached.teacher_accuracies]
        pool, student = reached.pool.quality, reached.student.quality
    return {
        "teacher_mean": statistics.mean(alone) if alone else None,
        "teacher_best": max(alone, default=None),
        "pool_on_test": None if pool.test is None else 100 * pool.test.accuracy,
        "pool_on_public": None if pool.public is None else 100 * pool.public.accuracy,
        "student": None if student.test is None else 100 * student.test.accuracy,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[1.0, 3.0, 8.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the scenario's settings")
    parser.add_argument("--jobs", type=int, help="runs at once; by default one per core, as far as the free memory goes")
    options = parser.parse_args()
    axes = [cells.Axis(cells.EPSILON, (*(f"{value:g}" for value in options.epsilons), cells.NO_PRIVACY))]
    planned = cells.plan(options.scenario, options.set, axes, options.seeds)
    folder = run.default_folder(planned[0].scenario.name, run.swept(planned, axes))
    outcome = run.run(planned, axes, folder, jobs=options.jobs, console=Console(stderr=True))
    write_durably(options.out, (json.dumps(_result(options, outcome.finished), indent=1) + "\n").encode())
    if outcome.failures:
        raise RunError("\n".join(f"{failure.name}: {failure.problem}" for failure in outcome.failures))


def _result(options: argparse.Namespace, finished: Sequence[run.Finished]) -> dict[str, object]:
    """The table of all runs, and the runs themselves."""
    scenario = load(options.scenario, options.set)
    which = " ".join([options.scenario, *(["--set", *options.set] if options.set else [])])
    seeds, epsilons = " ".join(map(str, options.seeds)), " ".join(f"{value:g}" for value in options.epsilons)
    runs = {f"seed {each.planned.seed}, {_cell(each)}": figures(each) for each in finished}
    by_cell: dict[str, list[dict[str, float | None]]] = {}
    for key, row in sorted(runs.items()):
        by_cell.setdefault(key.partition(", ")[2], []).append(row)
    return {
        "command": f"python -m limbeck.experiments.sweep {which} --epsilons {epsilons} --seeds {seeds} --out {options.out}",
        "what": "test accuracy in per cent, mean and spread (standard deviation) over seeds; the pool also on the public inputs",
        "delta": scenario.privacy.delta,
        "unit": "record",
        "adjacency": "add-remove-one",
        "noise": scenario.privacy.noise,
        "table": {cell: {name: _over([row[name] for row in rows]) for name in NAMES} for cell, rows in by_cell.items()},
        "runs": dict(sorted(runs.items())),
    }


def _cell(finished: run.Finished) -> str:
    cell, epsilon = finished.planned.cell, finished.planned.scenario.privacy.epsilon
    return "without privacy" if cell.without_privacy else f"epsilon {epsilon:g}"


def _over(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {
        "mean": round(statistics.mean(known), 2) if known else None,
        "spread": round(statistics.stdev(known), 2) if len(known) > 1 else None,
    }


if __name__ == "__main__":
    main()
