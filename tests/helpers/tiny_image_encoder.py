"""A real ONNX encoder of colour images, tiny and with random weights, in a folder: no test needs a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_sample_images

NUMBERS = 8


def make(
    folder: Path, seed: int = 0, *, size: Sequence[int | str] = ("height", "width"), kind: int = TensorProto.UINT8
) -> Path:
    """The folder, with a convolution and the mean of what it finds: NUMBERS per image. size: height and width that it takes."""
    kernel = np.random.default_rng(seed).normal(size=(NUMBERS, 3, 3, 3)).astype(np.float32) / 255
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "kernel"], ["found"]),
        helper.make_node("Relu", ["found"], ["positive"]),
        helper.make_node("GlobalAveragePool", ["positive"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["row"]),
    ]
    image = helper.make_tensor_value_info("image", kind, [1, *size, 3])
    row = helper.make_tensor_value_info("row", TensorProto.FLOAT, [1, NUMBERS])
    graph = helper.make_graph(nodes, "tiny", [image], [row], [numpy_helper.from_array(kernel, "kernel")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder


@lru_cache(maxsize=1)
def _sample_images() -> list[np.ndarray]:
    return list(load_sample_images().images)


def photographs(count: int, side: int = 32) -> np.ndarray:
    """(count, side, side, 3) bytes: pieces of the two photographs that scikit-learn brings, by turns of a temple and of a flower."""
    pieces = [
        image[top : top + side, left : left + side]
        for top in range(0, 384, side)
        for left in range(0, 608, side)
        for image in _sample_images()
    ]
    return np.stack(pieces[:count])


def photograph_folder(folder: Path, count: int, side: int = 12) -> Path:
    """Pieces as PNG files, in a folder for each of the photographs."""
    for number, piece in enumerate(photographs(count, side)):
        place = folder / ("temple", "flower")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(piece).save(place / f"{number:03}.png")
    return folder
