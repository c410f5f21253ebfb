"""The package is what its folders are, and a wheel works on its own: typed, and without the checkout that it was built from."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.early

ROOT = Path(__file__).parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]

# What somebody would write against the installed package. mypy must know every type in it.
PROGRAM = """
import sys
from pathlib import Path

import limbeck
from limbeck.operators import Power, TopK


def shrink(folder: Path) -> float:
    scenario = limbeck.Scenario.load("digits-tiny", ["student.epochs=1", "data.public=60", "student.dense_control=false"])
    try:
        run: limbeck.Run = limbeck.simulate(scenario, out=folder, progress=False)
    except limbeck.LimbeckError as error:
        raise SystemExit(str(error)) from None
    student: limbeck.Student = limbeck.load_student(folder)
    rows, classes = student.predict([[[0.0] * 8] * 8]).shape
    assert (rows, classes) == (1, student.classes)
    spent: list[float] = [epsilon.value for epsilon in run.epsilons.values()]
    stages: tuple[limbeck.Student, ...] = limbeck.load_run(str(folder)).students
    assert len(stages) == len(run.metrics.stages) and isinstance(Power(2.0), limbeck.operators.Power) and TopK(3).k == 3
    return max(spent)


print(limbeck.__version__, limbeck.__file__, shrink(Path("run")), "torch._dynamo" in sys.modules)
"""
# Each line is a mistake that a type checker must see, so that no type is Any.
MISTAKES = """
import limbeck

limbeck.simulate("digits-tiny", out=3)
limbeck.load_run("run").epsilons["site-00"] + 1
limbeck.load_run("run").metrics.student.acuracy
limbeck.load_student("run").predict([[0.0]]).shapes
limbeck.load_students
limbeck.operators.Power("2")
limbeck.__version__ + 1
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks or would track."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    tracked = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = [*PIP, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder), str(folder / "source")]
    subprocess.run(build, check=True)
    (path,) = folder.glob("limbeck-*.whl")
    return path


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the wheel, and behind it the libraries that are installed here, but not this checkout."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run(
        [*PIP, "--python", str(python), "install", "--no-deps", "--no-index", "--no-compile", str(wheel)], check=True
    )
    # Paths in a .pth file are searched last, and the .pth files in them, such as an editable install's, are not read.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run_in(program: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in `folder`, so that it sees no other limbeck."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "MYPYPATH"}}
    return subprocess.run(
        [str(program), *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=1800
    )


def test_every_folder_with_code_is_a_listed_package() -> None:
    tops = [path.parent for path in ROOT.glob("[a-z]*/__init__.py") if path.parent.name != "limbeck"]
    folders = {path.parent for top in tops for path in top.rglob("__init__.py")}
    expected = {"limbeck." + ".".join(folder.relative_to(ROOT).parts): str(folder.relative_to(ROOT)) for folder in folders}
    expected["limbeck"] = "limbeck"
    assert SETTINGS["tool"]["setuptools"]["package-dir"] == expected
    assert sorted(SETTINGS["tool"]["setuptools"]["packages"]) == sorted(expected)
    (linked,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("PACKAGES := ")]
    assert sorted(linked.split()[2:]) == sorted(top.name for top in tops)


def test_a_wheel_says_that_it_is_typed(wheel: Path) -> None:
    assert "limbeck/py.typed" in ZipFile(wheel).namelist()


def test_a_wheel_installs_the_command(clean_python: Path, tmp_path: Path) -> None:
    done = run_in(clean_python.parent / "limbeck", tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"limbeck {SETTINGS['project']['version']}\n"), done.stderr


def test_a_program_against_the_wheel_is_strictly_typed_and_runs_a_scenario(clean_python: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    checked = run_in(clean_python, tmp_path, "-m", "mypy", "--strict", "--cache-dir", ".mypy", "program.py")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    checked = run_in(clean_python, tmp_path, "-m", "mypy", "--strict", "--cache-dir", ".mypy", "mistakes.py")
    lines = [int(line.split(":")[1]) for line in checked.stdout.splitlines() if ": error:" in line]
    assert lines == [number for number, line in enumerate(MISTAKES.splitlines(), start=1) if number > 3 and line], (
        checked.stdout
    )
    done = run_in(clean_python, tmp_path, "program.py")
    assert done.returncode == 0, done.stderr
    version, file, epsilon, compiler = done.stdout.split()
    assert version == SETTINGS["project"]["version"]
    assert Path(file).is_relative_to(clean_python.parent.parent)
    assert 0 < float(epsilon) <= 8
    # torch's compiler takes seconds to load, and nothing in a run is compiled.
    assert compiler == "False"
    assert (tmp_path / "run" / "report.html").stat().st_size > 50_000
