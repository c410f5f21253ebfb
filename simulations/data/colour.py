"""CIFAR-10: 60,000 colour images of ten things, as rows of a public encoder of images, or grey.

Each file of the package is one PNG with an image in each of its rows: 32 x 32 pixels, red, green and blue.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError
from limbeck.base.progress import Progress
from limbeck.client.records import RecordSettings
from limbeck.simulations.data import artefacts
from limbeck.simulations.data.dataset import DataSet, Labels
from limbeck.simulations.data.encoded import through_image_encoder
from limbeck.simulations.data.sources import LUMA

SIDE = 32
TRAIN = tuple(f"data_batch_{number}.png" for number in range(1, 6))
TEST = ("test_batch.png",)
# As the package spells them.
TRAIN_LABELS, TEST_LABELS = "train_lables.json", "test_lables.json"
FILES = (*TRAIN, *TEST, TRAIN_LABELS, TEST_LABELS)
# Of one file, which is larger than what Pillow opens without a word.
MOST_PIXELS = 1 << 24

Images = NDArray[np.uint8]


def read(cache: Path | None, folder: Path | None) -> tuple[Images, Labels, Images, Labels]:
    """Training images (N, 32, 32, 3), their labels, test images and theirs. folder: of the same files. Raises DataError."""
    if folder is None:
        files = {
            Path(name).name: data
            for name, data in artefacts.packed("cifar-10", [f"package/{name}" for name in FILES], cache).items()
        }
    else:
        files = {name: _contents(folder / name) for name in FILES}
    parts = []
    for names, labels in ((TRAIN, TRAIN_LABELS), (TEST, TEST_LABELS)):
        x_N, y_N = np.concatenate([_pixels(files[name], name) for name in names]), _labels(files[labels], labels)
        if len(x_N) != len(y_N):
            raise DataError(
                f"Expected as many labels in {labels} as images in {', '.join(names)}, got {len(y_N)} for {len(x_N)}."
            )
        parts.append((x_N, y_N))
    return (*parts[0], *parts[1])


def in_grey(x_N: NDArray[np.generic]) -> Images:
    """(N, H, W) brightness of colour images."""
    return np.asarray((x_N.astype(np.float64) @ LUMA).round(), np.uint8)


def finish(found: DataSet, *, encoder: str | None, cache: Path | None, progress: Progress | None) -> DataSet:
    """A data set of colour images with inputs that students can take: rows of an encoder, or grey images."""
    assert isinstance(found.private_x, np.ndarray)  # it was read above
    if encoder is None:
        private_x, public_x, test_x = map(in_grey, (found.private_x, found.public_x, found.test_x))
        return replace(found, private_x=private_x, public_x=public_x, test_x=test_x)
    records = RecordSettings(classes=tuple(range(len(found.class_names))))
    return through_image_encoder(replace(found, records=records), encoder=encoder, cache=cache, progress=progress)


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"Expected {path.name} in {path.parent}: {error.strerror}.") from error


def _pixels(data: bytes, name: str) -> Images:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.width != SIDE * SIDE or image.width * image.height > MOST_PIXELS:
                raise ValueError(
                    f"expected {SIDE * SIDE} pixels a row, one image in each, got {image.width} x {image.height}"
                )
            pixels = np.asarray(image.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"Expected a PNG file of images in {name}: {error}.") from error
    return pixels.reshape(-1, SIDE, SIDE, 3)


def _labels(data: bytes, name: str) -> Labels:
    try:
        found = json.loads(data)
        if not isinstance(found, list) or not all(type(label) is int and 0 <= label <= 9 for label in found):
            raise ValueError("got something else")
    except ValueError as error:
        raise DataError(f"Expected a list of labels from 0 to 9 in {name}: {error}.") from error
    return np.array(found, np.int64)
