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

TIMES = "LIMBECK_BENCHMARK_TIMES"
REPEATS = 3
APP = "limbeck.experiments.benchmarks.carrier:app"

app = ClientApp()


@dataclass(frozen=True, slots=True)
class TimedTeacher:
    """A teacher that notes the seconds of inference."""

    teacher: Teacher

    def log_probabilities(self, x_N: NDArray[np.generic], *, cache: Path | None = None) -> Tensor:
        """As the teacher does."""
        with _noted():
            return self.teacher.log_probabilities(x_N, cache=cache)

    def save(self, path: Path) -> None:
        """As the teacher does."""
        self.teacher.save(path)


class TimedTeachers:
    """Limbeck's own teachers, with the seconds of training and inference noted."""

    def train(self, *arguments: object, **options: object) -> Teacher:
        """As `teachers.train`."""
        train: Callable[..., Teacher] = teachers.train
        with _noted():
            return TimedTeacher(train(*arguments, **options))

    def load(self, *arguments: object, **options: object) -> Teacher:
        """As `teachers.load`."""
        load: Callable[..., Teacher] = teachers.load
        return TimedTeacher(load(*arguments, **options))


@contextmanager
def _noted() -> Iterator[None]:
    """Append the seconds that this takes to a file of this process."""
    started = time.perf_counter()
    try:
        yield
    finally:
        with (Path(os.environ[TIMES]) / str(os.getpid())).open("a") as file:
            file.write(f"{time.perf_counter() - started}\n")


@app.query("agree")
@app.train("teach")
@app.query("share")
def answer(message: Message, context: Context) -> Message:
    """What limbeck's client app answers, with timed teachers."""
    reply = respond(Site.of(context.node_config), carry.unpack(message.content), backend=TimedTeachers())
    return Message(carry.pack(reply), reply_to=message)


def one_run(scenario: Scenario, times: Path) -> dict[str, float]:
    """Seconds of one run, by kind. times: the folder in which client workers note theirs; it is emptied here."""
    workers = scenario.run.workers or os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        measured = run.simulate(scenario, Path(folder) / "run", client_app=APP)
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


def measure() -> dict[str, object]:
    """All figures."""
    with tempfile.TemporaryDirectory() as times:
        # Workers are forked from one process that keeps the environment it started with.
        os.environ[TIMES] = times
        scenario = load("digits-hundred", [f"run.workers={os.cpu_count() or 1}"])
        rows = [one_run(scenario, Path(times)) for _ in range(REPEATS)]
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
