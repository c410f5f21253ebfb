"""A simulation with the user's own files: what they say, who gets which record, and that whole runs come out of them."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import datasets

from helpers import sample_files
from limbeck.base.errors import DataError, LimbeckError, SettingError
from limbeck.client.site import Site
from limbeck.inputs import encodings, tables
from limbeck.inputs.tables import Table
from limbeck.simulations import data, prepare, run, scenario
from limbeck.simulations.data import sources, user_files
from limbeck.simulations.data.settings import DataSettings
from limbeck.simulations.scenario import Scenario

TEACHER = {"features": "rows", "normaliser": 30.0, "steps": 10, "average_last": 5, "learning_rate": 0.5}
PIXELS = {**TEACHER, "features": "pixels"}
QUICK = {
    "teacher": TEACHER,
    "privacy": {"epsilon": 8.0, "delta": 1e-4, "noise": "UnsafeSeeded"},
    "release": {"k": 2},
    "stages": {"count": 1, "sparsity": 0.5},
    "student": {"architecture": "mlp", "epochs": 3, "augment": False, "dense_control": False},
    "run": {"workers": 2},
}


def settings(**values: object) -> DataSettings:
    return DataSettings.model_validate(
        {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    )


def quick(own_data: DataSettings, **tables_: object) -> Scenario:
    return scenario.parse({"name": "own", "data": own_data.model_dump(exclude_defaults=True), **QUICK, **tables_})


def said(found: data.DataSet) -> str:
    return "\n".join(found.said)


# Settings


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "data: expected one of name, table, arrays, images, texts, got none of them"),
        ({"name": "digits", "table": "a.csv"}, "got name = 'digits' and table = "),
        ({"table": "a.csv"}, "data.label: missing"),
        ({"name": "digits", "label": "y"}, "data.label = 'y': expected with a file of your own only"),
        ({"name": "digits", "public": 0.5}, "data.public = 0.5: expected a whole number with data.name"),
        ({"name": "wine"}, "a file of your own is data.table"),
        ({"table": "a.csv", "label": "y", "folder": "b"}, "data.folder = 'b': expected with data.name only"),
        ({"arrays": "a.npz", "drop": ["x"]}, "data.drop = .*: expected with data.table only, got data.arrays"),
        (
            {"table": "a.csv", "label": "y", "public": 1.5},
            "data.public = 1.5: expected a number of records, a share such as 0.25",
        ),
        ({"table": "a.csv", "label": "y", "public": True}, "data.public = True: expected a number of records"),
        ({"table": "a.csv", "label": "y", "test": []}, r"data.test = \[\]: expected a number of records"),
        (
            {"table": "a.csv", "label": "y", "public": 0.5, "test": 0.5},
            "data.public .* data.test = 0.5 .* 0.5: expected less than 1",
        ),
        ({"table": "a.csv", "label": "y", "public": ["Bern"]}, "expected data.site to say which records are whose"),
        ({"table": "a.csv", "label": "y", "site": "y"}, "data.site = 'y': expected another than data.label"),
        ({"table": "a.csv", "label": "y", "drop": ["y"]}, "expected other columns than data.label = 'y'"),
        ({"table": "a.csv", "label": "y", "drop": "id"}, "data.drop = 'id': expected a list of columns"),
        ({"table": "a.csv", "label": "y", "classes": ["one"]}, r"data.classes = \['one'\]: expected at least two classes"),
        (
            {"table": "a.csv", "label": "y", "classes": ["a", "b", "a"]},
            "data.classes: expected distinct classes, got a more than once",
        ),
        ({"table": "a.csv", "label": "y", "classes": 2}, "data.classes = 2: expected at least two classes"),
        (
            {"table": "a.csv", "label": "y", "missing_codes": {"age": 999}},
            "expected a table from columns to lists of numbers",
        ),
        ({"images": "a", "image_size": [28]}, r"data.image_size = \[28\]: expected a height and a width"),
        ({"table": "a.csv", "label": "y", "sites": "z"}, r"data.sites: unknown key \(did you mean site\?\)"),
    ],
)
def test_data_that_cannot_be_meant_are_named_with_key_value_and_what_was_wanted(
    table: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        scenario.parse({"name": "x", "data": table, "partition": {"clients": 2}, **QUICK})


def test_own_data_need_a_number_of_sites_or_a_column_that_names_them() -> None:
    table = {"table": "a.csv", "label": "y"}
    with pytest.raises(SettingError, match=r"partition.clients: missing; expected the number of sites .* \(iid\)"):
        scenario.parse({"name": "x", "data": table, **QUICK})
    with pytest.raises(SettingError, match=r"partition.kind = 'natural': expected data.site"):
        scenario.parse({"name": "x", "data": table, "partition": {"kind": "natural"}, **QUICK})
    assert scenario.parse({"name": "x", "data": {**table, "site": "z"}, **QUICK}).partition_kind == "natural"


def test_paths_are_relative_to_the_scenarios_file_and_typed_ones_to_where_they_are_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plans").mkdir()
    file = tmp_path / "plans" / "mine.toml"
    file.write_text(
        '[data]\ntable = "../wine.csv"\npublic = "public.csv"\nlabel = "cultivar"\n[partition]\nclients = 2\n'
        "[teacher]\nnormaliser = 30.0\n[privacy]\nepsilon = 1.0\n"
    )
    monkeypatch.chdir(tmp_path)
    read = scenario.load(str(file), ["data.test=held-out.csv"])
    assert read.data.table == str(tmp_path / "plans" / ".." / "wine.csv")
    assert read.data.public == str(tmp_path / "plans" / "public.csv")
    assert read.data.test == str(tmp_path / "held-out.csv")
    assert Scenario.model_validate_json(read.model_dump_json()) == read


# Tables


def test_a_spreadsheet_with_decimal_commas_is_read_as_it_is_meant(tmp_path: Path) -> None:
    found = user_files.load(
        settings(table=sample_files.wine(tmp_path), label="cultivar", site="cellar", drop=["id"]), seed=1
    )
    assert found.class_names == ("barbera", "barolo", "grignolino")
    assert (len(found.private_y), len(found.public_y), len(found.test_y)) == (106, 36, 36)
    assert found.group_names == ("A", "B", "C", "D")
    assert "semicolons between cells, decimal comma" in said(found)
    assert isinstance(found.private_x, Table)
    assert isinstance(found.encoding, encodings.TableEncoding)
    assert set(found.encoding.reads) == set(found.private_x.columns) - {"cultivar"}
    alcohol = found.private_x.numbers("alcohol")
    assert 11 < alcohol.min() < alcohol.max() < 15
    parts = [{row.tobytes() for row in rows} for rows in (found.encoding(found.private_x), found.public_x, found.test_x)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    again, other = (
        user_files.load(settings(table=tmp_path / "wine.csv", label="cultivar", drop=["id"]), seed=seed) for seed in (1, 2)
    )
    assert np.array_equal(again.test_y, other.test_y)
    assert not np.array_equal(again.public_x, other.public_x)


def public_and_private(folder: Path, **public: object) -> data.DataSet:
    """Wines of which the first forty are public, in a file of their own."""
    file = sample_files.wine(folder, rows=range(0, 80, 2), name="public.csv", **public)  # type: ignore[arg-type]
    return user_files.load(settings(table=folder / "wine.csv", label="cultivar", drop=["id"], public=file, test=0.2))


def test_public_inputs_and_encoding_are_those_of_the_public_file_alone_and_its_labels_are_not_used(tmp_path: Path) -> None:
    sample_files.wine(tmp_path, rows=range(80, 178))
    found, unlabelled = public_and_private(tmp_path), public_and_private(tmp_path, label=False)
    sample_files.wine(tmp_path, rows=range(100, 178))
    fewer = public_and_private(tmp_path)
    assert found.encoding is not None
    for other in (unlabelled, fewer):
        assert other.encoding == found.encoding
        assert np.array_equal(other.public_x, found.public_x)
    assert set(unlabelled.public_y) == {-1}
    assert "Not all public inputs have a label" in said(unlabelled)
    assert "may be shown to all sites" not in said(found)


def test_records_of_a_public_file_that_are_private_too_are_not_public(tmp_path: Path) -> None:
    sample_files.wine(tmp_path, rows=range(60, 178))
    found = public_and_private(tmp_path)
    # Wines 60 to 80 are in both files: they are private, or in the test set.
    assert len(found.public_x) < 40
    assert (
        "records of data.public are also private or in the test set, or of the same person: they are left out of it."
        in said(found)
    )
    sample_files.wine(tmp_path)
    with pytest.raises(
        SettingError, match=r"data.public: expected records that are not private or tested on, got 178, all of which are"
    ):
        user_files.load(settings(table=tmp_path / "wine.csv", label="cultivar", public=tmp_path / "wine.csv"))


def test_named_sites_are_public_or_tested_on_and_hold_no_private_record(tmp_path: Path) -> None:
    wines = settings(table=sample_files.wine(tmp_path), label="cultivar", site="cellar", public=["A"], test=[" D"])
    found = user_files.load(wines)
    assert found.group_names == ("B", "C")
    assert (len(found.public_x), len(found.private_y), len(found.test_y)) == (45, 89, 44)
    assert found.test_groups is not None
    assert set(found.test_groups.tolist()) == {-1}
    with pytest.raises(SettingError, match=r"data.public = \['Turin'\]: expected sites out of A, B, C, D, got 'Turin'"):
        user_files.load(wines.model_copy(update={"public": ("Turin",)}))


def small_table(folder: Path, rows: list[list[object]], header: tuple[str, ...] = ("age", "site", "ill")) -> Path:
    return sample_files.write_csv(folder / "small.csv", header, rows)


def test_rows_without_label_or_site_are_left_out_and_told(tmp_path: Path) -> None:
    rows: list[list[object]] = [[age, "north" if age % 2 else "south", "yes" if age % 3 else "no"] for age in range(20, 80)]
    rows += [[81, "north", ""], [82, "", "yes"], [83, "south", "perhaps"]]
    found = user_files.load(
        settings(table=small_table(tmp_path, rows), label="ill", site="site", classes={"well": "no", "ill": ["yes"]})
    )
    assert found.class_names == ("well", "ill")
    assert len(found.private_y) + len(found.public_y) + len(found.test_y) == 60
    for sentence in (
        "1 of 63 records have no label and are left out, the first in row 61.",
        "1 of 63 records have labels of no class and are left out: 'perhaps' (1).",
        "1 of 63 records name no site and are left out, the first in row 62.",
    ):
        assert sentence in found.said
    with pytest.raises(SettingError, match="expected labels of these classes"):
        user_files.load(settings(table=tmp_path / "small.csv", label="ill", classes=["a", "b"]))


def test_small_sites_and_missing_classes_are_told_and_a_minimum_leaves_sites_out(tmp_path: Path) -> None:
    rows: list[list[object]] = [[age, f"ward {age % 4}", "yes" if age % 3 else "no"] for age in range(200)]
    rows += [[500 + age, "hut", "no"] for age in range(9)]
    found = settings(table=small_table(tmp_path, rows), label="ill", site="site", public=0.1, test=0.1)
    folder = tmp_path / "run"
    prepare.prepare(quick(found), folder)
    sentences = "\n".join(prepare.read_said(folder))
    assert "1 of 5 sites have fewer than 20 records, of which a teacher learns little but noise: hut" in sentences
    assert "1 of 5 sites have no record of some class: hut (yes)." in sentences
    assert [site.name for site in sorted((folder / "sites").iterdir())][:2] == ["site-00-hut", "site-01-ward-0"]
    larger = quick(found, partition={"minimum": 20})
    prepare.prepare(larger, tmp_path / "larger")
    read, _, sites = prepare.read_prepared(tmp_path / "larger")
    assert (read.partition.clients, read.partition.kind, len(list(sites.iterdir()))) == (4, "natural", 4)
    assert "1 sites have fewer than 20 records (partition.minimum) and take no part: hut." in prepare.read_said(
        tmp_path / "larger"
    )
    with pytest.raises(SettingError, match=r"partition.minimum = 900: expected a site with as many records"):
        prepare.prepare(quick(found, partition={"minimum": 900}), tmp_path / "none")
    with pytest.raises(SettingError, match=r"Expected partition.clients = 5, the natural sites of the data, got 3"):
        prepare.prepare(quick(found, partition={"clients": 3}), tmp_path / "three")
    with pytest.raises(SettingError, match=r"run.minimum_clients = 6: expected at most the 5 sites of the data"):
        prepare.prepare(quick(found, run={"minimum_clients": 6}), tmp_path / "six")


def test_any_number_of_sites_of_any_name_is_measured_in_the_order_of_the_records(tmp_path: Path) -> None:
    rows: list[list[object]] = [[age * 0.7, f"Zürich/{age % 110}", "yes" if age % 3 else "no"] for age in range(2000)]
    prepare.prepare(quick(settings(table=small_table(tmp_path, rows), label="ill", site="site")), tmp_path / "run")
    names = [path.name for path in sorted((tmp_path / "run" / "sites").iterdir())]
    assert names[:2] + names[-1:] == ["site-000-Zurich-0", "site-001-Zurich-1", "site-109-Zurich-99"]
    with np.load(tmp_path / "run" / "truth.npz") as truth:
        held = [len(tables.read(tmp_path / "run" / "sites" / name / "records.csv")) for name in names]
        assert truth["counts"].sum(1).tolist() == held


def test_a_class_that_a_part_lacks_is_told(tmp_path: Path) -> None:
    rows: list[list[object]] = [
        [age + 0.5, "north" if age < 50 else "south", "yes" if 10 < age < 50 else "no"] for age in range(100)
    ]
    found = user_files.load(
        settings(table=small_table(tmp_path, rows), label="ill", site="site", public=["south"], test=0.3)
    )
    assert "No public record is of class yes: the student sees no example of it." in found.said


def test_persons_stay_together_and_what_they_cost_is_told_and_kept(tmp_path: Path) -> None:
    tumours = settings(table=sample_files.tumours(tmp_path, per_person=3), label="diagnosis", group="patient")
    found = user_files.load(tumours)
    assert found.people is not None
    folder = tmp_path / "run"
    prepare.prepare(quick(tumours, partition={"kind": "dirichlet", "clients": 3}), folder)
    held = [tables.read(path) for path in sorted(folder.glob("sites/*/records.csv"))]
    patients = datasets.load_breast_cancer().data[:, 0]
    of_patient = {f"{radius}": f"p{row // 3}" for row, radius in enumerate(patients) if (patients == radius).sum() == 1}
    at_site = [{of_patient[radius] for radius in table.texts("mean radius") if radius in of_patient} for table in held]
    assert sum(map(len, at_site)) == len(set().union(*at_site)) > 50
    kept = json.loads((folder / "data.json").read_text())
    assert (kept["unit"], kept["records_per_person"]) == ("record", 3)
    assert 8 * 2 < kept["epsilon_per_person"] < 8 * 10
    assert f"up to 3: for such a person epsilon is {kept['epsilon_per_person']:.3g} at the same delta." in kept["said"][-1]
    unknown = prepare_said(tumours.model_copy(update={"group": None}), tmp_path / "unknown")
    assert "If a person has several records, say so by data.group: a person costs more." in unknown


def prepare_said(own_data: DataSettings, folder: Path) -> str:
    prepare.prepare(quick(own_data, partition={"clients": 2}), folder)
    return "\n".join(prepare.read_said(folder))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[age, age + 0.5, age * 1.5] for age in range(30)], r"data.label = 'ill': .* \(regression\)"),
        (
            [[age, "x", f"{'flu' if age % 2 else 'cold'};{'cough' if age % 3 else 'flu'}"] for age in range(30)],
            "multi-label",
        ),
        ([[age, "x", "yes"] for age in range(30)], "Expected labels of at least 2 classes, got 'yes'"),
    ],
)
def test_regression_several_labels_and_a_single_class_are_refused_with_the_reason(
    rows: list[list[object]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match=message):
        user_files.load(settings(table=small_table(tmp_path, rows), label="ill"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": "nowhere.csv"}, "Expected data.table at .*nowhere.csv, found nothing there"),
        ({"label": "num"}, "Expected a column 'num' in .*wine.csv for data.label, found id"),
        ({"site": "town"}, "Expected a column 'town' in .* for data.site"),
        ({"group": "vintner"}, "Expected a column 'vintner' in .* for data.group"),
        ({"drop": ("ID",)}, "Expected a column 'ID' in .* for data.drop"),
        ({"kinds": {"nose": "text"}}, "data.kinds: expected columns that are used, out of id, cellar"),
        ({"kinds": {"hue": "colour"}}, "Expected column 'hue' as one of number, category"),
        ({"public": "nowhere.csv"}, "Expected data.table at .*nowhere.csv, found nothing"),
        ({"public": 500}, "data.public = 500: expected fewer than the 178 records"),
    ],
)
def test_what_a_table_lacks_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    wines = settings(table=sample_files.wine(tmp_path), label="cultivar")
    with pytest.raises(LimbeckError, match=message):
        user_files.load(wines.model_copy(update=change))


def test_columns_are_what_the_user_says(tmp_path: Path) -> None:
    wines = settings(table=sample_files.wine(tmp_path), label="cultivar", kinds={"cellar": "identifier", "ash": "category"})
    found = user_files.load(wines)
    assert isinstance(found.encoding, encodings.TableEncoding)
    assert "cellar" not in found.encoding.reads
    assert "cellar (as you said)" in said(found)
    assert not isinstance(next(column for column in found.encoding.columns if column.name == "ash"), encodings.Number)


# Arrays


def arrays(folder: Path, **values: object) -> Path:
    np.savez(folder / "own.npz", **values)  # type: ignore[arg-type]
    return folder / "own.npz"


def test_rows_of_an_array_are_standardised_by_public_rows_and_sites_hold_them_so(tmp_path: Path) -> None:
    wine = datasets.load_wine()
    found = user_files.load(settings(arrays=arrays(tmp_path, x=wine.data, y=wine.target)))
    assert isinstance(found.private_x, np.ndarray)
    assert found.public_x[:, 0].mean() == pytest.approx(0, abs=1e-5)
    assert found.public_x[:, 0].std() == pytest.approx(1, abs=1e-5)
    assert found.private_x.shape == (106, 26)
    assert "178 rows of 13 numbers, each standardised" in said(found)
    folder = tmp_path / "run"
    prepare.prepare(quick(settings(arrays=tmp_path / "own.npz"), partition={"clients": 2}), folder)
    for path in (folder / "sites").glob("*/site.toml"):
        x_N, y_N = Site(path.parent).records.read(3, found.public_x)
        assert len(x_N) == len(y_N) == 53


DIGITS = datasets.load_digits()
BYTES = (DIGITS.images[:90] * 255 / 16).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("x", "dtype", "sentence"),
    [
        (BYTES, np.uint8, "90 images of 8 x 8, bytes"),
        (BYTES.astype(np.int64), np.uint8, "whole numbers from 0 to 255, taken as bytes"),
        (BYTES.astype(np.float64), np.uint8, "numbers from 0 to 255, rounded to bytes"),
        (BYTES / 255, np.float32, "numbers from 0 to 1"),
        (np.repeat(BYTES[..., None], 3, -1), np.uint8, "bytes, made grey"),
        (BYTES[..., None], np.uint8, "90 images of 8 x 8, bytes"),
        (BYTES - 128.0, None, "90 rows of 64 numbers, from 8 x 8, each standardised"),
    ],
    ids=["bytes", "int64", "float 255", "unit", "colour", "one channel", "signed"],
)
def test_what_an_array_means_does_not_depend_on_its_type(
    x: np.ndarray, dtype: type | None, sentence: str, tmp_path: Path
) -> None:
    found = user_files.load(settings(arrays=arrays(tmp_path, x=x, y=DIGITS.target[:90])))
    assert sentence in said(found)
    if dtype is np.uint8:
        assert found.public_x.dtype == np.uint8
        assert {image.tobytes() for image in found.public_x} <= {image.tobytes() for image in BYTES}
    elif dtype is not None:
        assert found.public_x.dtype == np.dtype(dtype)
        assert found.public_x.max() == 1
    else:
        assert found.public_x.ndim == 2


def test_labels_of_an_array_may_be_names_or_one_hot_but_not_several(tmp_path: Path) -> None:
    target = DIGITS.target[:90]
    named = user_files.load(
        settings(
            arrays=arrays(tmp_path, images=BYTES, kind=np.array(["zero", "other"])[(target > 0).astype(int)]), label="kind"
        )
    )
    assert named.class_names == ("other", "zero")
    hot = user_files.load(
        settings(arrays=arrays(tmp_path, x=BYTES, y=np.eye(10)[target], writer=np.arange(90) % 3), site="writer")
    )
    assert hot.class_names == tuple("0123456789")
    assert hot.group_names == ("0", "1", "2")
    with pytest.raises(SettingError, match="several labels per record"):
        user_files.load(settings(arrays=arrays(tmp_path, x=BYTES, y=np.ones((90, 4)))))
    for message, values in {
        "Expected data.label to name the array of labels": {"x": BYTES, "kind": target},
        "Expected data.inputs to name the array of inputs": {"pictures": BYTES, "y": target},
        "Expected as many entries in y as in x": {"x": BYTES, "y": target[:5]},
    }.items():
        with pytest.raises(DataError, match=message):
            user_files.load(settings(arrays=arrays(tmp_path, **values)))


# Folders


def test_folders_of_images_are_sites_and_classes_and_each_site_gets_its_own_files(tmp_path: Path) -> None:
    images = settings(images=sample_files.digit_images(tmp_path), site="outer")
    found = user_files.load(images, seed=1)
    assert found.group_names == ("writer 0", "writer 1")
    assert found.class_names == tuple("0123456789")
    assert isinstance(found.private_x, np.ndarray)
    assert found.private_x.shape[1:] == (8, 8)
    folder = tmp_path / "run"
    prepare.prepare(quick(images, teacher=PIXELS), folder)
    read = {}
    for path in sorted((folder / "sites").glob("*/site.toml")):
        assert {each.name for each in (path.parent / "records").iterdir()} == set("0123456789")
        x_N, y_N = Site(path.parent).records.read(10, found.public_x)
        read.update({x.tobytes(): int(y) for x, y in zip(x_N, y_N, strict=True)})
    assert read == {x.tobytes(): int(y) for x, y in zip(found.private_x, found.private_y, strict=True)}
    with pytest.raises(DataError, match=r'Expected images as CLASS/FILE .*; if these are sites, set data.site = "outer"'):
        user_files.load(settings(images=tmp_path / "images"))


def test_folders_within_those_of_the_classes_do_not_matter(tmp_path: Path) -> None:
    images = sample_files.digit_images(tmp_path, count=120, writers=1)
    plain = user_files.load(settings(images=images))
    for number, file in enumerate(sorted(images.rglob("*.png"))[::3]):
        inner = file.parent / f"{file.parent.name}-{number % 2}" / "deeper"
        inner.mkdir(parents=True, exist_ok=True)
        file.rename(inner / file.name)
    nested = user_files.load(settings(images=images))
    assert "images: 40 files are in folders within those of the classes, whose names do not matter" in nested.said
    assert nested.class_names == plain.class_names
    np.testing.assert_array_equal(nested.test_x, plain.test_x)
    np.testing.assert_array_equal(nested.test_y, plain.test_y)
    prepare.prepare(quick(settings(images=images), teacher=PIXELS, partition={"clients": 2}), tmp_path / "run")
    (tmp_path / "images" / "stray.png").write_bytes(next(images.rglob("*.png")).read_bytes())
    with pytest.raises(DataError, match=r"Expected images as CLASS/FILE below .*, found stray.png\."):
        user_files.load(settings(images=images))


def test_folders_that_look_like_sites_are_no_classes_even_where_one_file_lies_elsewhere(tmp_path: Path) -> None:
    images = sample_files.digit_images(tmp_path)
    stray = images / "writer 0" / "stray.png"
    stray.write_bytes(next(images.rglob("*.png")).read_bytes())
    with pytest.raises(DataError, match=r'found writer 0/0/.*png; if these are sites, set data.site = "outer"'):
        user_files.load(settings(images=images))
    with pytest.raises(DataError, match=r"Expected images as SITE/CLASS/FILE .* found writer 0/stray.png"):
        user_files.load(settings(images=images, site="outer"))


def drawn(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[Path]:
    """Crops of scikit-learn's photographs, of these heights and widths."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = datasets.load_sample_images().images
    files = []
    for number, (height, width) in enumerate(sizes):
        photo = photos[number % 2]
        files.append(folder / f"{number:04}.png")
        Image.fromarray(photo[number : number + height, 2 * number : 2 * number + width]).save(files[-1])
    return files


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(40, 80)] * 3 + [(30, 30), (31, 31)], (14, 28)),
        ([(12, 9)] * 3 + [(300, 200)] * 2, (12, 9)),
        ([(40, 80), (40, 80), (30, 50), (60, 20), (70, 50)], (28, 28)),
        ([(10, 8), (12, 16), (20, 10), (9, 11)], (16, 16)),
    ],
    ids=["most of one shape", "most of them small", "of many shapes", "small and of many shapes"],
)
def test_images_get_the_size_of_most_of_them_or_else_a_square(
    sizes: list[tuple[int, int]], expected: tuple[int, int], tmp_path: Path
) -> None:
    assert sources.size_of(drawn(tmp_path, sizes)) == expected


