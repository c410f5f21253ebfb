"""A plan for real sites is that of its settings, about exactly these public inputs, signed, and publishes nothing but them."""

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from numpy.typing import NDArray
from typer.testing import CliRunner

from limbeck.base.errors import DataError, LimbeckError, SettingError, WireError
from limbeck.cli.main import app
from limbeck.inputs import encodings, features
from limbeck.inputs.transfer_set import digest, read_arrays
from limbeck.plans import accounting, advice, evidence_constants, settings
from limbeck.plans.author import make_plan
from limbeck.plans.schema import EvidenceTeaching, InputKind, PublicInputs
from limbeck.protos import codec, signing
from limbeck.protos.messages import Offer
from limbeck.simulations import scenario

X = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)


DIGITS = tuple("0123456789")


def limbeck(*words: str | Path) -> list[str]:
    """The lines that a command prints; it ends well."""
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def make(folder: Path, *more: str) -> list[str]:
    paths: list[str | Path] = [
        "--transfer",
        folder / "public.npz",
        "--key",
        folder / "plan.key",
        "--out",
        folder / "plan.pb",
    ]
    return limbeck("plan", "make", folder / "plan.toml", *paths, "--publish", folder / "transfer", *more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "public.npz", x=X, y=np.zeros(40))
    signing.new_key(tmp_path / "plan.key")
    limbeck("plan", "settings", "digits-tiny", "--out", tmp_path / "plan.toml")
    return tmp_path


def test_it_is_the_plan_of_its_settings_about_these_inputs_signed_by_the_key(folder: Path) -> None:
    lines = make(folder, "--set", "privacy.epsilon=2")
    offer = codec.decode_offer((folder / "plan.pb").read_bytes())
    written = settings.load(folder / "plan.toml", ["privacy.epsilon=2"])
    declared = PublicInputs(kind=InputKind.BYTES, low=float(X.min()), high=float(X.max()))
    assert offer.plan == make_plan(written, transfer_set=digest(X), samples=40, classes=DIGITS, inputs=declared)
    assert offer.author == signing.author_of(signing.read_key(folder / "plan.key"))
    cost = accounting.epsilon(((offer.plan.teaching, offer.plan.counts),), 1e-4)
    assert 1.99 < cost <= 2
    assert f"epsilon = {cost:.4g} at delta = 0.0001, per record, add-remove-one" in lines[2]


def test_what_is_auto_is_resolved_from_the_inputs_and_advice_says_where_the_kind_fits(folder: Path) -> None:
    lines = make(
        folder, "--set", "teacher.kind=evidence", "--set", "stages.temperature=auto", "--set", "run.expected_clients=9"
    )
    plan = codec.decode_offer((folder / "plan.pb").read_bytes()).plan
    teaching = plan.teaching
    assert isinstance(teaching, EvidenceTeaching)
    f_ND = features.of_evidence(teaching.features, features.compute(teaching.features, X), teaching.constant)
    expected = evidence_constants.Expected(
        classes=10, inputs=40, sites=9, records=teaching.normaliser, noise=teaching.noise_multiplier
    )
    found = evidence_constants.of_inputs(f_ND, expected)
    assert (teaching.ridge, teaching.noise_to_signal) == (found.filter.ridge, found.filter.noise_to_signal)
    assert {stage.temperature for stage in plan.stages} == {found.temperature}
    assert [line for line in lines if line.startswith("advice: ")] == [f"advice: {each}" for each in advice.of_plan(plan)]


@pytest.mark.parametrize("name", sorted(scenario.shipped()))
def test_the_plan_of_a_scenario_is_the_plan_of_the_settings_that_are_written_from_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    limbeck("plan", "settings", name, "--out", path)
    simulated, written = scenario.load(name), settings.load(path)
    assert not {"data", "partition"} & tomllib.loads(path.read_text()).keys()
    assert isinstance(written.classes, tuple)
    # Of some public inputs, from which what is "auto" follows.
    inputs = features.of_evidence("pixels", np.linspace(0, 1, 60 * 8, dtype=np.float32).reshape(60, 8) % 0.37, 0.3)
    made = [
        make_plan(one, transfer_set=bytes(32), samples=60, classes=written.classes, features=lambda: inputs, sites=9)
        for one in (simulated, written)
    ]
    assert made[0] == made[1]
    with pytest.raises(SettingError, match="left as it is"):
        limbeck("plan", "settings", name, "--out", path)


