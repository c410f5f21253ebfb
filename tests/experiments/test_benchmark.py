"""`limbeck benchmark`: the same records for all, choices without test data, nothing run twice, a page that says where limbeck is behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from helpers.result_pages import Page
from limbeck.base.errors import RunError, SettingError
from limbeck.cli.main import app
from limbeck.experiments.baselines import choice, figures, methods, page, run, settings, suites
from limbeck.experiments.baselines.choice import Choice, Tried
from limbeck.experiments.baselines.contract import Guarantee, Outcome, Reached, Setting
from limbeck.experiments.baselines.limbeck_runs import Teachers
from limbeck.experiments.baselines.run import Reported, Task
from limbeck.experiments.baselines.suites import Cell, Suite

TINY = ("data.private=300", "data.public=80", "teacher.steps=5", "teacher.average_last=2", "student.dense_control=false")
CELLS = tuple(
    Cell(name=f"ε = {epsilon}", at=float(epsilon), scenario="digits-tiny", settings=(*TINY, f"privacy.epsilon={epsilon}.0"))
    for epsilon in (3, 8)
)
SUITE = Suite(
    name="tiny",
    description="a benchmark for tests",
    axis="ε",
    cells=CELLS,
    methods=tuple(methods.method(name) for name in ("limbeck", "alone", "no-privacy", "class-sums")),
    seeds=(1, 2),
    choice_seeds=(101,),
)
RESULTS = Path(__file__).parents[2] / "experiments" / "results" / "benchmark"
RECORD = Guarantee(epsilon=3.0, delta=1e-4, unit="record", adjacency="add-remove-one", composed="steps")


@pytest.fixture(autouse=True)
def nothing_stays_loaded() -> Iterator[None]:
    yield
    settings.of.cache_clear()


def reported(**accuracies: tuple[float, float]) -> Reported:
    """What a benchmark of one cell came to, from the accuracies of each method for two seeds."""
    outcomes = {
        (CELLS[0].name, name.replace("_", "-")): {
            seed: Outcome(
                method=name,
                settings={},
                accuracy=accuracy,
                best=accuracy,
                models=1,
                bytes_up=1000.0 * (name != "alone"),
                bytes_down=0,
                seconds=1,
                guarantee=RECORD,
            )
            for seed, accuracy in zip((1, 2), each, strict=True)
        }
        for name, each in accuracies.items()
    }
    suite = replace(SUITE, cells=CELLS[:1])
    return Reported(suite=suite, choices={CELLS[0].name: {}}, outcomes=outcomes, failures={})


# Suites


@pytest.mark.parametrize("name", suites.shipped())
def test_every_shipped_suite_has_cells_that_are_scenarios_and_differ(name: str) -> None:
    suite = suites.suite(name)
    scenarios = [cell.loaded(1).model_dump_json() for cell in suite.cells]
    assert len(set(scenarios)) == len(scenarios)
    assert len({cell.folder for cell in suite.cells}) == len(suite.cells)
    assert not set(suite.seeds) & set(suite.choice_seeds)


def test_a_suite_runs_other_teachers_only_where_the_scenario_has_none_of_their_kind() -> None:
    expected: dict[str, set[Teachers]] = {"heart": {"linear"}, "digits": {"evidence"}, "fashion-part": set()}
    for name, kinds in expected.items():
        suite = suites.suite(name)
        assert {each.teachers for each in suite.methods} == {None, *kinds}
        for cell in suite.cells:
            assert cell.taught_by(None) == cell
            for kind in kinds:
                other = cell.taught_by(kind)
                assert other.loaded(1).teacher.kind == kind != cell.loaded(1).teacher.kind
                assert other.loaded(1).privacy == cell.loaded(1).privacy
                assert other.folder != cell.folder


def test_committed_figures_are_of_methods_that_their_suite_runs() -> None:
    for path in RESULTS.glob("*.json"):
        found, suite = json.loads(path.read_text(encoding="utf-8")), suites.suite(path.stem)
        rows = [(row["cell"], row["method"]) for row in found["rows"]]
        assert set(rows) <= {(cell.name, each.name) for cell in suite.cells for each in suite.methods}
        assert all(f"--method {row['method']} " in row["command"] for row in found["rows"])
        settings_of = {cell.name: list(cell.settings) for cell in suite.cells}
        assert found["cells"]
        # A suite may be measured in part.
        assert all(settings_of[name] == cell["set"] for name, cell in found["cells"].items())


def test_committed_choices_are_the_best_points_of_the_grids() -> None:
    for path in choice.SHIPPED.glob("*.json"):
        known = {cell.name for cell in suites.suite(path.stem).cells}
        for cell, by_method in choice.committed(path.stem).items():
            assert cell in known
            for method, chosen in by_method.items():
                grid = methods.method(method).grid
                assert chosen.settings in grid
                if chosen.tried:
                    assert tuple(each.settings for each in chosen.tried) == grid
                    assert choice.best(list(chosen.tried)) == chosen


def test_a_part_of_a_suite_can_be_asked_for_and_another_is_refused() -> None:
    part = SUITE.only(cells=["ε = 8"], methods=["alone"], seeds=[4])
    assert ([cell.at for cell in part.cells], [each.name for each in part.methods], part.seeds) == ([8.0], ["alone"], (4,))
    with pytest.raises(SettingError, match=r"Expected a cell of tiny out of ε = 3, ε = 8, got 'ε = 1'"):
        SUITE.only(cells=["ε = 1"])
    with pytest.raises(SettingError, match=r"Expected a suite out of quick, .*full, got 'quickly'"):
        suites.suite("quickly")


# What methods are given


def test_a_choice_sees_neither_test_data_nor_the_labels_it_is_made_by(tmp_path: Path) -> None:
    whole, choosing = settings.of(CELLS[0], 101, tmp_path), settings.for_choice(CELLS[0], 101, tmp_path)
    test = {row.tobytes() for row in whole.test_ND}
    held = {row.tobytes() for row in choosing.test_ND}
    assert not held & test
    assert not held & {row.tobytes() for row in choosing.public_ND}
    assert len(choosing.test_ND) == round(settings.HELD_OUT * len(whole.public_ND))
    assert len(choosing.public_ND) + len(choosing.test_ND) == len(whole.public_ND)
    assert (choosing.sites, choosing.epsilon) == (whole.sites, whole.epsilon)


def test_the_records_are_those_of_the_limbeck_run_that_stands_beside(tmp_path: Path) -> None:
    setting = settings.of(CELLS[0], 1, tmp_path)
    assert setting.folder is not None
    files = sorted(setting.folder.glob("sites/*/records.npz"))
    assert [np.load(path)["y"].tolist() for path in files] == [site.y_N.tolist() for site in setting.sites]
    with pytest.raises(RunError, match="one of other settings"):
        settings.prepared(replace(CELLS[0], settings=CELLS[1].settings), 1, tmp_path)


def test_slow_features_do_not_depend_on_the_order_in_which_sites_hold_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "SLOW", ("pixels",))
    x_N = np.random.default_rng(1).integers(0, 255, (6, 8, 8)).astype(np.uint8)
    first = settings.in_any_order("pixels", x_N, tmp_path)
    assert (settings.in_any_order("pixels", x_N[::-1], tmp_path) == first[::-1]).all()
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_the_best_of_a_grid_is_chosen_and_of_equals_the_first() -> None:
    tried = [Tried(settings={"rate": rate}, accuracy=accuracy) for rate, accuracy in ((1.0, 0.5), (2.0, 0.7), (4.0, 0.7))]
    assert choice.best(tried).settings == {"rate": 2.0}


# Running


def test_nothing_is_run_twice_and_another_setting_is_run_anew(tmp_path: Path) -> None:
    task = Task(
        method="class-sums",
        cell=CELLS[0],
        seed=1,
        seeds=(),
        folder=tmp_path,
        chosen=Choice(settings={"ridge": 0.01}, tried=()),
        workers=1,
    )
    assert not run._done(task)
    run.work(task)
    assert run._done(task)
    assert run._all([task], at_once, Console(quiet=True), "Methods") == {}
    assert not run._done(replace(task, chosen=Choice(settings={"ridge": 0.1}, tried=())))
    task.path.write_text("{")
    assert not run._done(task)


def at_once(task: Task) -> Future[str]:
    """A task in this process, before anybody waits for it."""
    future: Future[str] = Future()
    try:
        future.set_result(run.work(task))
    except Exception as error:
        future.set_exception(error)
    return future


def test_a_benchmark_runs_limbeck_and_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only test here that runs limbeck itself; tasks are done in this process."""
    monkeypatch.setattr(suites, "suite", lambda _: replace(SUITE, cells=CELLS[:1]))
    monkeypatch.setattr(run, "pool", lambda _: nullcontext(at_once))
    done = CliRunner().invoke(app, ["benchmark", "tiny", "--seeds", "1", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "tiny" / page.FIGURES).read_text(encoding="utf-8"))
    by_method = {row["method"]: row for row in found["rows"]}
    assert set(by_method) == {"limbeck", "alone", "no-privacy", "class-sums"}
    assert by_method["limbeck"]["guarantee"]["epsilon"] == pytest.approx(3, abs=0.05)
    assert by_method["class-sums"]["command"] == "limbeck benchmark tiny --cell 'ε = 3' --method class-sums --seeds 1"
    Page((tmp_path / "tiny" / page.PAGE).read_text(encoding="utf-8"))