def test_sizes_are_looked_at_all_over_the_folder_not_in_its_first_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SIZES_READ", 4)
    assert sources.size_of(drawn(tmp_path, [(10, 20)] * 4 + [(24, 24)] * 12)) == (24, 24)


def test_public_images_of_another_size_become_as_large_as_the_others(tmp_path: Path) -> None:
    images = sample_files.digit_images(tmp_path, count=120, writers=1)
    drawn(tmp_path / "public", [(20, 16)] * 12)
    assert user_files.load(settings(images=images, public=tmp_path / "public")).public_x.shape == (12, 8, 8)


def test_an_image_that_cannot_be_read_is_named_with_its_folders_and_why(tmp_path: Path) -> None:
    images = sample_files.digit_images(tmp_path, count=120, writers=1)
    Image.new("1", (20_000, 10_000)).save(images / "3" / "poster.png")
    (images / "4" / "note.png").write_text("no image")
    told = said(user_files.load(settings(images=images)))
    assert (
        "images: 2 images cannot be read and were left out: 3/poster.png: ValueError: 'found more than 67108864 pixels'"
        in told
    )
    assert "4/note.png: a file of another kind than PNG" in told


def test_records_of_the_same_inputs_are_counted(tmp_path: Path) -> None:
    images = sample_files.digit_images(tmp_path, count=120, writers=1)
    assert "same inputs" not in said(user_files.load(settings(images=images)))
    for number, file in enumerate(sorted(images.rglob("*.png"))[:7]):
        (file.parent / f"copy-{number}.png").write_bytes(file.read_bytes())
    assert "7 of 127 records have the same inputs as an earlier one; no two parts" in said(
        user_files.load(settings(images=images))
    )


