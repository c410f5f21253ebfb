"""Durable files: what is written is whole or absent, also after a power cut."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_outlives_power_cuts = ContextVar("outlives_power_cuts", default=True)


@contextmanager
def outliving_power_cuts(wanted: bool) -> Iterator[None]:
    """Whether what is written within reaches the disk before the writer goes on. Without it, it outlives the process only."""
    token = _outlives_power_cuts.set(wanted)
    try:
        yield
    finally:
        _outlives_power_cuts.reset(token)


def outlives_power_cuts() -> bool:
    """Whether files written now must."""
    return _outlives_power_cuts.get()


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: a temporary file in the same folder, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync(descriptor: int) -> None:
    """Make what was written to an open file durable."""
    if outlives_power_cuts():
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make durable which files a folder holds."""
    if outlives_power_cuts():
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