def test_a_method_that_fails_is_named_and_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(setting: Setting, *, ridge: float) -> Reached:
        raise ValueError(f"no ridge of {ridge}")

    broken = replace(methods.method("class-sums"), run=fails)
    monkeypatch.setattr(methods, "ALL", {**methods.ALL, "class-sums": broken})
    monkeypatch.setattr(run, "pool", lambda _: nullcontext(at_once))
    part = replace(SUITE, cells=CELLS[:1], methods=(broken, methods.method("alone")), seeds=(1,))
    reported = run.run(part, tmp_path)
    assert reported.failures == {"ε = 3, class-sums: choosing": "ValueError: no ridge of 0.0003"}
    assert set(reported.outcomes) == {("ε = 3", "alone")}


def test_what_has_no_use_for_epsilon_is_run_for_one_of_the_cells_that_differ_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "pool", lambda _: nullcontext(at_once))
    more = replace(CELLS[1], name="fewer", settings=(*CELLS[1].settings, "data.private=200"))
    part = replace(SUITE, cells=(*CELLS, more), methods=(methods.method("no-privacy"),), seeds=(1,))
    reported = run.run(part, tmp_path)
    assert set(reported.outcomes) == {(cell.name, "no-privacy") for cell in part.cells}
    assert reported.outcomes[CELLS[0].name, "no-privacy"] == reported.outcomes[CELLS[1].name, "no-privacy"]
    ran = {path.parts[-3] for path in tmp_path.glob("outcomes/*/*/*.json")}
    assert ran == {CELLS[0].folder, more.folder}


