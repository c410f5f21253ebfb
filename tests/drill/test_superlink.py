"""Over Flower's SuperLink and SuperNodes, with real processes on loopback: `make drill`.

Slow, because a SuperNode starts a process for every message: about a minute for an undisturbed run of three sites and two stages.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from helpers import capture
from helpers.students import QUICK
from limbeck.base.errors import LedgerError, RunError
from limbeck.client import ledger
from limbeck.client.site import Site
from limbeck.deployment import flower, keys
from limbeck.experiments.faults.linked import until
from limbeck.protos import codec
from limbeck.server import bundle

UNCAPTURED = capture.why_not()
SITES = ("site-00", "site-01", "site-02")


def limbeck(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "limbeck.cli.main", *map(str, arguments)]


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def listening(port: int) -> bool:
    with socket.socket() as own:
        return own.connect_ex(("127.0.0.1", port)) == 0


class Federation:
    """A SuperLink and three SuperNodes under `limbeck flower`, and a prepared plan."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.link = folder, folder / "run", folder / "superlink"
        self.port = free_port()
        self.runtime_ports = {name: free_port() for name in SITES}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        settings = [part for setting in QUICK for part in ("--set", setting)]
        subprocess.run(
            limbeck("simulate", "digits-tiny", "--prepare-only", "--out", self.run, *settings), check=True, timeout=120
        )
        now = datetime.now(UTC)
        authority = keys.init(folder / "keys", names=["localhost"], addresses=["127.0.0.1"], now=now)
        self.nodes = {name: authority.node(name, days=2, now=now) for name in SITES}

    def start(self) -> None:
        self.start_superlink()
        subprocess.run(
            limbeck("flower", "register", "--folder", self.link, *(self.nodes[name] / f"{name}.pem" for name in SITES)),
            check=True,
            timeout=120,
        )
        for name in SITES:
            self.start_node(name)

    def start_superlink(self) -> None:
        own = self.folder / "keys" / "server"
        tls = ("--ca", own / "ca.pem", "--certificate", own / "server.pem", "--key", own / "server.key")
        self._start("superlink", "flower", "superlink", *tls, "--port", self.port, "--folder", self.link)
        until(lambda: listening(self.port))

    def start_node(self, name: str) -> None:
        where = ("--superlink", f"127.0.0.1:{self.port}", "--runtime-port", self.runtime_ports[name])
        own = ("--ca", self.nodes[name] / "ca.pem", "--key", self.nodes[name] / f"{name}.key")
        self._start(name, "flower", "supernode", self.site(name).folder, *where, *own, "--delay", 10)

    def _start(self, name: str, *arguments: object) -> None:
        with (self.folder / f"{name}.log").open("ab") as out:
            self.processes[name] = subprocess.Popen(limbeck(*arguments), stdout=out, stderr=out, start_new_session=True)

    def site(self, name: str) -> Site:
        return Site(self.run / "sites" / name)

    def begin(self, out: Path) -> int:
        config = bundle.run_config(
            plan=self.run / "plan.pb", transfer_sets=self.run / "transfer", folder=out, clients=len(SITES)
        )
        return flower.start(self.link, bundle.write(self.folder / "bundle", config))

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(60)

    def charged(self, name: str) -> bool:
        """Whether a site's ledger holds a charge. It may be read in the moment when it is made."""
        with suppress(LedgerError):
            path = self.site(name).ledger
            return path.exists() and any(entry.schedule is not None for entry in ledger.read(path).entries)
        return False

    def charges(self) -> list[list[str]]:
        books = [ledger.read(self.site(name).ledger) for name in SITES]
        return [[entry.state for entry in book.entries if entry.schedule is not None] for book in books]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    own = Federation(tmp_path)
    try:
        yield own
    finally:
        own.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The student of the same plan over the local carrier."""
    out = tmp_path_factory.mktemp("local") / "run"
    settings = [part for setting in QUICK for part in ("--set", setting)]
    subprocess.run(limbeck("simulate", "digits-tiny", "--out", out, *settings), check=True, timeout=240)
    return student(out / "server")


def student(folder: Path) -> bytes:
    return (folder / "student" / "student.safetensors").read_bytes()


def descendants(pid: int, word: bytes) -> list[int]:
    """Processes below `pid` whose command line has this word."""
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    todo.append(int(entry.name))
                    if word in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@dataclass(frozen=True, kw_only=True)
class Finished:
    """An undisturbed run. statuses: what `limbeck status` said meanwhile. wire: what passed, where that can be captured."""

    federation: Federation
    out: Path
    statuses: list[dict[str, Any]]
    wire: capture.Capture | None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("finished")
    own, out = Federation(folder), folder / "out"
    ports = (own.port, *own.runtime_ports.values())
    captured = capture.on_loopback(folder / "loopback.pcapng", *ports) if UNCAPTURED is None else nullcontext()
    try:
        with captured as wire:
            own.start()
            arguments = ("--transfer-sets", own.run / "transfer", "--out", out, "--clients", 3, "--folder", own.link)
            run = subprocess.Popen(limbeck("flower", "run", own.run / "plan.pb", *arguments))
            statuses = []
            until((out / "superlink.json").exists)
            while run.poll() is None:
                statuses.append(status_of(out))
            assert run.wait() == 0
        yield Finished(federation=own, out=out, statuses=statuses, wire=wire)
    finally:
        own.stop()


def status_of(out: Path) -> dict[str, Any]:
    told = subprocess.run(limbeck("status", "--json", out), capture_output=True, check=True, timeout=240).stdout
    found: dict[str, Any] = json.loads(told)
    return found


def test_three_sites_over_tls_give_the_student_of_the_local_carrier(finished: Finished, undisturbed: bytes) -> None:
    assert student(finished.out) == undisturbed
    assert finished.federation.charges() == [["committed"]] * 3
    nothing_secret(finished)


def nothing_secret(finished: Finished) -> None:
    """In logs, in the bundle that travels, in Flower's settings or in the run's folder."""
    folder, link = finished.federation.folder, finished.federation.link
    secrets = [path.read_bytes() for path in folder.rglob("superexec-secret")]
    secrets += [line for path in folder.rglob("*.key") for line in path.read_bytes().splitlines()[1:-1]]
    assert len(secrets) > 4 + 3 * 5
    written = [*folder.rglob("*.log"), *link.glob("home/*.toml"), *link.glob("bundle/*"), *finished.out.glob("*.json*")]
    assert {path.name for path in written} >= {
        "superlink.log",
        "superexec.log",
        "config.toml",
        "pyproject.toml",
        "record.json",
    }
    for path in written:
        text = path.read_bytes()
        assert b"PRIVATE KEY" not in text
        for secret in secrets:
            assert not any(form in text for form in (secret, secret.hex().encode(), base64.b64encode(secret))), path


@pytest.mark.skipif(
    UNCAPTURED is not None, reason=f"no capture: {UNCAPTURED}. The link's test_wire.py says what is looked at instead"
)
def test_nothing_of_it_can_be_read_on_the_wire_and_every_connection_is_of_tls_13(finished: Finished) -> None:
    wire, run = finished.wire, finished.federation.run
    assert wire is not None
    streams, versions = wire.streams(), wire.tls_versions()
    offer = codec.decode_offer((run / "plan.pb").read_bytes())
    words = {
        b"digits-tiny",
        b"site-00",
        b"query.share",
        b"limbeck",
        b"RecordDict",
        offer.author,
        codec.plan_hash(offer.plan),
    }
    assert sum(map(len, streams.values())) > 100_000
    assert capture.seen(words, streams) == set()
    assert set(versions) == set(streams)
    assert set.union(*versions.values()) == {capture.TLS_13}


def test_status_says_beside_the_folder_what_the_superlink_says(finished: Finished) -> None:
    """Last of those that need all nodes: it ends one, then the SuperLink."""
    federation, out = finished.federation, finished.out
    online = {(name, "online") for name in SITES}
    assert any(
        own["state"] == "running" and own["superlink"]["state"] == "running" and nodes(own) == online
        for own in finished.statuses
    )
    found = status_of(out)
    assert (found["state"], found["superlink"]["state"], nodes(found)) == ("finished", "finished:completed", online)
    federation.processes["site-02"].terminate()
    federation.processes["site-02"].wait(60)
    assert nodes(status_of(out)) == {("site-00", "online"), ("site-01", "online"), ("site-02", "offline")}
    federation.processes["superlink"].terminate()
    federation.processes["superlink"].wait(60)
    alone = status_of(out)
    assert alone["superlink"]["error"]
    assert {**alone, "superlink": None} == {**found, "superlink": None}


def nodes(own: dict[str, Any]) -> set[tuple[str, str]]:
    return {(node["name"], node["state"]) for node in own["superlink"]["nodes"]}


def test_a_node_that_is_not_registered_gets_no_plan(federation: Federation, tmp_path: Path) -> None:
    federation.start_superlink()
    federation.start_node("site-00")
    log = federation.site("site-00").folder / "supernode" / "logs" / "supernode.log"
    until(lambda: log.exists() and b"again" in (federation.folder / "site-00.log").read_bytes())
    assert not (federation.site("site-00").folder / "state").exists()


def test_a_superlink_killed_and_started_again_goes_on_with_the_run(
    federation: Federation, undisturbed: bytes, tmp_path: Path
) -> None:
    federation.start()
    out = tmp_path / "out"
    run = federation.begin(out)
    until((federation.site("site-00").ledger).exists)
    (pid, *_) = descendants(federation.processes["superlink"].pid, b"flower-superlink")
    os.kill(pid, signal.SIGKILL)
    flower_waits(federation, run)
    assert student(out) == undisturbed
    assert federation.charges() == [["committed"]] * 3


def test_a_node_killed_loses_no_charge_and_comes_back_for_the_next_run(federation: Federation, tmp_path: Path) -> None:
    federation.start()
    run = federation.begin(tmp_path / "out")
    until(lambda: federation.charged("site-00"))
    for pid in descendants(federation.processes["site-00"].pid, b"flower-supernode"):
        os.kill(pid, signal.SIGKILL)
    with suppress(RunError):  # without site-00 there may be fewer sites than the plan goes on with
        flower_waits(federation, run)
    again = federation.begin(tmp_path / "again")
    flower_waits(federation, again)
    assert (tmp_path / "again" / "student" / "student.safetensors").exists()
    assert "site-00" in json.loads((tmp_path / "again" / "record.json").read_text())["clients"]
    assert all(own in (["committed"], ["reserved"]) for own in federation.charges())


def flower_waits(federation: Federation, run: int) -> None:
    deadline = time.monotonic() + 500

    def watch(status: str) -> None:
        assert time.monotonic() < deadline, status

    while True:
        try:
            flower.wait(federation.link, run, progress=watch)
            return
        except RunError as error:
            # The SuperLink is not back yet.
            if "finished:" in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1)
