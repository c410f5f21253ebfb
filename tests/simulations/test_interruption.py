"""Runs that are stopped, gently or not, with real processes: nothing done is lost, no charge is made twice.

Where a run is hit does not depend on how fast it goes: one site waits in the middle of its work until the test lets it go on.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w

from limbeck.base.settings import read_toml
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.experiments.faults.linked import HANG_SECONDS, until
from limbeck.simulations import run, scenario

pytestmark = pytest.mark.early

LIMBECK = [sys.executable, "-m", "limbeck.cli.main", "simulate"]
WAIT = """
import math, time
from pathlib import Path
import numpy as np
from torch import nn

HERE = Path(__file__).parent

def wait():
    (HERE / "waits").touch()
    while not (HERE / "go").exists():
        time.sleep(0.02)
"""
# Records that cannot be had at once: the site has been charged, and is at it.
READER = f"""{WAIT}
def read(folder):
    wait()
    with np.load(folder / "records.npz") as file:
        return file["x"], file["y"]
"""
# A net that cannot be had at once for the answers of the second stage.
FACTORY = f"""{WAIT}
def build(shape, classes):
    sent = HERE / "transcript.jsonl"
    if sent.exists() and '"share of stage 1' in sent.read_text():
        wait()
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
"""
# Without what is compared with once the run is over.
SMALL = [
    *("run.workers=1", "student.epochs=2", "student.dense_control=false"),
    *("compare.central=false", "compare.without_privacy=false"),
    # Every stage asks: at one temperature, all but the first would not.
    "stages.temperature=[2.0, 3.0]",
]
NET = ["teacher.kind=custom", "teacher.factory=mine:build", "teacher.steps=3", "teacher.sampling_rate=0.3"]


@dataclass(frozen=True)
class Run:
    """A run whose second site waits."""

    out: Path
    process: subprocess.Popen[str]

    @property
    def site(self) -> Path:
        return self.out / "sites" / "site-01"

    def wait_until_the_site_waits(self) -> None:
        until(lambda: (self.site / "waits").exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.end()

    def let_the_site_go_on(self) -> None:
        (self.site / "go").touch()

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """Its exit status and what it printed."""
        printed, _ = self.process.communicate(timeout=HANG_SECONDS)
        return self.process.returncode, printed

    def charges(self) -> list[list[str]]:
        found = []
        for path in sorted(self.out.glob("sites/*")):
            site = Site(path)
            with Ledger(site.ledger, site.budget) as ledger:
                found.append([entry.state for entry in ledger.entries() if entry.state != "free"])
        return found

    def resume(self, *, by_command: bool = False) -> None:
        """In this process, which has all libraries loaded, unless the command itself is to be seen."""
        self.let_the_site_go_on()
        if not by_command:
            run.resume(self.out)
            return
        again = subprocess.run([*LIMBECK, "--resume", "--out", str(self.out)], capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr

    def clients_by_stage(self) -> list[int]:
        return [stage["clients"] for stage in json.loads((self.out / "metrics.json").read_text())["stages"]]


@contextmanager
def started(out: Path, *, custom: bool = False) -> Iterator[Run]:
    """A run in a process group of its own, one site after the other, whose second site waits: for records, or for its net."""
    settings = [*SMALL, *(NET if custom else [])]
    run.prepare_only(scenario.load("digits-tiny", settings), out)
    if custom:
        for site in out.glob("sites/*"):
            (site / "mine.py").write_text(FACTORY)
            if site.name != "site-01":
                (site / "go").touch()
    else:
        site = out / "sites" / "site-01"
        (site / "mine.py").write_text(READER)
        described = read_toml(site / "site.toml")
        # Records without a file to stand beside have their ledger where it is said to be.
        described |= {"ledger": "spent.ledger.sqlite", "records": {**described["records"], "reader": "mine:read"}}
        del described["records"]["path"]
        (site / "site.toml").write_text(tomli_w.dumps(described))
    # A shell has its background jobs ignore SIGINT, these tests may be one, and what is ignored is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [*LIMBECK, "--resume", "--out", str(out)]
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield Run(out, process)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_after_ctrl_c_in_training_a_run_goes_on_and_every_site_is_charged_once(tmp_path: Path) -> None:
    with started(tmp_path / "run") as own:
        own.wait_until_the_site_waits()
        own.signal(signal.SIGINT)
        own.let_the_site_go_on()
        status, printed = own.end()
        assert status == 130, printed
        assert "limbeck simulate --resume --out" in printed
        # The site that was under way has finished what it was charged for.
        before = own.charges()
        assert before[:2] == [["committed"]] * 2
        assert before[2] in ([], ["committed"])
        own.resume(by_command=True)
        assert own.charges() == [["committed"]] * 3
        assert own.clients_by_stage() == [3, 3]


def test_after_ctrl_c_between_stages_finished_stages_are_kept(tmp_path: Path) -> None:
    with started(tmp_path / "run", custom=True) as own:
        own.wait_until_the_site_waits()
        own.signal(signal.SIGINT)
        own.let_the_site_go_on()
        assert own.end()[0] == 130
        first = (own.out / "server" / "checkpoints" / "stage-000.safetensors").stat().st_mtime_ns
        own.resume()
        assert (own.out / "server" / "checkpoints" / "stage-000.safetensors").stat().st_mtime_ns == first
        kinds = [json.loads(line)["kind"] for line in (own.out / "server" / "events.jsonl").read_text().splitlines()]
        assert kinds.count("stage") == 2
        assert "resumed" in kinds


def test_killed_in_training_a_site_stays_charged_and_trains_under_that_charge_when_the_run_goes_on(tmp_path: Path) -> None:
    with started(tmp_path / "run") as own:
        own.wait_until_the_site_waits()
        own.signal(signal.SIGKILL)
        own.end()
        assert own.charges() == [["committed"], ["reserved"], []]
        own.resume()
        assert own.charges() == [["committed"]] * 3
        metrics = json.loads((own.out / "metrics.json").read_text())
        assert [client["reason"] for client in metrics["clients"]] == [None] * 3
        assert own.clients_by_stage() == [3, 3]


def test_a_full_disk_ends_a_run_with_one_message_and_what_is_finished_is_whole(tmp_path: Path) -> None:
    with started(tmp_path / "run") as own:
        own.wait_until_the_site_waits()
        # From here on no file of the coordinator may grow: what it sees is a disk that is full, also in the middle of a line.
        events = own.out / "server" / "events.jsonl"
        limit = (events.stat().st_size + 20, resource.RLIM_INFINITY)
        resource.prlimit(own.process.pid, resource.RLIMIT_FSIZE, limit)
        own.let_the_site_go_on()
        status, printed = own.end()
        assert status == 1, printed
        assert "limbeck: Expected room on the disk" in printed
        assert "Traceback" not in printed
        assert not events.read_bytes().endswith(b"\n")
        own.resume()
        assert own.charges() == [["committed"]] * 3
        assert all(json.loads(line) for line in events.read_text().splitlines())
        assert own.clients_by_stage() == [3, 3]


def test_an_error_of_the_users_is_one_message_and_exit_status_1(tmp_path: Path) -> None:
    found = subprocess.run(
        [*LIMBECK, "default", "--set", "privacy.epsilon=0"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert found.returncode == 1
    assert found.stderr.strip() == "limbeck: privacy.epsilon = 0: expected a number > 0"
    assert list(tmp_path.iterdir()) == []
