"""limbeck itself, through the real system: the run of the scenario in the setting's folder, and its pool beside its student."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from limbeck.base.errors import RunError
from limbeck.experiments.baselines.contract import Guarantee, Outcome
from limbeck.server.scores import Scores
from limbeck.simulations import metrics, run
from limbeck.simulations.metrics import Metrics, Quality

STUDENT, POOL = "limbeck", "limbeck-pool"
WITH_EVIDENCE, POOL_WITH_EVIDENCE = "limbeck-evidence", "limbeck-evidence-pool"
WITH_HEADS, POOL_WITH_HEADS = "limbeck-linear", "limbeck-linear-pool"
STUDENTS = (STUDENT, WITH_EVIDENCE, WITH_HEADS)
# Teachers in place of the scenario's own.
Teachers = Literal["evidence", "linear"]
# A scenario with teachers whose answers add up, in place of its own; temperature and ridge follow from public facts.
EVIDENCE = ("teacher.kind=evidence", "stages.temperature=auto", "pooling.kind=mean")


def measured(folder: Path, workers: int) -> Metrics:
    """The metrics of the prepared run in `folder`, which is carried out, or gone on with, if it has not finished.

    workers: client processes at once.
    """
    if (folder / metrics.FILE).exists():
        return metrics.read(folder)
    return run.resume(folder, workers=workers)


def outcome(method: str, measured: Metrics) -> Outcome:
    """What the student of a run reached, or its pool on the same test set; what a pool costs is what the run costs."""
    quality = measured.student.quality if method in STUDENTS else measured.pool.quality
    scores = _scores(quality, method)
    clients = measured.clients
    epsilons = [client.epsilon for client in clients]
    known = [epsilon for epsilon in epsilons if epsilon is not None]
    student = measured.student
    about = (
        f"{student.architecture}, {100 * measured.stages[-1].sparsity:.0f} % sparse"
        if method in STUDENTS
        else "no model of its own"
    )
    return Outcome(
        method=method,
        settings={},
        accuracy=scores.accuracy,
        best=scores.accuracy,
        models=1,
        bytes_up=sum(client.bytes_up for client in clients) / len(clients),
        bytes_down=sum(client.bytes_down for client in clients) / len(clients),
        seconds=measured.seconds.get("total", 0.0),
        guarantee=Guarantee(
            epsilon=max(known) if len(known) == len(epsilons) and measured.noise != "UnsafeSeeded" else None,
            delta=clients[0].delta,
            unit=clients[0].unit,
            adjacency=clients[0].adjacency,
            composed="the most that any site's ledger says, by privacy loss distributions",
        ),
        notes=f"{about}; bytes are those of the real messages",
    )


def _scores(quality: Quality, method: str) -> Scores:
    if quality.test is None:
        raise RunError(f"Expected a test accuracy of {method}, got none: {quality.why}.")
    return quality.test.whole
