"""A run without privacy, to compare with: never part of the protocol.

No plan can ask for it, because sites refuse it. So the same code trains the same teachers here, in one process, with zeros in place of
noise (and with clipping); answers, pool and student are those of a run. Pooling is the plain mean: a weighted one would need counts that
sites release.

Shape legend: C sites, N samples, K classes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.base.settings import Strict
from limbeck.client import release, teachers
from limbeck.client.site import Site
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans.schema import Plan
from limbeck.server import distil, lessons, pruning, scores, student
from limbeck.server.pooling import Pool
from limbeck.server.scores import Scores
from limbeck.simulations import prepare
from limbeck.simulations.central import NoNoise
from limbeck.simulations.measure import Truth
from limbeck.simulations.metrics import Count, Quality, Seconds
from limbeck.simulations.scenario import Scenario

FILE = "baseline.json"


class BaselineStage(Strict):
    """The student after one stage."""

    sparsity: Annotated[float, Field(ge=0, lt=1)]
    student: Scores
    """On the test set, without details by class."""


class Baseline(Strict):
    """What a run without privacy reached, by the measures of a run."""

    limbeck: str
    """Version that computed it."""
    scenario: Scenario
    """Its settings; `privacy.epsilon` is not used."""
    records: tuple[Count, ...]
    """Private records of each site."""
    samples: Count
    """Public inputs."""
    teachers: Annotated[tuple[Scores, ...], Field(min_length=1)]
    """Each teacher alone on the test set, without details by class."""
    majority: Scores
    """Knowing nothing but how frequent each class is in the test set."""
    pool: Quality
    """All teachers' answers, softened, truncated and pooled; to test inputs too."""
    student: Quality
    """The finished student."""
    stages: Annotated[tuple[BaselineStage, ...], Field(min_length=1)]
    seconds: Seconds


def compute(scenario: Scenario, *, cache: Path | None = None) -> Baseline:
    """The baseline of a scenario whose sites all have a teacher that limbeck trains. cache: where downloaded data sets are."""
    from importlib.metadata import version

    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="limbeck-") as temporary:
        folder = Path(temporary) / "run"
        plan = prepare.prepare(scenario, folder, cache=cache)
        truth = Truth(folder)
        (x_N,) = read_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
        trained = []
        for settings in sorted((folder / "sites").glob("*/site.toml")):
            site = Site(settings.parent)
            own = site.records.find(plan.classes, x_N)
            trained.append(
                teachers.train(
                    plan.teaching,
                    own.x_N,
                    own.y_N,
                    classes=plan.classes,
                    public_x=x_N,
                    noise=NoNoise(),
                    class_weights=plan.class_weights,
                    cache=site.cache,
                    factory=site.factory,
                )
            )
        tests = [teacher.log_probabilities(truth.test_x, cache=folder / "cache") for teacher in trained]
        answers = [teacher.log_probabilities(x_N, cache=folder / "cache") for teacher in trained]
    names, test_y, test_x = truth.class_names, truth.test_y, torch.from_numpy(truth.test_x)
    model = student.build(plan.student.architecture, x_N.shape[1:], plan.classes, plan.public_seed)
    masks, stages = pruning.Masks.ones(model), []
    device = torch.device("cpu")
    taught = lessons.Lessons(plan, torch.from_numpy(x_N), cache=None, device=device)
    for index, stage in enumerate(plan.stages):
        targets_NK = _pooled(answers, plan, stage.temperature)
        lesson = taught.of(targets_NK, index)
        distil.distil_stage(
            model,
            masks,
            torch.from_numpy(x_N),
            lesson.targets_NK,
            stage=index,
            sparsity=stage.sparsity,
            temperature=lesson.temperature,
            student=lesson.student,
            seed=plan.public_seed,
            device=device,
        )
        predicted = scores.score(distil.predict(model, test_x).numpy(), test_y, names).whole
        stages.append(BaselineStage(sparsity=stage.sparsity, student=predicted))
    return Baseline(
        limbeck=version("limbeck"),
        scenario=scenario,
        records=tuple(truth.counts.sum(1).tolist()),
        samples=plan.samples,
        teachers=tuple(scores.score(each.exp().numpy(), test_y, names).whole for each in tests),
        majority=scores.majority(test_y, plan.classes, names).whole,
        pool=Quality(
            test=scores.score(_pooled(tests, plan, plan.stages[-1].temperature).numpy(), test_y, names),
            public=truth.on_public(targets_NK),
        ),
        student=Quality(
            test=scores.score(distil.predict(model, test_x).numpy(), test_y, names),
            public=truth.on_public(distil.predict(model, torch.from_numpy(x_N))),
        ),
        stages=tuple(stages),
        seconds=time.perf_counter() - started,
    )


def _pooled(log_p_CNK: Sequence[Tensor], plan: Plan, temperature: float) -> Tensor:
    """(N, K) targets from the answers of all sites."""
    pool = Pool(samples=len(log_p_CNK[0]), classes=plan.classes)
    for log_p_NK in log_p_CNK:
        pool.add(release.answers(log_p_NK, plan, temperature, NoNoise()))
    return pool.result()


def write(baseline: Baseline, folder: Path) -> Path:
    """Write FOLDER/baseline.json, whole or not at all; returns its path."""
    path = folder / FILE
    write_durably(path, json.dumps(baseline.model_dump(mode="json"), indent=1).encode())
    return path


def read(folder: Path) -> Baseline:
    """The baseline in `folder`. Raises: RunError if there is none that can be read."""
    path = folder / FILE
    try:
        return Baseline.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(f"Expected a baseline in {path}: {error}.") from error
