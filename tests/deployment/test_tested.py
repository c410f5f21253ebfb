"""Labelled inputs of a coordinator: which class each label is, by the one rule for labels, and what is shown of a student on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from helpers import recorded_runs
from limbeck.base.errors import DataError
from limbeck.cli.main import app
from limbeck.deployment import status, watch
from limbeck.deployment.tested import TestData
from limbeck.plans.schema import Plan
from limbeck.server import checkpoint, distil, scores, student
from limbeck.server.pruning import Masks

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMED = replace(recorded_runs.RUN_PLAN, class_names=WORDS)
COUNTED = recorded_runs.RUN_PLAN
Array = NDArray[np.generic]


def digits(*, rare: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Real handwritten digits and their labels. rare: a digit of which only a few are kept."""
    bundled = load_digits()
    x_N, y_N = (bundled.images * 255 / 16).round().astype(np.uint8)[:400], bundled.target.astype(np.int64)[:400]
    kept = np.ones(len(y_N), np.bool_)
    if rare is not None:
        kept[np.flatnonzero(y_N == rare)[5:]] = False
    return x_N[kept], y_N[kept]


def write(folder: Path, y: Array, x: Array | None = None, **more: Array) -> Path:
    path = folder / "test.npz"
    np.savez(path, x=digits()[0] if x is None else x, y=y, **more)  # type: ignore[arg-type]
    return path


def run(folder: Path, plan: Plan) -> tuple[Path, torch.nn.Module]:
    """A run with the checkpoint of a student after its first stage, and the student."""
    made = recorded_runs.make(folder / "run", plan)
    torch.manual_seed(0)
    model = student.build(plan.student.architecture, (8, 8), plan.classes, plan.public_seed)
    checkpoint.save_stage(made / "checkpoints", 0, model, Masks.ones(model), torch.zeros(20, plan.classes))
    return made, model


# Which class a label is.


@pytest.mark.parametrize(
    "spelt",
    [
        [*WORDS],
        [name.upper() for name in WORDS],
        [f" {name.capitalize()} " for name in WORDS],
    ],
)
def test_labels_named_by_words_are_the_plans_classes_however_they_are_spelt(spelt: list[str], tmp_path: Path) -> None:
    _, y_N = digits()
    found = TestData(write(tmp_path, np.array(spelt)[y_N])).labels(NAMED)
    np.testing.assert_array_equal(found, y_N)


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.float32, np.str_])
def test_a_plan_that_counts_its_classes_takes_numbers_from_0_on(kind: type, tmp_path: Path) -> None:
    _, y_N = digits()
    np.testing.assert_array_equal(TestData(write(tmp_path, y_N.astype(kind))).labels(COUNTED), y_N)


def test_classes_in_another_order_are_matched_by_name_and_it_is_said(tmp_path: Path) -> None:
    _, y_N = digits()
    order = np.random.default_rng(0).permutation(10)
    # Their number i is the digit order[i].
    data = TestData(write(tmp_path, np.argsort(order)[y_N], classes=np.array(WORDS)[order]))
    np.testing.assert_array_equal(data.labels(NAMED), y_N)
    assert "another order" in data.tested(NAMED).note
    same = TestData(write(tmp_path, y_N, classes=np.array(WORDS)))
    np.testing.assert_array_equal(same.labels(NAMED), y_N)
    assert same.tested(NAMED).note == ""


def test_numbers_for_a_plan_of_words_are_refused_with_the_line_to_write(tmp_path: Path) -> None:
    _, y_N = digits()
    with pytest.raises(DataError, match=r"got numbers\. .* numpy\.savez\(\.\.\., classes=\['zero', 'one', "):
        TestData(write(tmp_path, y_N)).labels(NAMED)


def test_labels_that_begin_at_1_are_noticed(tmp_path: Path) -> None:
    _, y_N = digits()
    with pytest.raises(
        DataError, match=r"got '10' in \d+ of 400 inputs\. Labels 1 to 10 begin at 1: subtract 1 from them\."
    ):
        TestData(write(tmp_path, y_N + 1)).labels(COUNTED)


@pytest.mark.parametrize(
    ("y", "more", "wanted"),
    [
        (np.array(["ten"] * 400), {}, "got 'ten' in 400 of 400 inputs"),
        (np.full(400, 10), {"classes": np.array(WORDS)}, "Expected y from 0 to 9 .* got 10 to 10"),
        (np.full(400, -1), {"classes": np.array(WORDS)}, "Expected y from 0 to 9 .* got -1 to -1"),
        (np.zeros(400, int), {"classes": np.array(["nought", *WORDS[1:]])}, "got 'nought' in 400 of 400 inputs"),
        (np.array(["one"] * 400), {"classes": np.array(WORDS)}, "Expected whole numbers y and the label of each"),
        (np.zeros((400, 2), int), {}, r"labels y \(N,\)"),
    ],
)
def test_what_is_of_no_class_is_refused_and_named(y: Array, more: dict[str, Array], wanted: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=wanted):
        TestData(write(tmp_path, y, **more)).labels(NAMED)


