"""Mistakes that users make: each is told in words that name it, before anything is charged (docs/mistakes.md has the same rows)."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from helpers import sample_files
from limbeck.base.errors import LimbeckError
from limbeck.cli.main import app
from limbeck.inputs import encodings
from limbeck.protos import signing

DOCUMENT = Path(__file__).parent.parent / "docs" / "mistakes.md"
X = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
ROWS = np.random.default_rng(0).normal(size=(40, 64))
ROW_SETTINGS = ("teacher.features=rows", "student.architecture=mlp")


# In a plan


@dataclass(frozen=True, kw_only=True)
class PlanMistake:
    """arrays: of the file of public inputs. settings: of the plan, changed. says: words of the message."""

    says: str
    arrays: dict[str, NDArray[np.generic]] | None = None
    settings: tuple[str, ...] = ()
    encoded: bool = False


def _with(x_N: NDArray[np.uint8], value: float) -> NDArray[np.float64]:
    changed: NDArray[np.float64] = x_N / 255
    changed[3, 4] = value
    return changed


REFUSED = {
    "one NaN in the public inputs": PlanMistake(arrays={"x": _with(X, np.nan)}, says="finite numbers, got NaN"),
    "five public inputs": PlanMistake(arrays={"x": X[:5]}, says="at least 10 inputs, got 5"),
    "one public input again and again": PlanMistake(
        arrays={"x": X[:1].repeat(40, 0)}, says="differ from one another, got 1"
    ),
    "numbers that overflow features": PlanMistake(
        arrays={"x": ROWS * 1e6}, settings=ROW_SETTINGS, says="scale them, or make rows of a table by `limbeck plan encode`"
    ),
    "images from 0 to 255 with fractions": PlanMistake(arrays={"x": X * 0.99}, says="round them, or divide them by 255"),
    "rows narrower than the encoding": PlanMistake(
        arrays={"x": ROWS[:, :1]},
        settings=ROW_SETTINGS,
        encoded=True,
        says="rows of 2 numbers, as the public encoding makes them",
    ),
    "rows for a teacher of images": PlanMistake(
        arrays={"x": ROWS}, settings=("teacher.features=scattering",), says="Expected grey images of at least 4 x 4"
    ),
    "k = 3 for two classes": PlanMistake(settings=("classes=2",), says="release.k = 3: expected at most the 2 classes"),
    "100,000,000 classes": PlanMistake(
        settings=("classes=100000000",), says="Expected classes in [2, 65536], got 100000000"
    ),
    "one weight of a class too few": PlanMistake(
        settings=("teacher.class_weights=[1, 0.5]",),
        says="teacher.class_weights = [1.0, 0.5]: expected one for each of the 10 classes",
    ),
}
WARNED = {
    "few public inputs": PlanMistake(says="40 public inputs for 10 classes"),
    "repeated public inputs": PlanMistake(
        arrays={"x": np.concatenate([X[:20], X[:20]])}, says="20 of 40 public inputs repeat others"
    ),
    "public inputs that are nearly the same": PlanMistake(
        arrays={"x": ROWS * 1e-4 + 50}, settings=ROW_SETTINGS, says="public inputs that are nearly the same"
    ),
    "a raw table as public inputs": PlanMistake(
        arrays={"x": ROWS * 300}, settings=ROW_SETTINGS, says="take numbers as they are, and expect them about 1 in size"
    ),
    "sixteen levels of grey": PlanMistake(arrays={"x": X // 16}, says="images of which no pixel is above 15"),
    "pixels as rows of int64": PlanMistake(
        arrays={"x": X.reshape(40, 64).astype(np.int64)}, settings=ROW_SETTINGS, says="rows of whole numbers from 0 to 255"
    ),
    "three classes for labels of two": PlanMistake(
        arrays={"x": X, "y": np.arange(40) % 2},
        settings=("classes=3",),
        says="classes = 3: the labels of the public inputs have only 2 values",
    ),
    "labels that are no class": PlanMistake(
        arrays={"x": X, "y": np.array(["cat", "dog"] * 20)}, says="none of the plan's classes: cat, dog"
    ),
    "a large δ": PlanMistake(settings=("privacy.delta=0.01",), says="privacy.delta = 0.01: expected far less than 1 / 300"),
    "weights of rare classes above 1": PlanMistake(
        settings=(f"teacher.class_weights={[1] * 9 + [20]}",), says="a gradient that is clipped anyway cannot count for more"
    ),
}


@pytest.fixture
def author(tmp_path: Path) -> Path:
    """A folder with a key and the settings of a plan."""
    signing.new_key(tmp_path / "plan.key")
    CliRunner().invoke(
        app, ["plan", "settings", "digits-tiny", "--out", str(tmp_path / "plan.toml")], catch_exceptions=False
    )
    return tmp_path


def _make(folder: Path, mistake: PlanMistake) -> list[str]:
    """The command that makes a plan with this mistake."""
    np.savez(folder / "public.npz", **(mistake.arrays or {"x": X}))  # type: ignore[arg-type]
    paths = {"transfer": "public.npz", "key": "plan.key", "out": "plan.pb", "publish": "transfer-sets"}
    if mistake.encoded:
        encodings.save(encodings.TextEncoding(column="text", words=("a", "b"), idf=(1.0, 2.0)), folder / "encoding.json")
        paths["encoding"] = "encoding.json"
    command = ["plan", "make", str(folder / "plan.toml")]
    for name, value in paths.items():
        command += [f"--{name}", str(folder / value)]
    for setting in mistake.settings:
        command += ["--set", setting]
    return command


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_in_a_plan_is_refused_in_words_that_name_it_and_nothing_is_written(name: str, author: Path) -> None:
    with pytest.raises(LimbeckError) as caught:
        CliRunner().invoke(app, _make(author, REFUSED[name]), catch_exceptions=False)
    assert REFUSED[name].says in str(caught.value)
    assert not (author / "plan.pb").exists()
    assert not (author / "transfer-sets").exists()


@pytest.mark.parametrize("name", WARNED)
def test_what_looks_like_a_mistake_in_a_plan_is_said_by_the_command_that_makes_it(name: str, author: Path) -> None:
    made = CliRunner().invoke(app, _make(author, WARNED[name]), catch_exceptions=False)
    assert made.exit_code == 0, made.output
    assert f"warning: {WARNED[name].says}" in made.stderr or WARNED[name].says in made.stderr


def test_the_documentation_has_a_row_for_each_mistake_in_a_plan_and_no_other() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("## In a plan")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)
    assert sorted(row for row in rows if row != "mistake") == sorted([*REFUSED, *WARNED])


# In a simulation


def _wine(folder: Path) -> list[str]:
    return [str(sample_files.wine(folder)), "--label", "cultivar", "--drop", "id"]


def _changed_wine(folder: Path, change: Callable[[int, dict[str, str]], object]) -> list[str]:
    """The same with rows changed, each in a dictionary."""
    with sample_files.wine(folder).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    for number, row in enumerate(rows):
        change(number, row)
    sample_files.write_csv(folder / "wine.csv", list(rows[0]), [list(row.values()) for row in rows], delimiter=";")
    return [str(folder / "wine.csv"), "--label", "cultivar", "--drop", "id"]


def _several_in_a_cell(folder: Path) -> list[str]:
    both = ("red", "dry", "red;dry", "dry;red")
    return _changed_wine(folder, lambda number, row: row.update(cultivar=both[number % 4]))


def _several_in_an_array(folder: Path) -> list[str]:
    np.savez(folder / "own.npz", x=X, y=np.ones((40, 4)))
    return [str(folder / "own.npz")]


def _no_images(folder: Path) -> list[str]:
    (folder / "scans" / "ill").mkdir(parents=True)
    (folder / "scans" / "ill" / "one.dcm").write_bytes(b"")
    return [str(folder / "scans")]


def _array(folder: Path) -> list[str]:
    np.save(folder / "x.npy", X)
    return [str(folder / "x.npy")]


# Of each mistake the words after `limbeck simulate`, and what is said.
SIMULATED: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "a file without a column of labels": (lambda folder: _wine(folder)[:1], "Expected --label with the column of labels in"),
    "a misspelt column": (
        lambda folder: [*_wine(folder)[:1], "--label", "Cultivar"],
        "Expected a column 'Cultivar' in",
    ),
    "a quantity as the label": (
        lambda folder: [*_wine(folder)[:1], "--label", "proline"],
        "predicting a quantity (regression) is not built",
    ),
    "several labels in a cell": (_several_in_a_cell, "several labels per record (multi-label) are not built"),
    "several labels in an array": (_several_in_an_array, "Expected one label per record in array 'y' of"),
    "a name as the label": (
        lambda folder: _changed_wine(folder, lambda number, row: row.update(cultivar=f"wine {number} of Piedmont")),
        "this is a column of names or texts, not of labels",
    ),
    "the private file as the public one": (
        lambda folder: [*_wine(folder), "--public", str(folder / "wine.csv")],
        "data.public: expected records that are not private or tested on, got 178, all of which are",
    ),
    "more public inputs than records": (
        lambda folder: [*_wine(folder), "--public", "500"],
        "data.public = 500: expected fewer than the 178 records",
    ),
    "half public, half for the test": (
        lambda folder: [*_wine(folder), "--public", "0.5", "--test", "0.5"],
        "data.public + data.test = 0.5 + 0.5: expected less than 1",
    ),
    "a public site that there is not": (
        lambda folder: [*_wine(folder), "--site", "cellar", "--public", "Turin"],
        "data.public = ['Turin']: expected sites out of A, B, C, D, got 'Turin'",
    ),
    "one person for all records": (
        lambda folder: [
            *_changed_wine(folder, lambda number, row: row.update(id="1"))[:3],
            *("--group", "id"),
        ],
        "data.test: expected 36 of 178 records, got none: records that belong together",
    ),
    "sites around classes that nobody named": (
        lambda folder: [str(sample_files.digit_images(folder, count=40))],
        'if these are sites, set data.site = "outer"',
    ),
    "a folder of DICOM files": (_no_images, "Expected images or .txt files in folders by class below"),
    "an .npy file": (_array, "Expected an .npz file with inputs and labels"),
    "fewer sites than the plan needs": (
        lambda folder: [*_wine(folder), "--site", "cellar", "--set", "run.minimum_clients=9"],
        "run.minimum_clients = 9: expected at most the 4 sites of the data",
    ),
    "options of a file for a scenario": (
        lambda folder: ["digits-tiny", "--label", "y"],
        "Expected --label with a file or folder of your own data, got the scenario 'digits-tiny'",
    ),
}
# Of each the same; these are run.
SAID: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "a public file that shares records with the private one": (
        lambda folder: [
            *("--public", str(sample_files.wine(folder, rows=range(60), name="public.csv")), "--test", "0.5"),
            *_changed_wine(folder, lambda number, row: row.update(alcohol=row["alcohol"] if number % 5 else "12,5")),
        ],
        "records of data.public are also private or in the test set, or of the same person: they are left out of it.",
    ),
    "public inputs that are your own records": (_wine, "The public inputs are 36 of your own records, without their labels"),
    "records without a label": (
        lambda folder: _changed_wine(folder, lambda number, row: row.update(cultivar="" if number < 5 else row["cultivar"])),
        "5 of 178 records have no label and are left out, the first in row 1.",
    ),
    "sites of a few records": (
        lambda folder: [
            *_changed_wine(folder, lambda number, row: row.update(cellar="hut" if number % 10 else "keep")),
            *("--site", "cellar"),
        ],
        "1 of 2 sites have fewer than 20 records, of which a teacher learns little but noise: keep.",
    ),
    "a site that lacks a class": (
        lambda folder: [
            *_changed_wine(folder, lambda number, row: row.update(cellar=row["cultivar"][:6])),
            *("--site", "cellar"),
        ],
        "3 of 3 sites have no record of some class: barber (only barbera)",
    ),
    "a class that the public inputs lack": (
        lambda folder: [
            *_changed_wine(folder, lambda number, row: row.update(cellar="ABC"[number % 3] if number > 58 else "barolo")),
            *("--site", "cellar", "--public", "barolo"),
        ],
        "No public record is of class barbera, grignolino: the student sees no example of it.",
    ),
    "several records of a person": (
        lambda folder: [str(sample_files.tumours(folder)), "--label", "diagnosis", "--group", "patient"],
        "persons have more than one record, up to 2: for such a person epsilon is",
    ),
}


@pytest.mark.parametrize("name", SIMULATED)
def test_a_mistake_in_a_simulation_is_refused_in_words_that_name_it_before_a_site_has_a_ledger(
    name: str, tmp_path: Path
) -> None:
    words, says = SIMULATED[name]
    with pytest.raises(LimbeckError) as caught:
        CliRunner().invoke(app, ["simulate", *words(tmp_path), "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", SAID)
def test_what_looks_like_a_mistake_in_a_simulation_is_said_before_the_first_site_trains(name: str, tmp_path: Path) -> None:
    words, says = SAID[name]
    command = ["simulate", *words(tmp_path), "--prepare-only", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert says in " ".join(done.output.split())
    assert not list((tmp_path / "run").rglob("*ledger*"))


def test_the_documentation_has_a_row_for_each_mistake_in_a_simulation_and_no_other() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("## In a simulation")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)
    assert sorted(row for row in rows if row != "mistake") == sorted([*SIMULATED, *SAID])


# In a public table


@dataclass(frozen=True, kw_only=True)
class TableMistake:
    """columns: of the public table. words: of the command. file: the public table's name. says: words of the message."""

    says: str
    columns: dict[str, list[str]]
    words: tuple[str, ...] = ()
    file: str = "public.csv"


