"""A plan for real sites is the scenario's, about exactly these public inputs, signed, and publishes nothing but them."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from limbeck.base.errors import DataError, LimbeckError, SettingError, WireError
from limbeck.cli.main import app
from limbeck.inputs import encodings
from limbeck.inputs.transfer_set import digest, read_arrays
from limbeck.plans import accounting
from limbeck.protos import codec, signing
from limbeck.simulations.prepare import make_plan
from limbeck.simulations.scenario import load

X = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)


def make(folder: Path, *more: str) -> list[str]:
    command = ["plan", "make", "digits-tiny", "--transfer", f"{folder}/public.npz", "--key", f"{folder}/plan.key"]
    command += ["--out", f"{folder}/plan.pb", "--publish", f"{folder}/transfer", "--classes", "10", *more]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "public.npz", x=X, y=np.zeros(40))
    signing.new_key(tmp_path / "plan.key")
    return tmp_path


def test_it_is_the_scenarios_plan_about_these_inputs_signed_by_the_key(folder: Path) -> None:
    lines = make(folder, "--set", "privacy.epsilon=2")
    offer = codec.decode_offer((folder / "plan.pb").read_bytes())
    scenario = load("digits-tiny", ["privacy.epsilon=2"])
    assert offer.plan == make_plan(scenario, transfer_set=digest(X), samples=40, classes=10)
    assert offer.author == signing.author_of(signing.read_key(folder / "plan.key"))
    cost = accounting.epsilon(((offer.plan.teaching, offer.plan.counts),), 1e-4)
    assert 1.99 < cost <= 2
    assert f"epsilon = {cost:.4g} at delta = 0.0001, per record, add-remove-one" in lines[2]


def test_labels_of_public_inputs_are_not_published(folder: Path) -> None:
    make(folder)
    published = folder / "transfer" / f"{digest(X).hex()}.npz"
    assert np.load(published).files == ["x"]
    (found,) = read_arrays(published, "x")
    assert digest(found) == digest(X)


def test_a_public_encoding_is_bound_and_published_and_one_that_is_none_is_refused(folder: Path) -> None:
    encoding = encodings.TextEncoding(column="text", words=("good", "bad"), idf=(1.0, 2.0))
    encodings.save(encoding, folder / "public.json")
    lines = make(folder, "--encoding", f"{folder}/public.json")
    plan = codec.decode_offer((folder / "plan.pb").read_bytes()).plan
    assert plan.encoding == encodings.digest(encoding)
    assert (folder / "transfer" / "encoding.json").read_bytes() == (folder / "public.json").read_bytes()
    assert "records.encoding" in lines[-1]
    (folder / "public.json").write_text("{}")
    with pytest.raises(DataError):
        make(folder, "--encoding", f"{folder}/public.json", "--out", f"{folder}/other.pb")
    assert not (folder / "other.pb").exists()


def test_what_cannot_be_is_refused_before_anything_is_written(folder: Path) -> None:
    np.savez(folder / "flat.npz", x=np.zeros(40))
    with pytest.raises(DataError, match=r"Expected public inputs \(N, ...\)"):
        make(folder, "--transfer", f"{folder}/flat.npz")
    with pytest.raises(SettingError, match=r"release.k = 3: expected at most the 2 classes"):
        make(folder, "--classes", "2")
    np.savez(folder / "rows.npz", x=np.zeros((40, 8)))
    with pytest.raises(SettingError, match="Expected grey images"):
        make(folder, "--transfer", f"{folder}/rows.npz", "--set", "student.architecture=cnn")
    with pytest.raises(SettingError, match=r"Expected grey images .* for teaching.features = 'hog'"):
        make(folder, "--transfer", f"{folder}/rows.npz", "--set", "teacher.features=hog")
    with pytest.raises(WireError, match=r"Expected teaching.normaliser in \[1, 1e\+09\], got 0.5"):
        make(folder, "--set", "teacher.normaliser=0.5")
    with pytest.raises(LimbeckError, match="found none"):
        make(folder, "--transfer", f"{folder}/absent.npz")
    assert sorted(path.name for path in folder.iterdir()) == ["flat.npz", "plan.key", "public.npz", "rows.npz"]
    make(folder)
    with pytest.raises(SettingError, match="left as it is"):
        make(folder)
