"""The public face: the names that are promised, that they load nothing until they are used, and the examples of docs/api.md."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import limbeck
from helpers import onnx_students
from limbeck.base.errors import DataError, RunError, SettingError
from limbeck.server.exported import Student, load_student

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
# All that a release may not take away or rename without saying so (docs/versioning.md).
PUBLIC = {
    "limbeck": """
        LimbeckError Run Scenario Student __version__ load_run load_student operators simulate
    """,
    "limbeck.operators": """
        Anchoring ArgMax Arithmetic Calibration Comparison EntropyTarget Family Geometric Hybrid LabelsOnly Mixing
        Nucleus Pooling Power PowerMean Raw Renormalised Reparametrised Sampled Separable SeparableSoftening Shared
        Sharpen SoftenThenTruncate Softening Sparsemax TailInterval TemperedSoftening TopK TruncateThenSoften Truncated
        Truncation Tsallis axioms calibrate compare compare_targets concatenate evidence family losses reparametrise
        tail_interval
    """,
}
UNUSED = """
import json, sys
import limbeck
dir(limbeck)
print(json.dumps(sorted({"torch", "numpy", "grpc", "flwr", "pydantic", "rich", "onnxruntime"} & set(sys.modules))))
"""
STUDENT_ONLY = """
import json, sys
import limbeck
limbeck.load_student(sys.argv[1]).predict([[0.0, 0.5]])
print(json.dumps(sorted({"torch", "grpc", "flwr", "pydantic"} & set(sys.modules))))
"""


def doubling(folder: Path, *, name: str = "probabilities", sides: int = 2) -> Path:
    """A student of two numbers and two classes, as limbeck 0.1.0 wrote them: softmax of what comes in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "student.onnx").write_bytes(onnx_students.softmax(name=name, sides=sides).SerializeToString())
    return folder / "student.onnx"


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_these(module: str) -> None:
    found = import_module(module)
    assert sorted(found.__all__) == sorted(PUBLIC[module].split())
    for name in found.__all__:
        assert getattr(found, name) is not None
    assert set(found.__all__) <= set(dir(found))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'limbeck' has no attribute 'simulat'"):
        _ = getattr(limbeck, "simulat")  # noqa: B009 - a type checker knows that it does not exist


def test_import_limbeck_loads_no_library() -> None:
    done = subprocess.run([sys.executable, "-c", UNUSED], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []


def test_a_student_is_used_without_torch(tmp_path: Path) -> None:
    run = [sys.executable, "-c", STUDENT_ONLY, str(doubling(tmp_path))]
    assert json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout) == []


def test_the_examples_of_the_page_are_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "\n".join("" if line.startswith("```") else line for line in PAGE.read_text(encoding="utf-8").split("\n"))
    examples = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    said: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.DocTestRunner(optionflags=flags).run(examples, out=said.append)
    assert not result.failed, "".join(said)
    assert result.attempted > 20


@pytest.mark.parametrize("place", [".", "student", "server/student"])
def test_a_student_is_found_in_its_folder_and_in_those_of_runs(place: str, tmp_path: Path) -> None:
    path = doubling(tmp_path / place)
    for named in (tmp_path, path, str(path)):
        assert load_student(named).path == path


def test_a_student_takes_bytes_as_numbers_from_0_to_1_and_any_number_of_inputs(tmp_path: Path) -> None:
    student: Student = load_student(doubling(tmp_path))
    assert (student.input_shape, student.classes) == ((2,), 2)
    np.testing.assert_allclose(student.predict(np.array([[255, 0]], np.uint8)), student.predict([[1.0, 0.0]]))
    np.testing.assert_allclose(student.predict([[1.0, 0.0]]), [[0.7310586, 0.26894143]], rtol=1e-6)
    assert student.predict(np.zeros((0, 2))).shape == (0, 2)
    many = student.predict(np.linspace(0, 1, 5000).reshape(2500, 2))
    np.testing.assert_allclose(
        many[1500], student.predict(np.linspace(0, 1, 5000).reshape(2500, 2)[1500:1501])[0], rtol=1e-6
    )
    assert many.shape == (2500, 2)


@pytest.mark.parametrize(
    ("inputs", "got"),
    [
        (np.zeros((5, 3)), r"got \(5, 3\) of float64"),
        (np.zeros(2), r"got \(2,\) of float64"),
        (0.5, r"got \(\) of float64"),
        ([[0.0, 1.0], [0.0]], "of numbers: "),
        ([["a", "b"]], "of <U1"),
        ([[1j, 0]], "of complex128"),
        ([[float("nan"), 0.0]], "NaN or infinity"),
        ([[1e300, 0.0]], "NaN or infinity"),
    ],
)
def test_inputs_that_a_student_cannot_take_are_refused(inputs: object, got: str, tmp_path: Path) -> None:
    student = load_student(doubling(tmp_path))
    with pytest.raises(DataError, match=f"^Expected inputs .*{got}"):
        student.predict(inputs)  # type: ignore[arg-type]


def test_what_is_no_student_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    (tmp_path / "folder.onnx").mkdir()
    for path, kind, message in (
        (tmp_path / "absent", SettingError, "folder or its ONNX file, got"),
        (tmp_path / "absent.onnx", RunError, "found no such file"),
        (tmp_path / "folder.onnx", RunError, "Expected a finished student in"),
        (tmp_path / "broken.onnx", DataError, "onnxruntime cannot read"),
        (doubling(tmp_path / "name", name="logits"), DataError, "other inputs or outputs"),
        (doubling(tmp_path / "shape", sides=3), DataError, "other inputs or outputs"),
    ):
        with pytest.raises(kind, match=message):
            load_student(path)


def test_a_scenario_is_checked_whole_however_it_was_made(tmp_path: Path) -> None:
    valid = limbeck.Scenario.load("digits-tiny")
    invalid = valid.model_copy(update={"run": valid.run.model_copy(update={"minimum_clients": 100})})
    with pytest.raises(SettingError, match=r"run\.minimum_clients = 100: expected at most"):
        limbeck.simulate(invalid, out=tmp_path / "run")
    with pytest.raises(SettingError, match="Expected a TOML file or one of the scenarios"):
        limbeck.simulate(tmp_path / "digits-tiny", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
