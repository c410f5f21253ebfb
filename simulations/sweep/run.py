"""A sweep from its settings to its page. The same sweep into the same folder goes on where it was stopped; what has finished stays.

SWEEP/sweep.json      what is swept: the settings that all runs share, and the swept ones
SWEEP/runs/CELL/      one folder per seed, a run's or a baseline's; beside it what it printed, and why it failed
SWEEP/sweep.html      the page
SWEEP/runs.csv        one row per run; stages.csv: one per stage of each run; summary.csv: mean and spread of every cell
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from limbeck.base.errors import RunError
from limbeck.base.files import alone, write_durably
from limbeck.base.progress import bars
from limbeck.base.settings import Strict
from limbeck.server import events
from limbeck.simulations import metrics
from limbeck.simulations.metrics import Metrics
from limbeck.simulations.sweep import baseline, crew
from limbeck.simulations.sweep.baseline import Baseline
from limbeck.simulations.sweep.cells import Axis, Planned
from limbeck.simulations.sweep.rows import flat
from limbeck.simulations.sweep.worker import FAILED

FILE = "sweep.json"
POLL_SECONDS = 0.3
# Of a run's events, from the end: the last lines say what it is doing.
TAIL_BYTES = 4096
_ELSEWHERE = "give another folder with --out"


class Swept(Strict):
    """What a folder's sweep is about. A sweep with another value here is another sweep."""

    scenario: Mapping[str, object]
    """The settings that all runs share, under keys such as "student.epochs"."""
    over: tuple[str, ...]
    """The keys that are swept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that has finished, and what it reached."""

    planned: Planned
    folder: Path
    measured: Metrics | Baseline


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A run that has failed. name: of cell and seed."""

    name: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a sweep has come to: its runs in the order of the grid, and those that failed."""

    finished: tuple[Finished, ...]
    failures: tuple[Failure, ...]


def swept(planned: Sequence[Planned], axes: Sequence[Axis]) -> Swept:
    """What a sweep of these runs is about: values and seeds may be added to it later, nothing else."""
    keys = tuple(axis.key for axis in axes)
    own = {*keys, "run.seed", "run.workers"}
    shared = {key: value for key, value in flat(planned[0].scenario).items() if key not in own}
    return Swept(scenario=shared, over=keys)


def default_folder(name: str, about: Swept) -> Path:
    """Where a sweep goes if nobody says where: the same settings lead to the same folder, so that the same command goes on."""
    return Path("runs") / f"sweep-{name}-{sha256(about.model_dump_json().encode()).hexdigest()[:6]}"


def run(
    planned: Sequence[Planned],
    axes: Sequence[Axis],
    folder: Path,
    *,
    jobs: int | None = None,
    console: Console | None = None,
) -> Outcome:
    """Make every run of a sweep that has not finished yet; returns all of them.

    - planned: by `cells.plan`.
    - folder: absent, empty, or of an earlier call for the same settings.
    - jobs: runs at once; by default one per core, as far as the free memory goes.
    - console: for progress; none by default.

    Raises: RunError if the folder holds something else; SettingError if another process is at the same sweep.
    """
    console = console or Console(quiet=True)
    about = swept(planned, axes)
    _check(folder, about)
    with alone(folder / "sweep.lock", "sweep"):
        write_durably(folder / FILE, (json.dumps(about.model_dump(mode="json"), indent=1) + "\n").encode())
        todo = [each for each in planned if not _has_finished(each, folder)]
        failures: dict[str, str] = {}
        if todo:
            at_once = jobs or crew.default_jobs(len(todo))
            with crew.Crew(todo, folder, jobs=at_once) as processes, bars(console) as progress:
                failures = _follow(processes, todo, folder, progress, len(planned))
        return Outcome(
            finished=tuple(_finished(each, folder) for each in planned if each.name not in failures),
            failures=tuple(Failure(name=name, problem=problem) for name, problem in failures.items()),
        )


def read(folder: Path) -> tuple[Path, ...]:
    """The folders of all finished runs in the folder of a sweep, in the order of their names. Raises: RunError if there is none."""
    found = sorted(path.parent for path in folder.glob("runs/*/*/*") if path.name in {metrics.FILE, baseline.FILE})
    if not found:
        raise RunError(f"Expected finished runs in the sweep {folder}, found none.")
    return tuple(found)


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / FILE).exists()


def measured(folder: Path) -> Metrics | Baseline:
    """What the run in a folder reached. Raises: RunError if it is no finished run."""
    return baseline.read(folder) if (folder / baseline.FILE).exists() else metrics.read(folder)


