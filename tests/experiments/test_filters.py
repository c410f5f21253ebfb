"""Filters of evidence are compared on the sums that sites would have, by labels of public inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limbeck.base.errors import DataError
from limbeck.client.noise import UnsafeSeeded
from limbeck.client.site import Site
from limbeck.experiments.benchmarks import filters
from limbeck.simulations import prepare
from limbeck.simulations.scenario import load

EVIDENCE = ["teacher.kind=evidence", "stages.temperature=auto", "pooling.kind=mean", "teacher.normaliser=60"]


def test_without_noise_all_sums_together_are_those_of_one_teacher_of_all_records(tmp_path: Path) -> None:
    plan = prepare.prepare(load("digits-tiny", [*EVIDENCE, "data.private=180", "data.public=80"]), tmp_path / "run")
    sums = filters.sums_of(tmp_path / "run")
    assert (sums.expected.sites, sums.expected.inputs, sums.expected.records) == (3, 80, 60)
    records = [
        Site(path.parent).records.find(plan.classes, np.empty((0, 8, 8), np.uint8))
        for path in sorted((tmp_path / "run" / "sites").glob("*/site.toml"))
    ]
    # Every record's row has the constant as its last entry, so sums of that entry count records.
    count = sum(len(found.y_N) for found in records)
    assert count == 180
    assert np.linalg.norm(sums.sums_KD) <= count
    np.testing.assert_allclose(np.sort(sums.e_D)[::-1][: len(sums.e_J)].sum(), 1, atol=0.05)
    found = filters.accuracies(sums, sums.sums_KD)
    assert found["ridge alone, best"] >= found["ridge alone, auto"] - 1e-9
    assert found["ridge alone, best"] > 80
    noisy = filters.accuracies(sums, UnsafeSeeded(0).gaussian(10, sums.sums_KD.shape[1], std=1e3).double().numpy())
    assert max(noisy.values()) < 50
    row = filters.measured(tmp_path / "run")
    assert row["accuracy"].keys() == found.keys()  # type: ignore[attr-defined]


def test_other_teachers_are_refused(tmp_path: Path) -> None:
    prepare.prepare(load("digits-tiny", ["data.private=60", "data.public=20"]), tmp_path / "run")
    with pytest.raises(DataError, match=r"Expected a run with evidence teachers in .*, got linear"):
        filters.sums_of(tmp_path / "run")
