"""EfficientNet-Lite0 as an ONNX file that turns a colour image into a row of 1,280 numbers.

The published weights are a PyTorch state dictionary. It is read as numbers only, and the network is written down here as a graph: no code
of the package that holds the weights is run. The graph is the network without its classifier (arXiv 1905.11946, table 1; "Lite" is
without squeeze-and-excitation, with ReLU6, and with a stem and a head of fixed width) [F], with each batch normalisation folded into the
convolution before it. It begins with what the network expects of an image: scaled to 128 x 128, bytes as numbers from -1 to 1.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limbeck.base.errors import DataError

# Height and width to which images are scaled. The network was trained at 224, which takes three times as long.
SIDE = 128
# Of the first block of each stage; blocks after it have stride 1. Kernels and widths are those of the weights.
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
STRIDES = tuple(stride if not block else 1 for blocks, stride in STAGES for block in range(blocks))
EPSILON = 1e-3
OPSET, IR_VERSION = 18, 9

Weights = Mapping[str, NDArray[np.float32]]
# Of an operator.
Attribute = int | str | list[int]


def read_weights(data: bytes) -> dict[str, NDArray[np.float32]]:
    """The arrays of a PyTorch state dictionary; nothing but numbers is read. Raises DataError."""
    import torch

    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return {name: value.numpy().astype(np.float32) for name, value in found.items()}
    except Exception as error:  # unpickling and zip files fail in many ways
        raise DataError(f"Expected a PyTorch state dictionary of weights: {type(error).__name__}: {error}.") from error


def to_onnx(weights: Weights) -> bytes:
    """The graph from `image`, (1, height, width, 3) bytes, to `row`, (1, 1280) of L2 norm 1. Raises DataError for other weights."""
    graph = _Graph(weights)
    x = graph.add("Cast", "image", to=TensorProto.FLOAT)
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    sizes = graph.constant(np.array([1, 3, SIDE, SIDE], np.int64))
    x = graph.add("Resize", x, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
    x = graph.add("Sub", graph.add("Div", x, graph.number(127.5)), graph.number(1.0))
    x = graph.convolution(x, "_conv_stem", "_bn0", stride=2)
    for index, stride in enumerate(STRIDES):
        name, inner = f"_blocks.{index}", x
        if f"{name}._expand_conv.weight" in weights:
            inner = graph.convolution(inner, f"{name}._expand_conv", f"{name}._bn0")
        inner = graph.convolution(inner, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, depthwise=True)
        inner = graph.convolution(inner, f"{name}._project_conv", f"{name}._bn2", activation=False)
        keeps_shape = stride == 1 and graph.width_in(name) == graph.width(f"{name}._project_conv")
        x = graph.add("Add", inner, x) if keeps_shape else inner
    x = graph.convolution(x, "_conv_head", "_bn1")
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x))
    graph.add("LpNormalization", x, output="row", axis=1, p=2)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "efficientnet-lite0",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "height", "width", 3])],
            [helper.make_tensor_value_info("row", TensorProto.FLOAT, [1, graph.width("_conv_head")])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="limbeck",
    )
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


@dataclass(slots=True)
class _Graph:
    """Nodes and constants of a graph that is being written."""

    weights: Weights
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Attribute) -> str:
        """A node; the name of what it returns."""
        name = output or f"n{len(self.nodes)}"
        node = helper.make_node(operator, inputs, [name])
        node.attribute.extend(helper.make_attribute(key, attributes[key]) for key in sorted(attributes))
        self.nodes.append(node)
        return name

    def constant(self, value: NDArray[np.generic]) -> str:
        """An array in the graph; its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def number(self, value: float) -> str:
        """A number in the graph; its name."""
        return self.constant(np.array(value, np.float32))

    def weight(self, name: str) -> NDArray[np.float32]:
        """An array of the weights. Raises DataError if there is none of this name."""
        if name not in self.weights:
            raise DataError(f"Expected {name} among the weights of EfficientNet-Lite0, found none.")
        return self.weights[name]

    def width(self, convolution: str) -> int:
        """The channels that a convolution returns."""
        return len(self.weight(f"{convolution}.weight"))

    def width_in(self, block: str) -> int:
        """The channels that a block takes."""
        expand = f"{block}._expand_conv.weight"
        return self.weight(expand).shape[1] if expand in self.weights else self.width(f"{block}._depthwise_conv")

    def convolution(
        self, x: str, name: str, norm: str, *, stride: int = 1, depthwise: bool = False, activation: bool = True
    ) -> str:
        """A convolution, its batch normalisation and ReLU6; padded as in TensorFlow, where the networks were trained."""
        kernel = self.weight(f"{name}.weight").astype(np.float64)
        scale, shift, mean, variance = (
            self.weight(f"{norm}.{part}").astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / np.sqrt(variance + EPSILON)
        folded = (kernel * factor[:, None, None, None]).astype(np.float32)
        bias = (shift - mean * factor).astype(np.float32)
        x = self.add(
            "Conv",
            x,
            self.constant(folded),
            self.constant(bias),
            auto_pad="SAME_UPPER",
            strides=[stride, stride],
            group=len(kernel) if depthwise else 1,
        )
        return self.add("Clip", x, self.number(0.0), self.number(6.0)) if activation else x