def _check(folder: Path, about: Swept) -> None:
    """Raise RunError if the folder belongs to something else."""
    path = folder / FILE
    try:
        earlier = Swept.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        if folder.exists() and any(each.name != "sweep.lock" for each in folder.iterdir()):
            raise RunError(f"Expected an empty or absent folder, or that of a sweep, got {folder}; {_ELSEWHERE}.") from None
        return
    except ValidationError as error:
        raise RunError(f"Expected the settings of a sweep in {path}: {error}.") from None
    if earlier.over != about.over:
        raise RunError(
            f"Expected a sweep over {' and '.join(earlier.over) or 'seeds alone'}, as {folder} holds, got one over"
            f" {' and '.join(about.over) or 'seeds alone'}; {_ELSEWHERE}."
        )
    # As JSON has them: lists for tuples.
    asked = Swept.model_validate_json(about.model_dump_json()).scenario
    # A setting that an earlier version did not have has its default there.
    for key, had in sorted(earlier.scenario.items()):
        wanted = asked.get(key)
        if had != wanted:
            raise RunError(f"Expected {key} = {had!r}, as in the sweep {folder}, got {wanted!r}; {_ELSEWHERE}.")


def _has_finished(planned: Planned, sweep: Path) -> bool:
    """Whether the run is there. Raises: RunError if there is one of other settings in its place."""
    folder = planned.folder(sweep)
    if not (folder / (baseline.FILE if planned.cell.without_privacy else metrics.FILE)).exists():
        return False
    _finished(planned, sweep)
    return True


def _finished(planned: Planned, sweep: Path) -> Finished:
    folder = planned.folder(sweep)
    reached = measured(folder)
    had, wanted = flat(reached.scenario), flat(planned.scenario)
    for key in sorted({*had, *wanted} - {"run.workers"}):
        if had.get(key) != wanted.get(key):
            raise RunError(f"Expected {key} = {wanted.get(key)!r} in the run {folder}, got {had.get(key)!r}; {_ELSEWHERE}.")
    return Finished(planned=planned, folder=folder, measured=reached)


def _follow(processes: crew.Crew, todo: Sequence[Planned], folder: Path, progress: Progress, runs: int) -> dict[str, str]:
    """Show how the runs go on until all have ended; returns why those failed that did, by name."""
    failures: dict[str, str] = {}
    overall = progress.add_task("Runs", total=runs, completed=runs - len(todo))
    running: dict[str, tuple[Planned, TaskID]] = {}
    done = runs - len(todo)
    for event in processes.news(POLL_SECONDS):
        match event:
            case crew.Begun(planned=planned):
                running[planned.name] = planned, progress.add_task(escape(planned.name), total=None)
            case crew.Ended(planned=planned, problem=problem):
                progress.remove_task(running.pop(planned.name)[1])
                done += 1
                problem = problem or _what_is_wrong(planned, folder)
                if problem:
                    failures[planned.name] = problem
                    _note_failure(planned.folder(folder), problem)
                said = f"failed: {problem}" if problem else _in_short(measured(planned.folder(folder)))
                progress.console.print(
                    f"{done:>4}/{runs} {escape(planned.name)}: {escape(said)}", highlight=False, soft_wrap=True
                )
                progress.update(overall, completed=done)
            case None:
                for planned, task in running.values():
                    _show(planned, planned.folder(folder) / "server" / "events.jsonl", progress, task)
    return failures


def _what_is_wrong(planned: Planned, sweep: Path) -> str:
    """Why a run that has ended cannot be read; empty if it can."""
    try:
        _finished(planned, sweep)
    except RunError as error:
        return str(error)
    return ""


def _note_failure(folder: Path, problem: str) -> None:
    """So that the next call makes it anew, instead of going on with what has failed."""
    write_durably(folder.with_name(folder.name + FAILED), (problem + "\n").encode())
    for name in (metrics.FILE, baseline.FILE):
        (folder / name).unlink(missing_ok=True)


def _in_short(reached: Metrics | Baseline) -> str:
    if isinstance(reached, Baseline):
        return f"student {100 * reached.stages[-1].student.accuracy:.1f} %, without privacy, {reached.seconds:.0f} s"
    return f"student {100 * reached.student.accuracy:.1f} %, {reached.seconds.get('total', 0):.0f} s"


def _show(planned: Planned, file: Path, progress: Progress, task: TaskID) -> None:
    """What a run is doing, from the last of its events."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - TAIL_BYTES))
            lines = stream.read().splitlines()[1:]
    except OSError:
        return
    last = None
    for line in events.read(lines):
        if isinstance(line.event, events.Progress):
            last = line.event
    if last is not None:
        progress.update(
            task, description=escape(f"{planned.name}: {last.phase.title}"), completed=last.done, total=last.total
        )