def test_a_plan_file_has_the_words_of_a_scenario_and_no_data_of_its_own(folder: Path) -> None:
    written = tomllib.loads((folder / "plan.toml").read_text())
    for table, wanted in (("data", {"name": "digits"}), ("partition", {"clients": 3})):
        (folder / "plan.toml").write_text(tomli_w.dumps({**written, table: wanted}))
        with pytest.raises(SettingError, match=rf"got a scenario, with \[{table}\]: `limbeck plan settings SCENARIO`"):
            make(folder)
    (folder / "plan.toml").write_text(tomli_w.dumps({**written, "teachers": {}}))
    with pytest.raises(SettingError, match=r"teachers: unknown key \(did you mean teacher\?\)"):
        make(folder)
    with pytest.raises(SettingError, match="got no file at"):
        limbeck("plan", "make", folder / "absent.toml", "--transfer", folder / "public.npz", "--key", folder / "plan.key")
    assert not (folder / "plan.pb").exists()


def test_classes_are_named_or_counted(folder: Path) -> None:
    make(folder)
    assert codec.decode_offer((folder / "plan.pb").read_bytes()).plan.class_names == DIGITS
    make(folder, "--set", "classes=10", "--out", str(folder / "counted.pb"))
    plan = codec.decode_offer((folder / "counted.pb").read_bytes()).plan
    assert (plan.classes, plan.class_names) == (10, ())
    with pytest.raises(WireError, match="Expected class_names that differ, got 'a' twice"):
        make(folder, "--set", 'classes=["a", "b", "a"]', "--out", str(folder / "twice.pb"))
    with pytest.raises(SettingError, match="classes = 1: expected"):
        make(folder, "--set", "classes=1", "--out", str(folder / "one.pb"))
    written = tomllib.loads((folder / "plan.toml").read_text())
    del written["classes"]
    (folder / "plan.toml").write_text(tomli_w.dumps(written))
    with pytest.raises(SettingError, match="classes: missing"):
        make(folder, "--out", str(folder / "none.pb"))
    assert sorted(path.name for path in folder.glob("*.pb")) == ["counted.pb", "plan.pb"]


def test_black_box_teachers_are_permitted_by_a_table_and_only_then(folder: Path) -> None:
    make(folder)
    assert codec.decode_offer((folder / "plan.pb").read_bytes()).plan.black_box is None
    make(folder, "--set", "black_box.draws=16", "--out", str(folder / "other.pb"))
    permitted = codec.decode_offer((folder / "other.pb").read_bytes()).plan.black_box
    assert permitted is not None
    assert permitted.draws == 16
    assert "NO epsilon" in " ".join(limbeck("plan", "show", folder / "other.pb"))


def test_a_plan_is_shown_to_people_and_to_programs(folder: Path) -> None:
    make(folder)
    offer = codec.decode_offer((folder / "plan.pb").read_bytes())
    text = "\n".join(limbeck("plan", "show", folder / "plan.pb"))
    cost = accounting.epsilon(((offer.plan.teaching, offer.plan.counts),), offer.plan.privacy.delta)
    for wanted in (
        codec.plan_hash(offer.plan).hex(),
        offer.author.hex(),
        digest(X).hex(),
        "10: 0, 1, 2, 3",
        f"epsilon = {cost:.4g} at delta = 0.0001, per record, add-remove-one",
    ):
        assert wanted in text
    shown = json.loads("\n".join(limbeck("plan", "show", "--json", folder / "plan.pb")))
    assert shown["cost_epsilon"] == cost
    assert shown["class_names"] == list(DIGITS)
    assert len(shown["stages"]) == len(offer.plan.stages)
    (folder / "plan.pb").write_bytes(codec.encode_request(Offer(plan=offer.plan)))
    assert "nobody: the plan is not signed" in "\n".join(limbeck("plan", "show", folder / "plan.pb"))


