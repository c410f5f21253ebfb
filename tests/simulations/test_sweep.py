"""Sweeps and comparisons: every cell is run once, whatever interrupts it, and page and tables say what the runs say."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from rich.console import Console
from typer.testing import CliRunner

from helpers.result_pages import Page
from limbeck.base.errors import RunError, SettingError
from limbeck.cli.main import app
from limbeck.experiments.faults.linked import HANG_SECONDS, until
from limbeck.server.scores import FIGURES
from limbeck.simulations import metrics, sweep_commands
from limbeck.simulations.sweep import baseline, cells, crew, page, rows, run

pytestmark = pytest.mark.early

# A second or two each, of a machine that does nothing else; a run without privacy, which exports nothing, less than one.
TINY = [
    *("data.private=300", "data.public=80", "student.epochs=1", "teacher.steps=5", "teacher.average_last=2"),
    *("compare.central=false", "compare.without_privacy=false"),
    # Every stage asks, and sends bytes.
    "stages.temperature=[2.0, 3.0]",
]
COMMAND = [sys.executable, "-m", "limbeck.cli.main", "sweep", "digits-tiny"]


def planned(*over: str, seeds: str = "2", also: tuple[str, ...] = ()) -> tuple[list[cells.Axis], tuple[cells.Planned, ...]]:
    axes = [cells.axis(text) for text in over]
    return axes, cells.plan("digits-tiny", [*TINY, *also], axes, cells.seeds(seeds))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two cells, one of them without privacy, by two seeds, with its page and tables."""
    out = tmp_path_factory.mktemp("sweep") / "swept"
    axes, every = planned("privacy.epsilon=2,none", "partition.clients=2,3")
    outcome = run.run(every, axes, out, jobs=2)
    assert not outcome.failures
    study = page.of_sweep(outcome, [axis.key for axis in axes])
    page.write(study, out, name="sweep", title="tiny")
    return out


# What is swept


def test_every_value_of_every_setting_meets_every_other_for_the_same_seeds() -> None:
    _, every = planned("privacy.epsilon=1,none", "partition.clients=2,3", seeds="3,8")
    assert [each.name for each in every[:4]] == [
        "privacy.epsilon=1, partition.clients=2, seed 3",
        "privacy.epsilon=1, partition.clients=3, seed 3",
        "privacy.epsilon=none, partition.clients=2, seed 3",
        "privacy.epsilon=none, partition.clients=3, seed 3",
    ]
    assert [each.seed for each in every] == [3] * 4 + [8] * 4
    assert [each.scenario.run.seed for each in every] == [3] * 4 + [8] * 4
    assert [each.cell.without_privacy for each in every[:4]] == [False, False, True, True]
    assert every[0].scenario.privacy.epsilon == 1.0
    # What a baseline's teachers would have been trained with is that of the scenario, and not used.
    assert every[2].scenario.privacy.epsilon == 8.0


def test_seeds_are_a_number_or_a_list() -> None:
    assert cells.seeds("3") == (1, 2, 3)
    assert cells.seeds("7, 2") == (7, 2)


@pytest.mark.parametrize("text", ["0", "-1", "1,1", "many", "", "1,,2", "1000000000"])
def test_seeds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"Expected .*seeds"):
        cells.seeds(text)


def test_a_value_may_be_a_list_or_a_text_with_a_comma() -> None:
    assert cells.axis("stages.temperature=[2.0, 1.5],1.0") == cells.Axis("stages.temperature", ("[2.0, 1.5]", "1.0"))
    assert cells.axis('data.folder="a,b",c').values == ('"a,b"', "c")


