"""What the local carrier itself costs: `python -m limbeck.experiments.benchmarks.carrier [OUT.json]`.

Runs the scenario digits-hundred (100 clients, 4 stages) with client workers that note the seconds they spend in training and inference.
The rest of the wall-clock time of agreeing, teaching and answering is overhead: processes, messages, codec, ledgers, transcripts, pooling,
checkpoints.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import Tensor

from limbeck.client import teachers
from limbeck.client.app import respond
from limbeck.client.site import Site
from limbeck.client.teachers import Teacher
from limbeck.experiments.benchmarks import runner
from limbeck.protos import carry
from limbeck.simulations import run
from limbeck.simulations.scenario import Scenario, load

# Workers are forked from one process that keeps the environment it started with, so they write into a folder of the run.
TIMES = "times"
REPEATS = 3
APP = "limbeck.experiments.benchmarks.carrier:app"

app = ClientApp()


@dataclass(frozen=True, slots=True)
class TimedTeacher:
    """A teacher that notes the seconds of inference in a folder."""

    teacher: Teacher
    times: Path

    def log_probabilities(self, x_N: NDArray[np.generic], *, cache: Path | None = None) -> Tensor:
        """As the teacher does."""
        with _noted(self.times):
            return self.teacher.log_probabilities(x_N, cache=cache)

    def save(self, path: Path) -> None:
        """As the teacher does."""
        self.teacher.save(path)


@dataclass(frozen=True, slots=True)
class TimedTeachers:
    """Limbeck's own teachers, with the seconds of training and inference noted in a folder."""

    times: Path

    def train(self, *arguments: object, **options: object) -> Teacher:
        """As `teachers.train`."""
        train: Callable[..., Teacher] = teachers.train
        with _noted(self.times):
            return TimedTeacher(train(*arguments, **options), self.times)

    def load(self, *arguments: object, **options: object) -> Teacher:
        """As `teachers.load`."""
        load: Callable[..., Teacher] = teachers.load
        return TimedTeacher(load(*arguments, **options), self.times)


@contextmanager
def _noted(times: Path) -> Iterator[None]:
    """Append the seconds that this takes to a file of this process."""
    started = time.perf_counter()
    try:
        yield
    finally:
        times.mkdir(exist_ok=True)
        with (times / str(os.getpid())).open("a") as file:
            file.write(f"{time.perf_counter() - started}\n")


@app.query("agree")
@app.train("teach")
@app.query("share")
def answer(message: Message, context: Context) -> Message:
    """What limbeck's client app answers, with timed teachers."""
    site = Site.of(context.node_config)
    # RUN/sites/NAME
    reply = respond(site, carry.unpack(message.content), backend=TimedTeachers(site.folder.parents[1] / TIMES))
    return Message(carry.pack(reply), reply_to=message)


def one_run(scenario: Scenario) -> dict[str, float]:
    """Seconds of one run, by kind."""
    workers = scenario.run.workers or os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        measured = run.simulate(scenario, Path(folder) / "run", client_app=APP)
        noted = [path.read_text().splitlines() for path in (Path(folder) / "run" / TIMES).iterdir()]
    seconds, work = measured.seconds, sum(float(line) for lines in noted for line in lines)
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


def measure() -> dict[str, object]:
    """All figures."""
    scenario = load("digits-hundred", [f"run.workers={os.cpu_count() or 1}"])
    rows = [one_run(scenario) for _ in range(REPEATS)]
    return {
        "clients": 100,
        "stages": 4,
        "median_seconds": {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]},
    }


def main() -> None:
    """The command."""
    runner.main("carrier", measure, description=__doc__, machine=runner.all_cores)


if __name__ == "__main__":
    main()