def test_a_file_that_is_no_plan_is_not_shown(folder: Path) -> None:
    with pytest.raises(DataError, match=r"Expected a plan at .*absent"):
        limbeck("plan", "show", folder / "absent")
    with pytest.raises(DataError, match="Expected a plan at"):
        limbeck("plan", "show", folder)
    with pytest.raises(DataError, match=r"Expected a plan in .*plan.toml"):
        limbeck("plan", "show", folder / "plan.toml")


def test_names_that_would_move_a_terminal_are_in_no_plan(folder: Path) -> None:
    for assignment in ('name="\\u001b[2J"', 'classes=["a", "\\u001b[2J", "c"]'):
        with pytest.raises(WireError, match="printable"):
            make(folder, "--set", assignment)
    assert not (folder / "plan.pb").exists()


def test_labels_of_public_inputs_are_not_published(folder: Path) -> None:
    make(folder)
    published = folder / "transfer" / f"{digest(X).hex()}.npz"
    assert np.load(published).files == ["x"]
    (found,) = read_arrays(published, "x")
    assert digest(found) == digest(X)


def test_a_public_encoding_is_bound_and_published_and_one_that_is_none_is_refused(folder: Path) -> None:
    encoding = encodings.TextEncoding(column="text", words=("good", "bad"), idf=(1.0, 2.0))
    encodings.save(encoding, folder / "public.json")
    rows = ("--set", "teacher.features=rows", "--set", "student.architecture=mlp", "--encoding", f"{folder}/public.json")
    np.savez(folder / "public.npz", x=np.random.default_rng(0).normal(size=(40, 3)))
    with pytest.raises(
        SettingError, match=r"rows of 2 numbers, as the public encoding makes them, got inputs of shape \(3,\)"
    ):
        make(folder, *rows)
    np.savez(folder / "public.npz", x=np.random.default_rng(0).normal(size=(40, 2)))
    lines = make(folder, *rows)
    plan = codec.decode_offer((folder / "plan.pb").read_bytes()).plan
    assert plan.encoding == encodings.digest(encoding)
    assert (folder / "transfer" / "encoding.json").read_bytes() == (folder / "public.json").read_bytes()
    assert any("records.encoding" in line for line in lines)
    (folder / "public.json").write_text("{}")
    with pytest.raises(DataError):
        make(folder, "--encoding", f"{folder}/public.json", "--out", f"{folder}/other.pb")
    assert not (folder / "other.pb").exists()


def test_what_is_invalid_is_refused_before_anything_is_written(folder: Path) -> None:
    np.savez(folder / "flat.npz", x=np.zeros(40))
    with pytest.raises(DataError, match=r"Expected public inputs \(N, ...\)"):
        make(folder, "--transfer", f"{folder}/flat.npz")
    with pytest.raises(SettingError, match=r"release.k = 3: expected at most the 2 classes"):
        make(folder, "--set", "classes=2")
    np.savez(folder / "rows.npz", x=np.random.default_rng(0).normal(size=(40, 8)))
    with pytest.raises(SettingError, match="Expected grey images"):
        make(folder, "--transfer", f"{folder}/rows.npz", "--set", "student.architecture=cnn")
    with pytest.raises(SettingError, match=r"Expected grey images .* for teaching.features = 'hog'"):
        make(folder, "--transfer", f"{folder}/rows.npz", "--set", "teacher.features=hog")
    with pytest.raises(WireError, match=r"Expected teaching.normaliser in \[1, 1e\+09\], got 0.5"):
        make(folder, "--set", "teacher.normaliser=0.5")
    with pytest.raises(LimbeckError, match="found none"):
        make(folder, "--transfer", f"{folder}/absent.npz")
    assert sorted(path.name for path in folder.iterdir()) == ["flat.npz", "plan.key", "plan.toml", "public.npz", "rows.npz"]
    make(folder)
    with pytest.raises(SettingError, match="left as it is"):
        make(folder)


# Public inputs


