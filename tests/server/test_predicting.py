"""Files of any kind become predictions; what a student cannot take is refused or named by row, and nothing is guessed."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers import onnx_students, tiny_image_encoder
from helpers.onnx_students import CARD
from helpers.tiny_image_encoder import NUMBERS, photograph_folder, photographs
from limbeck.base.errors import DataError, SettingError
from limbeck.cli import main
from limbeck.inputs import encoders, encodings, tables
from limbeck.inputs.encodings import Category, Number, TableEncoding
from limbeck.inputs.rows import from_rows
from limbeck.inputs.transfer_set import digest
from limbeck.server import delivery, export, labelled
from limbeck.server.card import Inputs
from limbeck.server.exported import BATCH, load_student

IMAGES = replace(CARD, inputs=Inputs(kind="bytes", shape=(2, 2), low=0, high=255))
# The brighter an image above, the more it is of the first class.
TOP = np.array([[4, 0], [4, 0], [0, 0], [0, 4]])
TABLE = TableEncoding(
    columns=(
        Number(name="age", mean=50.0, deviation=10.0),
        Category(name="sex", levels=("f", "m")),
    )
)


def run(*words: object) -> Any:
    return CliRunner().invoke(main.app, [str(word) for word in words])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A student of grey images of 2 x 2 bytes."""
    return onnx_students.write(tmp_path / "images-student", onnx_students.weighted(TOP, (2, 2)), IMAGES)


@pytest.fixture
def patients(tmp_path: Path) -> Path:
    """A student of a table: old men are ill."""
    encodings.save(TABLE, tmp_path / "e.json")
    content = (tmp_path / "e.json").read_bytes()
    shape = (TABLE.dimensions,)
    own = replace(
        CARD, inputs=Inputs(kind="numbers", shape=shape, low=-3, high=3, encoding=hashlib.sha256(content).hexdigest())
    )
    weight = np.zeros((TABLE.dimensions, 2))
    weight[0, 1] = 2.0
    weight[-1, 1] = 1.0
    return onnx_students.write(tmp_path / "table-student", onnx_students.weighted(weight, shape), own, encoding=content)


# Arrays


