"""What each site adds to the pool, from what left the sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limbeck.client import teachers
from limbeck.client.site import Site
from limbeck.protos import codec
from limbeck.server.pooling import class_weights
from limbeck.server.record import Record
from limbeck.simulations import contribution, prepare, run, scenario
from limbeck.simulations.measure import Truth


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("contribution") / "run"
    settings = ["data.private=150", "data.public=60", "student.epochs=1", "run.workers=1", "pooling.kind=class-counts"]
    # All classes are kept, and nothing is softened: an answer is what the teacher says, as far as the wire rounds it.
    settings += ["release.k=9", "stages.temperature=1.0", "student.dense_control=false", "compare.central=false"]
    run.simulate(scenario.load("digits-tiny", settings), out)
    return out


def test_the_pool_without_a_site_is_that_of_the_other_teachers_with_their_own_weights(folder: Path) -> None:
    _, plan, sites = prepare.read_prepared(folder)
    record, truth = Record(folder / "server" / "record.json", codec.plan_hash(plan)), Truth(folder)
    stage = record.stages[-1]
    found = contribution.accuracies_without(plan, stage, record.clients, sites, truth.public_y)
    assert set(found) == set(stage.clients)
    assert len(found) == 3
    spoken, claims = {}, {}
    for name in stage.clients:
        site = Site(sites / name)
        public_x = site.transfer_sets.read(plan.transfer_set, plan.samples)
        teacher = teachers.load(site.state(codec.plan_hash(plan)) / "teacher.safetensors", factory=site.factory)
        spoken[name] = teacher.log_probabilities(public_x).exp().double().numpy()
        claims[name] = record.clients[name].label_counts or ()
    for left_out, accuracy in found.items():
        others = [name for name in stage.clients if name != left_out]
        weights = class_weights([claims[name] for name in sorted(others)])
        pooled = sum(spoken[name] * weight.double().numpy() for name, weight in zip(sorted(others), weights, strict=True))
        expected = float((np.argmax(pooled, 1) == truth.public_y).mean())
        # Rounding on the wire may turn an input or two that are nearly tied.
        assert accuracy == pytest.approx(expected, abs=2.1 / plan.samples)


def test_a_site_without_which_nothing_is_known_shows_in_what_the_pool_loses(folder: Path) -> None:
    _, plan, sites = prepare.read_prepared(folder)
    record = Record(folder / "server" / "record.json", codec.plan_hash(plan))
    stage = record.stages[-1]
    # Labels are what one site says: nobody else says it as well.
    first = stage.clients[0]
    site = Site(sites / first)
    public_x = site.transfer_sets.read(plan.transfer_set, plan.samples)
    teacher = teachers.load(site.state(codec.plan_hash(plan)) / "teacher.safetensors", factory=site.factory)
    own_y = teacher.log_probabilities(public_x).argmax(1).numpy()
    found = contribution.accuracies_without(plan, stage, record.clients, sites, own_y)
    assert found[first] < min(accuracy for name, accuracy in found.items() if name != first)
    half = np.where(np.arange(plan.samples) % 2, own_y, -1)
    assert contribution.accuracies_without(plan, stage, record.clients, sites, half)
    assert not contribution.accuracies_without(plan, stage, record.clients, sites, np.full(plan.samples, -1))


def test_too_many_sites_and_transcripts_moved_away_are_not_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan, sites = prepare.read_prepared(folder)
    record, truth = Record(folder / "server" / "record.json", codec.plan_hash(plan)), Truth(folder)
    stage = record.stages[-1]
    with monkeypatch.context() as patch:
        patch.setattr(contribution, "MOST_SITES", 2)
        assert not contribution.accuracies_without(plan, stage, record.clients, sites, truth.public_y)
    transcript = sites / stage.clients[0] / "transcript.jsonl"
    transcript.rename(transcript.with_name("elsewhere"))
    try:
        assert not contribution.accuracies_without(plan, stage, record.clients, sites, truth.public_y)
    finally:
        transcript.with_name("elsewhere").rename(transcript)