def test_jobs_do_not_wait_for_each_other_while_there_is_other_work(tmp_path: Path) -> None:
    tasks = [
        Task(method=name, cell=CELLS[0], seed=seed, seeds=(), folder=tmp_path, chosen=None, workers=1)
        for name in ("limbeck", "limbeck-pool", "limbeck-evidence", "limbeck-evidence-pool", "alone")
        for seed in (1, 2)
    ]
    assert [(task.method, task.seed) for task in run.in_order(tasks)] == [
        (name, seed)
        for name in ("limbeck", "limbeck-evidence", "alone", "limbeck-pool", "limbeck-evidence-pool")
        for seed in (1, 2)
    ]


def test_processes_of_their_own_do_the_same(tmp_path: Path) -> None:
    task = Task(method="limbeck", cell=CELLS[0], seed=None, seeds=(101,), folder=tmp_path, chosen=None, workers=1)
    with run.pool(1) as submit:
        assert submit(task).result() == "nothing to choose"
    assert run._done(task)


# The page


def test_the_page_says_where_limbeck_is_behind_and_by_how_much(tmp_path: Path) -> None:
    found = reported(limbeck=(0.7, 0.72), alone=(0.5, 0.5), class_sums=(0.8, 0.78), no_privacy=(0.9, 0.9))
    behind = figures.behind(found)
    assert [(each.method.name, round(each.by.mean, 3), each.by.n) for each in behind] == [
        ("no-privacy", 19.0, 2),
        ("class-sums", 8.0, 2),
    ]
    assert [each.needs for each in behind] == [
        "somebody who sees every record; no ε, or one for another unit",
        "nothing else: pick it",
    ]
    html = page.write(found, tmp_path).read_text(encoding="utf-8")
    parsed = Page(html)
    assert "Where limbeck is behind" in parsed.headings
    assert "8.0 ± 2.8 (n = 2)" in html
    assert parsed.figures_without_numbers == 0
    assert parsed.unwrapped == 0
    assert html.count("--method class-sums") == 1


def test_a_page_without_limbeck_or_without_a_loss_says_so(tmp_path: Path) -> None:
    ahead = page.write(reported(limbeck=(0.9, 0.9), alone=(0.5, 0.5)), tmp_path).read_text(encoding="utf-8")
    assert "Nowhere in this suite" in ahead
    without = page.write(reported(alone=(0.5, 0.5), no_privacy=(0.9, 0.9)), tmp_path).read_text(encoding="utf-8")
    assert "Where limbeck is behind" not in without


def test_suites_are_listed() -> None:
    listed = CliRunner().invoke(app, ["benchmark"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in suites.shipped())
