"""The mutants still fit the tree, and their runner tells killed from survived. They run by `make mutants`, not here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import run

THING = "def double(x: int) -> int:\n    return 2 * x\n"
TEST = """
import subprocess, sys
from limbeck.client.thing import double

def test_double():
    assert double(3) == 6

def test_double_in_a_process():
    code = "from limbeck.client.thing import double; import sys; sys.exit(double(3) - 6)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

def test_nothing():
    double(3)
"""


def entry(name: str, old: str, new: str, test: str = "test_double", more: str = "") -> str:
    """One mutant of the thing."""
    return (
        f"[[mutant]]\nname = '{name}'\nfile = 'client/thing.py'\nold = '''{old}'''\nnew = '''{new}'''\n"
        f"tests = ['tests/test_thing.py::{test}']\n{more}\n"
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of one function and its tests."""
    for name in ("client", "tests/mutants"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "client" / "__init__.py").touch()
    (tmp_path / "client" / "thing.py").write_text(THING)
    (tmp_path / "tests" / "test_thing.py").write_text(TEST)
    return tmp_path


def run_on(tree: Path, *options: str) -> tuple[int, str]:
    """The runner's exit status and what it prints."""
    command = [sys.executable, run.__file__, "--root", str(tree), "--jobs", "1", *options, "--preload"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, env={**os.environ, "COLUMNS": "200"}
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def test_every_mutant_still_applies_and_names_tests_that_exist() -> None:
    mutants, stale = run.read(run.ROOT)
    assert not [f"{one.name}: {one.detail}" for one in stale]
    assert mutants


def test_killed_survived_stale_and_senseless_mutants_are_told_apart(tree: Path) -> None:
    (tree / "tests" / "mutants" / "thing.toml").write_text(
        entry("killed here", "2 * x", "3 * x")
        # The same size and second as the one before: a stale compiled file would let it survive.
        + entry("killed in a process", "2 * x", "4 * x", "test_double_in_a_process")
        + entry("survives", "2 * x", "5 * x", "test_nothing")
        + entry("killed by expression", "2 * x", "6 * x").replace("::test_double'", "', '-k', 'double and not process'")
        + entry("no program", "2 * x", "2 * y")
        + entry("cannot be collected", "def double", "def treble")
        + entry("does not apply", "2 * z", "3 * z")
        + entry("no such test", "2 * x", "3 * x", "test_other")
        + entry("killed here", "x: int", "x: float")
    )
    status, out = run_on(tree)
    assert status == 1
    for line in (
        "survived: thing: survives",
        "+    return 5 * x",
        "error: thing: no program",
        "error: thing: cannot be collected",
        "does not apply: thing: does not apply",
        "old occurs 0 times in client/thing.py",
        "there is no such test: tests/test_thing.py::test_other",
        "the name is taken: thing: killed here",
    ):
        assert line in out
    table = [line.split("│")[1:3] for line in out.splitlines() if line.startswith("│")]
    assert {(name.strip(), int(count)) for name, count in table} == {
        ("killed", 3), ("survived", 1), ("does not apply", 3), ("error", 2),
    }  # fmt: skip
    assert (tree / "client" / "thing.py").read_text() == THING
    assert run_on(tree, "--only", "killed (here|in)", "--shard", "2/2")[0] == 1  # the name that is taken twice
    assert run_on(tree, "--only", "killed in")[0] == 0


def test_a_mutant_that_hangs_is_killed_only_if_it_says_so(tree: Path) -> None:
    hang = "__import__('time').sleep(1e6)"
    (tree / "tests" / "mutants" / "thing.toml").write_text(
        entry("hangs unsaid", "2 * x", hang, "test_double_in_a_process")
        + entry("may hang", "2 * x", hang, more="may_hang = true")
    )
    status, out = run_on(tree, "--patience", "1")
    assert status == 1
    assert "error: thing: hangs unsaid" in out
    assert "hangs: no end within 1 s" in out
    assert "may hang" not in out.split("Slowest")[0]


def test_no_mutant_is_judged_by_tests_that_fail_anyway(tree: Path) -> None:
    (tree / "tests" / "mutants" / "thing.toml").write_text(entry("killed here", "2 * x", "3 * x"))
    (tree / "tests" / "test_thing.py").write_text(TEST.replace("== 6", "== 7"))
    status, out = run_on(tree)
    assert status == 2
    assert "without any mutant" in out
