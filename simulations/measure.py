"""Measures a finished run: its metrics, from what the coordinator and the sites left behind and what only the simulation knows.

Everything that is compared is measured on the test set and on the public inputs, by the same measures (`limbeck.server.scores`).

Shape legend: N inputs, K classes.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor, nn

from limbeck.base.errors import DataError, RunError
from limbeck.base.progress import Progress
from limbeck.client import teachers
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.client.teachers import Teacher
from limbeck.client.teachers.votes import Votes
from limbeck.client.witness import SEEDED
from limbeck.inputs.transfer_set import read_arrays, read_headers
from limbeck.operators import Power
from limbeck.plans import accounting, privacy_filter, second_opinion
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.protos.messages import Guarantee
from limbeck.server import checkpoint, distil, lessons, pruning, student
from limbeck.server.export import ExportReport
from limbeck.server.record import ClientRecord, Record, StageRecord
from limbeck.server.scores import Scores, majority, score
from limbeck.server.states import SiteState
from limbeck.simulations import black_box, contribution, metrics
from limbeck.simulations.answering import Pools
from limbeck.simulations.central import Central, Kind, noise_of
from limbeck.simulations.metrics import (
    ClientMetrics,
    MachineMetrics,
    Metrics,
    PartitionMetrics,
    Phase,
    PlanMetrics,
    PoolMetrics,
    Quality,
    SecondOpinion,
    SiteInputs,
    StageMetrics,
    StageSeconds,
    StudentBytes,
    StudentMetrics,
)
from limbeck.simulations.scenario import Scenario

Inputs = NDArray[np.generic]

PACKAGES = ("limbeck", "torch", "flwr", "opacus", "dp-accounting", "numpy", "onnx", "onnxruntime")
VOTES = "noisy votes exist for the public inputs alone; others would need a further charge"
LABELS = "its black-box teacher gives labels, and none were drawn for other inputs"
# A site that never joined.
ABSENT = ClientRecord(state=SiteState.ABSENT)


class Truth:
    """What only the simulation knows. Arrays as `prepare` wrote them."""

    def __init__(self, folder: Path) -> None:
        names = ("public_y", "test_x", "test_y", "class_names", "counts")
        path = folder / "truth.npz"
        public_y, self.test_x, self.test_y, class_names, self.counts = read_arrays(path, *names)
        # -1 where it is unknown.
        self.public_y = public_y.astype(np.int64)
        self.class_names = [str(name) for name in class_names]
        try:
            (self.test_sites,) = read_arrays(path, "test_sites")
        except DataError:  # prepared by an earlier version
            self.test_sites = np.full(len(self.test_y), -1)

    def on_test(self, p_NK: Tensor) -> Scores:
        """The scores of probabilities of the test set."""
        return score(p_NK.numpy(), self.test_y, self.class_names)

    def on_public(self, p_NK: Tensor) -> Scores | None:
        """The scores of probabilities of those public inputs whose label is known; None if that is none."""
        known_N = self.public_y >= 0
        return score(p_NK.numpy()[known_N], self.public_y[known_N], self.class_names) if known_N.any() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """What a site's teacher says, as log-probabilities (N, K) of the test set and of the public inputs, or why one cannot be known."""

    test: Tensor | None = None
    public: Tensor | None = None
    why: str = ""


def dense_control(folder: Path, plan: Plan, progress: Progress | None = None) -> None:
    """A student that is trained exactly as the sparse one, on the same pools, but never pruned.

    Kept in RUN/dense/, one checkpoint a stage, so that a run that is measured again does not train it again.
    """
    x_N = _public_inputs(folder, plan)
    model = student.build(plan.student.architecture, x_N.shape[1:], plan.classes, plan.public_seed)
    masks = pruning.Masks.ones(model)
    last = checkpoint.load_last(folder / "dense")
    if last is not None:
        checkpoint.restore(last, model, masks)
    device = torch.device("cpu")
    taught = lessons.Lessons(plan, torch.from_numpy(x_N), cache=folder / "cache", device=device)
    for stage in range(last.stage + 1 if last else 0, len(plan.stages)):
        targets_NK = _checkpoint(folder, stage).targets_NK
        lesson = taught.of(targets_NK, stage)
        distil.distil_stage(
            model,
            masks,
            torch.from_numpy(x_N),
            lesson.targets_NK,
            stage=stage,
            sparsity=0.0,
            temperature=lesson.temperature,
            student=lesson.student,
            seed=plan.public_seed,
            device=device,
            progress=lambda done, total, stage=stage: (
                progress(stage * total + done, total * len(plan.stages)) if progress else None
            ),  # type: ignore[misc]
        )
        checkpoint.save_stage(folder / "dense", stage, model, masks, targets_NK)


