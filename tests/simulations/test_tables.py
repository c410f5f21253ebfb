"""Tables and texts: parts never overlap, encodings know public data only, and whole runs work from CSV files at the sites."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from helpers import tiny_encoder
from limbeck.base.errors import DataError, SettingError
from limbeck.client.site import Site
from limbeck.inputs import encoders, encodings, tables
from limbeck.simulations import data, run, scenario
from limbeck.simulations.data import tables as sets
from limbeck.simulations.prepare import prepare
from limbeck.simulations.sweep import baseline

HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")


def write_heart(folder: Path, patients: int = 400) -> Path:
    """Made-up patients in the columns of the real file: those with chest pain of one kind are mostly ill."""
    rng = np.random.default_rng(0)
    header = ["id", "age", "sex", "dataset", "cp", "trestbps", "chol", "fbs", "restecg", "thalch", "exang", "oldpeak"]
    header += ["slope", "ca", "thal", "num"]
    with (folder / sets.HEART_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for number in range(patients):
            ill = int(rng.random() < 0.5)
            pain = "asymptomatic" if rng.random() < 0.1 + 0.8 * ill else "typical angina"
            row = [
                number,
                rng.integers(30, 80),
                "Male",
                HOSPITALS[number % 4],
                pain,
                rng.integers(100, 160),
                rng.integers(0, 2) * 240,
            ]
            row += [
                "TRUE",
                "normal",
                rng.integers(80, 190),
                "",
                round(rng.normal(1 + ill), 1),
                "flat",
                "",
                "normal",
                ill * rng.integers(1, 5),
            ]
            row[10] = "TRUE" if ill else "FALSE"
            writer.writerow(row)
        writer.writerow(row)  # the last patient twice
    table = tables.read(folder / sets.HEART_FILE)
    ca = ["0", *table.columns["ca"][1:]]
    for number in range(0, patients, 3):
        ca[number] = str(number % 4)
    columns = {**table.columns, "ca": ca}
    (folder / sets.HEART_FILE).write_bytes(tables.Table(columns=columns, source="").to_csv())
    return folder


def write_reviews(folder: Path) -> Path:
    """Made-up reviews of 2,600 made-up words."""
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(2600)]
    with (folder / sets.REVIEWS_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "source"])
        for number in range(600):
            label = number % 2
            text = " ".join(rng.choice(words, 18)) + (" good fine" if label else " bad poor")
            if number < 300:
                writer.writerow([text, label, "rotten_tomatoes"])
            else:
                writer.writerow([text + " only_private", label, "imdb"])
    return folder


def test_patients_are_in_one_part_and_hospitals_are_the_natural_sites(tmp_path: Path) -> None:
    own = data.load("heart-disease", folder=write_heart(tmp_path), private=120, public=60, test=50, seed=3)
    assert isinstance(own.private_x, tables.Table)
    assert isinstance(own.encoding, encodings.TableEncoding)
    private = own.encoding(own.private_x)
    parts = [{row.tobytes() for row in rows} for rows in (private, own.public_x, own.test_x)]
    assert [len(a & b) for a, b in ((parts[0], parts[1]), (parts[0], parts[2]), (parts[1], parts[2]))] == [0, 0, 0]
    assert (len(private), len(own.public_x), len(own.test_x)) == (120, 60, 50)
    assert own.group_names == HOSPITALS
    assert own.groups is not None
    assert set(own.groups.tolist()) == {0, 1, 2, 3}
    assert "dataset" not in own.private_x.columns
    assert set(own.private_y.tolist()) == {0, 1}
    again = data.load("heart-disease", folder=tmp_path, private=120, public=60, test=50, seed=4)
    np.testing.assert_array_equal(again.test_y, own.test_y)
    assert not np.array_equal(again.public_y, own.public_y)


def test_statistics_of_an_encoding_are_those_of_public_patients_alone(tmp_path: Path) -> None:
    own = data.load("heart-disease", folder=write_heart(tmp_path), private=120, public=60, test=50)
    assert isinstance(own.encoding, encodings.TableEncoding)
    age = own.encoding.columns[0]
    assert isinstance(age, encodings.Number)
    # Public rows are standardised by themselves: mean 0 and deviation 1, which those of private rows are not.
    assert own.public_x[:, 0].mean() == pytest.approx(0, abs=1e-5)
    assert own.public_x[:, 0].std() == pytest.approx(1, abs=1e-5)


def test_the_words_of_private_reviews_are_not_in_the_vocabulary(tmp_path: Path) -> None:
    own = data.load("imdb", folder=write_reviews(tmp_path), private=100, public=200, test=100)
    assert isinstance(own.encoding, encodings.TextEncoding)
    assert "good" in own.encoding.words
    assert "only_private" not in own.encoding.words
    assert isinstance(own.private_x, tables.Table)
    assert all("only_private" in str(text) for text in own.private_x.texts("text"))
    assert own.public_x.shape == (200, sets.REVIEWS_WORDS)


def test_reviews_go_through_an_encoder_once_for_the_simulation_and_its_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_encoder.make(tmp_path / "tiny")
    sizes = ["data.private=100", "data.public=60", "data.test=50", "student.epochs=2", "student.dense_control=false"]
    own = scenario.load(
        "imdb-encoder",
        [f"data.folder='{write_reviews(tmp_path)}'", f"data.encoder='{model}'", "teacher.normaliser=25.0", *sizes],
    )
    cache = tmp_path / "cache"
    measured = run.simulate(own, tmp_path / "run", cache=cache)
    assert [client.status for client in measured.clients] == ["answered"] * 4
    found = data.load("imdb", folder=tmp_path, private=100, public=60, test=50, encoder=str(model), cache=cache)
    assert isinstance(found.encoding, encodings.EncoderEncoding)
    assert (found.encoding.model, found.encoding.tokens, found.public_x.shape) == ("tiny", 128, (60, 16))
    site = Site(next((tmp_path / "run" / "sites").glob("*")))
    # All rows are kept by now, for every seed: nothing is asked of the encoder but its probes.
    asked: list[str] = []
    real = encoders._one

    def note(encoder: encoders.Encoder, text: str, dimensions: int) -> object:
        asked.append(text)
        return real(encoder, text, dimensions)

    monkeypatch.setattr(encoders, "_one", note)
    assert site.records.read(2, found.public_x)[0].shape == (25, 16)
    assert asked == list(encodings.PROBES)
    with pytest.raises(
        SettingError, match=r"data.encoder = 'x': expected texts or colour images for an encoder, got digits"
    ):
        data.load("digits", encoder="x")


@pytest.mark.parametrize(
    ("name", "sizes", "message"),
    [
        ("heart-disease", {"private": 400, "test": 50}, r"data.private \+ data.public"),
        ("imdb", {"public": 301, "private": 100, "test": 10}, r"data.public = 301"),
        ("imdb", {"public": 100, "private": 100, "test": 301}, r"data.test = 301"),
    ],
)
def test_more_than_there_is_is_refused(name: str, sizes: dict[str, int], message: str, tmp_path: Path) -> None:
    (write_heart if name == "heart-disease" else write_reviews)(tmp_path)
    with pytest.raises(SettingError, match=message):
        data.load(name, folder=tmp_path, **sizes)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"limbeck data get {name}"):
        data.load(name, cache=tmp_path)


def small(folder: Path, *overrides: str) -> scenario.Scenario:
    own = [f"data.folder='{folder}'", "data.private=150", "data.public=80", "data.test=50", "student.epochs=2"]
    return scenario.load("heart-natural", [*own, "student.dense_control=false", *overrides])


def test_four_hospitals_run_end_to_end_from_csv_files(tmp_path: Path) -> None:
    measured = run.simulate(small(write_heart(tmp_path)), tmp_path / "run")
    assert list(measured.partition.sites) == [f"site-{i:02}-{name.replace(' ', '-')}" for i, name in enumerate(HOSPITALS)]
    assert all(client.status == "answered" or client.reason is None for client in measured.clients)
    assert all(stage.clients == 4 for stage in measured.stages)
    assert "ill" not in (tmp_path / "run" / "transfer" / "encoding.json").read_text()
    header = (tmp_path / "run" / "sites" / "site-00-Cleveland" / "records.csv").read_text().splitlines()[0]
    assert header.endswith("num")


def test_a_natural_site_is_measured_on_test_inputs_of_its_own(tmp_path: Path) -> None:
    measured = run.simulate(small(write_heart(tmp_path)), tmp_path / "run")
    found = data.load("heart-disease", folder=tmp_path, private=150, public=80, test=50, seed=1)
    assert found.test_groups is not None
    for index, client in enumerate(measured.clients):
        own, labels = client.own, found.test_y[found.test_groups == index]
        assert own is not None
        assert own.teacher is not None
        assert own.pool is not None
        assert {part.inputs for part in (own.majority, own.teacher, own.pool, own.student)} == {len(labels)}
        assert own.majority.accuracy == pytest.approx(np.bincount(labels).max() / len(labels))
    # The parts make the whole.
    test = measured.student.quality.test
    assert test is not None
    right = sum(client.own.student.accuracy * client.own.student.inputs for client in measured.clients if client.own)
    assert right == pytest.approx(test.accuracy * test.inputs)
    elsewhere = run.simulate(small(tmp_path, "partition.kind=iid"), tmp_path / "elsewhere")
    assert [client.own for client in elsewhere.clients] == [None] * 4


def test_a_site_makes_the_very_rows_that_the_simulation_scores(tmp_path: Path) -> None:
    own = small(write_heart(tmp_path))
    prepare(own, tmp_path / "run")
    found = data.load("heart-disease", folder=tmp_path, private=150, public=80, test=50, seed=own.run.seed)
    assert isinstance(found.private_x, tables.Table)
    assert isinstance(found.encoding, encodings.TableEncoding)
    expected = found.encoding(found.private_x)
    settings = sorted((tmp_path / "run" / "sites").glob("*/site.toml"))
    rows = [Site(path.parent).records.read(2, found.public_x)[0] for path in settings]
    assert {row.tobytes() for part in rows for row in part} == {row.tobytes() for row in expected}


def test_a_net_of_the_sites_own_is_trained_and_answers(tmp_path: Path) -> None:
    factory = ["teacher.kind='custom'", "teacher.factory='mine:build'", "teacher.steps=5", "teacher.sampling_rate=0.3"]
    own = small(write_heart(tmp_path), *factory, "stages.temperature=4.0")
    folder = tmp_path / "run"
    prepare(own, folder)
    from limbeck.client.teachers import kit

    sites = sorted(path.parent for path in (folder / "sites").glob("*/site.toml"))
    for site in sites[1:]:
        (site / "mine.py").write_text(kit.TEMPLATE)
    # The first site names no net, the second one that mixes records: both decline before a record is read or a budget charged.
    (sites[0] / "site.toml").write_text((sites[0] / "site.toml").read_text().replace('teacher = "mine:build"\n', ""))
    (sites[1] / "mine.py").write_text(
        "from torch import nn\ndef build(shape, classes):\n"
        "    return nn.Sequential(nn.BatchNorm1d(shape[0]), nn.Linear(shape[0], classes))\n"
    )
    (sites[0] / "records.csv").unlink()
    measured = run.resume(folder)
    assert [client.reason for client in measured.clients[:2]] == ["agree: the site's policy does not allow it"] * 2
    assert [bool(client.epsilon) for client in measured.clients] == [False, False, True, True]
    assert [stage.clients for stage in measured.stages] == [2, 2]


def test_the_baseline_without_privacy_is_better_than_a_run_with_much(tmp_path: Path) -> None:
    own = small(write_heart(tmp_path), "privacy.epsilon=0.05", "student.epochs=10")
    private, public = run.simulate(own, tmp_path / "run"), baseline.compute(own)
    mean = sum(private.teacher_accuracies) / len(private.teacher_accuracies)
    assert sum(each.accuracy for each in public.teachers) / len(public.teachers) > mean + 0.1
    assert public.stages[-1].student.accuracy > 0.75
    assert private.majority.test is not None
    assert public.majority == private.majority.test.whole
