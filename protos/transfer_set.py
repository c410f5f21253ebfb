"""The transfer set: public inputs that both sides hold under one hash, so that an answer is to a known question."""

from __future__ import annotations

import hashlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from limbeck.operators.errors import DataError


def digest(x_N: NDArray[np.generic]) -> bytes:
    """SHA-256 (32 bytes) over dtype, shape and C-order bytes of the inputs."""
    head = f"{x_N.dtype.str} {x_N.shape}\n".encode()
    return hashlib.sha256(head + np.ascontiguousarray(x_N).tobytes()).digest()


def read_arrays(path: Path, *names: str) -> list[NDArray[np.generic]]:
    """Arrays by name out of an NPZ file. Raises DataError where the file or an array is missing or broken."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file[name] for name in names]
    except FileNotFoundError as error:
        raise DataError(f"Expected an NPZ file with {', '.join(names)} at {path}, found none.") from error
    except KeyError as error:
        raise DataError(f"Expected arrays {', '.join(names)} in {path}: {error}.") from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"Expected a readable NPZ file at {path}: {error}.") from error
