"""The transfer set: public inputs that both sides hold under one hash, so that every answer refers to a known question.

NPZ files are archives that expand up to a thousand times, and their headers can say anything. So the archive's directory and the arrays'
headers are read first, and nothing is inflated or allocated unless they agree and it is no larger than the caller allows.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from limbeck.base.errors import DataError

# The default limit for one array, inflated, in bytes.
LARGEST = 4 << 30
# The limit for one public input, in bytes: 512 x 512 float32 numbers. A transfer set may take this times the plan's number of samples.
LARGEST_INPUT = 1 << 20
# Numbers, truth values and texts; no objects (pickles), no records of several fields, no times.
KINDS = "biufcUS"
MOST_AXES = 32
# The limit for an array's header, in bytes; it takes about 100.
LONGEST_HEADER = 10_000
# Deflate expands one byte to at most 1,032.
LARGEST_RATIO = 1_100
CHUNK = 1 << 20


def digest(x_N: NDArray[np.generic]) -> bytes:
    """SHA-256 (32 bytes) over dtype, shape and C-order bytes of the inputs."""
    head = f"{x_N.dtype.str} {x_N.shape}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(x_N).tobytes()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """An array's header. start: the offset of its values within the member of the archive."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool
    start: int

    @property
    def bytes(self) -> int:
        """The size of all values, inflated."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_headers(path: Path, *names: str, largest: int = LARGEST) -> list[Header]:
    """Shapes and dtypes of arrays in an NPZ file; their values are not read. Raises DataError as `read_arrays` does."""
    return [header for header, _ in _read(path, names, largest, values=False)]


def read_arrays(path: Path, *names: str, largest: int = LARGEST) -> list[NDArray[np.generic]]:
    """Arrays from an NPZ file, by name; memory stays within what `largest` allows.

    largest: the limit for each array, inflated, in bytes.

    Raises: DataError, and nothing else, if the file or an array is missing, broken, too large, or holds objects.
    """
    return [values for _, values in _read(path, names, largest, values=True) if values is not None]


def _read(
    path: Path, names: tuple[str, ...], largest: int, *, values: bool
) -> list[tuple[Header, NDArray[np.generic] | None]]:
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"Expected an NPZ file with {', '.join(names)} at {path}, found something that is no file.")
        with ZipFile(path) as archive:
            members = archive.infolist()
            return [
                _member(archive, _only(members, name, path), f"array {name} in {path}", largest, values) for name in names
            ]
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"Expected an NPZ file with {', '.join(names)} at {path}, found none.") from error
    except Exception as error:  # zipfile, zlib and numpy raise errors of many kinds on hostile bytes
        raise DataError(f"Expected a readable NPZ file at {path}: {type(error).__name__}: {error}.") from error


def _only(members: list[ZipInfo], name: str, path: Path) -> ZipInfo:
    matching = [member for member in members if member.filename == f"{name}.npy"]
    if len(matching) != 1:
        present = ", ".join(sorted(member.filename.removesuffix(".npy") for member in members)[:20]) or "none"
        raise DataError(f"Expected one array {name} in {path}, found {len(matching)}; there are: {present}.")
    return matching[0]


def _member(
    archive: ZipFile, member: ZipInfo, what: str, largest: int, values: bool
) -> tuple[Header, NDArray[np.generic] | None]:
    if member.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        raise DataError(f"Expected {what} to be stored or deflated, got compression {member.compress_type}.")
    with archive.open(member) as stream:
        # Magic, version and the header's length; then the header. Values are read only if they are wanted.
        head = stream.read(12)
        size = int.from_bytes(head[8:10] if head[6:7] == b"\1" else head[8:], "little")
        head += stream.read(min(size, LONGEST_HEADER))
        header = _header(head, what)
        _check_size(header, member, what, largest)
        if not values:
            return header, None
        flat = np.empty(math.prod(header.shape), header.dtype)
        room = flat.view(np.uint8) if len(flat) else np.empty(0, np.uint8)
        rest = head[header.start :]
        room[: len(rest)] = np.frombuffer(rest, np.uint8)
        at = len(rest)
        while at < len(room):
            piece = stream.read(min(CHUNK, len(room) - at))
            if not piece:
                raise DataError(f"Expected {len(room)} bytes of {what}, got {at}.")
            room[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
            at += len(piece)
        # The checksum is verified only by reading past the last byte.
        if stream.read(1):
            raise DataError(f"Expected {len(room)} bytes of {what}, got more.")
    return header, flat.reshape(header.shape, order="F" if header.fortran else "C")


def _header(head: bytes, what: str) -> Header:
    buffer = io.BytesIO(head)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about outdated dtypes and headers, which are read or refused without a comment
        version = npy.read_magic(buffer)
        if version not in {(1, 0), (2, 0)}:
            raise DataError(f"Expected {what} in version 1.0 or 2.0 of NumPy's format, got {version}.")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(buffer, max_header_size=LONGEST_HEADER)
    if dtype.kind not in KINDS or dtype.itemsize == 0 or dtype.subdtype is not None:
        raise DataError(f"Expected numbers as {what}, got dtype {dtype}: objects are pickles, which are not read.")
    if len(shape) > MOST_AXES or any(type(size) is not int or size < 0 for size in shape):
        raise DataError(f"Expected at most {MOST_AXES} sizes of at least 0 as the shape of {what}, got {str(shape)[:80]}.")
    return Header(shape=tuple(shape), dtype=dtype, fortran=bool(fortran), start=buffer.tell())


def _check_size(header: Header, member: ZipInfo, what: str, largest: int) -> None:
    """Raise DataError unless header, archive directory and the caller's limit agree; no memory is allocated before that."""
    if math.prod(max(size, 1) for size in header.shape) * header.dtype.itemsize > largest:
        raise DataError(f"Expected at most {largest} bytes of {what}, got shape {header.shape} of {header.dtype}.")
    if member.file_size != header.start + header.bytes:
        raise DataError(
            f"Expected {header.start + header.bytes} bytes of {what} for shape {header.shape} of {header.dtype}, got {member.file_size}."
        )
    if member.file_size > LARGEST_RATIO * member.compress_size + CHUNK:
        raise DataError(
            f"Expected {member.file_size} bytes of {what} from {member.compress_size}: more than deflate can give."
        )