def measure(
    folder: Path,
    scenario: Scenario,
    plan: Plan,
    sites: Path,
    *,
    carrier: str,
    seconds: Mapping[Phase, float],
    dense: bool = False,
    central: Mapping[Kind, Central] | None = None,
    temperature: float = 1.0,
) -> Metrics:
    """The metrics of the finished run in `folder`, which are also written there.

    - sites: the folder of all site folders.
    - carrier: "local" or "flower".
    - seconds: wall-clock seconds of each phase.
    - dense: whether there is a dense control, as `dense_control` leaves it.
    - central: teachers of all records to compare with, as `limbeck.simulations.central` trains them.
    - temperature: by which the logits of the student that is handed over are divided.
    """
    truth, public_x = Truth(folder), _public_inputs(folder, plan)
    plan_hash = codec.plan_hash(plan)
    record = Record(folder / "server" / "record.json", plan_hash)
    paths = sorted(sites.glob("*/site.toml"))
    noise = noise_of("answers", scenario)
    pools = Pools(plan, len(truth.test_y), record.stages, record.clients, noise)
    alone = [
        _alone(Site(path.parent), index, scenario, plan, truth, public_x, record.clients, pools, folder / "cache")
        for index, path in enumerate(paths)
    ]
    stages, last = _stages(folder, plan, truth, public_x, record.stages, pools, dense, temperature)
    pools_without = contribution.accuracies_without(plan, record.stages[-1], record.clients, sites, truth.public_y)
    clients = tuple(
        _client(Site(path.parent), index, site, truth, record.clients, last, pools_without)
        for index, (path, site) in enumerate(zip(paths, alone, strict=True))
    )
    names = tuple(client.site for client in clients)
    exported = TypeAdapter(ExportReport).validate_json((folder / "server" / "student" / "export.json").read_bytes())
    measured = Metrics(
        limbeck=version("limbeck"),
        scenario_name=scenario.name,
        description=scenario.description,
        scenario=scenario,
        plan=PlanMetrics(
            hash=plan_hash.hex(),
            name=plan.name,
            transfer_set=plan.transfer_set.hex(),
            samples=plan.samples,
            classes=plan.classes,
            noise_multiplier=plan.teaching.noise_multiplier,
            label_counts_noise_std=plan.label_counts.noise_std if plan.label_counts else None,
            label_counts_noise=plan.label_counts.noise.value if plan.label_counts else None,
            black_box_draws=plan.black_box.draws if plan.black_box else None,
        ),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        machine=MachineMetrics(
            cores=os.cpu_count(),
            processor=platform.processor() or platform.machine(),
            device="cuda" if torch.cuda.is_available() else "cpu",
        ),
        noise=scenario.privacy.noise,
        partition=PartitionMetrics(
            kind=scenario.partition_kind,
            alpha=scenario.partition.alpha,
            class_names=tuple(truth.class_names),
            sites=names,
            counts=tuple(map(tuple, truth.counts.tolist())),
        ),
        clients=clients,
        unnamed_nodes={node: client.reason for node, client in record.clients.items() if node not in names},
        pool=PoolMetrics(accuracy=stages[-1].pool_accuracy, quality=last.pool),
        stages=stages,
        student=StudentMetrics(
            architecture=plan.student.architecture,
            parameters=exported.parameters,
            nonzero=exported.nonzero,
            bytes=StudentBytes(
                safetensors=exported.safetensors, safetensors_gzip=exported.safetensors_gzip, onnx=exported.onnx
            ),
            onnx_max_difference=exported.onnx_max_difference,
            accuracy=stages[-1].sparse_accuracy,
            dense_accuracy=stages[-1].dense_accuracy,
            confusion=last.confusion,
            quality=last.student,
            calibrated=last.calibrated,
            dense=last.dense,
        ),
        carrier=carrier,
        seconds=seconds,
        majority=_majority(truth, plan.classes),
        central=_central((central or {}).get("private"), truth, public_x, folder / "cache"),
        without_privacy=_central((central or {}).get("without-noise"), truth, public_x, folder / "cache"),
        warnings=tuple(record.warnings),
    )
    metrics.write(measured, folder)
    return measured


def _public_inputs(folder: Path, plan: Plan) -> Inputs:
    (x_N,) = read_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    return x_N


def _majority(truth: Truth, classes: int) -> Quality:
    public_y = truth.public_y[truth.public_y >= 0]
    return Quality(
        test=majority(truth.test_y, classes, truth.class_names),
        public=majority(public_y, classes, truth.class_names) if len(public_y) else None,
    )


def _central(central: Central | None, truth: Truth, public_x: Inputs, cache: Path) -> Quality | None:
    if central is None:
        return None
    if central.teacher is None:
        return Quality(why=central.why)
    return _quality(_asked(central.teacher, truth, public_x, cache), truth)


