"""The table of shipped scenarios is what their sweeps' runs say, and a sweep that is not there keeps what is known of it."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from limbeck.base.errors import DataError
from limbeck.cli.main import app
from limbeck.experiments import scenarios
from limbeck.server.scores import score
from limbeck.simulations import metrics
from limbeck.simulations.metrics import Metrics, Quality
from limbeck.simulations.scenario import load

OLD = Path(__file__).parents[1] / "old" / "0.1.0" / "run"
TESTED = 20


def run_of(right: int) -> Metrics:
    """A run whose student is right on so many of `TESTED` inputs, and whose pool on one more."""

    def quality(right: int) -> Quality:
        y_N = np.arange(TESTED) % 2
        said_N = np.where(np.arange(TESTED) < right, y_N, 1 - y_N)
        return Quality(test=score(np.eye(2)[said_N] * 0.8 + 0.1, y_N, ["a", "b"]))

    old = metrics.read(OLD)
    student = old.student.model_copy(update={"quality": quality(right)})
    return old.model_copy(update={"student": student, "pool": old.pool.model_copy(update={"quality": quality(right + 1)})})


def keep(run: Metrics, folder: Path) -> None:
    folder.mkdir(parents=True)
    metrics.write(run, folder)


def test_figures_are_means_and_spreads_over_the_seeds_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, right in enumerate((10, 12, 17)):
        keep(run_of(right), tmp_path / "cifar-features" / "runs" / "partition.alpha=10" / f"seed-{seed}")
    keep(run_of(15), tmp_path / "cifar-features" / "runs" / "partition.alpha=0.01" / "seed-0")
    out = tmp_path / "out.json"
    monkeypatch.setattr(sys, "argv", ["scenarios", str(tmp_path), "--out", str(out)])
    scenarios.main()
    cells = json.loads(out.read_text())["table"]["cifar-features"]["cells"]
    assert set(cells) == {"partition.alpha=10", "partition.alpha=0.01"}
    accuracies = [50, 60, 85]
    assert cells["partition.alpha=10"]["student"] == {
        "mean": statistics.mean(accuracies),
        "spread": round(statistics.stdev(accuracies), 2),
    }
    assert cells["partition.alpha=0.01"]["pool"] == {"mean": 80}
    old = metrics.read(OLD)
    assert cells["partition.alpha=10"]["kilobytes_up_per_site"] == {
        "mean": round(statistics.mean(client.bytes_up for client in old.clients) / 1000, 2),
        "spread": 0,
    }
    # Another scenario, measured later and elsewhere.
    keep(run_of(18), tmp_path / "later" / "default-skew" / "runs" / "as-it-is-1" / "seed-0")
    monkeypatch.setattr(sys, "argv", ["scenarios", str(tmp_path / "later"), "--out", str(out)])
    scenarios.main()
    table = json.loads(out.read_text())["table"]
    assert table["cifar-features"]["cells"] == cells
    assert table["default-skew"]["cells"]["as it is"]["student"] == {"mean": 90}


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected finished runs of default-skew, .*, found none"):
        scenarios.collect(tmp_path, {})


@pytest.mark.parametrize("name", scenarios.SWEEPS)
def test_its_commands_are_commands(name: str) -> None:
    sweep = scenarios.SWEEPS[name]
    load(sweep.scenario, list(sweep.settings))
    words = sweep.command("folder").split()
    assert words[:2] == ["limbeck", "sweep"]
    found = CliRunner().invoke(app, [*words[1:], "--help"])
    assert found.exit_code == 0
