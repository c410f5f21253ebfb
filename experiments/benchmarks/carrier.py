"""What the local carrier itself costs: `python -m limbeck.experiments.benchmarks.carrier [OUT.json]`.

Runs the scenario digits-hundred (100 clients, 4 stages) with client workers that note the seconds they spend in training and inference.
What is left of the wall clock of agreeing, teaching and answering is overhead: processes, messages, codec, ledgers, transcripts, pooling,
checkpoints.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from limbeck.client import teachers
from limbeck.client.app import app as client_app
from limbeck.client.teachers import linear
from limbeck.simulations import grid, run
from limbeck.simulations.scenario import load

TIMES = "LIMBECK_BENCHMARK_TIMES"
REPEATS = 3
app = client_app


def _noted(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, its seconds appended to a file of this process."""

    @wraps(call)
    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments, **options)
        finally:
            with (Path(os.environ[TIMES]) / str(os.getpid())).open("a") as file:
                file.write(f"{time.perf_counter() - started}\n")

    return timed


if os.environ.get(TIMES):
    teachers.train = _noted(teachers.train)
    linear.Linear.log_probabilities = _noted(linear.Linear.log_probabilities)  # type: ignore[method-assign]


def measure(times: Path) -> dict[str, float]:
    """Seconds of one run, by kind. times: the folder where client workers note theirs; emptied here."""
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        measured = run.simulate(load("digits-hundred", [f"run.workers={workers}"]), Path(folder) / "run")
    seconds, work = measured.seconds, 0.0
    for path in times.iterdir():
        work += sum(map(float, path.read_text().splitlines()))
        path.unlink()
    asking = seconds["agree"] + seconds["teach"] + seconds["answers"]
    return {
        "agree_teach_answers": asking,
        "training_and_inference_per_worker": work / workers,
        "overhead": asking - work / workers,
        "start_and_checkpoints": seconds["run"] - asking - seconds["distil"] - seconds["export"],
        "distil": seconds["distil"],
        "export": seconds["export"],
        "prepare": seconds["prepare"],
    }


def main() -> None:
    """The command."""
    grid.CLIENT_APP = "limbeck.experiments.benchmarks.carrier:app"
    with tempfile.TemporaryDirectory() as times:
        # Workers are forked from one process that keeps the environment it started with.
        os.environ[TIMES] = times
        rows = [measure(Path(times)) for _ in range(REPEATS)]
    result = {
        "command": "python -m limbeck.experiments.benchmarks.carrier experiments/results/carrier.json",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, CPU only",
        "clients": 100,
        "stages": 4,
        "median_seconds": {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]},
    }
    text = json.dumps(result, indent=1)
    print(text)
    for out in sys.argv[1:]:
        Path(out).write_text(text + "\n")


if __name__ == "__main__":
    main()
