"""A simulated run over the link on loopback: the folder of a prepared run with keys and settings added, and its real processes.

RUN/keys/             a throwaway authority, and the certificates that it signed
RUN/coordinator.toml  for `limbeck serve`
RUN/sites/*/site.toml with a [link] table, for `limbeck site run`
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import tomli_w

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.base.settings import read_toml
from limbeck.experiments.faults.throwaway_keys import SERVER, Authority
from limbeck.server import events
from limbeck.server.events import Event, Unknown
from limbeck.simulations import prepare
from limbeck.simulations.scenario import Scenario

T = TypeVar("T")
E = TypeVar("E", bound=Event)

LIMBECK = [sys.executable, "-m", "limbeck.cli.main"]
POLL_SECONDS = 0.02
# After this long something hangs; a busy machine must not fail a test.
HANG_SECONDS = 600.0
COORDINATOR = "coordinator"


# Below the ports that Linux assigns by itself (from 32768 on), so that none of these is taken between now and its use.
PORTS = range(20_000, 32_000)
_claims: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody listens on, and that this function gives to no other process while this one lives."""
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            # An abstract name, without a file, which Linux lets one process have at a time.
            claim.bind(f"\0limbeck port {port}")
            with socket.socket() as probe:
                probe.bind(("0.0.0.0", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise RunError(f"Expected a free port in {PORTS.start} to {PORTS.stop - 1}, got none.")


class Federation:
    """A prepared run whose sites dial in.

    - through: HOST:PORT that a site dials in place of the coordinator's, by site.
    - settings: of coordinator.toml, in addition to the required ones.
    - environment: variables that a process gets in addition to this one's, by site or COORDINATOR.
    - before: words put before a process's command, by site or COORDINATOR.
    """

    def __init__(
        self,
        folder: Path,
        scenario: Scenario,
        *,
        through: Mapping[str, str] | None = None,
        settings: Mapping[str, object] | None = None,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        before: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.folder, self.port = folder, free_port()
        self.environment, self.before = environment or {}, before or {}
        self.processes: list[subprocess.Popen[str]] = []
        prepare.prepare(scenario, folder)
        self.sites = {path.parent.name: path.parent for path in sorted(folder.glob("sites/*/site.toml"))}
        self.authority = Authority(folder / "keys")
        self.authority.server()
        for name, path in self.sites.items():
            self.authority.site(name)
            link = {
                "address": (through or {}).get(name, f"127.0.0.1:{self.port}"),
                "server_name": SERVER,
                "ca": "../../keys/ca.pem",
                "certificate": f"../../keys/{name}.pem",
                "key": f"../../keys/{name}.key",
            }
            described = {**read_toml(path / "site.toml"), "link": link}
            write_durably(path / "site.toml", tomli_w.dumps(described).encode())
        table = {
            "listen": f"127.0.0.1:{self.port}",
            "ca": "keys/ca.pem",
            "certificate": f"keys/{SERVER}.pem",
            "key": f"keys/{SERVER}.key",
            "sites": list(self.sites),
            "folder": "server",
            "heartbeat_seconds": 2,
            **(settings or {}),
        }
        write_durably(folder / "coordinator.toml", tomli_w.dumps(table).encode())

    def serve(self, *options: str) -> subprocess.Popen[str]:
        """Start `limbeck serve`; its log is appended to RUN/serve.log."""
        command = ["serve", str(self.folder / "plan.pb"), "--settings", str(self.folder / "coordinator.toml"), *options]
        return self._start(COORDINATOR, command, self.folder / "serve.log")

    def site(self, name: str, *options: str) -> subprocess.Popen[str]:
        """Start `limbeck site run` for one site; its log is appended to RUN/NAME.log."""
        return self._start(name, ["site", "run", str(self.sites[name]), *options], self.folder / f"{name}.log")

    def start(self) -> subprocess.Popen[str]:
        """Start all sites and the coordinator; returns the coordinator."""
        for name in self.sites:
            self.site(name)
        return self.serve()

    def _start(self, who: str, arguments: list[str], log: Path) -> subprocess.Popen[str]:
        with log.open("a") as file:
            process = subprocess.Popen(
                [*self.before.get(who, ()), *LIMBECK, *arguments],
                env={**os.environ, **self.environment.get(who, {})},
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """Kill the processes that are still running."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def events(self) -> list[Event | Unknown]:
        """The events that the coordinator has written so far."""
        path = self.folder / "server" / "events.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [line.event for line in events.read(line for line in lines if line.endswith(b"\n"))]

    def wait_for(self, kind: type[E], matching: Callable[[E], bool] = lambda _: True, seconds: float = HANG_SECONDS) -> E:
        """The first event of this kind that matches. Raises TimeoutError if none comes in time."""

        def first() -> E | None:
            return next((event for event in self.events() if isinstance(event, kind) and matching(event)), None)

        return until(first, seconds)


def until(condition: Callable[[], T | None], seconds: float = HANG_SECONDS) -> T:
    """The first true value of the condition. Raises TimeoutError if there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"Expected a condition to hold within {seconds:g} s, but it did not.")
