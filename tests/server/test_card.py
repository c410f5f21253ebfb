"""A student's folder says what is known of the student, and nothing that nobody stated or measured."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from helpers import onnx_students
from helpers.onnx_students import CARD
from helpers.plans import PLAN
from limbeck.base.errors import DataError, RunError, SettingError
from limbeck.inputs import encodings
from limbeck.inputs.encodings import Number, TableEncoding
from limbeck.plans.schema import InputKind, PublicInputs
from limbeck.protos.messages import Guarantee
from limbeck.server import app, card, delivery, export, student
from limbeck.server.card import Calibration, Measure, Site
from limbeck.server.exported import load_student
from limbeck.server.predicting import open_inputs
from limbeck.server.record import ClientRecord, StageRecord

CALIBRATION = Calibration(
    temperature=0.5, inputs=100, held_out=False, how="By hand.", log_loss=(1.0, 0.5), error=(0.2, 0.03)
)
FULL = replace(
    CARD,
    calibration=CALIBRATION,
    sites=(
        Site(name="north", stages=1, guarantee="record-dp", epsilon=2.5, delta=1e-5),
        Site(name="south", stages=0, guarantee=None),
    ),
    measured=(Measure(name="accuracy", value=0.9, on="test set", inputs=100, error=0.03),),
    purpose="A second opinion.",
    data="Two hospitals.",
    licence="CC BY 4.0",
)


def made(folder: Path, own: card.Card = CARD, *, encoding: bytes | None = None) -> Path:
    return onnx_students.write(folder, onnx_students.softmax(), own, encoding=encoding)


@pytest.mark.parametrize("own", [CARD, FULL, replace(FULL, class_names=("", "a|b\n")), replace(CARD, licence="é\u202e")])
def test_a_card_is_read_as_it_was_written(own: card.Card) -> None:
    assert card.read(own.to_json()) == own


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("samples", "many", r"card\.samples"),
        ("class_names", "ab", r"card\.class_names"),
        ("class_names", [1], r"card\.class_names\[0\]"),
        ("inputs", {"kind": "pixels", "shape": [2], "low": 0, "high": 1}, r"card\.inputs\.kind"),
        ("inputs", 3, r"card\.inputs"),
        ("claimed", {"value": 1.0}, r"card\.claimed.*delta"),
        ("simulated", 1, r"card\.simulated"),
        ("calibration", {**json.loads(FULL.to_json())["calibration"], "error": [0.1]}, r"card\.calibration\.error"),
    ],
)
def test_a_card_with_a_wrong_value_is_refused_and_the_value_named(field: str, value: object, named: str) -> None:
    values = json.loads(CARD.to_json())
    with pytest.raises(DataError, match=named):
        card.read(json.dumps({**values, field: value}))
    with pytest.raises(DataError, match="student's card"):
        card.read("{")
    assert card.read(json.dumps({**values, "of_a_later_version": 1})) == CARD


def test_a_student_carries_its_card_and_the_values_by_themselves(tmp_path: Path) -> None:
    folder = made(tmp_path, FULL)
    assert load_student(folder).card == FULL
    told = {own.key: own.value for own in onnx.load(folder / "student.onnx").metadata_props}
    del told["limbeck_card"]
    assert told == {
        "limbeck_version": "0.2.0",
        "limbeck_plan": "ab" * 32,
        "limbeck_classes": '["well", "ill"]',
        "limbeck_input": "numbers",
        "limbeck_temperature": "0.5",
        "limbeck_epsilon": "epsilon = 3 at delta = 1e-05, per record, add-remove-one",
        "limbeck_epsilon_claimed": "3",
        "limbeck_delta": "1e-05",
        "limbeck_unit": "record",
        "limbeck_adjacency": "add-remove-one",
        "limbeck_epsilon_spent": '{"north": 2.5}',
        "limbeck_licence": "CC BY 4.0",
    }
    assert (folder / "labels.txt").read_text().splitlines() == ["well", "ill"]


def test_the_page_says_what_is_known_and_what_is_not() -> None:
    page = card.page(FULL)
    for told in (
        "A second opinion.",
        "Two hospitals.",
        "CC BY 4.0",
        "| north | 1 | record-dp | 2.500 at delta = 1e-05 |",
        "0.9 | 0.03",
    ):
        assert told in page
    bare = card.page(replace(CARD, sites=(Site(name="north", stages=1, guarantee="record-dp"),)))
    for told in (
        "Nobody stated what this student is for",
        "licence | not stated",
        "**Not calibrated**",
        "- its accuracy",
    ):
        assert told in bare
        assert told not in page
    assert "| north | 1 | record-dp | known to the site |" in bare


def test_texts_from_elsewhere_make_no_markup_of_their_own() -> None:
    page = card.page(replace(FULL, purpose="# Head\n| a | <script>", class_names=("a|b", "[x](http://y)")))
    assert "\n# Head" not in page
    assert r"\# Head\\x0a\| a \| \<script\>" in page
    assert "a\\|b, \\[x\\](http://y)" in page


def test_an_epsilon_is_infinite_if_a_site_answered_without_a_guarantee_and_seeded_if_noise_was() -> None:
    sites = {name: Site(name=name, stages=1, guarantee=name) for name in ("record-dp", "seeded-noise", "none")}
    assert replace(CARD, sites=(sites["record-dp"],)).epsilon == CARD.claimed
    assert replace(CARD, sites=(sites["record-dp"], sites["seeded-noise"])).epsilon.seeded
    without = replace(CARD, sites=tuple(sites.values()))
    assert math.isinf(without.epsilon.value)
    assert "**No guarantee** for the records of none" in card.page(without)
    silent = replace(CARD, sites=(replace(sites["none"], stages=0),))
    assert silent.epsilon == CARD.claimed


def test_what_is_stated_later_changes_neither_weights_nor_predictions(tmp_path: Path) -> None:
    folder = made(tmp_path)
    before = load_student(folder).predict([[1.0, 0.5]])
    delivery.amend(folder, replace(CARD, licence="MIT"))
    assert load_student(folder).card == replace(CARD, licence="MIT")
    np.testing.assert_array_equal(load_student(folder).predict([[1.0, 0.5]]), before)


def test_a_temperature_divides_the_logits_in_the_graph(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert load_student(folder).predict([[1.0, 0.0]])[0, 0] == pytest.approx(0.7310586)
    delivery.amend(folder, replace(CARD, calibration=CALIBRATION))
    assert load_student(folder).predict([[1.0, 0.0]])[0, 0] == pytest.approx(0.8807971)
    delivery.amend(folder, CARD)
    assert load_student(folder).predict([[1.0, 0.0]])[0, 0] == pytest.approx(0.7310586)


def test_the_encoding_of_the_plan_goes_into_the_folder_and_no_other(tmp_path: Path) -> None:
    encoding = TableEncoding(columns=(Number(name="age", mean=50.0, deviation=10.0),))
    encodings.save(encoding, tmp_path / "e.json")
    content = (tmp_path / "e.json").read_bytes()
    own = replace(CARD, inputs=replace(CARD.inputs, encoding=hashlib.sha256(content).hexdigest()))
    folder = made(tmp_path / "student", own, encoding=content)
    assert (folder / "encoding.json").read_bytes() == content
    found = load_student(folder).card
    assert found is not None
    assert found.inputs.reads == ("age",)
    with pytest.raises(DataError, match="Expected the public encoding with SHA-256"):
        made(tmp_path / "other", own, encoding=content + b" ")
    assert not (tmp_path / "other").exists()


def test_a_student_whose_card_does_not_fit_its_graph_is_refused(tmp_path: Path) -> None:
    for changes in (
        {"class_names": ("one", "two", "three")},
        {"inputs": replace(CARD.inputs, shape=(3,))},
    ):
        folder = made(tmp_path / str(len(changes)), replace(CARD, **changes))
        with pytest.raises(DataError, match="whose card fits its graph"):
            load_student(folder)


def test_a_student_of_0_1_0_has_no_card_and_takes_no_temperature(tmp_path: Path) -> None:
    (tmp_path / "student.onnx").write_bytes(onnx_students.softmax().SerializeToString())
    loaded = load_student(tmp_path)
    assert (loaded.card, loaded.epsilon, loaded.plan_hash, loaded.input_kind) == (None, None, None, None)
    assert loaded.class_names == ("0", "1")
    with pytest.raises(DataError, match="which has none"):
        delivery.read_card(tmp_path)
    with pytest.raises(SettingError, match="which has none"):
        delivery.amend(tmp_path, CARD)
    with pytest.raises(RunError, match="found none"):
        delivery.find(tmp_path / "absent")
    old = Path(__file__).parent.parent / "old" / "0.1.0" / "federation" / "coordinator"
    loaded = load_student(old / "run")
    assert loaded.card is None
    (tmp_path / "t.csv").write_text(f"{','.join(encodings.load(old / 'transfer-sets' / 'encoding.json').reads)}\n")
    with pytest.raises(DataError, match="name it by --encoding"):
        loaded.predict_file(tmp_path / "t.csv")
    source = open_inputs(loaded, [tmp_path / "t.csv"], encoding=old / "transfer-sets" / "encoding.json")
    assert (source.what, source.count) == ("row", 0)
    assert loaded.predict(np.zeros((3, *loaded.input_shape))).shape == (3, loaded.classes)


def test_a_coordinator_describes_the_plan_and_the_sites_that_answered() -> None:
    clients = {
        "north": ClientRecord(guarantee=Guarantee.RECORD_DP),
        "south": ClientRecord(guarantee=Guarantee.NONE),
        "never": ClientRecord(),
    }
    stages = [
        StageRecord(
            stage=0, sparsity=0.5, temperature=2.0, clients=("north",), bytes_up=0, bytes_down=0, seconds={}, losses=()
        )
    ]
    x_N = torch.tensor([[[0, 200]]], dtype=torch.uint8)
    plan = replace(PLAN, class_names=tuple("abcdefghij"), encoding=b"\1" * 32)
    own = export.describe(plan, b"\2" * 32, x_N, clients, stages)
    assert own.sites == (Site(name="north", stages=1, guarantee="record-dp"), Site(name="south", stages=0, guarantee="none"))
    assert (own.class_names, own.plan_hash, own.inputs.encoding) == (tuple("abcdefghij"), "02" * 32, "01" * 32)
    assert (own.inputs.kind, own.inputs.low, own.inputs.high, own.inputs.shape) == ("bytes", 0.0, 200.0, (1, 2))
    assert (own.claimed.value, own.claimed.delta, own.temperature, own.measured) == (3.0, 1e-5, 2.0, ())
    declared = replace(PLAN, inputs=PublicInputs(kind=InputKind.NUMBERS, low=-1.0, high=4.0))
    assert export.describe(declared, b"", x_N.float(), {}, []).inputs.kind == "numbers"
    assert export.describe(PLAN, b"", x_N.float() / 255, {}, []).inputs.kind == "unit"


def test_a_coordinator_that_exports_the_same_student_again_keeps_what_was_stated_of_it(tmp_path: Path) -> None:
    x_N = torch.zeros(5, 8, 8, dtype=torch.uint8)
    own = export.describe(PLAN, b"\2" * 32, x_N, {}, [])
    for seed, licence in ((3, None), (3, "MIT"), (4, None)):
        export.export(student.build("mlp", (8, 8), 10, seed), tmp_path, x_N, own)
        found = delivery.read_card(tmp_path)
        assert found.licence == licence
        assert found.parameters > 0
        delivery.amend(tmp_path, replace(found, licence="MIT", calibration=CALIBRATION))
    other = replace(own, plan_hash="00")
    export.export(student.build("mlp", (8, 8), 10, 4), tmp_path, x_N, other)
    assert delivery.read_card(tmp_path).calibration is None


def test_a_coordinator_finds_the_encoding_of_its_plan_by_its_hash(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = b"the encoding"
    plan = replace(PLAN, encoding=hashlib.sha256(content).digest())
    (tmp_path / "a.json").write_bytes(b"another")
    caplog.set_level("WARNING", logger="limbeck")
    assert app._encoding(plan, tmp_path) is None
    assert "Expected the plan's public encoding" in caplog.text
    (tmp_path / "b.json").write_bytes(content)
    assert app._encoding(plan, tmp_path) == content
    caplog.clear()
    assert app._encoding(PLAN, tmp_path / "absent") is None
    assert not caplog.text
