"""The student as files: safetensors, and ONNX checked against torch by onnxruntime."""

from __future__ import annotations

import gzip
import json
import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from safetensors.torch import save
from torch import Tensor, nn

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.inputs.sessions import open_session
from limbeck.server.student import prepare

TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """Sizes in bytes; onnx_max_difference: the largest difference of a probability between onnxruntime and torch."""

    parameters: int
    nonzero: int
    safetensors: int
    safetensors_gzip: int
    onnx: int
    onnx_max_difference: float


def export(model: nn.Module, folder: Path, examples: Tensor) -> ExportReport:
    """Write student.safetensors, student.onnx and export.json into `folder`.

    examples: (n, ...) inputs as in the transfer set; the ONNX model takes float32 of any n ("inputs", in [0, 1] for images) and gives
    probabilities. Raises RunError where onnxruntime and torch differ by more than 1e-4.
    """
    model = model.cpu().eval()
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    tensors = save(weights)
    write_durably(folder / "student.safetensors", tensors)
    inputs = prepare(examples.cpu())
    onnx = _to_onnx(nn.Sequential(model, nn.Softmax(-1)), inputs[:2])
    difference = _compare(onnx, model, inputs)
    if not difference <= TOLERANCE:
        raise RunError(f"Expected the ONNX student within {TOLERANCE} of torch, got {difference:.2e}.")
    write_durably(folder / "student.onnx", onnx)
    report = ExportReport(
        parameters=sum(tensor.numel() for tensor in weights.values()),
        nonzero=sum(int(tensor.count_nonzero()) for tensor in weights.values()),
        safetensors=len(tensors),
        safetensors_gzip=len(gzip.compress(tensors, mtime=0)),
        onnx=len(onnx),
        onnx_max_difference=difference,
    )
    write_durably(folder / "export.json", json.dumps(asdict(report), indent=1).encode())
    return report


def _to_onnx(model: nn.Module, inputs: Tensor) -> bytes:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (inputs,),
            dynamo=True,
            verbose=False,
            input_names=["inputs"],
            output_names=["probabilities"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
        )
    if program is None:
        raise RunError("Expected an ONNX program from torch, got none.")
    model_proto = program.model_proto
    _forget_origin(model_proto)
    return model_proto.SerializeToString()


def _forget_origin(model_proto: ModelProto) -> None:
    """Remove what says where a model was made: torch writes stack traces, with paths of this machine, beside every node and value."""
    graph = model_proto.graph
    parts = [model_proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for part in [*parts, *model_proto.functions, *(node for function in model_proto.functions for node in function.node)]:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def _compare(onnx: bytes, model: nn.Module, inputs: Tensor) -> float:
    session = open_session(onnx)
    with torch.no_grad():
        expected = model(inputs).softmax(-1).numpy()
    (outputs,) = session.run(None, {"inputs": inputs.numpy()})
    return float(np.abs(outputs - expected).max())
