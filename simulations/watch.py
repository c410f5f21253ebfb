"""Progress bars of a run. They follow the events that the coordinator writes, and so work with every carrier."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import TaskID

from limbeck.base.progress import bars
from limbeck.server import events
from limbeck.server.states import Phase


class Watch:
    """A context that shows a bar for each phase of a run on the console. file: of the run's events."""

    def __init__(self, file: Path, console: Console) -> None:
        self._file = file
        self._progress = bars(console)
        self._tasks: dict[Phase, TaskID] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._offset = file.stat().st_size if file.exists() else 0

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
        if not self._file.exists():
            return
        with self._file.open("rb") as stream:
            stream.seek(self._offset)
            lines = stream.read()
        whole = lines[: lines.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in events.read(whole.splitlines()):
            if isinstance(line.event, events.Progress):
                self._show(line.event.phase, line.event.done, line.event.total)

    def _show(self, phase: Phase, done: int, total: int) -> None:
        if phase not in self._tasks:
            self._tasks[phase] = self._progress.add_task(phase.title, total=total)
        task = self._tasks[phase]
        self._progress.update(task, completed=done, total=total)
        if done == total:
            self._progress.stop_task(task)
