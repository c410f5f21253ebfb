"""A finished simulation hands over a student that is calibrated on public labels, with a card of what was measured and spent."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.students import QUICK
from limbeck.inputs.transfer_set import read_arrays
from limbeck.server import card, delivery
from limbeck.simulations import finish, measure, prepare, run
from limbeck.simulations.finished import load_run
from limbeck.simulations.scenario import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("simulated") / "run"
    run.simulate(load("digits-tiny", [*QUICK, "student.epochs=40"]), folder)
    return folder


def test_the_student_is_handed_over_with_all_that_belongs_to_it(folder: Path) -> None:
    assert {path.name for path in (folder / "student").iterdir()} == {
        "MODEL_CARD.md",
        "export.json",
        "labels.txt",
        "student.onnx",
        "student.safetensors",
    }
    exported = folder / "server" / "student"
    assert (folder / "student" / "student.safetensors").read_bytes() == (exported / "student.safetensors").read_bytes()
    assert load_run(folder).paths.student == folder / "student"
    assert load_run(folder).student.path == folder / "student" / "student.onnx"


def test_it_is_calibrated_on_the_labels_of_the_public_inputs_and_measured_so(folder: Path) -> None:
    own, metrics = delivery.read_card(folder / "student"), load_run(folder).metrics
    assert delivery.read_card(folder / "server" / "student").calibration is None
    assert own.calibration is not None
    assert (own.calibration.inputs, own.calibration.held_out) == (80, False)
    assert own.calibration.log_loss[1] < own.calibration.log_loss[0]
    assert own.logits_divided_by != 1
    calibrated, raw = metrics.student.calibrated, metrics.student.quality
    assert calibrated is not None
    assert calibrated.test is not None
    assert raw.test is not None
    assert calibrated.test.accuracy == raw.test.accuracy == metrics.student.accuracy
    assert calibrated.test.log_loss != raw.test.log_loss
    told = {own.name: own.value for own in own.measured}
    assert told["accuracy"] == metrics.student.accuracy
    assert told["log-loss (nats)"] == calibrated.test.log_loss
    # A student after a stage is as trained.
    (x_N,) = read_arrays(folder / "truth.npz", "test_x")
    assert len({student.path for student in load_run(folder).students}) == 2
    last = load_run(folder).students[-1]
    assert last.card is None
    np.testing.assert_allclose(last.predict(x_N).max(1).mean(), raw.test.confidence, rtol=1e-5)


def test_the_card_tells_what_was_simulated_and_spent_and_that_noise_was_seeded(folder: Path) -> None:
    own, metrics = delivery.read_card(folder / "student"), load_run(folder).metrics
    assert own.simulated
    assert own.plan_hash == metrics.plan.hash
    assert own.class_names == tuple("0123456789")
    assert [(site.name, site.epsilon) for site in own.sites] == [(site.site, site.epsilon) for site in metrics.clients]
    assert own.claimed.seeded
    assert own.epsilon.seeded
    page = (folder / "student" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert page == card.page(own)
    for told in ("CC BY 4.0", "**simulated**", "**No guarantee at all**", "| site-00 | 2 | seeded-noise |"):
        assert told in page
    assert str(folder) not in page + own.to_json()


def test_public_inputs_without_labels_leave_the_student_as_it_was_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, plan, _ = prepare.read_prepared(folder)
    before = delivery.read_card(folder / "student")
    unknown = {"truth.npz": np.full(plan.samples, -1)}
    monkeypatch.setattr(
        finish,
        "read_arrays",
        lambda path, *names: [unknown[path.name]] if path.name in unknown else read_arrays(path, *names),
    )
    shutil.rmtree(folder / "student")
    assert finish.hand_over(folder, scenario, plan).calibration is None
    assert delivery.read_card(folder / "student").logits_divided_by == 1
    delivery.amend(folder / "student", before)
    assert measure.load_student(folder)[1] == plan


def test_files_of_the_users_own_are_named_without_their_folder(folder: Path) -> None:
    scenario, plan, _ = prepare.read_prepared(folder)
    own = scenario.model_copy(update={"data": scenario.data.model_copy(update={"name": None, "table": "/home/me/p.csv"})})
    before = delivery.read_card(folder / "student")
    shutil.rmtree(folder / "student")
    found = finish.hand_over(folder, own, plan)
    assert (found.data, found.licence) == ("Records and public inputs: p.csv.", None)
    delivery.amend(folder / "student", replace(before))


def test_a_finished_run_that_is_resumed_keeps_what_was_stated_of_its_student(folder: Path) -> None:
    scenario, plan, _ = prepare.read_prepared(folder)
    before = delivery.read_card(folder / "student")
    stated = replace(before, purpose="a second opinion", licence="MIT")
    delivery.amend(folder / "student", stated)
    finish.hand_over(folder, scenario, plan)
    finish.note_figures(folder, load_run(folder).metrics)
    assert delivery.read_card(folder / "student") == stated
    # Another student is none of whom anything was stated.
    (folder / "student" / "student.safetensors").write_bytes(b"of another run")
    finish.hand_over(folder, scenario, plan)
    finish.note_figures(folder, load_run(folder).metrics)
    assert delivery.read_card(folder / "student") == before