def test_a_table_of_files_says_label_site_and_person_of_each_image(tmp_path: Path) -> None:
    images = sample_files.digit_images(tmp_path, count=120, writers=1)
    listed = [
        [str(file.relative_to(tmp_path)), file.parent.name, f"w{int(file.stem) % 40}"]
        for file in sorted(images.rglob("*.png"))
    ]
    sample_files.write_csv(tmp_path / "list.csv", ["file", "digit", "writer"], listed)
    found = user_files.load(settings(images=tmp_path / "list.csv", label="digit", group="writer"))
    assert len(found.files) == len(found.private_y) == 72
    assert found.people is not None
    (tmp_path / "broken.png").write_bytes(b"not an image")
    sample_files.write_csv(tmp_path / "list.csv", ["file", "digit", "writer"], [*listed, ["broken.png", "1", "w1"]])
    assert "1 images cannot be read and were left out: broken.png" in said(
        user_files.load(settings(images=tmp_path / "list.csv", label="digit"))
    )


def test_a_public_folder_needs_no_classes(tmp_path: Path) -> None:
    images = sample_files.digit_images(tmp_path, count=120, writers=1)
    (tmp_path / "public").mkdir()
    for number, file in enumerate(sorted(images.rglob("*.png"))[::3]):
        file.rename(tmp_path / "public" / f"{number}.png")
    found = user_files.load(settings(images=images, public=tmp_path / "public"))
    assert set(found.public_y) == {-1}
    assert len(found.public_x) == 40