def test_inputs_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder, _ = run(tmp_path, COUNTED)
    data = TestData(write(tmp_path, np.zeros(4, int), x=np.zeros((4, 9, 9), np.uint8)))
    with pytest.raises(DataError, match=r"Expected inputs x of the plan's shape in .*, got \(N, 9, 9\)"):
        data.scores(folder, COUNTED, 0)


# What is shown.


@pytest.mark.parametrize("rare", [None, 8])
def test_status_and_page_show_every_measure_and_the_majority_class(rare: int | None, tmp_path: Path) -> None:
    folder, model = run(tmp_path, NAMED)
    x_N, y_N = digits(rare=rare)
    path = write(tmp_path, np.array(WORDS)[y_N], x=x_N)
    expected = scores.score(distil.predict(model, torch.from_numpy(x_N)).numpy(), y_N, WORDS)
    assert expected.unbalanced is (rare is not None)
    found = status.read(folder, TestData(path))
    assert found.stages[0].scores == expected
    assert (found.stages[0].accuracy, found.stages[1].scores) == (expected.accuracy, None)
    assert found.tested is not None
    assert found.tested.majority == scores.majority(y_N, 10, WORDS)

    shown = CliRunner().invoke(app, ["status", str(folder), "--test", str(path)], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    assert max(map(len, shown.output.splitlines()[:40])) <= 80
    row = [expected.accuracy, expected.balanced_accuracy, expected.f1]
    wanted = [f"{100 * value:.1f}" for value in row] + [f"{expected.auc:.3f}", f"{expected.auprc:.3f}"]
    (line,) = [line for line in shown.output.splitlines() if line.startswith("stage 1")]
    assert line.split()[2:7] == wanted
    (line,) = [line for line in shown.output.splitlines() if line.startswith("majority class")]
    assert line.split()[2] == f"{100 * found.tested.majority.accuracy:.1f}"
    assert ("Classes are unbalanced" in shown.output) is (rare is not None)
    first = next(line for line in shown.output.splitlines() if line.split()[:1] and line.split()[0] in WORDS)
    assert first.split()[1] == str(min(np.bincount(y_N)))

    answer = json.loads(CliRunner().invoke(app, ["status", str(folder), "--test", str(path), "--json"]).output)
    assert answer["stages"][0]["scores"]["classes"][3]["name"] == "three"
    assert answer["tested"]["majority"]["accuracy"] == found.tested.majority.accuracy

    page = watch.fragment(folder, TestData(path), now=0.0)
    main = "balanced accuracy" if rare else "accuracy"
    assert f"{main.capitalize()} on labelled inputs, %" in page
    assert f"{main.capitalize()} per stage, per cent; of the majority class" in page
    assert 'class="majority"' in page
    assert f"<b>stage 1</b><td>{100 * expected.accuracy:.1f} %<td>{100 * expected.balanced_accuracy:.1f} %" in page
    assert "<b>three</b>" in page


def test_classes_without_labelled_inputs_are_named(tmp_path: Path) -> None:
    folder, _ = run(tmp_path, NAMED)
    x_N, y_N = digits()
    path = write(tmp_path, np.array(WORDS)[y_N[y_N < 8]], x=x_N[y_N < 8])
    shown = CliRunner().invoke(app, ["status", str(folder), "--test", str(path)], env={"COLUMNS": "80"})
    assert "Without labelled inputs: eight, nine." in shown.output
    assert "Without labelled inputs: eight, nine." in watch.fragment(folder, TestData(path), now=0.0)


def test_a_page_without_labelled_inputs_says_how_to_measure(tmp_path: Path) -> None:
    folder, _ = run(tmp_path, NAMED)
    page = watch.fragment(folder, now=0.0)
    assert "<code>--test FILE.npz</code> measures accuracy" in page
    assert "majority class" not in page


def test_labels_of_no_class_are_an_error_on_the_page_and_of_the_command(tmp_path: Path) -> None:
    folder, _ = run(tmp_path, NAMED)
    path = write(tmp_path, digits()[1])
    assert "by the plan&#39;s names" in watch.fragment(folder, TestData(path), now=0.0)
    shown = CliRunner().invoke(app, ["status", str(folder), "--test", str(path)])
    assert isinstance(shown.exception, DataError)