PATIENTS = {
    "id": [f"p{row}" for row in range(60)],
    "age": [str(20 + row) for row in range(60)],
    "sex": ["m", "f", "f"] * 20,
    "diagnosis": ["ill", "well"] * 30,
}
LABELLED = ("--label", "diagnosis")
UNREADABLE = {
    "the label's column misspelt": TableMistake(
        columns=PATIENTS, words=("--label", "diagnosi"), says="Expected a column 'diagnosi' in"
    ),
    "a header and nothing else": TableMistake(columns={name: [] for name in PATIENTS}, says="found a header alone"),
    "identifiers alone": TableMistake(columns={"id": PATIENTS["id"]}, says="that says something about records, found none"),
    "a column said to be numbers that is words": TableMistake(
        columns=PATIENTS, words=(*LABELLED, "--as", "sex=number"), says="Expected values of the kind number as 'sex' in"
    ),
    "a name twice in the header": TableMistake(
        columns={"id": PATIENTS["id"], "age,age": [f"{age},1" for age in PATIENTS["age"]]}, says="distinct column names"
    ),
    "a file of another kind": TableMistake(columns=PATIENTS, file="records.npz", says="Expected a table, named"),
}
LOOKED_AT = {
    "the label not named": TableMistake(
        columns=PATIENTS, says="No column is the label. If the table has one, say so by --label"
    ),
    "zeros for values that nobody measured": TableMistake(
        columns={"chol": [str(0 if row % 4 == 0 else 100 + row) for row in range(60)]},
        says="! 0 in 25% of the rows, all others from 101 on: not known?",
    ),
    "999 for values that nobody knows": TableMistake(
        columns={"age": [str(999 if row % 5 == 0 else 20 + row) for row in range(60)]},
        says="! 999 in 20% of the rows, all others from 21 to 79: not known?",
    ),
    "dates that may begin with the day or the month": TableMistake(
        columns={**PATIENTS, "seen": [f"{1 + row % 9}/{1 + row % 12}/2025" for row in range(60)]},
        says="! dates of which nobody can tell day and month: say day-first or month-first",
    ),
    "dates with years of two digits": TableMistake(
        columns={**PATIENTS, "seen": [f"{1 + row % 28}.{1 + row % 12}.25" for row in range(60)]},
        says="! dates with years of two digits are not read: write four",
    ),
    "two numbers in one cell": TableMistake(
        columns={**PATIENTS, "pressure": [f"{100 + row}/{60 + row // 2}" for row in range(60)]},
        says="! two numbers in one cell are not read: give each a column",
    ),
    "words among numbers": TableMistake(
        columns={**PATIENTS, "dose": [str(row % 8 / 2) if row % 4 else "none" for row in range(60)]},
        says="! 75% of the cells are numbers: as a number, the others would count as missing",
    ),
}


