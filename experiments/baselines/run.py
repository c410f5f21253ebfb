"""Runs a suite: first what has to be chosen, then every method in every cell for every seed, in processes of their own.

Every choice and every outcome is a small file of its own in the folder of the benchmark, so that the same command goes on where an earlier
one was stopped, and more seeds, cells or methods may be added later.

FOLDER/runs/CELL/seed-N/                    prepared runs of limbeck, whose records all methods use
FOLDER/choices/CELL/METHOD.json             what a method was given, where no committed choice says it
FOLDER/outcomes/CELL/seed-N/METHOD.json     what it reached
FOLDER/cache/                               features of images
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from limbeck.base.errors import LimbeckError
from limbeck.base.files import alone, write_durably
from limbeck.base.progress import bars
from limbeck.base.settings import Strict
from limbeck.experiments.baselines import choice, limbeck_runs, settings
from limbeck.experiments.baselines.choice import Choice, Choices
from limbeck.experiments.baselines.contract import Outcome
from limbeck.experiments.baselines.methods import Method, method
from limbeck.experiments.baselines.suites import Cell, Suite
from limbeck.simulations.sweep import crew


class Kept(Strict):
    """An outcome, and what it is of: another scenario or other settings of the method make it another."""

    scenario: str
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One method in one cell for one seed; for a choice the seed is None."""

    method: str
    cell: Cell
    seed: int | None
    seeds: tuple[int, ...]
    folder: Path
    chosen: Choice | None
    workers: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.cell.name}, {self.method}" + (f", seed {self.seed}" if self.seed is not None else ": choosing")

    @property
    def of(self) -> Cell:
        """The cell as the method runs it: limbeck's own may differ from the scenario."""
        return self.cell.taught_by(method(self.method).teachers)

    @property
    def path(self) -> Path:
        """Of the file that it leaves."""
        if self.seed is None:
            return self.folder / "choices" / self.cell.folder / f"{self.method}.json"
        return self.folder / "outcomes" / self.cell.folder / f"seed-{self.seed}" / f"{self.method}.json"


