"""A simulation from Python: run one, or open the folder of a finished one, and read what it reached as typed values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.server.card import Epsilon
from limbeck.server.scores import Scores
from limbeck.simulations import metrics as measured
from limbeck.simulations.metrics import Compared, Metrics
from limbeck.simulations.scenario import Scenario, parse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limbeck.server.exported import Inputs, Student

__all__ = ["Epsilon", "Paths", "Run", "load_run", "new_folder", "simulate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where the files of a run are. Each exists in a finished run, except what was deleted since.

    - folder: the run's own folder, which holds the others.
    - report: one HTML page that needs no network.
    - metrics: metrics.json.
    - plan: the signed plan, as it was offered to the sites.
    - student: the folder with the finished student: ONNX, safetensors, model card.
    - record: what the coordinator noted of sites and stages.
    - sites: one folder per site, by name, with policy, ledger and transcript; another run's if the sites are of an earlier run.
    """

    folder: Path
    report: Path
    metrics: Path
    plan: Path
    student: Path
    record: Path
    sites: dict[str, Path]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Run:
    """A finished run.

    - folder: the run's folder.
    - metrics: accuracy, privacy, bytes and times, as in metrics.json.
    """

    folder: Path
    metrics: Metrics

    def __repr__(self) -> str:
        name, sites, stages = self.metrics.scenario_name, len(self.metrics.clients), len(self.metrics.stages)
        return f"Run({str(self.folder)!r}: {name}, {sites} sites, {stages} stages)"

    @property
    def scenario(self) -> Scenario:
        """The settings that were simulated."""
        return self.metrics.scenario

    @property
    def epsilons(self) -> dict[str, Epsilon]:
        """What each site has spent according to its ledger, by the site's name."""
        return {
            client.site: Epsilon(
                value=math.inf if client.epsilon is None else client.epsilon,
                delta=client.delta,
                unit=client.unit,
                adjacency=client.adjacency,
                seeded=self.metrics.noise == "UnsafeSeeded",
            )
            for client in self.metrics.clients
        }

    @property
    def comparison(self) -> tuple[Compared, ...]:
        """What is compared, from the majority class over sites alone and a central teacher to the student: the rows of every table.

        Each has all measures on the test set and on the public inputs. Empty for a run of limbeck 0.1.0.
        """
        return self.metrics.comparison

    @property
    def scores(self) -> Scores | None:
        """All measures of the finished student on the test set, as it is handed over; None for a run of limbeck 0.1.0."""
        student = self.metrics.student
        return (student.calibrated or student.quality).test

    @property
    def student(self) -> Student:
        """The finished student, read from its ONNX file. Raises: RunError or DataError if it cannot be read."""
        from limbeck.server.exported import load_student

        return load_student(self.folder)

    @property
    def students(self) -> tuple[Student, ...]:
        """The student after each stage, from dense to sparse, read from the checkpoints: as trained, so without calibration and card.

        Raises: RunError if one cannot be read.
        """
        return tuple(_after_stage(self.folder, stage.stage) for stage in self.metrics.stages)

    @property
    def report(self) -> Path:
        """The report, one HTML page; made from the metrics if it is not there. Raises: RunError if that is impossible."""
        if self.paths.report.exists():
            return self.paths.report
        from limbeck.simulations import report

        return report.build(self.folder)

    @property
    def paths(self) -> Paths:
        """Where the files are. Raises: RunError if the folder no longer holds a prepared run."""
        from limbeck.simulations.prepare import read_prepared

        sites = read_prepared(self.folder)[2]
        return Paths(
            folder=self.folder,
            report=self.folder / "report.html",
            metrics=self.folder / measured.FILE,
            plan=self.folder / "plan.pb",
            student=_student_folder(self.folder),
            record=self.folder / "server" / "record.json",
            sites={client.site: sites / client.site for client in self.metrics.clients},
        )


def simulate(scenario: Scenario | Path | str = "default", *, out: Path | str | None = None, progress: bool = False) -> Run:
    """Simulate a federation: the real client and server apps on real records.

    - scenario: the name of one that comes with limbeck, the path of a TOML file, or a `Scenario`.
    - out: the folder of the run, which must be empty or absent; by default runs/SCENARIO-DATE-TIME.
    - progress: show progress bars on standard error.

    Raises: SettingError, naming every problem of the scenario; DataError if its data cannot be read; RunError if `out` is not empty, or if
    the run cannot finish; TooFewClients if fewer sites take part than the scenario requires.
    """
    from rich.console import Console

    from limbeck.simulations import run

    settings = parse(scenario.model_dump()) if isinstance(scenario, Scenario) else Scenario.load(scenario)
    folder = new_folder(settings) if out is None else Path(out)
    run.simulate(settings, folder, console=Console(stderr=True) if progress else None)
    return load_run(folder)


def load_run(folder: Path | str) -> Run:
    """The finished run in `folder`. Raises: RunError if there is none, or naming what is wrong with its metrics."""
    return Run(folder=Path(folder), metrics=measured.read(Path(folder)))


def new_folder(scenario: Scenario) -> Path:
    """Where a run goes if nobody says where: runs/SCENARIO-DATE-TIME."""
    return Path("runs") / f"{scenario.name}-{datetime.now():%Y%m%d-%H%M%S}"


def _student_folder(folder: Path) -> Path:
    """RUN/student, which limbeck 0.1.0 did not write."""
    finished = folder / "student"
    return finished if finished.is_dir() else folder / "server" / "student"


def _after_stage(folder: Path, stage: int) -> Student:
    import torch

    from limbeck.server import checkpoint, distil
    from limbeck.server.exported import load_student
    from limbeck.simulations import measure

    model, _ = measure.load_student(folder, stage)

    def forward(x_N: Inputs) -> NDArray[np.float32]:
        p_NK: NDArray[np.float32] = distil.predict(model, torch.from_numpy(x_N)).numpy()
        return p_NK

    path = checkpoint.path_of(folder / "server" / "checkpoints", stage)
    return replace(load_student(folder), path=path, card=None, forward=forward)
