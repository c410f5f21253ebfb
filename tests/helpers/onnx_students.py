"""ONNX students that are made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from limbeck.server import delivery
from limbeck.server.card import Card, Epsilon, Inputs


def softmax(*, name: str = "probabilities", sides: int = 2) -> ModelProto:
    """Of two numbers and two classes: softmax of what comes in."""
    shape: list[str | int] = ["n", *[2] * (sides - 1)]
    inputs = helper.make_tensor_value_info("inputs", TensorProto.FLOAT, shape)
    outputs = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Softmax", ["inputs"], [name], axis=-1)], "student", [inputs], [outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def weighted(weight_DK: np.ndarray, shape: tuple[int, ...]) -> ModelProto:
    """softmax(x W) of inputs of this shape, flattened."""
    made = [
        helper.make_node("Flatten", ["inputs"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    weight = numpy_helper.from_array(weight_DK.astype(np.float32), "weight")
    x = helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["n", *shape])
    p = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", weight_DK.shape[1]])
    graph = helper.make_graph(made, "student", [x], [p], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


CARD = Card(
    limbeck="0.2.0",
    plan="hearts",
    plan_hash="ab" * 32,
    class_names=("well", "ill"),
    inputs=Inputs(kind="numbers", shape=(2,), low=-3.0, high=3.0),
    claimed=Epsilon(value=3.0, delta=1e-5, unit="record", adjacency="add-remove-one", seeded=False),
    samples=20,
    transfer_set="cd" * 32,
    architecture="mlp",
    parameters=4,
    nonzero=4,
    sparsity=0.0,
    stages=1,
    temperature=2.0,
    softening="power",
    minimum_sites=2,
    black_box=False,
    sites=(),
)


def write(folder: Path, model: ModelProto, card: Card, *, encoding: bytes | None = None) -> Path:
    """A student's folder, as the coordinator writes it but for the weights; returns it."""
    delivery.complete(model, card)
    delivery.write(folder, model, card, encoding=encoding)
    return folder
