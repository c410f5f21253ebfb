"""The file of an experiment's sweep: its figures are those of the runs, and its command makes it again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from limbeck.experiments import sweep
from limbeck.simulations import metrics
from limbeck.simulations.sweep import baseline

TINY = ["data.private=300", "data.public=80", "student.epochs=1", "teacher.steps=5", "teacher.average_last=2"]
ALSO = ["compare.central=false", "compare.without_privacy=false"]


def test_the_file_holds_what_the_runs_reached_with_the_command_that_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["digits-tiny", "--set", *TINY, *ALSO, "--epsilons", "2", "--seeds", "3", "--out", "tiny.json"]
    monkeypatch.setattr(sys, "argv", ["sweep", *words, "--jobs", "1"])
    sweep.main()
    found = json.loads(Path("tiny.json").read_text())
    assert found["command"] == f"python -m limbeck.experiments.sweep {' '.join(words)}"
    assert (found["delta"], found["unit"], found["adjacency"]) == (0.0001, "record", "add-remove-one")
    (private,) = (metrics.read(path.parent) for path in Path("runs").glob("*/runs/*/*/metrics.json"))
    (public,) = (baseline.read(path.parent) for path in Path("runs").glob("*/runs/*/*/baseline.json"))
    with_privacy, without = found["table"]["epsilon 2"], found["table"]["without privacy"]
    assert set(with_privacy) == set(without) == set(sweep.NAMES)
    assert with_privacy["student"] == {"mean": pytest.approx(100 * private.student.accuracy, abs=0.01), "spread": None}
    assert with_privacy["teacher_best"]["mean"] == pytest.approx(100 * max(private.teacher_accuracies), abs=0.01)
    assert without["student"]["mean"] == pytest.approx(100 * public.stages[-1].student.accuracy, abs=0.01)
    assert found["runs"]["seed 3, without privacy"]["teacher_best"] == pytest.approx(
        100 * max(each.accuracy for each in public.teachers)
    )
