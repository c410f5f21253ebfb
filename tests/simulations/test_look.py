"""`limbeck data look` and `limbeck simulate FILE`: what a file is taken for, and a scenario that runs."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from helpers import sample_files
from limbeck.base.errors import DataError, SettingError
from limbeck.base.settings import Raw
from limbeck.cli import main
from limbeck.plans import advice
from limbeck.simulations import run, scenario
from limbeck.simulations.data import asked, look, starter, user_files
from limbeck.simulations.data.asked import Options
from limbeck.simulations.data.settings import DataSettings
from limbeck.simulations.scenario import Scenario

WIDTH = 80


def limbeck(*words: object) -> Result:
    return CliRunner().invoke(main.app, [str(word) for word in words], env={"COLUMNS": str(WIDTH)})


def looked(path: Path, *options: object) -> str:
    """What the command says, every line of which fits a terminal; without its line breaks."""
    result = limbeck("data", "look", path, *options)
    assert result.exception is None, result.exception
    # Paths, and the scenario, keep their lines.
    before, _, _ = result.output.partition("A scenario to start from")[0].partition("Scenario: /")
    assert max(map(len, before.splitlines())) <= WIDTH
    return " ".join(result.output.split())


def written(path: Path, folder: Path, *options: object) -> Scenario:
    """The scenario that the command writes, read as any other."""
    out = folder / "written" / "scenario.toml"
    out.parent.mkdir()
    looked(path, *options, "--out", out)
    return scenario.load(str(out))


def test_a_table_is_looked_at_and_its_label_and_sites_are_guessed(tmp_path: Path) -> None:
    file = sample_files.wine(tmp_path)
    said = looked(file)
    for part in (
        "wine.csv: 178 rows, 16 columns; semicolons between cells, decimal comma, UTF-8 text",
        "id identifier 178",
        "alcohol number 126 numbers from 11.03",
        "cultivar (a guess; --label NAME says otherwise), 3 classes, 48 to 71 records each",
        "barbera 48, barolo 59, grignolino 71",
        "Nearly every row has its own value of id: not used",
    ):
        assert part in said
    assert "cellar" in said
    read = written(file, tmp_path, "--label", "cultivar", "--site", "cellar", "--drop", "id", "--epsilon", 1)
    assert (read.data.table, read.data.site) == (str(tmp_path / "written" / ".." / "wine.csv"), "cellar")
    assert (read.privacy.epsilon, read.privacy.delta, read.partition.kind) == (1.0, 1e-4, "natural")
    assert read.data.class_names == ("barbera", "barolo", "grignolino")
    user_files.load(read.data)


def test_persons_are_seen_and_said(tmp_path: Path) -> None:
    said = looked(sample_files.tumours(tmp_path), "--group", "patient")
    assert "Person: patient, 285 persons, 1 to 2 records each" in said
    assert "epsilon is per record, and a person with 2 costs more" in said
    assert 'group = "patient"' in said
    seen = look.look(asked.settings(tmp_path / "tumours.csv", Options()))
    assert seen.person is not None
    assert (seen.person.name, seen.guessed) == ("patient", ("label", "group"))


def test_arrays_and_folders_are_looked_at_too(tmp_path: Path) -> None:
    said = looked(sample_files.digits(tmp_path), "--site", "writer")
    assert "x 300 x 8 x 8 uint8" in said
    assert "Label: y, 10 classes" in said
    assert "Site: writer, 3 sites, 100 to 100 records each" in said
    images = sample_files.digit_images(tmp_path)
    said = looked(images)
    assert "240 images in folders" in said
    assert "on white where they are transparent, and are stretched to 8 x 8 (data.image_size)" in said
    assert "taken as SITE/CLASS; --site inner says otherwise" in said
    assert written(images, tmp_path).data.site == "outer"
    (images / "writer 0" / "3" / "broken.png").write_bytes(b"not an image")
    said = looked(images, "--site", "outer")
    assert "1 images cannot be read and were left out: writer 0/3/broken.png" in said
    assert "144 private, 48 public, 48 test records" in said
    texts = sample_files.text_files(tmp_path)
    assert "classes" in looked(texts)


def test_a_table_of_texts_and_one_of_files_are_seen_as_such(tmp_path: Path) -> None:
    assert asked.settings(sample_files.texts(tmp_path), Options(label="part")).source == ("texts", tmp_path / "texts.csv")
    images = sample_files.digit_images(tmp_path, count=20, writers=1)
    listed = [[str(file.relative_to(tmp_path)), file.parent.name] for file in sorted(images.rglob("*.png"))]
    table = sample_files.write_csv(tmp_path / "list.csv", ["Image", "digit"], listed)
    found = asked.settings(table, Options(label="digit"))
    assert (found.source, found.inputs) == (("images", table), "Image")


def test_labels_that_are_no_classes_stop_with_the_reason_after_what_there_is_to_see(tmp_path: Path) -> None:
    file = sample_files.wine(tmp_path)
    result = limbeck("data", "look", file, "--label", "proline")
    assert isinstance(result.exception, SettingError)
    assert "data.label = 'proline'" in str(result.exception)
    assert "regression" in str(result.exception)
    assert "alcohol" in result.output


def test_without_anything_like_a_label_it_asks_for_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = sample_files.write_csv(tmp_path / "n.csv", ["a", "b"], rng.normal(size=(50, 2)).tolist())
    assert "No column looks like a label. Say which: --label COLUMN." in looked(file)


def test_no_file_is_overwritten_and_a_missing_one_is_named(tmp_path: Path) -> None:
    file = sample_files.wine(tmp_path)
    (tmp_path / "scenario.toml").write_text("mine")
    result = limbeck("data", "look", file, "--out", tmp_path / "scenario.toml")
    assert "it was left as it is" in str(result.exception)
    assert (tmp_path / "scenario.toml").read_text() == "mine"
    assert "found nothing there" in str(limbeck("data", "look", tmp_path / "none.csv").exception)
    assert "for --label, found id" in str(limbeck("data", "look", file, "--label", "x").exception)


@pytest.mark.parametrize(("text", "part"), [("0.25", 0.25), ("500", 500), ("Bern, Basel", ("Bern", "Basel")), ("/", "/")])
def test_a_part_is_typed_as_a_share_a_number_sites_or_a_file(text: str, part: object) -> None:
    assert asked.part(text, "public") == part


def test_a_part_that_is_none_of_these_is_refused() -> None:
    with pytest.raises(DataError, match=r"Expected a file for --public at nowhere.csv"):
        asked.part("nowhere.csv", "public")
    with pytest.raises(SettingError, match=r"--test 1.5: expected a number of records, a share"):
        asked.part("1.5", "test")


def start(folder: Path, x: NDArray[np.generic], y: NDArray[np.int64], **options: object) -> Raw:
    np.savez(folder / "own.npz", x=x, y=y)
    found, _ = starter.start(DataSettings(arrays=str(folder / "own.npz")), **options)  # type: ignore[arg-type]
    return tomllib.loads(found.to_toml())


def test_what_a_scenario_starts_from_follows_from_public_facts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [4000, 1000])
    rows = start(tmp_path, rng.normal(size=(5000, 3)), y, epsilon=3.0, clients=5)
    assert (rows["privacy"]["delta"], rows["teacher"]["normaliser"]) == (1e-5, 600.0)
    assert (rows["teacher"]["features"], rows["student"]["architecture"], rows["release"]["k"]) == ("rows", "mlp", 2)
    assert (rows["teacher"]["kind"], rows["stages"]["temperature"]) == ("evidence", "auto")
    other = start(tmp_path, rng.normal(size=(5000, 3)) * 7 + 3, y, epsilon=3.0, clients=5)
    assert other["teacher"] == rows["teacher"]
    images = start(tmp_path, rng.integers(0, 256, (600, 12, 12)).astype(np.uint8), np.arange(600) % 3)
    assert (images["teacher"]["features"], images["student"]["architecture"]) == ("scattering", "cnn")
    assert images["teacher"]["kind"] == "evidence"
    assert (images["partition"]["clients"], images["privacy"]["delta"]) == (3, 1e-4)


def test_uneven_natural_sites_get_a_normaliser_of_the_large_ones_weights_and_lose_the_smallest(tmp_path: Path) -> None:
    sizes = {"large": 3000, "middle": 200, "small": 100, "tiny": 3}
    site, y = np.repeat([*sizes], [*sizes.values()]), np.arange(sum(sizes.values())) % 2
    x = np.random.default_rng(0).normal(size=(len(y), 3))

    def of(kept: NDArray[np.bool_]) -> Raw:
        np.savez(tmp_path / "own.npz", x=x[kept], y=y[kept], site=site[kept])
        found, _ = starter.start(DataSettings(arrays=str(tmp_path / "own.npz"), site="site"))
        return tomllib.loads(found.to_toml())

    uneven = of(np.ones(len(y), np.bool_))
    assert uneven["partition"] == {"kind": "natural", "minimum": starter.SMALLEST_SITE}
    assert uneven["pooling"] == {"kind": "record-counts"}
    assert uneven["description"].startswith("own.npz: 3 natural sites")
    # The site in which a record is on average, not the average site; a fifth of the records each is public and for tests.
    assert 1500 < uneven["teacher"]["normaliser"] < 1800
    even = of(np.isin(site, ["middle", "small"]))
    assert "pooling" not in even
    assert even["partition"] == {"kind": "natural"}
    # One site beside a tiny one: neither is left out, or there would be no federation.
    assert of(np.isin(site, ["middle", "tiny"]))["partition"] == {"kind": "natural"}


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=50))
def test_the_typical_size_is_between_the_mean_and_the_largest(sizes: list[int]) -> None:
    found = starter.typical_size(np.array(sizes))
    assert np.mean(sizes) * (1 - 1e-9) <= found <= max(sizes) * (1 + 1e-9)


def test_a_rare_class_gets_the_temperature_and_the_weights_that_are_advised(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5000, 3))
    for every, weights in ((2, None), (30, None), (400, [0.1, 1.0])):
        found = start(tmp_path, x, (np.arange(5000) % every == 0).astype(int), teachers="linear")
        balance = advice.rows_balance([1 - 1 / every, 1 / every])
        assert (found["stages"]["temperature"], found["teacher"].get("class_weights")) == (balance.temperature, weights)


def test_teachers_are_evidence_unless_something_public_speaks_against_it(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(1000, 3)), np.arange(1000) % 2
    place = np.repeat(["large", "middle", "small"], [800, 120, 80])
    np.savez(tmp_path / "own.npz", x=x, y=y, site=place, even=np.arange(1000) % 3)
    np.savez(tmp_path / "rare.npz", x=x, y=np.arange(1000) % 25 == 0)
    np.savez(tmp_path / "public.npz", x=x[::-1] + 1, y=y)

    def of(name: str, **data: object) -> tuple[Raw, str]:
        found, _ = starter.start(DataSettings(arrays=str(tmp_path / name), **data))  # type: ignore[arg-type]
        scenario.parse(found.settings)
        return found.settings, " ".join(found.chosen)

    for data in ({}, {"public": 100}, {"site": "even"}):
        found, said = of("own.npz", **data)
        assert (found["teacher"]["kind"], found["stages"]["temperature"], found.get("pooling")) == ("evidence", "auto", None)
        assert "It adds up what sites know" in said
    for name, data, why in (
        ("own.npz", {"public": str(tmp_path / "public.npz")}, "the public inputs come from another file"),
        ("own.npz", {"public": 99}, "there are 99 public inputs"),
        ("own.npz", {"site": "site"}, "sites are so uneven"),
        ("rare.npz", {}, "3.8 % of the records are of the rarest class"),
    ):
        found, said = of(name, **data)
        assert found["teacher"]["kind"] == "linear"
        assert isinstance(found["stages"]["temperature"], float)
        assert f"Linear heads, since {why}" in said


def test_a_file_is_simulated_with_what_was_chosen_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Scenario] = []

    def simulate(settings: Scenario, *_: object, **__: object) -> None:
        taken.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "simulate", simulate)
    file = sample_files.wine(tmp_path)
    options = ["--label", "cultivar", "--site", "cellar", "--drop", "id", "--public", "A", "--epsilon", 2]
    result = limbeck("simulate", file, *options, "--set", "run.seed=7", "--out", tmp_path / "run")
    (settings,) = taken
    assert settings.data.table == str(file)
    assert (settings.data.public, settings.privacy.epsilon, settings.run.seed) == (("A",), 2.0, 7)
    said = " ".join(result.output.split())
    assert "Sites: 3 natural ones, by cellar." in said
    assert "--out scenario.toml writes this as a file to change" in said


def test_options_of_a_file_are_refused_elsewhere(tmp_path: Path) -> None:
    assert "Expected --label with the column of labels" in str(limbeck("simulate", sample_files.wine(tmp_path)).exception)
    told = str(limbeck("simulate", "digits-tiny", "--label", "y", "--drop", "a").exception)
    assert "Expected --label, --drop with a file or folder of your own data, got the scenario 'digits-tiny'" in told
    assert "beside data.site = 'cellar', which names them, got 3" in str(
        limbeck("simulate", tmp_path / "wine.csv", "--label", "cultivar", "--site", "cellar", "--clients", 3).exception
    )
    assert "Expected epsilon > 0, got 0.0" in str(
        limbeck("data", "look", tmp_path / "wine.csv", "--label", "cultivar", "--epsilon", 0).exception
    )
    with pytest.raises(SettingError, match=r"Expected a scenario, got data: `limbeck data look .*wine.csv --out"):
        scenario.load(str(tmp_path / "wine.csv"))
    assert "nothing else" in str(limbeck("simulate", "--resume", "--out", tmp_path, "--epsilon", 2).exception)


def test_a_plan_of_own_data_has_their_classes(tmp_path: Path) -> None:
    file = sample_files.wine(tmp_path)
    looked(file, "--label", "cultivar", "--out", tmp_path / "own.toml")
    without = (tmp_path / "own.toml").read_text().replace('classes = ["barbera", "barolo", "grignolino"]\n', "")
    (tmp_path / "own.toml").write_text(without)
    assert limbeck("plan", "settings", tmp_path / "own.toml", "--out", tmp_path / "plan.toml").exception is None
    assert tomllib.loads((tmp_path / "plan.toml").read_text())["classes"] == ["barbera", "barolo", "grignolino"]
