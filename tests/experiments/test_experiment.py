"""The figures of a scenario over several seeds: all measures of all that is compared, paired by seed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from limbeck.experiments import experiment
from limbeck.server.scores import FIGURES

TINY = ["data.private=300", "data.public=80", "student.epochs=1", "run.workers=1"]


def test_five_seeds_are_the_default() -> None:
    assert experiment.SEEDS == (1, 2, 3, 4, 5)


def test_every_measure_has_mean_and_spread_and_differences_are_those_of_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tiny.json"
    given = ["digits-tiny", "--seeds", "1", "2", "--out", str(out), "--runs", str(tmp_path / "runs"), "--set", *TINY]
    monkeypatch.setattr(sys, "argv", ["experiment", *given])
    experiment.main()
    result = json.loads(out.read_text())
    first, second = result["seeds"]
    for role in (
        "majority",
        "best_site",
        "mean_site",
        "worst_site",
        "central",
        "central_without_privacy",
        "pool",
        "student",
    ):
        for name in FIGURES:
            key = f"{role}_test.{name}"
            assert result["mean"][key] == pytest.approx((first[key] + second[key]) / 2, abs=2e-3)
    assert first["majority_test.accuracy"] == second["majority_test.accuracy"]  # the test set is the same
    assert first["student_test.accuracy"] == pytest.approx(first["student_sparse"], abs=1e-3)
    assert first["pool_public.accuracy"] == pytest.approx(first["pool_on_public"], abs=1e-3)
    gap = [row["student_test.accuracy"] - row["pool_test.accuracy"] for row in (first, second)]
    assert result["mean"]["student_over_pool"] == pytest.approx(sum(gap) / 2, abs=2e-3)
    assert result["spread"]["student_over_pool"] == pytest.approx(abs(gap[0] - gap[1]) / 2**0.5, abs=2e-3)
