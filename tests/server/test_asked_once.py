"""What would be answered as before is not asked again: one stage's bytes for all stages, and the student that asking again would give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.carriers import SETTINGS, A, B, C, Consortium, participants, run
from helpers.students import same_student
from limbeck.plans.schema import Sampled
from limbeck.protos import codec
from limbeck.protos.messages import Ask
from limbeck.server import checkpoint, coordinator, export
from limbeck.simulations import prepare, scenario

ALIKE = [*SETTINGS, "stages.count=4", "stages.temperature=2.0"]
Prepared = Callable[[Path], Path]


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """The student's files are other tests' business, and seconds each time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(export, "export", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Makes folders for runs of four stages at one temperature."""
    base = tmp_path_factory.mktemp("prepared") / "run"
    prepare.prepare(scenario.load("digits-tiny", ALIKE), base)
    return lambda folder: Path(shutil.copytree(base, folder))


@pytest.fixture(scope="module")
def once(fresh: Prepared, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Consortium]:
    """A and B, asked once."""
    folder = fresh(tmp_path_factory.mktemp("once") / "run")
    grid = Consortium(folder, A, B)
    run(folder, grid)
    return folder, grid


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "server" / "record.json").read_text()))


def asked(grid: Consortium) -> list[str]:
    return [site for kind, site in grid.asked if kind == "share"]


def test_four_stages_at_one_temperature_take_the_bytes_of_one(once: tuple[Path, Consortium]) -> None:
    folder, grid = once
    assert sorted(asked(grid)) == [A, B]
    assert participants(folder) == [[A, B]] * 4
    plan = codec.decode_offer((folder / "plan.pb").read_bytes()).plan
    one = codec.share_bytes(plan, Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=plan.samples))
    stages = record(folder)["stages"]
    assert [stage["bytes_up"] for stage in stages] == [2 * one, 0, 0, 0]
    assert [stage["bytes_down"] > 0 for stage in stages] == [True, False, False, False]
    assert [stage["asked_in"] for stage in stages] == [None, 0, 0, 0]


def test_the_student_is_that_of_asking_in_every_stage(
    once: tuple[Path, Consortium], fresh: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fresh(tmp_path / "run")
    monkeypatch.setattr(coordinator.Coordinator, "_pool_before", lambda *_: None)
    grid = Consortium(folder, A, B)
    run(folder, grid)
    assert sorted(asked(grid)) == [A] * 4 + [B] * 4
    assert same_student(folder, once[0])


def test_a_run_that_goes_on_after_a_stop_asks_nobody_and_gives_the_same_student(
    once: tuple[Path, Consortium], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(once[0], tmp_path / "run"))
    for stage in (2, 3):
        checkpoint.path_of(folder / "server" / "checkpoints", stage).unlink()
    grid = Consortium(folder, A, B)
    run(folder, grid)
    assert asked(grid) == []
    assert [stage["asked_in"] for stage in record(folder)["stages"]] == [None, 0, 0, 0]
    assert same_student(folder, once[0])


def test_where_other_sites_take_part_all_are_asked_again(once: tuple[Path, Consortium], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(once[0], tmp_path / "run"))
    checkpoint.path_of(folder / "server" / "checkpoints", 3).unlink()
    grid = Consortium(folder, A, B, C)
    run(folder, grid)
    assert sorted(asked(grid)) == [A, B, C]
    assert participants(folder) == [[A, B]] * 3 + [[A, B, C]]


def test_a_site_that_did_not_answer_is_asked_again_with_all_others(fresh: Prepared, tmp_path: Path) -> None:
    folder = fresh(tmp_path / "run")
    grid = Consortium(folder, A, B, C, hook=lambda kind, site: grid.silent.update({C} if kind == "share" else ()))
    run(folder, grid, answer=0.2)
    assert participants(folder) == [[A, B]] * 4
    assert sorted(asked(grid)) == [A] * 4 + [B] * 4 + [C] * 4


@pytest.mark.parametrize("change", ["stages.temperature=[2.0, 2.0, 3.0, 2.0]", "release.truncation=sampled"])
def test_another_temperature_asks_and_so_does_every_stage_of_drawn_samples(change: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    plan = prepare.prepare(scenario.load("digits-tiny", [*ALIKE, change]), folder)
    grid = Consortium(folder, A, B)
    run(folder, grid)
    wanted = [None] * 4 if isinstance(plan.truncation, Sampled) else [None, 0, None, None]
    assert [stage["asked_in"] for stage in record(folder)["stages"]] == wanted