# From a task to the sentence that will be said of it.
Submit = Callable[[Task], "Future[str]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """All that is known of a suite. outcomes: by cell, method and seed. failures: names and reasons."""

    suite: Suite
    choices: Choices
    outcomes: dict[tuple[str, str], dict[int, Outcome]]
    failures: dict[str, str]


def run(
    suite: Suite, folder: Path, *, jobs: int | None = None, anew: bool = False, console: Console | None = None
) -> Reported:
    """Run what is missing of a suite.

    - folder: absent, or of an earlier call.
    - jobs: methods at once; by default one per core, as far as the free memory goes.
    - anew: choose all settings here, rather than take the committed ones.

    Raises: SettingError if another process is at the same benchmark.
    """
    console = console or Console(quiet=True)
    at_once = jobs or crew.default_jobs(len(suite.cells) * len(suite.methods))
    with alone(folder / "benchmark.lock", "benchmark"), pool(at_once) as submit:
        known: Choices = {} if anew else choice.committed(suite.name)
        workers = max(1, crew.cores() // at_once)
        # Where a method is run for a cell: the cell itself, or one in which it reaches the same.
        places = {(cell.name, each.name): _place(suite, cell, each) for cell in suite.cells for each in suite.methods}
        missing = [
            _choosing(suite, cell, each, folder)
            for cell in suite.cells
            for each in suite.methods
            if places[cell.name, each.name] == cell and each.name not in known.get(cell.name, {})
        ]
        failures = _all(missing, submit, console, "Choosing")
        choices = {
            cell.name: {
                each.name: found
                for each in suite.methods
                if (found := _choice(suite, places[cell.name, each.name], each, folder, known))
            }
            for cell in suite.cells
        }
        tasks = {
            (cell.name, each.name, seed): Task(
                method=each.name,
                cell=cell,
                seed=seed,
                seeds=(),
                folder=folder,
                chosen=choices[cell.name][each.name],
                workers=workers,
            )
            for cell in suite.cells
            for each in suite.methods
            for seed in suite.seeds
            if places[cell.name, each.name] == cell and each.name in choices[cell.name]
        }
        failures |= _all(in_order(tasks.values()), submit, console, "Methods")
        outcomes: dict[tuple[str, str], dict[int, Outcome]] = {}
        for (cell, name), place in places.items():
            done = {seed: tasks[place.name, name, seed] for seed in suite.seeds if (place.name, name, seed) in tasks}
            kept = {seed: outcome for seed, task in done.items() if (outcome := _kept(task)) is not None}
            if kept:
                outcomes[cell, name] = kept
        return Reported(suite=suite, choices=choices, outcomes=outcomes, failures=failures)


def _place(suite: Suite, cell: Cell, each: Method) -> Cell:
    """The first cell in which a method reaches the same as in this one: if epsilon is nothing to it, of those that differ in it alone."""
    if not each.noiseless:
        return cell

    def but_epsilon(one: Cell) -> dict[str, object]:
        return one.loaded(suite.seeds[0]).model_dump(exclude={"privacy": {"epsilon"}})

    return next(one for one in suite.cells if but_epsilon(one) == but_epsilon(cell))


def in_order(tasks: Iterable[Task]) -> list[Task]:
    """So that jobs do not wait for each other: whoever measures a pool waits for the run it is of, and these take longest.

    Runs come first, then all other methods, pools last. Otherwise the order is kept, in which neighbours differ by their seeds: two jobs
    that are of the same seed would wait for the features of its records.
    """

    def place(task: Task) -> int:
        if method(task.method).run is not None:
            return 1
        return 0 if task.method in limbeck_runs.STUDENTS else 2

    return sorted(tasks, key=place)


def _choosing(suite: Suite, cell: Cell, each: Method, folder: Path) -> Task:
    return Task(method=each.name, cell=cell, seed=None, seeds=suite.choice_seeds, folder=folder, chosen=None, workers=1)


def _choice(suite: Suite, cell: Cell, each: Method, folder: Path, known: Choices) -> Choice | None:
    if each.name in known.get(cell.name, {}):
        return known[cell.name][each.name]
    task = _choosing(suite, cell, each, folder)
    return Choice.model_validate_json(task.path.read_bytes()) if task.path.exists() else None


def _all(tasks: Iterable[Task], submit: Submit, console: Console, title: str) -> dict[str, str]:
    """Work on all tasks that have left no file; returns why those failed that did, by name."""
    every = list(tasks)
    todo = [task for task in every if not _done(task)]
    failures: dict[str, str] = {}
    if not todo:
        return failures
    with bars(console) as progress:
        overall = progress.add_task(title, total=len(every), completed=len(every) - len(todo))
        waiting = {submit(task): task for task in todo}
        for future in as_completed(waiting):
            task, said = waiting[future], ""
            try:
                said = future.result()
            except LimbeckError as error:
                failures[task.name] = str(error)
            except BrokenProcessPool:
                failures[task.name] = "its process ended; perhaps there was no memory left, then fewer --jobs help"
            except Exception as error:
                # One method's mistake does not cost hours of the others'.
                failures[task.name] = f"{type(error).__name__}: {error}"
            progress.advance(overall)
            line = said or f"failed: {failures[task.name]}"
            progress.console.print(f"{escape(task.name)}: {escape(line)}", highlight=False, soft_wrap=True)
    return failures


@contextmanager
def pool(jobs: int) -> Iterator[Submit]:
    """Processes that work on tasks, so many at once; they start with the first task. Ctrl-C ends them."""
    # Most heads are small: threads would wait for each other longer than they work. Another job is the better use of a core.
    os.environ["OMP_NUM_THREADS"] = "1"
    processes = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        yield lambda task: processes.submit(work, task)
    except BaseException:
        processes.shutdown(wait=False, cancel_futures=True)
        raise
    processes.shutdown()


def _begin() -> None:
    """TLS first: gRPC decides when it is loaded which versions it accepts. Then torch, with one thread."""
    from limbeck.protos import tls  # noqa: F401, I001 - before anything that loads gRPC
    import torch

    torch.set_num_threads(1)


def work(task: Task) -> str:
    """Do one task, in this process; returns what to say of it."""
    if task.seed is None:
        chosen = choice.choose(method(task.method), task.cell, task.seeds, task.folder)
        write_durably(task.path, (chosen.model_dump_json(indent=1) + "\n").encode())
        named = ", ".join(f"{key} = {value}" for key, value in chosen.settings.items())
        return named or "nothing to choose"
    assert task.chosen is not None
    reached = outcome(task)
    kept = Kept(scenario=task.of.loaded(task.seed).model_dump_json(), outcome=reached)
    write_durably(task.path, (kept.model_dump_json(indent=1) + "\n").encode())
    return f"{100 * reached.accuracy:.1f} %, {reached.seconds:.1f} s"


def outcome(task: Task) -> Outcome:
    """What a method reaches in a cell for a seed."""
    assert task.seed is not None
    assert task.chosen is not None
    chosen = method(task.method)
    if chosen.run is None:
        folder = settings.prepared(task.of, task.seed, task.folder)
        # Student and pool are of the same run, which one of them carries out.
        with settings.locked(folder, "running"):
            return limbeck_runs.outcome(task.method, limbeck_runs.measured(folder, task.workers))
    setting = settings.of(task.cell, task.seed, task.folder)
    started = time.perf_counter()
    reached = choice.reach(chosen, setting, dict(task.chosen.settings))
    seconds = time.perf_counter() - started
    accuracies = [float(np.mean(each == setting.test_N)) for each in reached.predicted]
    return Outcome(
        method=task.method,
        settings=task.chosen.settings,
        accuracy=reached.accuracy(setting),
        best=max(accuracies),
        models=len(accuracies),
        bytes_up=reached.bytes_up,
        bytes_down=reached.bytes_down,
        seconds=seconds,
        guarantee=reached.guarantee,
        notes=reached.notes,
    )


def _done(task: Task) -> bool:
    return task.path.exists() if task.seed is None else _kept(task) is not None


def _kept(task: Task) -> Outcome | None:
    """What an earlier call left for the same scenario and the same settings of the method."""
    assert task.seed is not None
    assert task.chosen is not None
    try:
        kept = Kept.model_validate_json(task.path.read_bytes())
    except (OSError, ValidationError):
        return None
    same = kept.scenario == task.of.loaded(task.seed).model_dump_json()
    return kept.outcome if same and (kept.outcome.settings == task.chosen.settings) else None
