"""What the shipped scenarios reach: `python -m limbeck.experiments.scenarios SWEEPS --out FILE`.

The figures come from sweeps, which go on where they were stopped. `--commands` prints the command of each; its folder is SWEEPS/NAME. A
sweep that is not there keeps the figures that FILE has of it, so that one scenario can be measured again without the others. `default` and
`heart-natural`, which are compared with more, have files of their own (`limbeck.experiments.experiment`, `limbeck.experiments.sweep`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.base.errors import DataError, LimbeckError
from limbeck.base.files import write_durably
from limbeck.simulations import metrics
from limbeck.simulations.metrics import Metrics, Quality
from limbeck.simulations.sweep.rows import spread

# Neither changes the student.
WITHOUT_COMPARISONS = ("student.dense_control=false", "compare.central=false")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One `limbeck sweep`. settings: overrides of all runs. over: what is swept, if anything."""

    scenario: str
    settings: tuple[str, ...] = WITHOUT_COMPARISONS
    over: str = ""

    def command(self, folder: str) -> str:
        """As it is typed."""
        over = f"--over {self.over} " if self.over else ""
        settings = "".join(f"--set {setting} " for setting in self.settings)
        return f"limbeck sweep {self.scenario} {over}{settings}--seeds 5 --out {folder}"


SWEEPS = {
    "default-skew": Sweep(scenario="default-skew"),
    "fashion-hundred": Sweep(scenario="fashion-hundred"),
    "mnist-iid": Sweep(scenario="mnist-iid"),
    "mnist-skew": Sweep(scenario="mnist-skew"),
    "fashion-iid": Sweep(scenario="fashion-iid"),
    "fashion-skew": Sweep(scenario="fashion-skew", over="partition.alpha=0.1,0.01"),
    "cifar-features": Sweep(scenario="cifar-features", over="partition.alpha=10,0.16,0.01"),
    "news-encoder": Sweep(scenario="news-encoder", over="privacy.epsilon=1,3"),
}


def figures(runs: Sequence[Metrics]) -> dict[str, object]:
    """Mean and sample standard deviation over seeds of one cell: accuracies on the test set in per cent, and what it cost."""
    scenario = runs[0].scenario
    return {
        "runs": len(runs),
        "epsilon": scenario.privacy.epsilon,
        "delta": scenario.privacy.delta,
        "unit": runs[0].clients[0].unit,
        "adjacency": runs[0].clients[0].adjacency,
        "noise": runs[0].noise,
        "sparsity_percent": round(100 * runs[0].stages[-1].sparsity, 1),
        "student": _over([_percent(run.student.quality) for run in runs]),
        "pool": _over([_percent(run.pool.quality) for run in runs]),
        "mean_of_sites_alone": _over([_mean_alone(run) for run in runs]),
        "majority": _over([_percent(run.majority) for run in runs]),
        "kilobytes_up_per_site": _over([_mean([client.bytes_up / 1000 for client in run.clients]) for run in runs]),
    }


def collect(folder: Path, known: dict[str, object]) -> dict[str, object]:
    """The figures of all sweeps in the folder, and of those that are known from before.

    Raises: DataError for a folder without a finished run of any sweep.
    """
    table: dict[str, object] = {name: known[name] for name in SWEEPS if name in known}
    measured = 0
    for name, sweep in SWEEPS.items():
        cells: dict[str, list[Metrics]] = {}
        for file in sorted((folder / name).glob(f"runs/*/*/{metrics.FILE}")):
            cells.setdefault(file.parent.parent.name, []).append(metrics.read(file.parent))
        if cells:
            measured += 1
            table[name] = {
                "command": sweep.command(f"SWEEPS/{name}"),
                "cells": {cell if sweep.over else "as it is": figures(runs) for cell, runs in cells.items()},
            }
    if not measured:
        raise DataError(f"Expected finished runs of {', '.join(SWEEPS)} in {folder}, found none.")
    return {
        "command": "python -m limbeck.experiments.scenarios SWEEPS --out experiments/results/scenarios.json",
        "what": "test accuracy in per cent, mean and spread (sample standard deviation) over seeds",
        "table": {name: table[name] for name in SWEEPS if name in table},
    }


def _percent(quality: Quality | None) -> float | None:
    return None if quality is None or quality.test is None else 100 * quality.test.accuracy


def _mean_alone(run: Metrics) -> float | None:
    return _mean([100 * client.teacher_accuracy for client in run.clients if client.teacher_accuracy is not None])


def _mean(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None


def _over(values: Sequence[float | None]) -> dict[str, float] | None:
    found = spread(values)
    if found is None:
        return None
    return {"mean": round(found.mean, 2)} | ({} if found.std is None else {"spread": round(found.std, 2)})


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--commands", action="store_true", help="print the commands of the sweeps")
    given = parser.parse_args()
    if given.commands or given.out is None:
        print(*(sweep.command(str(given.sweeps / name)) for name, sweep in SWEEPS.items()), sep="\n")
        return
    try:
        known = json.loads(given.out.read_text(encoding="utf-8"))["table"] if given.out.exists() else {}
        write_durably(given.out, (json.dumps(collect(given.sweeps, known), indent=1) + "\n").encode())
    except LimbeckError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
