"""The student as files: safetensors, and ONNX checked against torch by onnxruntime, with its card (`limbeck.server.delivery`)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.inputs.sessions import open_session
from limbeck.plans import public_inputs
from limbeck.plans.schema import Plan
from limbeck.server import delivery, graph
from limbeck.server.card import Card, Epsilon, Inputs, Site
from limbeck.server.pruning import prunable
from limbeck.server.record import ClientRecord, StageRecord
from limbeck.server.student import prepare

TOLERANCE = 1e-4
# Inputs on which ONNX and torch are compared.
COMPARED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """Sizes in bytes; onnx_max_difference: the largest difference of a probability between onnxruntime and torch."""

    parameters: int
    nonzero: int
    safetensors: int
    safetensors_gzip: int
    onnx: int
    onnx_max_difference: float


def export(model: nn.Module, folder: Path, transfer_x: Tensor, card: Card, *, encoding: bytes | None = None) -> ExportReport:
    """Write a student's folder: weights, ONNX, and what is beside them.

    - transfer_x: (N, ...) the public inputs; the ONNX model takes any number of inputs of their shape and type ("inputs") and gives
      "probabilities".
    - card: what is known of the student; sizes are filled in here. What somebody stated of the same student before is kept.
    - encoding: the content of the file of the plan's public encoding.

    Raises: RunError where onnxruntime and torch differ by more than 1e-4.
    """
    model = model.cpu().eval()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    tensors = save(weights)
    card = delivery.with_what_was_stated(folder, tensors, card)
    write_durably(folder / delivery.WEIGHTS, tensors)
    examples = transfer_x[:COMPARED].cpu()
    proto = graph.of(model, tuple(examples.shape[1:]), len(card.class_names))
    delivery.complete(proto, card)
    difference = _compare(proto.SerializeToString(), model, examples)
    if not difference <= TOLERANCE:
        raise RunError(f"Expected the ONNX student within {TOLERANCE} of torch, got {difference:.2e}.")
    parameters = sum(tensor.numel() for tensor in weights.values())
    nonzero = sum(int(tensor.count_nonzero()) for tensor in weights.values())
    card = replace(card, parameters=parameters, nonzero=nonzero, sparsity=_sparsity(model))
    onnx = delivery.write(folder, proto, card, encoding=encoding)
    report = ExportReport(
        parameters=parameters,
        nonzero=nonzero,
        safetensors=len(tensors),
        safetensors_gzip=len(gzip.compress(tensors, mtime=0)),
        onnx=len(onnx),
        onnx_max_difference=difference,
    )
    write_durably(folder / delivery.EXPORT, json.dumps(asdict(report), indent=1).encode())
    return report


def describe(
    plan: Plan, plan_hash: bytes, transfer_x: Tensor, clients: Mapping[str, ClientRecord], stages: Sequence[StageRecord]
) -> Card:
    """What a coordinator knows of a plan's student. clients, stages: of its record. Sizes are `export`'s."""
    answered = [site for stage in stages for site in stage.clients]
    return Card(
        limbeck=version("limbeck"),
        plan=plan.name,
        plan_hash=plan_hash.hex(),
        class_names=plan.class_names or tuple(map(str, range(plan.classes))),
        inputs=_inputs(plan, transfer_x),
        claimed=Epsilon(
            value=plan.privacy.epsilon,
            delta=plan.privacy.delta,
            unit=plan.privacy.unit.value,
            adjacency=plan.privacy.adjacency.value,
            seeded=False,
        ),
        samples=plan.samples,
        transfer_set=plan.transfer_set.hex(),
        architecture=plan.student.architecture,
        parameters=0,
        nonzero=0,
        sparsity=0.0,
        stages=len(stages),
        temperature=plan.stages[-1].temperature,
        softening=plan.family.value,
        minimum_sites=plan.minimum_clients,
        black_box=plan.black_box is not None,
        sites=tuple(
            Site(
                name=name,
                stages=answered.count(name),
                guarantee=client.guarantee.value if client.guarantee is not None else None,
            )
            for name, client in sorted(clients.items())
            if client.guarantee is not None or name in answered
        ),
    )


def _inputs(plan: Plan, x_N: Tensor) -> Inputs:
    # As the plan declares them; a plan of limbeck 0.1.0 does not.
    declared = plan.inputs or public_inputs.declared(x_N.numpy())
    return Inputs(
        kind=declared.kind.value,
        shape=tuple(x_N.shape[1:]),
        low=declared.low,
        high=declared.high,
        encoding=plan.encoding.hex() if plan.encoding is not None else None,
    )


def _sparsity(model: nn.Module) -> float:
    weights = [weight for _, weight in prunable(model)]
    return 1 - sum(int(weight.count_nonzero()) for weight in weights) / sum(weight.numel() for weight in weights)


def _compare(onnx: bytes, model: nn.Module, examples: Tensor) -> float:
    session = open_session(onnx)
    with torch.no_grad():
        expected = model(prepare(examples)).softmax(-1).numpy()
    inputs = examples.numpy() if examples.dtype == torch.uint8 else prepare(examples).numpy()
    (outputs,) = session.run(None, {"inputs": inputs})
    return float(np.abs(outputs - expected).max())
