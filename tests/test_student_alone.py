"""A student is used where there is no torch: by limbeck with NumPy and onnxruntime alone, and by onnxruntime without limbeck."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import limbeck.base
import limbeck.inputs
import limbeck.server
from helpers import onnx_students
from helpers.onnx_students import CARD
from limbeck.server.card import Inputs

PAGE = Path(__file__).parent.parent / "docs" / "students.md"
# Of the libraries that are installed here, all that this interpreter may see.
PACKAGES = ("numpy", "numpy.libs", "onnxruntime")
DIGITS = replace(CARD, class_names=tuple("0123456789"), inputs=Inputs(kind="bytes", shape=(8, 8), low=0, high=255))
# What nobody can import, even from a folder that is there.
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "flwr", "grpc", "pydantic", "rich", "onnx"} | set(sys.argv[2:]):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
sys.path.append(sys.argv[1])
"""
BY_LIMBECK = """
import json, limbeck, numpy
student = limbeck.load_student("student.onnx")
p = student.predict(numpy.eye(8, dtype=numpy.uint8)[None] * 255)
print(json.dumps([p.tolist(), student.class_names, str(student.epsilon), student.card.plan, sorted(sys.modules)]))
"""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder of packages without torch; of limbeck what a student needs, by links."""
    packages = tmp_path / "packages"
    packages.mkdir()
    installed = Path(np.__file__).parent.parent
    for name in PACKAGES:
        if (installed / name).exists():
            (packages / name).symlink_to(installed / name)
    (packages / "limbeck").mkdir()
    (packages / "limbeck" / "__init__.py").symlink_to(limbeck.__file__)
    for package in (limbeck.base, limbeck.inputs, limbeck.server):
        (packages / "limbeck" / package.__name__.partition(".")[2]).symlink_to(Path(str(package.__file__)).parent)
    return packages


def run(program: str, packages: Path, folder: Path, *blocked: str) -> str:
    # -I and -S: neither the environment nor what is installed for this interpreter.
    command = [sys.executable, "-I", "-S", "-c", BLOCKED + program, str(packages), *blocked]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_limbeck_predicts_where_there_is_no_torch(bare: Path, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 10))
    folder = onnx_students.write(tmp_path / "student", onnx_students.weighted(weight, (8, 8)), DIGITS)
    p, names, epsilon, plan, modules = json.loads(run(BY_LIMBECK, bare, folder))
    expected = limbeck.load_student(folder).predict(np.eye(8, dtype=np.uint8)[None] * 255)
    np.testing.assert_allclose(p, expected, rtol=1e-6)
    assert names == list("0123456789")
    assert epsilon == "epsilon = 3 at delta = 1e-05, per record, add-remove-one"
    assert plan == "hearts"
    assert "onnxruntime" in modules
    assert not {"torch", "onnx", "pydantic", "rich"} & set(modules)


def test_the_lines_of_the_page_need_onnxruntime_alone(bare: Path, tmp_path: Path) -> None:
    lines = re.search(r"```python\n(import json, numpy, onnxruntime\n.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert lines is not None
    assert len([line for line in lines[1].splitlines() if line]) == 5
    weight = np.zeros((64, 10))
    folder = onnx_students.write(tmp_path / "student", onnx_students.weighted(weight, (8, 8)), DIGITS)
    assert run(lines[1], bare, folder, "limbeck").strip() == "['0', '0']"
