"""A simulated run over the link on loopback: a prepared run's folder with keys and settings added, and its real processes.

RUN/keys/             a throwaway authority, and what it signed
RUN/coordinator.toml  for `limbeck serve`
RUN/sites/*/site.toml with a table [link], for `limbeck site run`
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from limbeck.base.errors import RunError
from limbeck.base.files import write_durably
from limbeck.base.settings import read_toml
from limbeck.experiments.faults.throwaway_keys import SERVER, Authority
from limbeck.simulations import prepare
from limbeck.simulations.scenario import Scenario

T = TypeVar("T")

LIMBECK = [sys.executable, "-m", "limbeck.cli.main"]
POLL_SECONDS = 0.02
# A guard against what hangs; a busy machine is no fault.
HANG_SECONDS = 600.0
COORDINATOR = "coordinator"


# Below those that the system hands out by itself (from 32768 on), so that nothing takes one between now and its use.
PORTS = range(20_000, 32_000)
_claims: list[socket.socket] = []


def free_port() -> int:
    """A port that nobody listens on, and that no other process gets here for as long as this one lasts."""
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            # A name without a file, which Linux gives to one process at a time.
            claim.bind(f"\0limbeck port {port}")
            with socket.socket() as own:
                own.bind(("0.0.0.0", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise RunError(f"Expected a free port in {PORTS.start} to {PORTS.stop - 1}, got none.")


class Federation:
    """A prepared run whose sites dial in.

    through: sites by name to the address, HOST:PORT, that they dial instead of the coordinator's. settings: of coordinator.toml, beyond
    what is needed. environment: of processes, by site or COORDINATOR, beyond this one's. before: likewise, what is put before a command.
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
            table = {
                "address": (through or {}).get(name, f"127.0.0.1:{self.port}"),
                "server_name": SERVER,
                "ca": "../../keys/ca.pem",
                "certificate": f"../../keys/{name}.pem",
                "key": f"../../keys/{name}.key",
            }
            described = {**read_toml(path / "site.toml"), "link": table}
            write_durably(path / "site.toml", tomli_w.dumps(described).encode())
        own = {
            "listen": f"127.0.0.1:{self.port}",
            "ca": "keys/ca.pem",
            "certificate": f"keys/{SERVER}.pem",
            "key": f"keys/{SERVER}.key",
            "sites": list(self.sites),
            "folder": "server",
            "heartbeat_seconds": 2,
            **(settings or {}),
        }
        write_durably(folder / "coordinator.toml", tomli_w.dumps(own).encode())

    def serve(self) -> subprocess.Popen[str]:
        """Start `limbeck serve`; its log is appended to RUN/serve.log."""
        command = ["serve", str(self.folder / "plan.pb"), "--settings", str(self.folder / "coordinator.toml")]
        return self._start(COORDINATOR, command, self.folder / "serve.log")

    def site(self, name: str) -> subprocess.Popen[str]:
        """Start `limbeck site run` for one site; its log is appended to RUN/NAME.log."""
        return self._start(name, ["site", "run", str(self.sites[name])], self.folder / f"{name}.log")

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
        """Kill what still runs."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def events(self) -> list[dict[str, Any]]:
        """What the coordinator has noted so far."""
        path = self.folder / "server" / "events.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool], seconds: float = HANG_SECONDS) -> dict[str, Any]:
        """The first event like this. Raises TimeoutError where none comes."""
        return until(lambda: next(filter(wanted, self.events()), None), seconds)


def until(condition: Callable[[], T | None], seconds: float = HANG_SECONDS) -> T:
    """What the condition says when it is no longer nothing. Raises TimeoutError where that takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"not within {seconds:g} s")