def _encode(folder: Path, mistake: TableMistake) -> list[str]:
    """The command that encodes a table with this mistake."""
    rows = [",".join(mistake.columns), *(",".join(row) for row in zip(*mistake.columns.values(), strict=True))]
    (folder / mistake.file).write_text("\n".join(rows))
    out = ["--out", str(folder / "rows.npz"), "--encoding", str(folder / "encoding.json")]
    return ["plan", "encode", str(folder / mistake.file), *mistake.words, *out]


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_mistake_in_a_public_table_is_refused_in_words_that_name_it_and_nothing_is_written(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(LimbeckError) as caught:
        CliRunner().invoke(app, _encode(tmp_path, UNREADABLE[name]), catch_exceptions=False)
    assert UNREADABLE[name].says in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [UNREADABLE[name].file]


@pytest.mark.parametrize("name", LOOKED_AT)
def test_what_looks_like_a_mistake_in_a_public_table_is_said_by_the_command_that_encodes_it(
    name: str, tmp_path: Path
) -> None:
    encoded = CliRunner().invoke(app, _encode(tmp_path, LOOKED_AT[name]), catch_exceptions=False)
    assert encoded.exit_code == 0, encoded.output
    assert LOOKED_AT[name].says in " ".join(encoded.output.replace("  ", " ").split())
    assert (tmp_path / "rows.npz").exists()


def test_the_documentation_has_a_row_for_each_mistake_in_a_public_table_and_no_other() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("## In a public table")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)
    assert sorted(row for row in rows if row != "mistake") == sorted([*UNREADABLE, *LOOKED_AT])