def test_bytes_of_any_type_and_floats_from_0_to_1_give_the_same(images: Path) -> None:
    student = load_student(images)
    x_N = np.array([[[255, 0], [10, 128]], [[0, 3], [255, 255]]], np.uint8)
    expected = student.predict(x_N)
    for other in (x_N.astype(np.int64), x_N.astype(np.uint16), x_N / 255, (x_N / 255).astype(np.float32)):
        np.testing.assert_array_equal(student.predict(other), expected)
    assert student.predict(np.zeros((0, 2, 2), np.float64)).shape == (0, 2)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.full((1, 2, 2), 255.0), "floats from 255 to 255"),
        (np.full((1, 2, 2), -0.5), "floats from -0.5"),
        (np.full((1, 2, 2), 256), "whole numbers from 256 to 256"),
        (np.array([[[0, 1], [1, 0]]]), "all 0 or 1"),
        (np.full((1, 2, 2), np.nan), "NaN or infinity"),
        (np.zeros((1, 4), np.uint8), r"got \(1, 4\) of uint8"),
    ],
)
def test_inputs_of_bytes_on_another_scale_are_refused(inputs: np.ndarray, message: str, images: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_student(images).predict(inputs)


def test_numbers_on_another_scale_than_the_public_inputs_are_refused(tmp_path: Path) -> None:
    def student(inputs: Inputs) -> Any:
        return load_student(
            onnx_students.write(tmp_path / inputs.kind, onnx_students.softmax(), replace(CARD, inputs=inputs))
        )

    raw = Inputs(kind="numbers", shape=(2,), low=-3.0, high=3.0)
    assert student(raw).predict([[20.0, -20.0]]).shape == (1, 2)
    # Whole numbers are numbers: nothing is divided by 255.
    np.testing.assert_array_equal(student(raw).predict(np.array([[2, 1]], np.uint8)), student(raw).predict([[2.0, 1.0]]))
    with pytest.raises(DataError, match="on another scale"):
        student(raw).predict([[64.0, 1.0]])
    encoded = replace(raw, encoding="ab" * 32)
    assert student(encoded).predict([[5.0, -5.0]]).shape == (1, 2)
    with pytest.raises(DataError, match=r"from -3 to 3, got 1 to 8: they are on another scale"):
        student(encoded).predict([[8.0, 1.0]])
    unit = Inputs(kind="unit", shape=(2,), low=0.1, high=0.9)
    assert student(unit).predict([[0.0, 1.0]]).shape == (1, 2)
    with pytest.raises(DataError, match="on another scale"):
        student(unit).predict([[1.5, 0.0]])


def test_an_array_is_predicted_row_by_row_and_a_row_that_is_not_finite_has_no_prediction(
    images: Path, tmp_path: Path
) -> None:
    x_N = np.zeros((BATCH + 3, 2, 2))
    x_N[0, 0] = 1.0
    x_N[1, 1, 1] = np.nan
    x_N[-1, 1, 1] = 1.0
    np.savez(tmp_path / "x.npz", x=x_N, other=x_N[:1])
    found = load_student(images).predict_file(tmp_path / "x.npz")
    assert len(found.names) == len(found.predicted) == len(x_N)
    assert (found.names[0], found.names[-1]) == ("1", str(BATCH + 3))
    assert (found.predicted[0], found.predicted[1], found.predicted[-1]) == ("well", None, "ill")
    assert found.errors == {1: "numbers that are not finite"}
    assert np.isnan(found.probabilities[1]).all()
    done = run("predict", images, tmp_path / "x.npz", "-o", tmp_path / "out.csv")
    assert isinstance(done.exception, DataError)
    assert "row 2: numbers that are not finite" in str(done.exception)
    written = rows(tmp_path / "out.csv")
    assert list(written[0]) == ["row", "predicted", "p_well", "p_ill", "error"]
    assert [row["row"] for row in written] == list(found.names)
    assert written[1] == {"row": "2", "predicted": "", "p_well": "", "p_ill": "", "error": "numbers that are not finite"}
    assert float(written[-1]["p_ill"]) == pytest.approx(float(found.probabilities[-1, 1]), rel=1e-6)
    assert run("predict", images, tmp_path / "x.npz", "--array", "other", "-o", "-").stdout.startswith(
        "row,predicted,p_well"
    )


# Images


def test_rows_of_numbers_as_they_were_before_the_encoding_are_encoded(tmp_path: Path) -> None:
    encoding = TableEncoding(columns=tuple(Number(name=f"x{place}", mean=50.0, deviation=10.0) for place in (0, 2)))
    encodings.save(encoding, tmp_path / "e.json")
    content, shape = (tmp_path / "e.json").read_bytes(), (encoding.dimensions,)
    inputs = Inputs(kind="numbers", shape=shape, low=-5, high=5, encoding=hashlib.sha256(content).hexdigest())
    weight = np.zeros((encoding.dimensions, 2))
    weight[0, 1] = 2.0
    net = onnx_students.weighted(weight, shape)
    student = onnx_students.write(tmp_path / "s", net, replace(CARD, inputs=inputs), encoding=content)
    raw = np.array([[80.0, 1.0, 50.0], [20.0, 1.0, 50.0]])
    for name, x in (("raw", raw), ("encoded", encoding(from_rows(raw, "raw")))):
        np.savez(tmp_path / f"{name}.npz", x=x)
        assert run("predict", student, tmp_path / f"{name}.npz", "-o", tmp_path / f"{name}.csv").exit_code == 0
        assert [row["predicted"] for row in rows(tmp_path / f"{name}.csv")] == ["ill", "well"]
    assert rows(tmp_path / "raw.csv") == rows(tmp_path / "encoded.csv")
    np.savez(tmp_path / "narrow.npz", x=raw[:, :2])
    assert "Expected inputs (N, 4) of numbers" in str(run("predict", student, tmp_path / "narrow.npz", "-o", "-").exception)


def test_images_are_found_in_folders_and_one_that_cannot_be_read_has_no_prediction(images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    Image.fromarray(np.array([[255, 255], [0, 0]], np.uint8)).save(folder / "b.png")
    Image.fromarray(np.array([[0, 0], [0, 255]], np.uint8)).save(folder / "inner" / "a.PNG")
    (folder / "broken.png").write_bytes(b"none")
    (folder / "notes.txt").write_text("none")
    done = run("predict", images, folder, "-o", tmp_path / "out.csv")
    assert "file broken.png: no image in a known format" in str(done.exception)
    written = {row["file"]: row["predicted"] for row in rows(tmp_path / "out.csv")}
    assert written == {"b.png": "well", "broken.png": "", "inner/a.PNG": "ill"}
    several = run("predict", images, folder / "b.png", folder / "inner", "-o", "-")
    assert [line.split(",")[:2] for line in several.stdout.splitlines()[1:]] == [
        [str(folder / "b.png"), "well"],
        [str(folder / "inner" / "a.PNG"), "ill"],
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="Expected images"):
        load_student(images).predict_file(tmp_path / "empty")


def test_images_are_refused_by_a_student_of_rows_and_tables_by_one_of_images(
    images: Path, patients: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="no images"):
        load_student(patients).predict_file(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("age,sex\n50,f\n")
    with pytest.raises(DataError, match="names no encoding"):
        load_student(images).predict_file(tmp_path / "t.csv")


# Tables and texts


def test_a_table_is_predicted_by_the_encoding_beside_the_student(patients: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("id;age;sex\na;80,5;m\nb;30;f\nc;;\nd;70;other\n")
    done = run("predict", patients, table, "--keep", "id", "-o", tmp_path / "out.csv")
    assert "got none for 1: row 3: no value in any column that the encoding reads" in str(done.exception)
    assert "semicolons between cells, decimal comma" in done.stderr
    assert "Column 'sex': 1 of 4 values are unknown to the encoding, such as 'other'" in done.stderr
    written = rows(tmp_path / "out.csv")
    assert [(row["row"], row["id"], row["predicted"]) for row in written] == [
        ("1", "a", "ill"),
        ("2", "b", "well"),
        ("3", "c", ""),
        ("4", "d", "ill"),
    ]
    student = load_student(patients)
    expected = student.predict(TABLE(tables.from_csv(b"age,sex\n80.5,m\n", "t")))
    assert float(written[0]["p_ill"]) == pytest.approx(float(expected[0, 1]), rel=1e-6)


def test_a_missing_column_another_encoding_and_no_encoding_are_refused(patients: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("age\n50\n")
    with pytest.raises(DataError, match="Expected a column 'sex'"):
        load_student(patients).predict_file(table)
    table.write_text("age,sex\n50,f\n")
    other = TableEncoding(columns=(Number(name="age", mean=40.0, deviation=10.0), TABLE.columns[1]))
    encodings.save(other, tmp_path / "other.json")
    done = run("predict", patients, table, "--encoding", tmp_path / "other.json", "-o", tmp_path / "out.csv")
    assert "by which this student was made" in str(done.exception)
    (patients / "encoding.json").rename(tmp_path / "moved.json")
    with pytest.raises(DataError, match="name it by --encoding"):
        load_student(patients).predict_file(table)
    assert not (tmp_path / "out.csv").exists()
    assert run("predict", patients, table, "--encoding", tmp_path / "moved.json", "-o", tmp_path / "out.csv").exit_code == 0


def test_texts_one_a_line_are_predicted(tmp_path: Path) -> None:
    public = tables.from_csv(b"text\ngood film\nbad film\n", "public")
    encoding = encodings.fit_text(public, "text", words=3)
    encodings.save(encoding, tmp_path / "e.json")
    content = (tmp_path / "e.json").read_bytes()
    inputs = Inputs(kind="unit", shape=(3,), low=0, high=1, encoding=hashlib.sha256(content).hexdigest())
    weight = np.zeros((3, 2))
    weight[encoding.words.index("bad"), 1] = weight[encoding.words.index("good"), 0] = 5.0
    folder = onnx_students.write(
        tmp_path / "student", onnx_students.weighted(weight, (3,)), replace(CARD, inputs=inputs), encoding=content
    )
    (tmp_path / "texts").write_text("a bad one\n\ngood, good film\n", encoding="utf-8")
    done = run("predict", folder, tmp_path / "texts", "--texts", "-o", "-")
    assert [line.split(",")[:2] for line in done.stdout.splitlines()[1:]] == [["1", "ill"], ["2", ""], ["3", "well"]]
    assert done.exit_code == 1


# The output


@pytest.fixture
def photographers(tmp_path: Path) -> tuple[Path, Path]:
    """A student of the rows that a public encoder makes of photographs of 12 x 12, and the encoder's folder."""
    model = tiny_image_encoder.make(tmp_path / "tiny")
    encoding = encoders.describe_images(str(model), Path(), name="tiny", size=(12, 12))
    encodings.save(encoding, tmp_path / "e.json")
    content = (tmp_path / "e.json").read_bytes()
    own = replace(
        CARD, inputs=Inputs(kind="numbers", shape=(NUMBERS,), low=0, high=8, encoding=hashlib.sha256(content).hexdigest())
    )
    weight = 8 * np.random.default_rng(0).normal(size=(NUMBERS, 2))
    return onnx_students.write(
        tmp_path / "student", onnx_students.weighted(weight, (NUMBERS,)), own, encoding=content
    ), model


def test_photographs_go_through_the_public_encoder_one_by_one_in_colour(
    photographers: tuple[Path, Path], tmp_path: Path
) -> None:
    student, model = photographers
    photograph_folder(tmp_path / "new", 6)
    (tmp_path / "new" / "temple" / "004.png").write_bytes(b"no image")
    session = onnxruntime.InferenceSession(str(model / "model.onnx"), providers=["CPUExecutionProvider"])
    row_N = np.concatenate([session.run(None, {"image": image[None]})[0] for image in photographs(6, 12)])
    expected = load_student(student).predict(row_N)
    assert np.ptp(expected[:, 0]) > 0.01
    done = run("predict", student, tmp_path / "new", "--encoder", model, "-o", tmp_path / "out.csv")
    assert isinstance(done.exception, DataError)
    assert "none for 1: file temple/004.png: no image in a known format" in str(done.exception)
    written = rows(tmp_path / "out.csv")
    order = [1, 3, 5, 0, 2, 4]
    assert [row["file"] for row in written] == [f"{('temple', 'flower')[place % 2]}/{place:03}.png" for place in order]
    assert [row["error"] for row in written] == [*[""] * 5, "no image in a known format"]
    found = np.array([[float(row["p_well"]), float(row["p_ill"])] for row in written[:-1]])
    np.testing.assert_allclose(found, expected[order[:-1]], atol=1e-6)
    np.savez(tmp_path / "new.npz", x=photographs(6, 12))
    assert run("predict", student, tmp_path / "new.npz", "--encoder", model, "-o", tmp_path / "array.csv").exit_code == 0
    again = np.array([[float(row["p_well"]), float(row["p_ill"])] for row in rows(tmp_path / "array.csv")])
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_photographs_for_another_encoder_of_another_shape_or_for_none_are_refused(
    photographers: tuple[Path, Path], tmp_path: Path
) -> None:
    student, model = photographers
    photograph_folder(tmp_path / "new", 2)
    other = tiny_image_encoder.make(tmp_path / "other", seed=1)
    np.savez(tmp_path / "wide.npz", x=photographs(2, 16))
    (tmp_path / "table.csv").write_text("age,sex\n50,m\n")
    for inputs, encoder, message in (
        ("new", other, "Expected SHA-256 .* of .*model.onnx, a file of tiny"),
        ("new", None, r"Expected --encoder with images for tiny, .* got none"),
        ("wide.npz", model, r"Expected bytes of shape \(N, 12, 12, 3\) as x in .*, got \(2, 16, 16, 3\) of uint8"),
        ("table.csv", model, "Expected images for tiny, by which this student's inputs were made, got .*table.csv"),
    ):
        named = [] if encoder is None else ["--encoder", encoder]
        done = run("predict", student, tmp_path / inputs, *named, "-o", tmp_path / "out.csv")
        assert isinstance(done.exception, DataError), done.output
        assert re.search(message, str(done.exception)), done.exception
        assert not (tmp_path / "out.csv").exists()


def test_no_file_is_replaced_without_being_told_to_and_none_is_left_after_an_error(images: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 2, 2), np.uint8))
    out = tmp_path / "out.csv"
    out.write_text("mine")
    done = run("predict", images, tmp_path / "x.npz", "-o", out)
    assert isinstance(done.exception, SettingError)
    assert out.read_text() == "mine"
    assert run("predict", images, tmp_path / "x.npz", "-o", out, "--force").exit_code == 0
    assert len(rows(out)) == 2
    np.savez(tmp_path / "wrong.npz", x=np.zeros((2, 3), np.uint8))
    assert isinstance(run("predict", images, tmp_path / "wrong.npz", "-o", tmp_path / "new.csv").exception, DataError)
    assert isinstance(run("predict", images, tmp_path / "x.npz", "-o", tmp_path / "no" / "new.csv").exception, SettingError)
    assert {path.name for path in tmp_path.glob("*.csv")} == {"out.csv"}
    assert not list(tmp_path.glob(".*"))


def test_predictions_are_written_as_parquet(images: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    np.savez(tmp_path / "x.npz", x=np.array([[[1.0, 1.0], [0.0, 0.0]], [[np.nan, 0.0], [0.0, 0.0]]]))
    run("predict", images, tmp_path / "x.npz", "-o", tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["row"], row["predicted"], row["error"]) for row in found] == [
        (1, "well", None),
        (2, None, "numbers that are not finite"),
    ]
    assert found[1]["p_well"] is None


# Calibration and description by the command


def test_a_student_is_calibrated_on_labelled_inputs_of_its_own(images: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x_N = generator.integers(0, 256, (400, 2, 2)).astype(np.uint8)
    student = load_student(images)
    # Always right where the student is not sure: it is too cautious.
    names = np.array(student.class_names)[student.predict(x_N).argmax(1)]
    names[0] = "unknown"
    np.savez(tmp_path / "public.npz", x=x_N, y=names)
    before = student.predict(x_N)
    done = run("student", "calibrate", images, "--labels", tmp_path / "public.npz")
    assert done.exit_code == 0
    assert "1 inputs of" in done.stderr
    after = load_student(images)
    assert after.card is not None
    assert after.card.calibration is not None
    assert (after.card.calibration.inputs, after.card.calibration.held_out) == (399, True)
    assert after.predict(x_N).max(1).mean() > before.max(1).mean()
    np.testing.assert_array_equal(after.predict(x_N).argmax(1), before.argmax(1))
    # Once more gives the same: the temperature in the graph is undone first.
    run("student", "calibrate", images, "--labels", tmp_path / "public.npz")
    again = load_student(images).card
    assert again is not None
    assert again.calibration is not None
    assert again.calibration.temperature == pytest.approx(after.card.calibration.temperature, rel=1e-2)


def test_labels_alone_belong_to_the_public_inputs_of_the_run(images: Path, tmp_path: Path) -> None:
    x_N = np.random.default_rng(0).integers(0, 256, (100, 2, 2)).astype(np.uint8)
    card = replace(IMAGES, transfer_set=digest(x_N).hex())
    delivery.amend(images, card)
    student = load_student(images)
    y_N = student.predict(x_N).argmax(1)
    np.savez(tmp_path / "y.npz", y=np.array(student.class_names)[y_N])
    with pytest.raises(DataError, match="name it or its folder by --transfer"):
        labelled.read(student, card, tmp_path / "y.npz", label=None, transfer=None, encoder=None)
    (tmp_path / "public").mkdir()
    np.savez(tmp_path / "public" / f"{card.transfer_set}.npz", x=x_N)
    np.savez(tmp_path / "other.npz", x=x_N[::-1])
    found = labelled.read(student, card, tmp_path / "y.npz", label=None, transfer=tmp_path / "public", encoder=None)
    assert (len(found.y_N), found.held_out, found.left_out) == (100, False, 0)
    with pytest.raises(DataError, match="Expected the public inputs with SHA-256"):
        labelled.read(student, card, tmp_path / "y.npz", label=None, transfer=tmp_path / "other.npz", encoder=None)
    np.testing.assert_array_equal(found.y_N, y_N)
    # Numbers are no names: which class would 0 be?
    np.savez(tmp_path / "numbers.npz", y=y_N)
    with pytest.raises(DataError, match="Expected labels out of well, ill in"):
        labelled.read(student, card, tmp_path / "numbers.npz", label=None, transfer=tmp_path / "public", encoder=None)
    np.savez(tmp_path / "few.npz", y=np.array(["ill"] * 99))
    with pytest.raises(DataError, match="a label for each of 100 inputs"):
        labelled.read(student, card, tmp_path / "few.npz", label=None, transfer=tmp_path / "public", encoder=None)


def test_a_table_with_a_column_of_labels_calibrates_its_student(patients: Path, tmp_path: Path) -> None:
    table = tmp_path / "public.csv"
    lines = [f"{age},{'m' if age % 2 else 'f'},{'ILL' if age > 50 else 'well'}" for age in range(20, 80)]
    table.write_text("age,sex,outcome\n" + "\n".join([*lines, ",,well", "50,f,dead"]) + "\n")
    student = load_student(patients)
    assert student.card is not None
    found = labelled.read(student, student.card, table, label="outcome", transfer=None, encoder=None)
    assert (len(found.y_N), found.left_out, found.held_out) == (60, 2, True)
    assert found.y_N.tolist() == [int(age > 50) for age in range(20, 80)]
    assert len(found.x_N) == 60
    with pytest.raises(SettingError, match="--label"):
        labelled.read(student, student.card, table, label=None, transfer=None, encoder=None)


def test_what_a_student_is_for_is_stated_and_shown(images: Path) -> None:
    assert run("student", "describe", images, "--licence", "MIT", "--purpose", "Tests").exit_code == 0
    shown = run("student", "show", images).stdout
    assert "| licence | MIT |" in shown
    assert shown == (images / "MODEL_CARD.md").read_text()
    assert json.loads(run("student", "show", images, "--json").stdout)["purpose"] == "Tests"
    assert isinstance(run("student", "describe", images).exception, SettingError)
    (images / "student.onnx").write_bytes(onnx_students.softmax().SerializeToString())
    assert "one of limbeck 0.1.0" in str(run("student", "show", images).exception)


def test_the_sizes_beside_a_student_are_those_of_its_files(images: Path, tmp_path: Path) -> None:
    sizes = export.ExportReport(parameters=8, nonzero=5, safetensors=4, safetensors_gzip=2, onnx=1, onnx_max_difference=0.0)
    (images / "export.json").write_text(json.dumps({field: getattr(sizes, field) for field in sizes.__slots__}))
    (images / "student.safetensors").write_bytes(b"1234")
    delivery.deliver(images, tmp_path / "handed-over", replace(IMAGES, licence="MIT"))
    found = json.loads((tmp_path / "handed-over" / "export.json").read_text())
    assert found["onnx"] == (tmp_path / "handed-over" / "student.onnx").stat().st_size
    assert found["parameters"] == 8
    assert {path.name for path in (tmp_path / "handed-over").iterdir()} == {
        "MODEL_CARD.md",
        "export.json",
        "labels.txt",
        "student.onnx",
        "student.safetensors",
    }
    assert load_student(images).card == IMAGES
