"""Image files: found by name, read without waiting, and made grey and of one size, each by nothing but its bytes."""

from __future__ import annotations

import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
# Formats whose readers may look at a file, whatever its name says; other readers run programs or follow references.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
# Limits for one image: pixels, some hundred megabytes while it is read, and bytes of its file. A larger one is left out.
LARGEST_IMAGE = 1 << 26
LARGEST_IMAGE_FILE = 1 << 28


def files(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise DataError(f"Expected a folder of images at {folder}: {error.strerror}.") from error


def contents(file: Path) -> bytes:
    """The bytes of a regular file; raises ValueError for anything else, without waiting for a pipe or a device."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("found no regular file")
        data = stream.read(LARGEST_IMAGE_FILE + 1)
    if len(data) > LARGEST_IMAGE_FILE:
        raise ValueError(f"found more than {LARGEST_IMAGE_FILE} bytes")
    return data


def grey(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """(height, width) bytes of the image in `data`, a function of `data` alone: the first frame, without transparency or rotation.

    Of 16 bits per pixel the upper eight are used; for 32-bit numbers no file declares a scale. Raises whatever decoders raise.
    """
    from PIL import Image

    # Load all decoders now: if they were loaded on demand, a record could change which of them see the next one.
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise ValueError(f"found {image.width} x {image.height} pixels, more than {LARGEST_IMAGE}")
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
                pixels = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
            elif image.mode in {"I", "F"}:
                raise ValueError(f"found pixels of mode {image.mode}, which have no scale")
            else:
                pixels = image.convert("L")
            return np.array(pixels.resize((width, height)), np.uint8)