def test_texts_are_counted_by_public_words_alone(tmp_path: Path) -> None:
    found = user_files.load(settings(texts=sample_files.texts(tmp_path), label="part"))
    assert isinstance(found.encoding, encodings.TextEncoding)
    assert found.encoding.column == "about"
    public = user_files.load(settings(texts=sample_files.text_files(tmp_path)))
    assert public.class_names == found.class_names == ("clusters", "features", "forests", "linear")
    assert len(public.private_y) == len(found.private_y)
    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "one.txt").write_text("a lonely public sentence")
    told = user_files.load(settings(texts=tmp_path / "texts", public=tmp_path / "public"))
    assert isinstance(told.encoding, encodings.TextEncoding)
    assert set(told.encoding.words) == {"lonely", "public", "sentence"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": "town"}, "data.site = 'town': expected \"outer\""),
        ({"group": "writer"}, "data.group = 'writer': expected a table of the files"),
        ({"label": "digit"}, "data.label = 'digit': expected none for a folder"),
    ],
)
def test_what_only_a_table_could_say_of_a_folder_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    images = settings(images=sample_files.digit_images(tmp_path, count=20), site="outer")
    with pytest.raises(SettingError, match=message):
        user_files.load(images.model_copy(update=change))


def test_a_folder_without_images_and_a_file_of_another_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "scans" / "ill").mkdir(parents=True)
    (tmp_path / "scans" / "ill" / "one.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"Expected images \(.bmp, .* below .*scans, found 1 other files"):
        user_files.load(settings(images=tmp_path / "scans"))
    with pytest.raises(DataError, match=r"Expected a table .* got arrays: that is data.arrays"):
        user_files.load(settings(table=sample_files.digits(tmp_path), label="y"))
    np.save(tmp_path / "x.npy", BYTES)
    with pytest.raises(DataError, match=r"Expected an .npz file with inputs and labels"):
        user_files.load(settings(arrays=tmp_path / "x.npy"))


# Whole runs


def of_wine(folder: Path) -> Scenario:
    sample_files.wine(folder, rows=range(60, 178))
    public = sample_files.wine(folder, rows=range(60), name="public.csv", label=False)
    return quick(settings(table=folder / "wine.csv", label="cultivar", site="cellar", drop=["id"], public=public))


def of_arrays(folder: Path) -> Scenario:
    arrays_ = settings(arrays=sample_files.digits(folder), site="writer", private=100)
    return quick(arrays_, teacher=PIXELS)


def of_images(folder: Path) -> Scenario:
    images = settings(images=sample_files.digit_images(folder, count=120), site="outer")
    return quick(images, teacher=PIXELS)


def of_texts(folder: Path) -> Scenario:
    return quick(settings(texts=sample_files.texts(folder), label="part"), partition={"clients": 2})


@pytest.mark.parametrize("make", [of_wine, of_arrays, of_images, of_texts])
def test_a_run_of_every_kind_of_own_data_goes_from_files_to_a_student(
    make: Callable[[Path], Scenario], tmp_path: Path
) -> None:
    measured = run.simulate(make(tmp_path), tmp_path / "run")
    assert {client.status for client in measured.clients} == {"answered"}
    assert 0 < measured.student.accuracy <= 1
    assert html.escape(prepare.read_said(tmp_path / "run")[-1]) in (tmp_path / "run" / "report.html").read_text()
    labelled = make is not of_wine
    assert (measured.pool.accuracy is not None, measured.student.quality.public is not None) == (labelled, labelled)
    # What resuming needs is in the run's folder: the user's files may be gone by then.
    source = measured.scenario.data.source
    assert source is not None
    source[1].rename(tmp_path / "gone")
    assert run.resume(tmp_path / "run").student.accuracy == measured.student.accuracy
    assert math.isfinite(measured.seconds["total"])


def test_the_sources_keys_are_those_of_their_inputs_alone(tmp_path: Path) -> None:
    wines = settings(table=sample_files.wine(tmp_path), label="cultivar", site="cellar", drop=["id"])
    first = sources.read(wines)
    other = sources.read(wines.model_copy(update={"label": "ash"}))
    assert first.keys() == sources.read(wines).keys()
    assert len(set(first.keys())) == 178
    assert first.keys() != other.keys()