def published(folder: Path, x_N: NDArray[Any], *more: str) -> tuple[NDArray[np.generic], PublicInputs | None]:
    """What is published of these, and how the plan declares it."""
    np.savez(folder / "public.npz", x=x_N)
    make(folder, *more)
    plan = codec.decode_offer((folder / "plan.pb").read_bytes()).plan
    (found,) = read_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    (folder / "plan.pb").unlink()
    return found, plan.inputs


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint16, np.int32, np.float32, np.float64, ">i4", ">f8"])
def test_images_from_0_to_255_are_published_as_bytes_whatever_type_of_array_holds_them(folder: Path, kind: Any) -> None:
    found, declared = published(folder, X.astype(kind))
    assert found.dtype == np.uint8
    assert digest(found) == digest(X)
    assert declared == PublicInputs(kind=InputKind.BYTES, low=float(X.min()), high=float(X.max()))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ">f8"])
def test_other_numbers_are_published_as_float32_with_their_kind_and_range(folder: Path, kind: Any) -> None:
    found, declared = published(folder, (X / 255).astype(kind))
    assert found.dtype == np.float32
    assert np.abs(found.astype(np.float64) - X / 255).max() < 1e-3
    assert declared == PublicInputs(kind=InputKind.UNIT, low=float(found.min()), high=float(found.max()))
    _, declared = published(folder, (X / 255 - 0.5).astype(kind))
    assert declared is not None
    assert declared.kind is InputKind.NUMBERS


def test_rows_of_whole_numbers_stay_numbers(folder: Path) -> None:
    ages = np.random.default_rng(0).integers(0, 200, (40, 8))
    rows = ("--set", "teacher.features=rows", "--set", "student.architecture=mlp")
    found, declared = published(folder, ages, *rows)
    assert found.dtype == np.float32
    assert declared == PublicInputs(kind=InputKind.NUMBERS, low=0.0, high=float(ages.max()))


def test_images_that_nobody_could_scale_without_guessing_are_refused(folder: Path) -> None:
    with pytest.raises(
        SettingError, match=r"whole numbers from 0 to 255, .* with fractions: round them, or divide them by 255"
    ):
        published(folder, X + 0.5)
    assert not (folder / "transfer").exists()


def test_what_looks_like_a_mistake_is_said_when_a_plan_is_made_and_when_it_is_shown(folder: Path) -> None:
    np.savez(folder / "public.npz", x=np.concatenate([X[:20], X[:20]]) // 16, y=["cat", "dog"] * 20)
    command = ["plan", "make", folder / "plan.toml", "--transfer", folder / "public.npz", "--key", folder / "plan.key"]
    paths = ["--out", folder / "plan.pb", "--publish", folder / "transfer-sets"]
    made = CliRunner().invoke(app, [str(word) for word in [*command, *paths]], catch_exceptions=False)
    assert made.exit_code == 0
    expected = ("40 public inputs for 10 classes", "20 of 40 public inputs repeat others", "no pixel is above 15")
    for sentence in (*expected, "only 2 values (cat, dog)", "none of the plan's classes: cat, dog"):
        assert f"warning: {sentence}" in made.stderr or sentence in made.stderr
    shown = "\n".join(limbeck("plan", "show", folder / "plan.pb"))
    assert all(sentence in shown for sentence in expected)
    assert "bytes from 0 to 15" in shown
    doubts = json.loads("\n".join(limbeck("plan", "show", "--json", folder / "plan.pb")))["doubts"]
    assert len(doubts) == len(expected)


def test_class_weights_are_in_the_plan_and_shown_and_one_short_is_refused(folder: Path) -> None:
    make(folder, "--set", f"teacher.class_weights={[0.25] * 9 + [1]}")
    plan = codec.decode_offer((folder / "plan.pb").read_bytes()).plan
    assert plan.class_weights == (0.25,) * 9 + (1.0,)
    assert any(
        line.startswith("class weights") and "0.25, 1:" in line for line in limbeck("plan", "show", folder / "plan.pb")
    )
    with pytest.raises(SettingError, match=r"teacher.class_weights = .*: expected one for each of the 10 classes"):
        make(folder, "--set", "teacher.class_weights=[1, 2]", "--out", str(folder / "other.pb"))
