"""What a run reached: `metrics.json`, from what the coordinator and the sites left behind and what only the simulation knows."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.client import teachers
from limbeck.client.app import SEEDED
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.client.teachers.votes import Votes
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans import privacy_filter
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.protos.messages import Guarantee
from limbeck.server import checkpoint, distil, pruning, student
from limbeck.simulations import black_box
from limbeck.simulations.scenario import Scenario

PACKAGES = ("limbeck", "torch", "flwr", "opacus", "dp-accounting", "numpy", "onnx", "onnxruntime")
Progress = Callable[[int, int], None]


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
        found = checkpoint.load(checkpoint.path_of(folder / "dense", stage))
        if found is None:
            raise RunError(f"Expected the dense control of stage {stage} in {folder / 'dense'}, found none.")
        checkpoint.restore(found, model, masks)
        accuracies.append(_accuracy(distil.predict(model, torch.from_numpy(truth.test_x)), truth.test_y))
    return accuracies


def measure(
    folder: Path, scenario: Scenario, plan: Plan, sites: Path, facts: dict[str, Any], dense: list[float] | None
) -> dict[str, Any]:
    """All metrics of a finished run; written to RUN/metrics.json and returned. facts: seconds and the like that the caller measured."""
    truth = Truth(folder)
    plan_hash = codec.plan_hash(plan)
    record = json.loads((folder / "server" / "record.json").read_text(encoding="utf-8"))
    paths = sorted(sites.glob("*/site.toml"))
    clients = [
        _client(path, plan, truth, record, records, folder / "cache")
        for path, records in zip(paths, truth.counts.sum(1).tolist(), strict=True)
    ]
    named = {client["site"] for client in clients}
    stages, confusion = _stages(folder, plan, truth, record["stages"], dense)
    exported = json.loads((folder / "server" / "student" / "export.json").read_text(encoding="utf-8"))
    metrics = {
        "limbeck": version("limbeck"),
        "scenario_name": scenario.name,
        "description": scenario.description,
        "scenario": scenario.model_dump(mode="json"),
        "plan": {
            "hash": plan_hash.hex(),
            "name": plan.name,
            "transfer_set": plan.transfer_set.hex(),
            "samples": plan.samples,
            "classes": plan.classes,
            "noise_multiplier": plan.teaching.noise_multiplier,
            "label_counts_noise_std": plan.label_counts.noise_std if plan.label_counts else None,
            "label_counts_noise": plan.label_counts.noise.value if plan.label_counts else None,
            "black_box_draws": plan.black_box.draws if plan.black_box else None,
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": {
            "cores": os.cpu_count(),
            "processor": platform.processor() or platform.machine(),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
        },
        "noise": scenario.privacy.noise,
        "partition": {
            "kind": scenario.partition.kind,
            "alpha": scenario.partition.alpha,
            "class_names": truth.class_names,
            "sites": [client["site"] for client in clients],
            "counts": truth.counts.tolist(),
        },
        "clients": clients,
        "unnamed_nodes": {name: seen["reason"] for name, seen in record["clients"].items() if name not in named},
        "pool": {"accuracy": stages[-1]["pool_accuracy"]},
        "stages": stages,
        "student": {
            "architecture": plan.student.architecture,
            "parameters": exported["parameters"],
            "nonzero": exported["nonzero"],
            "bytes": {name: exported[name] for name in ("safetensors", "safetensors_gzip", "onnx")},
            "onnx_max_difference": exported["onnx_max_difference"],
            "accuracy": stages[-1]["sparse_accuracy"],
            "dense_accuracy": dense[-1] if dense else None,
            "confusion": confusion,
        },
        **facts,
    }
    write_durably(folder / "metrics.json", json.dumps(metrics, indent=1).encode())
    return metrics


def _client(settings: Path, plan: Plan, truth: Truth, record: dict[str, Any], records: int, cache: Path) -> dict[str, Any]:
    site = Site(settings.parent)
    absent = {
        "status": "absent",
        "reason": None,
        "bytes_up": 0,
        "bytes_down": 0,
        "label_counts": None,
        "record_count": None,
        "guarantee": None,
    }
    seen = record["clients"].get(site.name, absent)
    teacher = site.state(codec.plan_hash(plan)) / "teacher.safetensors"
    accuracy = None
    # Noisy votes are answers to the transfer set alone: there is no teacher to test.
    if seen["guarantee"] == Guarantee.NONE.value:
        scores = black_box.probabilities(site.folder, truth.test_x, plan.classes)
        accuracy = _accuracy(torch.from_numpy(scores), truth.test_y)
    elif teacher.exists() and not isinstance(found := teachers.load(teacher, factory=site.factory), Votes):
        accuracy = _accuracy(found.log_probabilities(truth.test_x, cache=cache), truth.test_y)
    budget = site.budget
    with Ledger(site.ledger, budget) as ledger:
        # Seeded noise is declared as without a guarantee. What the same run would cost with real noise is what a simulation is asked for;
        # the report says in red what it is worth.
        without = [entry for entry in ledger.entries() if entry.state == "declared" and entry.what != SEEDED]
        schedules = tuple(entry.schedule for entry in ledger.entries() if entry.schedule is not None)
        spent = math.inf if without else privacy_filter.spent(schedules, budget.delta)
    return {
        "site": site.name,
        "records": records,
        "status": seen["status"],
        "reason": seen["reason"],
        "teacher_accuracy": accuracy,
        # JSON knows no infinity: None where no epsilon holds, since answers left without a guarantee in this run or an earlier one.
        "epsilon": spent if math.isfinite(spent) else None,
        "guarantee": seen["guarantee"],
        "delta": budget.delta,
        "unit": budget.unit.value,
        "adjacency": budget.adjacency.value,
        "budget_epsilon": budget.epsilon,
        "bytes_up": seen["bytes_up"],
        "bytes_down": seen["bytes_down"],
        "label_counts": seen["label_counts"],
        "record_count": seen["record_count"],
    }


def _stages(
    folder: Path, plan: Plan, truth: Truth, recorded: list[dict[str, Any]], dense: list[float] | None
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    model = student.build(plan.student.architecture, truth.test_x.shape[1:], plan.classes, plan.public_seed)
    masks = pruning.Masks.ones(model)
    stages, predicted = [], torch.zeros(0)
    for own in recorded:
        found = _checkpoint(folder, own["stage"])
        checkpoint.restore(found, model, masks)
        predicted = distil.predict(model, torch.from_numpy(truth.test_x))
        stages.append(
            {
                **own,
                "clients": len(own["clients"]),
                "pool_accuracy": _accuracy(found.targets_NK, truth.public_y),
                "sparse_accuracy": _accuracy(predicted, truth.test_y),
                "dense_accuracy": dense[own["stage"]] if dense else None,
            }
        )
    confusion = np.zeros((plan.classes, plan.classes), np.int64)
    np.add.at(confusion, (truth.test_y.astype(np.int64), predicted.argmax(1).numpy()), 1)
    return stages, confusion.tolist()


def _checkpoint(folder: Path, stage: int) -> checkpoint.Checkpoint:
    found = checkpoint.load(checkpoint.path_of(folder / "server" / "checkpoints", stage))
    if found is None:
        raise RunError(f"Expected the checkpoint of stage {stage} in {folder}, found none that can be read.")
    return found


def _accuracy(scores_NK: Tensor, y_N: NDArray[np.generic]) -> float:
    return float((scores_NK.argmax(1).numpy() == y_N).mean())


def load_student(folder: Path) -> tuple[nn.Module, Plan]:
    """The finished student of a run and its plan."""
    from limbeck.simulations.prepare import read_prepared

    _, plan, _ = read_prepared(folder)
    found = _checkpoint(folder, len(plan.stages) - 1)
    (x_N,) = read_arrays(folder / "truth.npz", "test_x")
    model = student.build(plan.student.architecture, x_N.shape[1:], plan.classes, plan.public_seed)
    model.load_state_dict(found.weights)
    return model.eval(), plan
