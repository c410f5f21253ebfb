"""Keeps processes running: one that ends is started again after a delay, and all stop with their supervisor, however it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from limbeck.base.errors import SettingError

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
_POLL_SECONDS = 0.2


class Supervisor:
    """Starts processes, and starts them again.

    commands: by name, each with its arguments.
    environment: of every process.
    logs: a folder; the output of a process is appended to NAME.log there.
    delay: seconds before a process that ended is started again. A Flower node that comes back at once is refused, because its SuperLink
        still counts it as connected; after ten seconds it is accepted within a minute.
    """

    def __init__(
        self, commands: Mapping[str, Sequence[str]], *, environment: Mapping[str, str], logs: Path, delay: float = 10.0
    ) -> None:
        if delay < 0:
            raise SettingError(f"Expected delay >= 0, got {delay:g}.")
        self.commands, self.environment, self.logs, self.delay = commands, environment, logs, delay
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._due = dict.fromkeys(commands, 0.0)

    def run(self, stop: threading.Event) -> None:
        """Keep the processes running until `stop` is set; then each gets SIGTERM, and after a grace of ten seconds SIGKILL."""
        try:
            while not stop.is_set():
                self._look()
                stop.wait(_POLL_SECONDS)
        finally:
            self._stop()

    def _look(self) -> None:
        now = time.monotonic()
        for name, process in list(self._running.items()):
            if (status := process.poll()) is not None:
                log.warning(
                    "%s ended with status %s and is started again in %g s. Its output: %s",
                    name,
                    status,
                    self.delay,
                    self.logs / f"{name}.log",
                )
                del self._running[name]
                self._due[name] = now + self.delay
        for name in self.commands:
            if name not in self._running and now >= self._due[name]:
                self._running[name] = self._start(name)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        self.logs.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "limbeck.deployment.bound", str(os.getpid()), *self.commands[name]]
        log.info("Starting %s; its output: %s", name, self.logs / f"{name}.log")
        with (self.logs / f"{name}.log").open("ab") as out:
            return subprocess.Popen(
                command,
                env={**self.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _stop(self) -> None:
        for process in self._running.values():
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            # This also ends what a process started itself, if the process has ended in good order.
            _signal(process, signal.SIGKILL)
            process.wait()
        self._running.clear()


def until_told(supervisor: Supervisor) -> None:
    """Run until SIGTERM or Ctrl-C. Called from the main thread of a process."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    supervisor.run(stop)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
