"""The student as an ONNX graph, layer by layer: one node a layer, written with the `onnx` library.

torch has an exporter, which traces any program at all: seconds, and a thousand modules, for a net whose layers are known
(`limbeck.server.student`). `limbeck.server.export` compares what either makes with torch before a student leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from limbeck.base.errors import RunError
from limbeck.inputs import scattering
from limbeck.server.scattered import LEAST_NORM, NORM, Balanced, OnScattering
from limbeck.server.student import Scaled, Shape

# What onnxruntime 1.22, the oldest that limbeck takes, reads.
OPSET, IR = 20, 10
INPUTS, PROBABILITIES = "inputs", "probabilities"


def of(model: nn.Module, shape: Shape, classes: int) -> ModelProto:
    """softmax(model) of any number of inputs.

    - model: a student; its layers are those of `limbeck.server.student`.
    - shape: of one input, as the student takes it: prepared.
    - classes: the number K of probabilities.

    Raises: RunError for a layer that is not known here.
    """
    layers = _Layers(shape)
    layers.add(model, "")
    layers.nodes.append(helper.make_node("Softmax", [layers.last], [PROBABILITIES], name="softmax", axis=-1))
    inputs = helper.make_tensor_value_info(INPUTS, TensorProto.FLOAT, ["n", *shape])
    outputs = helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["n", classes])
    graph = helper.make_graph(layers.nodes, "student", [inputs], [outputs], layers.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="limbeck")


class _Layers:
    """The nodes so far. last: the name of what the last of them gives."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.last = INPUTS

    def add(self, layer: nn.Module, name: str) -> None:
        """name: of the layer within the model, as its weights have it."""
        match layer:
            case Scaled():
                if layer.images and len(self.shape) == 2:
                    self._node("Unsqueeze", f"{name}channel", self.constant(f"{name}channel.axis", np.array([1], np.int64)))
                self.add(layer.body, f"{name}body.")
            case nn.Sequential():
                for part, own in layer.named_children():
                    self.add(own, f"{name}{part}.")
            case nn.Linear():
                self._node("Gemm", name, *self._parameters(layer, name), transB=1)
            case nn.Conv2d() if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
                self._node(
                    *("Conv", name, *self._parameters(layer, name)),
                    strides=layer.stride,
                    pads=[*layer.padding, *layer.padding],
                    dilations=layer.dilation,
                    group=layer.groups,
                )
            case nn.MaxPool2d(ceil_mode=False, return_indices=False):
                padding = _pair(layer.padding)
                self._node(
                    *("MaxPool", name),
                    kernel_shape=_pair(layer.kernel_size),
                    strides=_pair(layer.stride),
                    pads=[*padding, *padding],
                    dilations=_pair(layer.dilation),
                )
            case OnScattering():
                operations = _Written(self, layer.scattering, f"{name}scattering.")
                self.last = scattering.program(operations, self.last, layer.scattering.scales)
                self._balanced(layer.balanced, f"{name}balanced.")
                self.add(layer.head, f"{name}head.")
            case nn.Flatten(start_dim=1, end_dim=-1):
                self._node("Flatten", name, axis=1)
            case nn.ReLU():
                self._node("Relu", name)
            case _:
                raise RunError(f"Expected layers of a student that ONNX has a node for, got {layer}.")

    def _balanced(self, layer: Balanced, name: str) -> None:
        mean, weight = (self.constant(f"{name}{own}", _array(layer.get_buffer(own))) for own in ("mean_D", "weight_D"))
        self._node("Sub", f"{name}centred", mean)
        self._node("Mul", f"{name}weighted", weight)
        rows = self.last
        self._node("ReduceL2", f"{name}norm", self.constant(f"{name}axis", np.array([1], np.int64)), keepdims=1)
        self._node("Max", f"{name}nonzero", self.constant(f"{name}least", np.array(LEAST_NORM, np.float32)))
        least = self.last
        self.last = rows
        self._node("Div", f"{name}unit", least)
        self._node("Mul", f"{name}scaled", self.constant(f"{name}length", np.array(NORM, np.float32)))

    def _node(self, kind: str, name: str, *also: str, **attributes: int | Iterable[int]) -> None:
        name = name.rstrip(".")
        node = helper.make_node(kind, [self.last, *also], [f"{name}.out"], name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        self.last = f"{name}.out"

    def _parameters(self, layer: nn.Module, name: str) -> Iterator[str]:
        """Weight and, if there is one, bias, in the order in which nodes take them."""
        for own, tensor in layer.named_parameters():
            yield self.constant(f"{name}{own}", _array(tensor))

    def constant(self, name: str, value: np.ndarray) -> str:
        """Its name, once it is among the weights."""
        self.weights.append(numpy_helper.from_array(value, name))
        return name


class _Written:
    """The operations of scattering, as nodes: each gives the name of its result."""

    def __init__(self, layers: _Layers, layer: nn.Module, name: str) -> None:
        self._layers, self._layer, self._name = layers, layer, name
        self._constants: dict[str, str] = {}

    def constant(self, name: str) -> str:
        if name not in self._constants:
            self._constants[name] = self._layers.constant(f"{self._name}{name}", _array(self._layer.get_buffer(name)))
        return self._constants[name]

    def product(self, a: str, b: str) -> str:
        return self._node("MatMul", a, b)

    def plus(self, a: str, b: str) -> str:
        return self._node("Add", a, b)

    def minus(self, a: str, b: str) -> str:
        return self._node("Sub", a, b)

    def times(self, a: str, b: str) -> str:
        return self._node("Mul", a, b)

    def root(self, a: str) -> str:
        return self._node("Sqrt", a)

    def wider(self, a: str, axis: int) -> str:
        return self._node("Unsqueeze", a, self._axis(axis))

    def joined(self, parts: list[str]) -> str:
        flat = [self._node("Flatten", part, axis=1) for part in parts]
        return self._node("Concat", *flat, axis=1)

    def _axis(self, axis: int) -> str:
        name = f"axis{axis}"
        if name not in self._constants:
            self._constants[name] = self._layers.constant(f"{self._name}{name}", np.array([axis], np.int64))
        return self._constants[name]

    def _node(self, kind: str, *inputs: str, axis: int | None = None) -> str:
        name = f"{self._name}{len(self._layers.nodes)}"
        node = helper.make_node(kind, list(inputs), [f"{name}.out"], name=name)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        self._layers.nodes.append(node)
        return f"{name}.out"


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """torch takes a number for both sides of an image."""
    return (value, value) if isinstance(value, int) else tuple(value)