@pytest.mark.parametrize(
    ("over", "words"),
    [
        (["privacy.epsilon"], "such as privacy.epsilon=1,3,8"),
        (["privacy.epsilon="], "such as privacy.epsilon=1,3,8"),
        (["privacy.epsilon=1,,3"], "such as privacy.epsilon=1,3,8"),
        (["run.seed=1,2"], "the seeds in --seeds"),
        (["privacy.epsilon=1,1"], "different values"),
        (["privacy.epsilon=1,1.0"], "which are the same run"),
        (["privacy.epsilon=1", "privacy.epsilon=2"], "each setting once"),
        (["partition.clients=2,none"], "for privacy.epsilon only"),
        (["privacy.epsilon=1,-1"], r"privacy.epsilon=-1: privacy.epsilon = -1: expected a number > 0"),
        (["privacy.epsilonn=1,2"], "did you mean epsilon"),
        (["black_box.sites=1", "privacy.epsilon=none"], "teachers that limbeck trains"),
    ],
)
def test_a_grid_with_a_mistake_is_refused_before_anything_runs(over: list[str], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        planned(*over)


@pytest.mark.parametrize("value", ["../../x", "a b/c", "x" * 300, "é"])
def test_whatever_a_value_is_its_folder_lies_within_the_sweep(value: str, tmp_path: Path) -> None:
    one, other = cells.Cell((("data.folder", value),)), cells.Cell((("data.folder", value + "'"),))
    assert (tmp_path / one.folder).parent == tmp_path
    assert len(one.folder) < 120
    assert one.folder != other.folder


# What has been run


def test_every_run_leaves_its_folder_and_one_row_of_the_table_that_says_what_its_metrics_say(folder: Path) -> None:
    found = {row["run"]: row for row in table(folder / "runs.csv")}
    assert len(found) == 8
    for name, row in found.items():
        own = folder / row["folder"]
        if row["privacy"] == "none":
            accuracy = baseline.read(own).student.test
            assert accuracy is not None
            assert float(row["student_accuracy_percent"]) == pytest.approx(100 * accuracy.accuracy)
            assert (row["delta"], row["sent_by_sites_bytes"], row["privacy.epsilon"]) == ("", "", "none")
        else:
            reached = metrics.read(own)
            assert float(row["student_accuracy_percent"]) == pytest.approx(100 * reached.student.accuracy)
            assert int(row["sent_by_sites_bytes"]) == sum(client.bytes_up for client in reached.clients)
            assert float(row["epsilon_spent_by_any_site_at_most"]) <= 2
            assert (row["delta"], row["unit_of_privacy"], row["adjacency"]) == ("0.0001", "record", "add-remove-one")
        assert name == f"privacy.epsilon={row['privacy.epsilon']}, partition.clients={row['sites']}, seed {row['seed']}"
        assert float(row["majority_accuracy_percent"]) > 10


def test_the_summary_is_the_mean_and_the_sample_standard_deviation_of_the_runs(folder: Path) -> None:
    by_group: dict[str, list[float]] = {}
    for row in table(folder / "runs.csv"):
        by_group.setdefault(row["group"], []).append(float(row["student_accuracy_percent"]))
    wanted = [row for row in table(folder / "summary.csv") if (row["of"], row["measure"]) == ("student", "accuracy")]
    assert len(wanted) == len(by_group) == 4
    for row in wanted:
        values = by_group[row["group"]]
        assert row["runs"] == "2"
        assert float(row["mean"]) == pytest.approx(statistics.mean(values))
        assert float(row["standard_deviation"]) == pytest.approx(statistics.stdev(values))


def test_the_table_of_stages_adds_up_what_was_sent(folder: Path) -> None:
    runs = {row["run"]: row for row in table(folder / "runs.csv")}
    stages = table(folder / "stages.csv")
    assert len(stages) == 16
    for row in stages:
        whole = runs[row["run"]]
        if row["stage"] == "2" and whole["privacy"] != "none":
            assert float(row["sent_per_site_bytes"]) == pytest.approx(float(whole["sent_per_site_bytes"]))
            assert float(row["student_accuracy_percent"]) == pytest.approx(float(whole["student_accuracy_percent"]))


def test_a_baseline_has_no_noise_and_so_is_the_same_every_time(tmp_path: Path) -> None:
    _, (each, *_) = planned("privacy.epsilon=none", seeds="1")
    one, other = baseline.compute(each.scenario), baseline.compute(each.scenario)
    assert one.model_copy(update={"seconds": 0.0}) == other.model_copy(update={"seconds": 0.0})
    assert baseline.read(baseline.write(one, tmp_path).parent) == one


def test_the_same_sweep_again_runs_nothing_and_more_seeds_run_only_those(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*.json")}
    axes, every = planned("privacy.epsilon=2,none", "partition.clients=2,3")
    begun: list[str] = []

    class Counting(crew.Crew):
        def __init__(self, todo: object, sweep: Path, *, jobs: int) -> None:
            begun.extend(each.name for each in todo)  # type: ignore[attr-defined]
            super().__init__((), sweep, jobs=jobs)

    monkeypatch.setattr(crew, "Crew", Counting)
    assert len(run.run(every, axes, folder).finished) == 8
    assert begun == []
    _, more = planned("privacy.epsilon=2,none", "partition.clients=2,3", seeds="3")
    with pytest.raises(RunError):  # nobody has run them
        run.run(more, axes, folder)
    assert begun == [each.name for each in more if each.seed == 3]
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*.json")} == before


def test_a_folder_of_other_settings_is_refused_and_the_setting_is_named(folder: Path, tmp_path: Path) -> None:
    axes, every = planned("privacy.epsilon=2,none", "partition.clients=2,3", also=("student.epochs=3",))
    with pytest.raises(RunError, match=r"Expected student.epochs = 1, as in the sweep .*, got 3; give another folder"):
        run.run(every, axes, folder)
    axes, every = planned("privacy.epsilon=2")
    with pytest.raises(
        RunError, match=r"a sweep over privacy.epsilon and partition.clients, .* got one over privacy.epsilon;"
    ):
        run.run(every, axes, folder)
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(RunError, match="Expected an empty or absent folder, or that of a sweep"):
        run.run(every, axes, tmp_path)
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_the_folder_that_a_sweep_chooses_is_that_of_the_same_settings_whatever_values_and_seeds() -> None:
    def chosen(*over: str, seeds: str, also: tuple[str, ...] = ()) -> Path:
        axes, every = planned(*over, seeds=seeds, also=also)
        return run.default_folder("tiny", run.swept(every, axes))

    first = chosen("privacy.epsilon=1,2", seeds="2")
    assert first == chosen("privacy.epsilon=1,2,none", seeds="5")
    assert first != chosen("privacy.epsilon=1,2", seeds="2", also=("student.epochs=2",))
    assert first != chosen("partition.clients=2,3", seeds="2")


def test_a_failed_cell_is_named_and_the_others_are_there(tmp_path: Path) -> None:
    axes, every = planned("partition.clients=2,1000", "privacy.epsilon=none", seeds="1")
    outcome = run.run(every, axes, tmp_path, jobs=1)
    assert [each.planned.name for each in outcome.finished] == ["partition.clients=2, privacy.epsilon=none, seed 1"]
    (failure,) = outcome.failures
    assert failure.name == "partition.clients=1000, privacy.epsilon=none, seed 1"
    assert "partition.clients = 1000: expected at most the 300 private records" in failure.problem
    study = page.of_sweep(outcome, ["partition.clients", "privacy.epsilon"])
    text = page.write(study, tmp_path, name="sweep", title="tiny", failures=outcome.failures).read_text()
    assert "1 run failed" in text
    assert failure.name in text


def test_a_process_that_dies_costs_its_own_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Dies at the first order as if it had no memory left; the next process is a good one.
    script = f"""
import os, signal, sys
from pathlib import Path
if not Path({str(tmp_path / "died")!r}).exists():
    sys.stdin.readline()
    Path({str(tmp_path / "died")!r}).touch()
    os.kill(os.getpid(), signal.SIGKILL)
from limbeck.simulations.sweep import worker
worker.main()
"""
    monkeypatch.setattr(crew, "WORKER", [sys.executable, "-c", script])
    axes, every = planned("partition.clients=2,3", "privacy.epsilon=none", seeds="1")
    outcome = run.run(every, axes, tmp_path / "swept", jobs=1)
    (failure,) = outcome.failures
    assert failure.name == "partition.clients=2, privacy.epsilon=none, seed 1"
    assert "SIGKILL" in failure.problem
    assert [each.planned.name for each in outcome.finished] == ["partition.clients=3, privacy.epsilon=none, seed 1"]
    # The same call makes up for it.
    assert len(run.run(every, axes, tmp_path / "swept", jobs=1).finished) == 2


def overrides() -> list[str]:
    return [word for each in TINY for word in ("--set", each)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_goes_on_and_runs_nothing_twice(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "swept"
    command = [*COMMAND, *overrides(), "--over", "privacy.epsilon=2", "--seeds", "2", "--out", str(out), "--jobs", "1"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        # One run has finished, the next has begun.
        until(lambda: len(list(out.glob("runs/*/*/metrics.json"))) >= 1 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        until(lambda: len(list(out.glob("runs/*/*/scenario.json"))) >= 2 or process.poll() is not None)
        os.killpg(process.pid, number)
        printed, _ = process.communicate(timeout=HANG_SECONDS)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "The same command goes on from here" in printed
    done = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*/metrics.json")}
    assert len(done) == 1
    again = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(list(out.glob("runs/*/*/metrics.json"))) == 2
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert len(table(out / "runs.csv")) == 2
    # Whatever was charged was charged once.
    for file in out.glob("runs/*/*/metrics.json"):
        reached = metrics.read(file.parent)
        assert all(
            client.epsilon is not None and client.epsilon <= reached.scenario.privacy.epsilon for client in reached.clients
        )


def test_the_command_fails_if_a_run_has_failed_and_says_which(tmp_path: Path) -> None:
    command = [*COMMAND, *overrides(), "--seeds", "1", "--out", str(tmp_path)]
    command += ["--over", "partition.clients=1000", "--over", "privacy.epsilon=none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_SECONDS, check=False)
    assert done.returncode == 1
    assert "partition.clients=1000, privacy.epsilon=none, seed 1: partition.clients = 1000: expected at most" in " ".join(
        done.stderr.split()
    )


def test_two_sweeps_at_once_in_one_folder_are_one_too_many(tmp_path: Path) -> None:
    from limbeck.base.files import alone

    axes, every = planned("privacy.epsilon=1", seeds="1")
    with alone(tmp_path / "sweep.lock", "sweep"), pytest.raises(SettingError, match="no other sweep"):
        run.run(every, axes, tmp_path)


def test_jobs_stay_within_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "cores", lambda: 8)
    monkeypatch.setattr(crew, "free_memory", lambda: 4 * crew.BYTES_PER_RUN)
    assert crew.default_jobs(100) == 4
    assert crew.default_jobs(3) == 3
    monkeypatch.setattr(crew, "free_memory", lambda: 100)
    assert crew.default_jobs(100) == 1
    monkeypatch.setattr(crew, "free_memory", lambda: 1 << 50)
    assert crew.default_jobs(100) == 8


@pytest.mark.parametrize(
    ("said", "expected"), [(None, 4), ("", 4), ("1", 1), ("3", 3), ("4", 4), ("16", 4), ("0", 4), ("-1", 4), ("all", 4)]
)
def test_a_run_uses_no_more_threads_than_its_share_or_than_its_user_says(said: str | None, expected: int) -> None:
    assert crew.threads(4, {} if said is None else {"OMP_NUM_THREADS": said}) == expected


# The page


def test_the_page_has_curves_with_their_numbers_and_a_link_to_every_run(folder: Path) -> None:
    parsed = Page((folder / "sweep.html").read_text())
    titles = {(picture["aria-label"] or "").partition(". ")[0] for picture in parsed.pictures}
    assert "Student against the number of sites" in titles
    assert {"Student after each stage against sparsity", "Student after each stage against bytes sent"} <= titles
    assert parsed.figures_without_numbers == 0
    assert parsed.unwrapped == 0
    assert sum(link.endswith("report.html") for link in parsed.links) == 4
    assert {"runs.csv", "stages.csv", "summary.csv"} <= set(parsed.links)
    for href in parsed.links:
        assert (folder / unquote(href)).exists(), href


def test_the_page_says_what_an_epsilon_holds_for_and_how_many_runs_a_mean_has(folder: Path) -> None:
    text = (folder / "sweep.html").read_text()
    assert "ε at δ = 0.0001, unit: record, neighbouring relation: add-remove-one" in text
    assert "n = 2 runs each" in text
    assert "(n = 2)" in text
    assert "No privacy guarantee" not in text


def test_a_curve_against_epsilon_has_every_line_that_is_known_and_its_numbers(folder: Path, tmp_path: Path) -> None:
    own = next(iter(folder.glob("runs/*2*clients=3*/seed-1/metrics.json"))).parent
    folders = [each for each in run.read(folder) if "none" in str(each) and "clients=3" in str(each)]
    for epsilon, accuracy in ((0.5, 0.31), (4.0, 0.77)):
        for seed in (1, 2):
            values = json.loads((own / "metrics.json").read_text())
            values["scenario"]["privacy"]["epsilon"], values["scenario"]["run"]["seed"] = epsilon, seed
            values["student"]["quality"]["test"]["accuracy"] = accuracy + 0.02 * seed
            folders.append(tmp_path / f"{epsilon}-{seed}")
            folders[-1].mkdir()
            (folders[-1] / "metrics.json").write_text(json.dumps(values))
    study = page.of_folders(folders)
    assert study.keys == ("privacy.epsilon",)
    parsed = Page(page.write(study, tmp_path / "out", name="compare", title="Comparison").read_text())
    (said,) = {str(each["aria-label"]) for each in parsed.pictures if "against ε" in str(each["aria-label"])}
    # The means of 33 and 35 and of 79 and 81, and the standard deviation of each.
    assert "student: 34.0 ± 1.4 at 0.5, 80.0 ± 1.4 at 4" in said
    assert "student, no privacy: " in said
    assert "majority class: 12.8" in said
    text = " ".join(parsed.texts)
    assert "34.0 ± 1.4 (n = 2)" in text
    assert "best site alone" in text


# Comparisons


def test_a_comparison_groups_seeds_and_names_only_the_settings_that_differ(folder: Path, tmp_path: Path) -> None:
    private = [each for each in run.read(folder) if "none" not in str(each)]
    study = page.of_folders(private)
    assert study.keys == ("partition.clients",)
    assert [len(group.rows) for group in study.groups] == [2, 2]
    assert [group.label for group in study.groups] == ["sites = 2", "sites = 3"]
    text = page.write(study, tmp_path, name="compare", title="Comparison").read_text()
    assert "partition.clients" in text
    assert "student.epochs" not in text
    assert len(table(tmp_path / "runs.csv")) == 4


def test_a_sweep_is_compared_by_its_folder(folder: Path) -> None:
    assert len(page.of_folders([folder]).rows) == 8


def test_runs_of_different_scenarios_are_called_by_their_names(folder: Path, tmp_path: Path) -> None:
    own = next(iter(folder.glob("runs/*2*/seed-1/metrics.json"))).parent
    other = json.loads((own / "metrics.json").read_text())
    other["scenario_name"] = other["scenario"]["name"] = "other"
    other["scenario"]["privacy"]["epsilon"], other["scenario"]["student"]["epochs"] = 9.0, 4
    (tmp_path / "metrics.json").write_text(json.dumps(other))
    study = page.of_folders([own, tmp_path])
    assert set(study.keys) == {"name", "privacy.epsilon", "student.epochs"}
    assert [group.label for group in study.groups] == ["digits-tiny", "other"]


def test_a_run_of_0_1_0_can_be_compared(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_bytes((Path(__file__).parent / "metrics-0.1.0.json").read_bytes())
    own = next(iter(folder.glob("runs/*2*/seed-1/metrics.json"))).parent
    study = page.of_folders([own, tmp_path])
    assert len(study.groups) == 2
    page.write(study, tmp_path / "out", name="compare", title="Comparison", measure="accuracy")
    with pytest.raises(RunError, match="Expected runs that measured auprc"):
        page.write(page.of_folders([tmp_path]), tmp_path / "out", name="compare", title="Comparison", measure="auprc")


def test_a_run_given_twice_or_a_folder_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    own = next(iter(folder.glob("runs/*2*/seed-1/metrics.json"))).parent
    with pytest.raises(RunError, match="Expected every run once"):
        page.of_folders([own, own])
    with pytest.raises(RunError, match="Expected the metrics of a finished run"):
        page.of_folders([tmp_path])


def test_the_command_shows_the_comparison_and_never_replaces_the_tables_of_a_sweep(folder: Path, tmp_path: Path) -> None:
    before = (folder / "runs.csv").read_bytes()
    done = CliRunner().invoke(
        app, ["compare", str(folder), "--out", str(tmp_path), "--measure", "log_loss"], env={"COLUMNS": "80"}
    )
    assert done.exit_code == 0, done.output
    assert "Log-loss, nats on the test set" in done.output
    assert "sites = 3" in done.output
    assert max(map(len, done.output.splitlines())) <= 80 or str(tmp_path) in done.output
    assert (tmp_path / "compare.html").exists()
    refused = CliRunner().invoke(app, ["compare", str(folder), "--out", str(folder)])
    assert isinstance(refused.exception, SettingError)
    assert (folder / "runs.csv").read_bytes() == before


def test_the_command_knows_every_measure_and_no_other() -> None:
    assert sweep_commands.MEASURES == FIGURES
    refused = CliRunner().invoke(app, ["compare", "runs/one", "--measure", "beauty"])
    assert isinstance(refused.exception, SettingError)
    assert "beauty" in str(refused.exception)


def test_a_text_that_a_spreadsheet_would_compute_is_kept_from_it(folder: Path, tmp_path: Path) -> None:
    own = next(iter(folder.glob("runs/*2*/seed-1/metrics.json"))).parent
    evil = json.loads((own / "metrics.json").read_text())
    evil["scenario_name"] = evil["scenario"]["name"] = "=cmd()"
    (tmp_path / "metrics.json").write_text(json.dumps(evil))
    text = rows.runs_csv(page.of_folders([tmp_path]), tmp_path)
    assert ",=cmd()" not in text
    assert "'=cmd()" in text


def test_spread_is_that_of_a_sample_and_unknown_for_one_run() -> None:
    assert rows.spread([1.0, None, 3.0]) == rows.Spread(2.0, pytest.approx(2**0.5), 2)  # type: ignore[arg-type]
    assert rows.spread([1.0]) == rows.Spread(1.0, None, 1)
    assert rows.spread([None]) is None


def test_progress_names_each_run_and_what_it_reached(tmp_path: Path) -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    axes, every = planned("privacy.epsilon=none", seeds="1")
    run.run(every, axes, tmp_path, jobs=1, console=console)
    assert "1/1 privacy.epsilon=none, seed 1: student" in console.export_text()
