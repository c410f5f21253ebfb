"""Image files: found by name, read without waiting, and made of one size, grey or in colour, each by nothing but its bytes.

An image is its first frame, turned as its EXIF orientation says, on white where it is transparent. Of 16 bits per pixel the upper eight
are used. For numbers of 32 bits, whole or not, no file declares a scale: they would become white, or 0 and 1, so they are left out.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"})
# Formats whose readers may look at a file, whatever its name says; other readers run programs or follow references.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
# Limits for one image: pixels, some hundred megabytes while it is read, and bytes of its file. A larger one is left out.
LARGEST_IMAGE = 1 << 26
LARGEST_IMAGE_FILE = 1 << 28
# The EXIF tag that says how a camera was held, and its value for upright.
ORIENTATION, UPRIGHT = 0x0112, 1
# What owners should know of an image that is read (`changes`).
COLOUR, TURNED, TRANSPARENT, DEEP, FRAMES = "in colour", "turned by EXIF", "transparent", "of 16 bits", "of several frames"


def files(folder: Path) -> list[Path]:
    """The image files in a folder and in those within it, by their names alone, in the order of their paths.

    What begins with a dot does not count, and folders that are links are not entered, so that none is read twice. A folder within it that
    cannot be listed is among them, and fails like an image that cannot be read: it may hold one record, which must not make a refusal.

    Raises: DataError if the folder itself cannot be listed.
    """
    closed: list[Path] = []
    return sorted([*(path for path in _walk(folder, closed) if path.suffix.lower() in SUFFIXES), *closed])


def others(folder: Path) -> dict[str, int]:
    """How many files of each suffix in a folder, and in those within it, are no images by their names. Raises DataError as `files`."""
    found: dict[str, int] = {}
    for path in _walk(folder, []):
        if path.suffix.lower() not in SUFFIXES:
            kind = path.suffix.lower() or "without a suffix"
            found[kind] = found.get(kind, 0) + 1
    return found


def contains(folder: Path) -> bool:
    """Whether there is an image in a folder or within it, by its name; none is opened. Raises DataError as `files`."""
    closed: list[Path] = []
    return any(path.suffix.lower() in SUFFIXES for path in _walk(folder, closed)) or bool(closed)


def _walk(folder: Path, closed: list[Path]) -> Iterator[Path]:
    """What is in a folder, at any depth: files, and folders with the name of an image. closed: takes the folders that cannot be listed."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        raise DataError(f"Expected a folder of images at {folder}: {error.strerror}.") from error
    for parent, inner, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        inner[:] = [name for name in inner if not name.startswith(".")]
        named = [name for name in inner if Path(name).suffix.lower() in SUFFIXES]
        yield from (Path(parent) / name for name in [*names, *named] if not name.startswith("."))


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
    """(height, width) bytes of the image in `data`, a function of `data` alone. Raises whatever decoders raise."""
    from PIL import Image

    with _opened(data) as image:
        if _is_deep(image):
            pixels = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        elif image.mode in {"I", "F"}:
            raise ValueError(
                f"found pixels of 32 bits (mode {image.mode}), which have no scale; save them with 8 or 16 bits"
            )
        else:
            pixels = _on_white(image).convert("L")
        return np.array(_upright(pixels, _orientation(image)).resize((width, height)), np.uint8)


def colour(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """(height, width, 3) bytes of the image in `data`: red, green and blue; otherwise as `grey`."""
    with _opened(data) as image:
        if _is_deep(image) or image.mode in {"I", "F"}:
            return np.repeat(grey(data, height, width)[..., None], 3, axis=-1)
        coloured = _on_white(image).convert("RGB")
        return np.array(_upright(coloured, _orientation(image)).resize((width, height)), np.uint8)


def why_unread(error: Exception) -> str:
    """Why a file is no image that can be read, for its owner: what `contents` or `grey` raised, in words."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"a file of another kind than {', '.join(FORMATS)}"
    return f"{type(error).__name__}: {str(error)[:200]!r}"


def changes(data: bytes) -> tuple[str, ...]:
    """What of an image that can be read is changed or lost in grey, for its owner: COLOUR, TURNED, ... Raises whatever decoders raise."""
    with _opened(data) as image:
        found = {
            COLOUR: image.mode not in {"1", "L", "LA", "La", "I", "F"} and not _is_deep(image) and _is_colourful(image),
            TURNED: _orientation(image) != UPRIGHT,
            TRANSPARENT: image.has_transparency_data,
            DEEP: _is_deep(image),
            FRAMES: getattr(image, "n_frames", 1) > 1,
        }
    return tuple(name for name, holds in found.items() if holds)


@contextmanager
def _opened(data: bytes) -> Iterator[Image]:
    from PIL import Image

    # Load all decoders now: if they were loaded on demand, a record could change which of them see the next one.
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            opened = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError as error:
            # Its words, of an attack, would alarm the owner of a large scan.
            raise ValueError(f"found more than {LARGEST_IMAGE} pixels") from error
        with opened as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise ValueError(f"found {image.width} x {image.height} pixels, more than {LARGEST_IMAGE}")
            yield image


def _is_deep(image: Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def _is_colourful(image: Image) -> bool:
    """Whether a pixel's red, green and blue differ by more than a lossy format may make them."""
    rgb = np.asarray(image.convert("RGB"), np.int16)
    return bool((rgb.max(-1) - rgb.min(-1) > 16).any())


def _on_white(image: Image) -> Image:
    """The image on white where it is transparent: what a viewer shows on paper. What is stored beneath it is anything."""
    from PIL import Image

    if not image.has_transparency_data:
        return image
    with_alpha = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", with_alpha.size, "white"), with_alpha)


def _orientation(image: Image) -> int:
    """As EXIF says; upright if it says nothing that can be read."""
    try:
        found = image.getexif().get(ORIENTATION, UPRIGHT)
    except Exception:  # whatever a parser raises on broken EXIF: the pixels are there all the same
        return UPRIGHT
    return found if isinstance(found, int) and 1 <= found <= 8 else UPRIGHT


def _upright(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image
