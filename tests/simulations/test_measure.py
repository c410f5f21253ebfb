"""What is compared in a run is measured alike: the pool on test inputs, central teachers, natural sites, and the tables that show them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from limbeck.client import teachers
from limbeck.client.ledger import Ledger
from limbeck.client.noise import SystemEntropy
from limbeck.client.site import Site
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans import accounting
from limbeck.plans.schema import LinearTeaching
from limbeck.protos import codec
from limbeck.server import checkpoint
from limbeck.server.record import Record
from limbeck.server.scores import FIGURES
from limbeck.simulations import central, measure, metrics, prepare, run, scenario, summary
from limbeck.simulations.answering import Pools
from limbeck.simulations.metrics import Metrics, Quality

TINY = ["data.private=300", "data.public=80", "student.epochs=2", "run.workers=2", "privacy.noise=UnsafeSeeded"]
ROLES = ["majority", "worst site", "mean site", "best site", "central", "without privacy", "pool", "dense", "student"]


def tiny(*overrides: str) -> scenario.Scenario:
    return scenario.load("digits-tiny", [*TINY, *overrides])


def printed(measured: Metrics) -> str:
    """What a terminal of 80 columns shows."""
    console = Console(record=True, width=80, file=io.StringIO())
    summary.show(console, measured)
    return console.export_text()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that weights sites by class."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    run.simulate(tiny("pooling.kind=class-counts", "partition.kind=dirichlet"), folder)
    return folder


@pytest.mark.parametrize("pooling", ["class-counts", "record-counts", "mean"])
def test_a_pool_made_again_of_the_teachers_is_the_coordinators_to_the_last_bit(
    pooling: str, finished: Path, tmp_path: Path
) -> None:
    folder = finished
    if pooling != "class-counts":
        folder = tmp_path / "run"
        run.simulate(tiny(f"pooling.kind={pooling}", "student.dense_control=false", "stages.count=1"), folder)
    _, plan, sites = prepare.read_prepared(folder)
    record = Record(folder / "server" / "record.json", codec.plan_hash(plan))
    (public_x,) = read_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    pools = Pools(plan, len(public_x), record.stages, record.clients, SystemEntropy())
    for settings in sites.glob("*/site.toml"):
        site = Site(settings.parent)
        teacher = teachers.load(site.state(codec.plan_hash(plan)) / "teacher.safetensors")
        pools.add(site.name, teacher.log_probabilities(public_x))
    for stage in record.stages:
        saved = checkpoint.load(checkpoint.path_of(folder / "server" / "checkpoints", stage.stage))
        assert saved is not None
        pool_NK, why = pools.result(stage.stage)
        assert pool_NK is not None
        assert why == ""
        assert torch.equal(pool_NK, saved.targets_NK)


def test_without_one_sites_answers_there_is_no_pool_and_the_site_is_named(finished: Path) -> None:
    _, plan, _ = prepare.read_prepared(finished)
    record = Record(finished / "server" / "record.json", codec.plan_hash(plan))
    pools = Pools(plan, 7, record.stages, record.clients, SystemEntropy())
    pools.add("site-01", torch.zeros(7, 10).log_softmax(-1))
    assert pools.result(0) == (None, "site-00: its teacher is gone (and 1 more sites)")
    pools.cannot("site-00", "it was asked for something else")
    assert pools.result(1) == (None, "site-00: it was asked for something else (and 1 more sites)")


def test_all_that_is_compared_is_measured_on_both_sets_by_all_measures(finished: Path) -> None:
    measured = metrics.read(finished)
    calibrated = ["calibrated"] if measured.student.calibrated is not None else []
    assert [row.role for row in measured.comparison] == ROLES + calibrated
    for row in measured.comparison:
        assert set(row.test) == set(row.public) == set(FIGURES)
        assert all(value is not None for value in (*row.test.values(), *row.public.values()))
        assert row.why == ""
    counts = {each.test.inputs for each in (measured.majority, measured.pool.quality, measured.student.quality) if each.test}
    assert counts == {397}


def test_old_fields_and_new_ones_agree(finished: Path) -> None:
    measured = metrics.read(finished)

    def accuracy(quality: Quality | None, part: str = "test") -> float:
        assert quality is not None
        scores = getattr(quality, part)
        assert scores is not None
        return float(scores.accuracy)

    student, last = measured.student, measured.stages[-1]
    assert accuracy(student.quality) == student.accuracy == last.sparse_accuracy == accuracy(last.sparse)
    assert accuracy(student.dense) == student.dense_accuracy == accuracy(last.dense)
    assert accuracy(measured.pool.quality, "public") == measured.pool.accuracy == accuracy(last.pool, "public")
    for client in measured.clients:
        assert accuracy(client.teacher) == client.teacher_accuracy
    confusion, test = np.array(student.confusion), student.quality.test
    assert test is not None
    assert [own.inputs for own in test.classes] == confusion.sum(1).tolist()
    assert [own.predicted for own in test.classes] == confusion.sum(0).tolist()
    assert [own.recall for own in test.classes] == pytest.approx((confusion.diagonal() / confusion.sum(1)).tolist())


def test_a_calibrated_student_predicts_the_same_with_other_confidence(finished: Path) -> None:
    settings, plan, sites = prepare.read_prepared(finished)
    seconds = metrics.read(finished).seconds
    measured = measure.measure(
        finished, settings, plan, sites, carrier="local", seconds=seconds, dense=True, temperature=0.5
    )
    assert measured.student.calibrated is not None
    trained, calibrated = measured.student.quality.test, measured.student.calibrated.test
    assert trained is not None
    assert calibrated is not None
    for name in ("accuracy", "balanced_accuracy", "f1"):
        assert calibrated.figures[name] == trained.figures[name]
    assert calibrated.confidence > trained.confidence
    assert calibrated.log_loss != trained.log_loss
    again = measure.measure(finished, settings, plan, sites, carrier="local", seconds=seconds, dense=True)
    assert again.student.calibrated is None
    assert (again.central, again.without_privacy) == (None, None)


def test_best_and_worst_site_are_those_of_the_main_measure(finished: Path) -> None:
    measured = metrics.read(finished)
    alone = measured.teacher_accuracies
    assert measured.best_site is not None
    assert measured.worst_site is not None
    assert (measured.worst_site.teacher_accuracy, measured.best_site.teacher_accuracy) == (min(alone), max(alone))
    mean = measured.comparison[2]
    assert mean.test["accuracy"] == pytest.approx(sum(alone) / len(alone))


# A teacher of all records.


def test_the_central_teacher_has_the_plans_mechanisms_and_no_ledger_pays_for_it(finished: Path) -> None:
    _, plan, sites = prepare.read_prepared(finished)
    teaching = central.of_all_sites(plan.teaching, 3)
    assert isinstance(teaching, LinearTeaching)
    assert isinstance(plan.teaching, LinearTeaching)
    assert teaching.normaliser == 3 * plan.teaching.normaliser
    cost, delta = (accounting.epsilon(((each, None),), plan.privacy.delta) for each in (teaching, plan.teaching))
    assert cost == delta
    for settings in sites.glob("*/site.toml"):
        site = Site(settings.parent)
        with Ledger(site.ledger, site.budget) as ledger:
            charges = [entry for entry in ledger.entries() if entry.schedule is not None]
        assert [entry.plan_hash for entry in charges] == [codec.plan_hash(plan)]
        assert not list(site.folder.rglob("central*"))


def test_noise_costs_what_the_teacher_without_it_gains(tmp_path: Path) -> None:
    measured = run.simulate(tiny("privacy.epsilon=0.1", "student.dense_control=false"), tmp_path / "run")
    assert measured.central is not None
    assert measured.without_privacy is not None
    assert measured.central.test is not None
    assert measured.without_privacy.test is not None
    # 300 records at epsilon 0.1: noise drowns what one site knows, and much of what all of them know.
    assert measured.without_privacy.test.accuracy > 0.9
    assert measured.central.test.accuracy < 0.8
    assert measured.best_site is not None
    assert measured.best_site.teacher.test is not None
    assert measured.best_site.teacher.test.accuracy < measured.central.test.accuracy


def test_central_teachers_are_kept_and_only_trained_if_they_are_asked_for(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, plan, sites = prepare.read_prepared(finished)
    assert sorted(path.name for path in (finished / "central").iterdir()) == [
        "private.safetensors",
        "without-noise.safetensors",
    ]
    monkeypatch.setattr(teachers, "train", None)
    assert central.train("private", finished, settings, plan, sites).teacher is not None
    assert central.wanted(tiny("compare.central=false", "compare.without_privacy=false")) == ()
    assert central.wanted(tiny()) == ("private", "without-noise")
    # Features that take long to compute are not computed twice, unless somebody asks for it.
    assert central.wanted(scenario.load("default")) == ("private",)
    assert central.wanted(scenario.load("default", ["compare.without_privacy=true"])) == ("private", "without-noise")


def test_records_that_cannot_be_read_are_the_reason_for_no_central_teacher(finished: Path, tmp_path: Path) -> None:
    settings, plan, _ = prepare.read_prepared(finished)
    prepare.prepare(settings, tmp_path / "run")
    (tmp_path / "run" / "sites" / "site-01" / "records.npz").write_bytes(b"broken")
    found = central.train("private", tmp_path / "run", settings, plan, tmp_path / "run" / "sites")
    assert found.teacher is None
    assert "records.npz" in found.why


def test_votes_cannot_be_asked_about_test_inputs_and_the_table_says_so(tmp_path: Path) -> None:
    votes = ["teacher.kind=votes", "teacher.teachers=10", "stages.count=1", "student.dense_control=false"]
    measured = run.simulate(tiny(*votes), tmp_path / "run")
    pool = measured.pool.quality
    assert pool.test is None
    assert pool.public is not None
    assert pool.why.startswith("site-00: noisy votes exist for the public inputs alone")
    assert measured.student.quality.test is not None
    text = " ".join(printed(measured).split())
    assert "Pool: site-00: noisy votes exist for the public inputs alone" in text
    assert re.search(r"pool - - - - \d", text)
