"""Durable files: a file is complete or absent, even after a power cut, and a private one is readable by its owner alone from the start."""

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

# Pause between two attempts to get a file descriptor.
FULL_SECONDS = 0.1
OTHERS = stat.S_IRWXG | stat.S_IRWXO

T = TypeVar("T")

_outlives_power_cuts = ContextVar("outlives_power_cuts", default=True)


@contextmanager
def outliving_power_cuts(wanted: bool) -> Iterator[None]:
    """Within this context, whether a write returns only once the data is on the disk.

    Otherwise it survives the process, but not a power cut.
    """
    token = _outlives_power_cuts.set(wanted)
    try:
        yield
    finally:
        _outlives_power_cuts.reset(token)


def outlives_power_cuts() -> bool:
    """Whether files that are written now must survive a power cut."""
    return _outlives_power_cuts.get()


def keep_to_owner() -> None:
    """Restrict everything that this process and its children create to their owner: files to mode 600, folders to mode 700.

    Every process of a site or a coordinator starts with this, so no file depends on the umask it inherited, including files that libraries
    create (a database and its log, a lock).
    """
    os.umask(OTHERS)


def patiently(opening: Callable[[], T]) -> T:
    """The result of `opening`, retried while the process or the machine is out of file descriptors."""
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
    """Replace the contents of `path`, readable by its owner alone: temporary file beside it, fsync, rename, fsync of the folder."""
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
    """Write a new file that its owner alone can read (mode 600), completely or not at all. Raises SettingError if the file exists.

    `mkstemp` opens with O_EXCL and mode 600, and linking fails if the name is taken: at no moment can others read the file, is it half
    written, or does it replace another.
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
    """Create a folder that its owner alone can enter (mode 700), with missing parents; an existing folder is left as it is."""
    for folder in [path, *path.parents][::-1]:
        folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which is created if necessary and stays.

    what: the kind of process that must be alone here.

    Raises SettingError if another process holds the lock; a process that died holds none.
    """
    create_private_folder(path.parent)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingError(f"Expected no other {what} in {path.parent}, found one running.") from None
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the lock on this file (see `alone`). It is neither made nor kept."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def check_private(path: Path) -> None:
    """Raise SettingError if anybody but its owner may read or write a file, FileNotFoundError if it does not exist."""
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
    """Make a folder's list of files durable."""
    if outlives_power_cuts():
        descriptor = patiently(lambda: os.open(folder, os.O_RDONLY))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
