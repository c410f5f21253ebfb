"""Measures a finished run: its metrics, from what the coordinator and the sites left behind and what only the simulation knows."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor, nn

from limbeck.base.errors import RunError
from limbeck.base.progress import Progress
from limbeck.client import teachers
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.client.teachers.votes import Votes
from limbeck.client.witness import SEEDED
from limbeck.inputs.transfer_set import read_arrays, read_headers
from limbeck.plans import privacy_filter
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.protos.messages import Guarantee
from limbeck.server import checkpoint, distil, pruning, student
from limbeck.server.export import ExportReport
from limbeck.server.record import ClientRecord, Record, StageRecord
from limbeck.server.states import SiteState
from limbeck.simulations import black_box, metrics
from limbeck.simulations.metrics import (
    ClientMetrics,
    MachineMetrics,
    Metrics,
    PartitionMetrics,
    Phase,
    PlanMetrics,
    PoolMetrics,
    StageMetrics,
    StageSeconds,
    StudentBytes,
    StudentMetrics,
)
from limbeck.simulations.scenario import Scenario

PACKAGES = ("limbeck", "torch", "flwr", "opacus", "dp-accounting", "numpy", "onnx", "onnxruntime")
# A site that never joined.
ABSENT = ClientRecord(state=SiteState.ABSENT)


class Truth:
    """What only the simulation knows. Arrays as `prepare` wrote them."""

    def __init__(self, folder: Path) -> None:
        names = ("public_y", "test_x", "test_y", "class_names", "counts")
        self.public_y, self.test_x, self.test_y, class_names, self.counts = read_arrays(folder / "truth.npz", *names)
        self.class_names = [str(name) for name in class_names]


def dense_control(folder: Path, plan: Plan, progress: Progress | None = None) -> list[float]:
    """Test accuracy after each stage of a student that is trained exactly as the sparse one, on the same pools, but never pruned.

    Kept in RUN/dense/, so that a run that is measured again does not train it again.
    """
    truth = Truth(folder)
    (x_N,) = read_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    model = student.build(plan.student.architecture, x_N.shape[1:], plan.classes, plan.public_seed)
    masks = pruning.Masks.ones(model)
    last = checkpoint.load_last(folder / "dense")
    if last is not None:
        checkpoint.restore(last, model, masks)
    for stage in range(last.stage + 1 if last else 0, len(plan.stages)):
        targets_NK = _checkpoint(folder, stage).targets_NK
        distil.distil_stage(
            model,
            masks,
            torch.from_numpy(x_N),
            targets_NK,
            stage=stage,
            sparsity=0.0,
            temperature=plan.stages[stage].temperature,
            student=plan.student,
            seed=plan.public_seed,
            device=torch.device("cpu"),
            progress=lambda done, total, stage=stage: (
                progress(stage * total + done, total * len(plan.stages)) if progress else None
            ),  # type: ignore[misc]
        )
        checkpoint.save_stage(folder / "dense", stage, model, masks, targets_NK)
    accuracies = []
    for stage in range(len(plan.stages)):
        saved = checkpoint.load(checkpoint.path_of(folder / "dense", stage))
        if saved is None:
            raise RunError(f"Expected the dense control of stage {stage} in {folder / 'dense'}, but there is none.")
        checkpoint.restore(saved, model, masks)
        accuracies.append(_accuracy(distil.predict(model, torch.from_numpy(truth.test_x)), truth.test_y))
    return accuracies


def measure(
    folder: Path,
    scenario: Scenario,
    plan: Plan,
    sites: Path,
    *,
    carrier: str,
    seconds: Mapping[Phase, float],
    dense: Sequence[float] | None,
) -> Metrics:
    """The metrics of the finished run in `folder`, which are also written there.

    - sites: the folder of all site folders.
    - carrier: "local" or "flower".
    - seconds: wall-clock seconds of each phase.
    - dense: test accuracy of the dense control after each stage, from 0 to 1; None without a control.
    """
    truth = Truth(folder)
    plan_hash = codec.plan_hash(plan)
    record = Record(folder / "server" / "record.json", plan_hash)
    paths = sorted(sites.glob("*/site.toml"))
    clients = tuple(
        _client(path, plan, truth, record.clients, records, folder / "cache")
        for path, records in zip(paths, truth.counts.sum(1).tolist(), strict=True)
    )
    names = tuple(client.site for client in clients)
    stages, confusion = _stages(folder, plan, truth, record.stages, dense)
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
            kind=scenario.partition.kind,
            alpha=scenario.partition.alpha,
            class_names=tuple(truth.class_names),
            sites=names,
            counts=tuple(map(tuple, truth.counts.tolist())),
        ),
        clients=clients,
        unnamed_nodes={node: client.reason for node, client in record.clients.items() if node not in names},
        pool=PoolMetrics(accuracy=stages[-1].pool_accuracy),
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
            dense_accuracy=dense[-1] if dense else None,
            confusion=confusion,
        ),
        carrier=carrier,
        seconds=seconds,
    )
    metrics.write(measured, folder)
    return measured


def _client(
    settings: Path, plan: Plan, truth: Truth, recorded: Mapping[str, ClientRecord], records: int, cache: Path
) -> ClientMetrics:
    site = Site(settings.parent)
    seen = recorded.get(site.name, ABSENT)
    teacher_file = site.state(codec.plan_hash(plan)) / "teacher.safetensors"
    accuracy = None
    # Noisy votes are answers to the transfer set alone: there is no teacher to test.
    if seen.guarantee is Guarantee.NONE:
        scores = black_box.probabilities(site.folder, truth.test_x, plan.classes)
        accuracy = _accuracy(torch.from_numpy(scores), truth.test_y)
    elif teacher_file.exists() and not isinstance(teacher := teachers.load(teacher_file, factory=site.factory), Votes):
        accuracy = _accuracy(teacher.log_probabilities(truth.test_x, cache=cache), truth.test_y)
    budget = site.budget
    with Ledger(site.ledger, budget) as ledger:
        # Seeded noise is declared as without a guarantee. A simulation reports what the same run would cost with real noise, and warns in
        # red that this run has no guarantee.
        without = [entry for entry in ledger.entries() if entry.state == "declared" and entry.what != SEEDED]
        schedules = tuple(entry.schedule for entry in ledger.entries() if entry.schedule is not None)
        spent = math.inf if without else privacy_filter.spent(schedules, budget.delta)
    return ClientMetrics(
        site=site.name,
        records=records,
        status=seen.status,
        reason=seen.reason,
        teacher_accuracy=accuracy,
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
    )


def _stages(
    folder: Path, plan: Plan, truth: Truth, recorded: Sequence[StageRecord], dense: Sequence[float] | None
) -> tuple[tuple[StageMetrics, ...], tuple[tuple[int, ...], ...]]:
    """The metrics of each stage, and the confusion matrix of the finished student: (true class, predicted class)."""
    model = student.build(plan.student.architecture, truth.test_x.shape[1:], plan.classes, plan.public_seed)
    masks = pruning.Masks.ones(model)
    stages, predicted = [], torch.zeros(0)
    for stage in recorded:
        saved = _checkpoint(folder, stage.stage)
        checkpoint.restore(saved, model, masks)
        predicted = distil.predict(model, torch.from_numpy(truth.test_x))
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
                pool_accuracy=_accuracy(saved.targets_NK, truth.public_y),
                sparse_accuracy=_accuracy(predicted, truth.test_y),
                dense_accuracy=dense[stage.stage] if dense else None,
            )
        )
    confusion = np.zeros((plan.classes, plan.classes), np.int64)
    np.add.at(confusion, (truth.test_y.astype(np.int64), predicted.argmax(1).numpy()), 1)
    return tuple(stages), tuple(map(tuple, confusion.tolist()))


def _checkpoint(folder: Path, stage: int) -> checkpoint.Checkpoint:
    saved = checkpoint.load(checkpoint.path_of(folder / "server" / "checkpoints", stage))
    if saved is None:
        raise RunError(f"Expected the checkpoint of stage {stage} in {folder}, but there is none that can be read.")
    return saved


def _accuracy(scores_NK: Tensor, y_N: NDArray[np.generic]) -> float:
    return float((scores_NK.argmax(1).numpy() == y_N).mean())


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