def _quality(answers: _Answers, truth: Truth) -> Quality:
    return Quality(
        test=None if answers.test is None else truth.on_test(answers.test.exp()),
        public=None if answers.public is None else truth.on_public(answers.public.exp()),
        why=answers.why,
    )


def _asked(teacher: Teacher, truth: Truth, public_x: Inputs, cache: Path) -> _Answers:
    public = teacher.log_probabilities(public_x, cache=cache)
    if isinstance(teacher, Votes):
        return _Answers(public=public, why=VOTES)
    return _Answers(test=teacher.log_probabilities(truth.test_x, cache=cache), public=public)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alone:
    """One site's teacher: its scores, and its probabilities of those test inputs that are the site's own."""

    quality: Quality
    own: Tensor | None


def _alone(
    site: Site,
    index: int,
    scenario: Scenario,
    plan: Plan,
    truth: Truth,
    public_x: Inputs,
    recorded: Mapping[str, ClientRecord],
    pools: Pools,
    cache: Path,
) -> _Alone:
    """Measure a site's teacher, and give its answers to the test set to the pools. index: of the site."""
    file = site.state(codec.plan_hash(plan)) / "teacher.safetensors"
    answers = _Answers(why="it has no teacher")
    if recorded.get(site.name, ABSENT).guarantee is Guarantee.NONE:
        test, public = (black_box.probabilities(site.folder, x_N, plan.classes) for x_N in (truth.test_x, public_x))
        answers = _Answers(test=torch.from_numpy(test).float().log(), public=torch.from_numpy(public).float().log())
    elif file.exists():
        answers = _asked(teachers.load(file, factory=site.factory), truth, public_x, cache)
    if answers.test is None:
        pools.cannot(site.name, answers.why)
    elif scenario.black_box.labels_only and recorded[site.name].guarantee is Guarantee.NONE:
        pools.cannot(site.name, LABELS)
    else:
        pools.add(site.name, answers.test)
    return _Alone(
        quality=_quality(answers, truth).whole,
        own=None if answers.test is None else answers.test[torch.from_numpy(truth.test_sites == index)].exp(),
    )


def _client(
    site: Site,
    index: int,
    alone: _Alone,
    truth: Truth,
    recorded: Mapping[str, ClientRecord],
    last: _Last,
    pools_without: Mapping[str, float],
) -> ClientMetrics:
    seen, budget = recorded.get(site.name, ABSENT), site.budget
    with Ledger(site.ledger, budget) as ledger:
        # Seeded noise is declared as without a guarantee. A simulation reports what the same run would cost with real noise, and warns in
        # red that this run has no guarantee.
        without = [entry for entry in ledger.entries() if entry.state == "declared" and entry.what != SEEDED]
        schedules = tuple(entry.schedule for entry in ledger.entries() if entry.schedule is not None)
        spent = math.inf if without else privacy_filter.spent(schedules, budget.delta)
    test, opinion = alone.quality.test, second_opinion.of(schedules, budget.delta)
    return ClientMetrics(
        site=site.name,
        records=int(truth.counts[index].sum()),
        status=seen.status,
        reason=seen.reason,
        teacher_accuracy=None if test is None else test.accuracy,
        # No epsilon holds after answers without a guarantee, in this run or an earlier one. JSON has no infinity.
        epsilon=spent if math.isfinite(spent) else None,
        guarantee=seen.guarantee.value if seen.guarantee is not None else None,
        delta=budget.delta,
        unit=budget.unit.value,
        adjacency=budget.adjacency.value,
        budget_epsilon=budget.epsilon,
        bytes_up=seen.bytes_up,
        bytes_down=seen.bytes_down,
        label_counts=seen.label_counts,
        record_count=seen.record_count,
        teacher=alone.quality,
        own=_own(index, alone, truth, last),
        second_opinion=SecondOpinion(
            **opinion.values,  # type: ignore[arg-type]
            sentence=opinion.sentence,
            disagreement=opinion.disagreement(accounting.epsilon(schedules, budget.delta)),
        ),
        pool_without=pools_without.get(site.name),
    )


