"""The same apps on Flower's own engine: over Ray as a carrier, and started by `flwr run` from the thin bundle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.students import QUICK, exported
from limbeck.experiments.faults.linked import HANG_SECONDS
from limbeck.simulations import run, scenario
from limbeck.simulations.flower import OFFLINE

pytestmark = pytest.mark.early

BIN = Path(sys.executable).parent


def limbeck(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "limbeck.cli.main", "simulate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * HANG_SECONDS, check=False)


def overrides() -> list[str]:
    return [part for setting in QUICK for part in ("--set", setting)]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the local carrier."""
    folder = tmp_path_factory.mktemp("local") / "run"
    run.simulate(scenario.load("digits-tiny", QUICK), folder)
    return folder


def test_flowers_engine_gives_the_same_student_as_the_local_carrier(local: Path, tmp_path: Path) -> None:
    found = limbeck("digits-tiny", "--carrier", "flower", "--out", str(tmp_path / "run"), *overrides())
    assert found.returncode == 0, found.stderr
    assert exported(tmp_path / "run") == exported(local)
    metrics, expected = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "run", local))
    for ours, theirs in zip(metrics["clients"], expected["clients"], strict=True):
        assert ours == theirs


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Flower kept off the network and in a home of its own; the SuperLink that `flwr run` leaves behind is stopped."""
    home = tmp_path / "flower-home"
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    yield {**os.environ, **OFFLINE, "FLWR_HOME": str(home), "LIMBECK_SITES": str(tmp_path / "run" / "sites"), "PATH": path}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"flower-superlink" in line and str(home).encode() in line:
            os.kill(int(entry.name), signal.SIGTERM)


def test_flwr_run_starts_the_thin_bundle_and_limbeck_goes_on_from_there(
    local: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    folder = tmp_path / "run"
    assert limbeck("digits-tiny", "--prepare-only", "--out", str(folder), *overrides()).returncode == 0
    assert [path.name for path in (folder / "flower").iterdir()] == ["pyproject.toml"]
    command = ["flwr", "run", str(folder / "flower"), "local", "--stream", "--federation-config", "num-supernodes=3"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * HANG_SECONDS, check=False)
    runs = subprocess.run(["flwr", "ls", "--format", "json"], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(runs.stdout)["runs"][0]["status"] == "finished:completed", found.stdout
    assert exported(folder) == exported(local)
    measured = limbeck("--resume", "--out", str(folder))
    assert measured.returncode == 0, measured.stderr
    assert (folder / "report.html").exists()
