"""Progress bars: follows the events that the coordinator writes, so it works with every carrier."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import TaskID

from limbeck.base.progress import bars

TITLES = {
    "agree": "Sites agree to the plan",
    "teach": "Sites train their teachers",
    "answers": "Stage {}: sites answer",
    "distil": "Stage {}: student",
}


class Watch:
    """A context that shows one bar per phase of a run on the console while it lasts."""

    def __init__(self, events: Path, console: Console) -> None:
        self._events = events
        self._progress = bars(console)
        self._tasks: dict[str, TaskID] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._offset = events.stat().st_size if events.exists() else 0

    def __enter__(self) -> Watch:
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        self._read()
        self._progress.stop()

    def _follow(self) -> None:
        while not self._done.wait(0.1):
            self._read()

    def _read(self) -> None:
        if not self._events.exists():
            return
        with self._events.open("rb") as file:
            file.seek(self._offset)
            lines = file.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            event = json.loads(line)
            if event["kind"] == "progress":
                self._show(event["phase"], event["done"], event["total"])

    def _show(self, phase: str, done: int, total: int) -> None:
        if phase not in self._tasks:
            kind, _, stage = phase.partition(" ")
            self._tasks[phase] = self._progress.add_task(TITLES.get(kind, kind).format(stage), total=total)
        task = self._tasks[phase]
        self._progress.update(task, completed=done, total=total)
        if done == total:
            self._progress.stop_task(task)
