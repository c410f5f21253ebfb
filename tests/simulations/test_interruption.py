"""Runs that are stopped, gently or not, with real processes: nothing done is lost, no charge is made twice."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from limbeck.client.ledger import Ledger
from limbeck.client.site import Site

LIMBECK = [sys.executable, "-m", "limbeck.cli.main", "simulate"]
# Convolutional teachers on digits take a second or two each, one after the other: long enough to be hit.
SLOW = [
    "teacher.kind=cnn",
    "teacher.steps=150",
    "teacher.learning_rate=0.5",
    "teacher.clip=0.5",
    "teacher.normaliser=100.0",
    "teacher.sampling_rate=0.3",
    "run.workers=1",
    "student.epochs=40",
    "data.public=200",
]


def start(out: Path) -> subprocess.Popen[str]:
    overrides = [part for override in SLOW for part in ("--set", override)]
    command = [*LIMBECK, "digits-tiny", "--out", str(out), *overrides]
    # A shell has its background jobs ignore SIGINT, these tests may be one, and what is ignored is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(out: Path, wanted: Callable[[dict[str, object]], bool]) -> None:
    """Until the run has an event like this."""
    events, deadline = out / "server" / "events.jsonl", time.monotonic() + 90
    while time.monotonic() < deadline:
        lines = events.read_text().splitlines(keepends=True) if events.exists() else []
        if any(wanted(json.loads(line)) for line in lines if line.endswith("\n")):
            return
        time.sleep(0.02)
    raise TimeoutError(f"no such event in {events}")


def taught(event: dict[str, object]) -> bool:
    """The first of the sites has finished training, so the second is at it."""
    return event.get("phase") == "teach" and event["done"] == 1


def charges(out: Path) -> list[list[str]]:
    found = []
    for path in sorted(out.glob("sites/*")):
        site = Site(path)
        with Ledger(site.ledger, site.budget) as ledger:
            found.append([entry.state for entry in ledger.entries() if entry.schedule is not None])
    return found


def resume(out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*LIMBECK, "--resume", "--out", str(out)], capture_output=True, text=True, timeout=120, check=False
    )


def test_after_ctrl_c_in_training_a_run_goes_on_and_every_site_is_charged_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out)
    wait_for(out, taught)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "limbeck simulate --resume --out" in printed
    before = charges(out)
    # The site that was under way has finished what it was charged for.
    assert before.count(["committed"]) >= 2
    assert all(states in ([], ["committed"]) for states in before)
    resumed = resume(out)
    assert resumed.returncode == 0, resumed.stderr
    assert charges(out) == [["committed"]] * 3
    metrics = json.loads((out / "metrics.json").read_text())
    assert [stage["clients"] for stage in metrics["stages"]] == [3, 3]


def test_after_ctrl_c_between_stages_finished_stages_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out)
    wait_for(out, lambda event: event["kind"] == "stage")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    first = (out / "server" / "checkpoints" / "stage-000.safetensors").stat().st_mtime_ns
    assert resume(out).returncode == 0
    assert (out / "server" / "checkpoints" / "stage-000.safetensors").stat().st_mtime_ns == first
    kinds = [json.loads(line)["kind"] for line in (out / "server" / "events.jsonl").read_text().splitlines()]
    assert kinds.count("stage") == 2
    assert "resumed" in kinds


def test_killed_in_training_a_site_stays_charged_and_trains_under_that_charge_when_the_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out)
    wait_for(out, taught)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    before = charges(out)
    assert sorted(before) == [[], ["committed"], ["reserved"]]
    resumed = resume(out)
    assert resumed.returncode == 0, resumed.stderr
    assert charges(out) == [["committed"]] * 3
    metrics = json.loads((out / "metrics.json").read_text())
    assert [client["reason"] for client in metrics["clients"]] == [None] * 3
    assert [stage["clients"] for stage in metrics["stages"]] == [3, 3]


def test_a_full_disk_ends_a_run_with_one_message_and_what_is_finished_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out)
    wait_for(out, taught)
    # From here on no file of the coordinator may grow: what it sees is a disk that is full, also in the middle of a line.
    events = out / "server" / "events.jsonl"
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (events.stat().st_size + 20, resource.RLIM_INFINITY))
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1, printed
    assert "limbeck: Expected room on the disk" in printed
    assert "Traceback" not in printed
    assert not events.read_bytes().endswith(b"\n")
    resumed = resume(out)
    assert resumed.returncode == 0, resumed.stderr
    assert charges(out) == [["committed"]] * 3
    assert all(json.loads(line) for line in events.read_text().splitlines())
    metrics = json.loads((out / "metrics.json").read_text())
    assert [stage["clients"] for stage in metrics["stages"]] == [3, 3]


def test_an_error_of_the_users_is_one_message_and_exit_status_1(tmp_path: Path) -> None:
    found = subprocess.run(
        [*LIMBECK, "default", "--set", "privacy.epsilon=0"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert found.returncode == 1
    assert found.stderr.strip() == "limbeck: privacy.epsilon = 0: expected a number > 0"
    assert list(tmp_path.iterdir()) == []
