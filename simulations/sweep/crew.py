"""The processes of a sweep: several runs at once, each in a process of its own, within the cores and the memory of this machine."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from limbeck.simulations.sweep.cells import Planned
from limbeck.simulations.sweep.worker import Order

# What one run of the default scenario needs, with the processes of its sites; measured: docs/sweeps.md.
BYTES_PER_RUN = 1_500_000_000
WORKER = [sys.executable, "-m", "limbeck.simulations.sweep.worker"]
_MEMORY = Path("/proc/meminfo")
# The limit of a container (cgroup v2), and what it uses now.
_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A process has taken this run."""

    planned: Planned


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run has ended. problem: why it failed; empty if it has finished."""

    planned: Planned
    problem: str


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(runs: int) -> int:
    """How many runs at once: one per core, as far as the free memory goes."""
    return max(1, min(runs, cores(), free_memory() // BYTES_PER_RUN))


def threads(share: int, environment: Mapping[str, str]) -> int:
    """Threads of a library in one run: its share of the cores, or fewer where the user says so by OMP_NUM_THREADS.

    More would only wait for those of other runs; fewer are right on a machine that is busy with something else.
    """
    wanted = environment.get("OMP_NUM_THREADS", "")
    return min(share, int(wanted)) if wanted.isascii() and wanted.isdigit() and int(wanted) else share


def free_memory() -> int:
    """Bytes that could be had now, of the machine's and of the container's; where the system does not say, enough."""
    free = sys.maxsize
    with suppress(OSError, ValueError, StopIteration):
        found = (line.split() for line in _MEMORY.read_text(encoding="ascii").splitlines())
        free = next(1024 * int(words[1]) for words in found if words[:1] == ["MemAvailable:"])
    # A container without a limit says "max".
    with suppress(OSError, ValueError):
        free = min(free, int(_LIMIT.read_text(encoding="ascii")) - int(_USED.read_text(encoding="ascii")))
    return free


class Crew:
    """A context in which processes work on runs; leaving it interrupts what still goes on, and waits for it to stop.

    - todo: the runs, in order.
    - sweep: the folder of the sweep.
    - jobs: runs at once. The machine's cores are shared among them.
    """

    def __init__(self, todo: Sequence[Planned], sweep: Path, *, jobs: int) -> None:
        self._sweep = sweep
        self._share = max(1, cores() // max(1, min(jobs, len(todo))))
        self._todo: queue.SimpleQueue[Planned] = queue.SimpleQueue()
        for planned in todo:
            self._todo.put(planned)
        self._news: queue.SimpleQueue[Begun | Ended] = queue.SimpleQueue()
        self._left = len(todo)
        self._closing = False
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(min(jobs, len(todo)))
        ]

    def __enter__(self) -> Crew:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with _second_interrupt_kills(self._processes):
            for process in list(self._processes.values()):
                _hang_up(process)
            for thread in self._threads:
                thread.join()

    def news(self, seconds: float) -> Iterator[Begun | Ended | None]:
        """What happens, until every run has ended; None whenever nothing has happened for so many seconds."""
        while self._left:
            try:
                event = self._news.get(timeout=seconds)
            except queue.Empty:
                yield None
                continue
            self._left -= isinstance(event, Ended)
            yield event

    def _work(self, number: int) -> None:
        process: subprocess.Popen[str] | None = None
        while not self._closing:
            try:
                planned = self._todo.get_nowait()
            except queue.Empty:
                break
            if process is not None and process.poll() is not None:
                _end(process)
                process = None
            if process is None:
                process = self._processes[number] = self._start()
            self._news.put(Begun(planned=planned))
            self._news.put(Ended(planned=planned, problem=self._ask(process, planned)))
        if process is not None:
            _end(process)

    def _start(self) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads(self._share, os.environ))}
        # A group of its own: Ctrl-C is for the sweep, which ends its processes in the way that lets their sites finish.
        return subprocess.Popen(
            WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, process_group=0
        )

    def _ask(self, process: subprocess.Popen[str], planned: Planned) -> str:
        """Why the run failed; empty if it has finished."""
        order = Order(
            folder=str(planned.folder(self._sweep).absolute()),
            scenario=planned.scenario,
            without_privacy=planned.cell.without_privacy,
            workers=self._share,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(order.model_dump_json() + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):
            line = ""
        if line:
            return str(json.loads(line))
        code = process.wait()
        if code < 0:
            kill = "; perhaps there was no memory left, then fewer --jobs help" if -code == signal.SIGKILL else ""
            return f"its process was ended by {signal.Signals(-code).name}{kill}"
        return f"its process ended with status {code}"


def _hang_up(process: subprocess.Popen[str]) -> None:
    """End the input of a process, at which it ends."""
    if process.stdin is not None and not process.stdin.closed:
        with suppress(OSError):
            process.stdin.close()


def _end(process: subprocess.Popen[str]) -> None:
    """Have a process end, wait for it, and let go of its pipes."""
    _hang_up(process)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def _second_interrupt_kills(processes: dict[int, subprocess.Popen[str]]) -> Iterator[None]:
    """Within, Ctrl-C ends the processes at once instead of waiting for the sites that finish what they were charged for."""
    try:
        yield
    except KeyboardInterrupt:
        for process in list(processes.values()):
            process.kill()
        raise
