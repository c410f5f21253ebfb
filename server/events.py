"""What a run is doing, as lines of JSON in its folder: whoever wants to watch reads the file, whatever carries the messages."""

from __future__ import annotations

import json
import time
from pathlib import Path

from limbeck.base.files import patiently


class Events:
    """Appends one line per event to `path`: its kind, the time in seconds since the epoch, and public facts.

    A line that an earlier process could not finish, because it was killed or the disk was full, is dropped.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        if path.exists():
            with path.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)

    def __call__(self, kind: str, **facts: object) -> None:
        line = json.dumps({"kind": kind, "time": round(time.time(), 3), **facts})
        with patiently(lambda: self._path.open("a", encoding="utf-8")) as file:
            file.write(line + "\n")

    def progress(self, phase: str, done: int, total: int, **facts: object) -> None:
        """`done` of `total` parts of a phase are finished."""
        self("progress", phase=phase, done=done, total=total, **facts)
