"""Image files of every kind that a site reads, and bytes that are none."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin


def saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (13, 10, 3), dtype=np.uint8))
    image.convert(mode).save(out, kind, **options)
    return out.getvalue()


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Flips, cuts, repeats, lies about numbers: one to four of them."""
    own = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(own)) if own else 0
        match draw.randrange(6):
            case 0:
                own[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                # Headers decide most: the first bytes are tried more often.
                place = draw.randrange(min(64, len(own)) or 1)
                own[place : place + 1] = bytes([draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])])
            case 2:
                del own[at:]
            case 3:
                own[at:at] = draw.randbytes(draw.randint(1, 9))
            case 4:
                own[at : at + 4] = struct.pack(draw.choice("<>") + "I", draw.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 16]))
            case _:
                del own[at : at + draw.randint(1, 9)]
    return bytes(own)


FORMATS = {
    "png": saved("PNG"),
    "palette.png": saved("PNG", "P"),
    "jpg": saved("JPEG"),
    "cmyk.jpg": saved("JPEG", "CMYK"),
    "bmp": saved("BMP"),
    "tif": saved("TIFF"),
    "lzw.tif": saved("TIFF", compression="tiff_lzw"),
    "pgm": saved("PPM", "L"),
    "ppm": saved("PPM"),
    "gif": saved("GIF", "P"),
    "webp": saved("WEBP"),
}


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """An image whose header says so, whatever follows."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    parts = [head, *chunks, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    own = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(own)


def with_long_text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * (2 << 20), zip=True)
    return saved("PNG", pnginfo=info)


def animated() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("L", (9, 9), shade) for shade in (10, 200)]
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def of_16_bits(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((9, 9), 0x4321, np.uint16)).save(out, kind)
    return out.getvalue()


def of_floats() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((9, 9), 0.5, np.float32)).save(out, "TIFF")
    return out.getvalue()


NO_IMAGES = {
    "text.png": with_long_text(),
    "empty.png": b"",
    "bomb.png": png(30_000, 30_000),
    "wide.png": png(0x7FFFFFFF, 1),
    "large.png": png(9_000, 9_000),
    "none.png": png(0, 0),
    "header.pgm": b"P5 99999999999999999999 7 255\n",
    "letters.pgm": b"P5\nab cd 255\n",
    "long.pgm": b"P5 " + b"1" * 2000,
    "plain.ppm": b"P3 2 2 255\n0 0 0 999 x",
    "other.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    "floats.tif": of_floats(),
    "half.jpg": saved("JPEG")[:200],
}


@contextmanager
def pipe(path: Path) -> Iterator[None]:
    """A pipe at `path` with bytes in it and a writer that stays: who reads it as a file waits, or finds no image."""
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(writer, bytes(4096))
        yield
    finally:
        os.close(writer)


def of_32_bits() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((9, 9), 70_000, np.int32)).save(out, "TIFF")
    return out.getvalue()


def turned(kind: str, orientation: int) -> bytes:
    """White but for the top left corner, as a camera stores it that was held so, and notes it."""
    upright = Image.fromarray(np.pad(np.zeros((16, 16), np.uint8), (0, 16), constant_values=255))
    as_stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = upright.transpose(as_stored[orientation]) if orientation in as_stored else upright
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(out, kind, exif=exif)
    return out.getvalue()


def ink(mode: str) -> bytes:
    """Black everywhere; the right half is transparent."""
    out = io.BytesIO()
    if mode == "P":
        pixels = Image.fromarray(np.repeat(np.array([[0] * 4 + [1] * 4], np.uint8), 8, 0), "P")
        pixels.putpalette([0, 0, 0, 0, 0, 0])
        pixels.save(out, "PNG", transparency=1)
    else:
        layers = np.zeros((8, 8, len(mode)), np.uint8)
        layers[:, :4, -1] = 255
        Image.fromarray(layers, mode).save(out, "PNG")
    return out.getvalue()