def _own(index: int, alone: _Alone, truth: Truth, last: _Last) -> SiteInputs | None:
    """The scores on the test inputs of one site, if there are any."""
    rows_N = truth.test_sites == index
    if not rows_N.any():
        return None
    y_N = truth.test_y[rows_N]

    def scores(p_NK: Tensor | None) -> Scores | None:
        return None if p_NK is None else score(p_NK.numpy(), y_N, truth.class_names).whole

    return SiteInputs(
        majority=majority(y_N, len(truth.class_names), truth.class_names).whole,
        teacher=scores(alone.own),
        pool=scores(None if last.pool_NK is None else last.pool_NK[torch.from_numpy(rows_N)]),
        student=score(last.student_NK.numpy()[rows_N], y_N, truth.class_names).whole,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Last:
    """What the last stage left: scores, and probabilities (N, K) of the test set."""

    pool: Quality
    student: Quality
    calibrated: Quality | None
    dense: Quality | None
    confusion: tuple[tuple[int, ...], ...]
    pool_NK: Tensor | None
    student_NK: Tensor


def _stages(
    folder: Path,
    plan: Plan,
    truth: Truth,
    public_x: Inputs,
    recorded: Sequence[StageRecord],
    pools: Pools,
    dense: bool,
    temperature: float,
) -> tuple[tuple[StageMetrics, ...], _Last]:
    """The metrics of each stage, and what the last of them left."""
    model = student.build(plan.student.architecture, truth.test_x.shape[1:], plan.classes, plan.public_seed)
    masks = pruning.Masks.ones(model)
    inputs = torch.from_numpy(truth.test_x), torch.from_numpy(public_x)

    def predicted(saved: checkpoint.Checkpoint) -> tuple[Tensor, Tensor]:
        checkpoint.restore(saved, model, masks)
        test_NK, public_NK = (distil.predict(model, x_N) for x_N in inputs)
        return test_NK, public_NK

    def scored(test_NK: Tensor, public_NK: Tensor) -> Quality:
        return Quality(test=truth.on_test(test_NK), public=truth.on_public(public_NK))

    stages: list[StageMetrics] = []
    for stage in recorded:
        saved = _checkpoint(folder, stage.stage)
        pool_NK, why = pools.result(stage.stage)
        of_pool = truth.on_public(saved.targets_NK)
        pool = Quality(test=None if pool_NK is None else truth.on_test(pool_NK), public=of_pool, why=why)
        control = scored(*predicted(_dense_checkpoint(folder, stage.stage))) if dense else None
        student_NK, public_NK = predicted(saved)
        on_test = truth.on_test(student_NK)
        sparse = Quality(test=on_test, public=truth.on_public(public_NK))
        stages.append(
            StageMetrics(
                stage=stage.stage,
                sparsity=stage.sparsity,
                temperature=stage.temperature,
                clients=len(stage.clients),
                bytes_up=stage.bytes_up,
                bytes_down=stage.bytes_down,
                seconds=StageSeconds(answers=stage.seconds["answers"], distil=stage.seconds["distil"]),
                losses=tuple(math.nan if loss is None else loss for loss in stage.losses),
                pool_accuracy=None if of_pool is None else of_pool.accuracy,
                sparse_accuracy=on_test.accuracy,
                dense_accuracy=None if control is None or control.test is None else control.test.accuracy,
                pool=pool.whole,
                sparse=sparse.whole,
                dense=None if control is None else control.whole,
            )
        )
    confusion = np.zeros((plan.classes, plan.classes), np.int64)
    np.add.at(confusion, (truth.test_y.astype(np.int64), student_NK.argmax(1).numpy()), 1)
    last = _Last(
        pool=pool,
        student=sparse,
        calibrated=None if temperature == 1 else scored(*(Power(temperature)(p_NK) for p_NK in (student_NK, public_NK))),
        dense=control,
        confusion=tuple(map(tuple, confusion.tolist())),
        pool_NK=pool_NK,
        student_NK=student_NK,
    )
    return tuple(stages), last


def _checkpoint(folder: Path, stage: int) -> checkpoint.Checkpoint:
    saved = checkpoint.load(checkpoint.path_of(folder / "server" / "checkpoints", stage))
    if saved is None:
        raise RunError(f"Expected the checkpoint of stage {stage} in {folder}, but there is none that can be read.")
    return saved


def _dense_checkpoint(folder: Path, stage: int) -> checkpoint.Checkpoint:
    saved = checkpoint.load(checkpoint.path_of(folder / "dense", stage))
    if saved is None:
        raise RunError(f"Expected the dense control of stage {stage} in {folder / 'dense'}, but there is none.")
    return saved


def load_student(folder: Path, stage: int | None = None) -> tuple[nn.Module, Plan]:
    """The student of a run after a stage, counted from 0, or after the last one; and the run's plan."""
    from limbeck.simulations.prepare import read_prepared

    _, plan, _ = read_prepared(folder)
    saved = _checkpoint(folder, len(plan.stages) - 1 if stage is None else stage)
    model = student.build(plan.student.architecture, input_shape(folder), plan.classes, plan.public_seed)
    model.load_state_dict(saved.weights)
    return model.eval(), plan


def input_shape(folder: Path) -> tuple[int, ...]:
    """The shape of one input of a run's student."""
    (header,) = read_headers(folder / "truth.npz", "test_x")
    return header.shape[1:]
