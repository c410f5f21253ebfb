"""Durable files: what is written is whole or absent, also after a power cut; private ones are their owner's alone from the first moment."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from limbeck.base.errors import SettingError

log = logging.getLogger(__name__)

# Between two looks for a descriptor.
FULL_SECONDS = 0.1
OTHERS = stat.S_IRWXG | stat.S_IRWXO

T = TypeVar("T")

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


def keep_to_owner() -> None:
    """From now on whatever this process and its children make is their owner's alone: files of mode 600, folders of mode 700.

    Every process of a site or a coordinator begins with this, so that no file depends on the umask that it was started with, those of
    libraries (a database and its log, a lock) included.
    """
    os.umask(OTHERS)


def patiently(opening: Callable[[], T]) -> T:
    """What `opening` gives, as soon as there is a descriptor for it: a full table, of the process or of the machine, is waited for."""
    told = False
    while True:
        try:
            return opening()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            if not told:
                log.error("Waiting for a descriptor: %s.", error)
            told = True
            time.sleep(FULL_SECONDS)


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, its owner's alone: a temporary file in the same folder, fsync, rename, fsync of the folder."""
    create_private_folder(path.parent)
    descriptor, temporary = patiently(lambda: tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}."))
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


def create_private(path: Path, data: bytes) -> None:
    """Write a new file that its owner alone can read (mode 600), whole or not at all. Raises SettingError where there is one already.

    `mkstemp` opens with O_EXCL and mode 600, and a link refuses a name that is taken: at no moment is the file open to others, half
    written, or in the place of another.
    """
    create_private_folder(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            sync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        raise SettingError(f"Expected no file at {path} yet, found one; it was left as it is.") from None
    finally:
        Path(temporary).unlink(missing_ok=True)
    sync_folder(path.parent)


def create_private_folder(path: Path) -> None:
    """Make a folder that its owner alone can enter (mode 700), and those above it that are missing; one that is there stays as it is."""
    for folder in [path, *path.parents][::-1]:
        folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold a lock in the file `path`, which is made if need be and stays. what: two of which would undo each other's work here.

    Raises SettingError where another process holds it; one that died holds none.
    """
    create_private_folder(path.parent)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingError(f"Expected no other {what} in {path.parent}, found one running.") from None
        yield


def check_private(path: Path) -> None:
    """Raise SettingError where others than its owner may read or write a file. Raises FileNotFoundError where there is none."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & OTHERS:
        raise SettingError(
            f"Expected {path} to be its owner's alone (mode 600), got mode {mode:03o}: run chmod 600 on it, and replace the key if"
            " others were on this machine."
        )


def sync(descriptor: int) -> None:
    """Make what was written to an open file durable."""
    if outlives_power_cuts():
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make durable which files a folder holds."""
    if outlives_power_cuts():
        descriptor = patiently(lambda: os.open(folder, os.O_RDONLY))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
