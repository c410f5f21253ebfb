"""Sites that come when others have been taught: they are taught once and take part from the next stage on, or are not taught at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.carriers import SETTINGS, A, B, C, Consortium, Strangers, participants, run
from helpers.sites import charges
from helpers.students import same_student
from limbeck.base.errors import DataError, TooFewClients
from limbeck.client.holdings import Records
from limbeck.client.site import Site
from limbeck.server import checkpoint
from limbeck.simulations import prepare, scenario

Prepared = Callable[[Path], Path]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Makes folders for runs."""
    base = tmp_path_factory.mktemp("prepared") / "run"
    prepare.prepare(scenario.load("digits-tiny", SETTINGS), base)
    return lambda folder: Path(shutil.copytree(base, folder))


@pytest.fixture(scope="module")
def joined_by_c(fresh: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A and B in a run of their own, and with C from its first checkpoint on."""
    folder = fresh(tmp_path_factory.mktemp("reference") / "run")
    run(folder, Consortium(folder, A, B))
    checkpoint.path_of(folder / "server" / "checkpoints", 1).unlink()
    run(folder, Consortium(folder, A, B, C))
    assert participants(folder) == [[A, B], [A, B, C]]
    return folder


def joined(grid_of: type[Strangers], folder: Path, *, at: tuple[str, str]) -> Strangers:
    """Sites A and B, and C, which connects when this kind of question is first put to this site."""

    def hook(kind: str, asked: str) -> None:
        if (kind, asked) == at:
            grid.present.setdefault(C, 1)

    grid = grid_of(folder, A, B, hook=hook)
    return grid


@pytest.mark.parametrize("grid_of", [Consortium, Strangers])
def test_a_site_that_comes_in_a_stage_is_taught_once_and_takes_part_from_the_next_one_on(
    grid_of: type[Strangers], fresh: Prepared, joined_by_c: Path, tmp_path: Path
) -> None:
    folder = fresh(tmp_path / "run")
    grid = joined(grid_of, folder, at=("share", B))
    run(folder, grid, join=5.0)
    assert participants(folder) == [[A, B], [A, B, C]]
    assert [kind for kind, site in grid.asked if site == C] == ["agree", "teach", "share"]
    assert [charges(folder / "sites" / site) for site in (A, B, C)] == [["committed"]] * 3
    assert same_student(folder, joined_by_c)
    clients = json.loads((folder / "server" / "record.json").read_text())["clients"]
    assert {name: own["status"] for name, own in clients.items()} == dict.fromkeys((A, B, C), "answered")


def test_a_site_that_comes_while_others_are_taught_is_in_from_the_first_stage_on(fresh: Prepared, tmp_path: Path) -> None:
    folder = fresh(tmp_path / "run")
    grid = joined(Consortium, folder, at=("teach", B))
    run(folder, grid, join=5.0)
    assert participants(folder) == [[A, B, C]] * 2
    assert charges(folder / "sites" / C) == ["committed"]


def test_a_site_that_comes_in_the_last_stage_is_not_charged_for_nothing(fresh: Prepared, tmp_path: Path) -> None:
    folder = fresh(tmp_path / "run")

    def hook(kind: str, asked: str) -> None:
        if kind == "share" and grid.asked.count(("share", A)) == 2:
            grid.present[C] = 1

    grid = Consortium(folder, A, B, hook=hook)
    run(folder, grid, join=5.0)
    assert C in grid.present
    assert participants(folder) == [[A, B]] * 2
    assert (C not in {site for _, site in grid.asked}, charges(folder / "sites" / C)) == (True, [])
    # Nor is it when what is finished is finished once more.
    run(folder, grid, join=5.0)
    assert (C not in {site for _, site in grid.asked}, charges(folder / "sites" / C)) == (True, [])


def test_a_run_that_a_late_site_joined_resumes_with_it_and_charges_it_once(
    fresh: Prepared, joined_by_c: Path, tmp_path: Path
) -> None:
    folder = fresh(tmp_path / "run")

    def hook(kind: str, asked: str) -> None:
        if (kind, asked) == ("share", B):
            grid.present.setdefault(C, 1)
        if (kind, asked) == ("share", C):
            raise KeyboardInterrupt

    grid = Consortium(folder, A, B, hook=hook)
    with pytest.raises(KeyboardInterrupt):
        run(folder, grid, join=5.0)
    assert (participants(folder), charges(folder / "sites" / C)) == ([[A, B]], ["committed"])
    run(folder, Consortium(folder, A, B, C))
    assert participants(folder) == [[A, B], [A, B, C]]
    assert [charges(folder / "sites" / site) for site in (A, B, C)] == [["committed"]] * 3
    assert same_student(folder, joined_by_c)


def test_in_a_pause_a_new_site_helps_the_stage_that_waits_also_the_last(fresh: Prepared, tmp_path: Path) -> None:
    folder = fresh(tmp_path / "run")

    def hook(kind: str, asked: str) -> None:
        if kind == "share" and grid.asked.count(("share", A)) == 2:
            grid.silent = {B}
            grid.present[C] = 1

    grid = Consortium(folder, A, B, hook=hook)
    run(folder, grid, join=5.0, answer=1.0, pause=60.0)
    assert participants(folder) == [[A, B], [A, C]]
    assert [charges(folder / "sites" / site) for site in (A, B, C)] == [["committed"]] * 3
    # Another way to the same: all three are there in the last stage, and B falls silent.
    other = fresh(tmp_path / "other")
    run(other, Consortium(other, A, B))
    checkpoint.path_of(other / "server" / "checkpoints", 1).unlink()
    last = Consortium(other, A, B, C, hook=lambda kind, site: last.silent.update({B} if kind == "share" else {}))
    run(other, last, answer=1.0)
    assert participants(other) == [[A, B], [A, C]]
    assert same_student(folder, other)


def test_a_late_site_that_never_says_whether_it_accepts_holds_nobody_up(fresh: Prepared, tmp_path: Path) -> None:
    """An hour's patience for answers, none for a site to appear."""
    folder = fresh(tmp_path / "run")
    grid = joined(Consortium, folder, at=("share", B))
    grid.silent = {C}
    run(folder, grid, join=0.2, answer=3600.0)
    assert participants(folder) == [[A, B]] * 2
    assert [kind for kind, site in grid.asked if site == C] == ["agree"]


def test_a_late_site_that_declines_is_asked_again_only_when_it_has_connected_anew(fresh: Prepared, tmp_path: Path) -> None:
    folder = fresh(tmp_path / "run")
    rules = folder / "sites" / C / "policy.toml"
    own = rules.read_text()
    rules.write_text(own.replace("max_stages = 2", "max_stages = 1"))

    def hook(kind: str, asked: str) -> None:
        if (kind, asked) == ("teach", B):
            grid.present[C] = 1
        if (kind, asked) == ("share", B) and grid.present.get(C) == 1:
            rules.write_text(own)
            grid.present[C] = 2

    grid = Consortium(folder, A, B, hook=hook)
    run(folder, grid, join=5.0)
    assert participants(folder) == [[A, B], [A, B, C]]
    assert [kind for kind, site in grid.asked if site == C] == ["agree", "agree", "teach", "share"]
    assert charges(folder / "sites" / C) == ["committed"]


def test_a_late_site_that_declines_and_stays_connected_is_asked_once(fresh: Prepared, tmp_path: Path) -> None:
    folder = fresh(tmp_path / "run")
    rules = folder / "sites" / C / "policy.toml"
    rules.write_text(rules.read_text().replace("max_stages = 2", "max_stages = 1"))
    grid = joined(Consortium, folder, at=("teach", B))
    run(folder, grid, join=5.0)
    assert participants(folder) == [[A, B]] * 2
    assert [kind for kind, site in grid.asked if site == C] == ["agree"]


def test_a_late_site_that_does_not_finish_its_teacher_in_time_is_left_out_and_the_run_goes_on(
    fresh: Prepared, tmp_path: Path
) -> None:
    folder = fresh(tmp_path / "run")

    def hook(kind: str, asked: str) -> None:
        if (kind, asked) == ("share", B):
            grid.present.setdefault(C, 1)
        if (kind, asked) == ("teach", C):
            grid.silent = {C}

    grid = Consortium(folder, A, B, hook=hook)
    run(folder, grid, join=5.0, answer=1.0)
    assert participants(folder) == [[A, B]] * 2
    found = json.loads((folder / "server" / "record.json").read_text())["clients"][C]
    assert (found["status"], found["reason"]) == ("lost", "teach: no answer within 1 s")


@pytest.mark.parametrize("grid_of", [Consortium, Strangers])
def test_a_pause_ends_when_the_owner_of_a_site_that_declined_has_mended_what_was_wrong(
    grid_of: type[Strangers], fresh: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without another connection, and without a restart at either end: the site trains under the charge that it has."""
    folder = fresh(tmp_path / "run")
    read, asked = Records.read, []

    def hook(kind: str, site: str) -> None:
        if (kind, site) == ("teach", B):
            asked.append(site)

    def unreadable(records: Records, *arguments: Any) -> Any:
        if Site(records.folder).name == B and len(asked) < 3:
            raise DataError("no column 'label'")
        return read(records, *arguments)

    monkeypatch.setattr(Records, "read", unreadable)
    grid = grid_of(folder, A, B, hook=hook)
    run(folder, grid, pause=60.0, retry=0.0)
    assert participants(folder) == [[A, B]] * 2
    assert len(asked) == 3
    clients = json.loads((folder / "server" / "record.json").read_text())["clients"]
    assert [(own["status"], own["reason"]) for own in clients.values()] == [("answered", None)] * 2
    assert [charges(folder / "sites" / site) for site in (A, B)] == [["committed"]] * 2


def test_a_run_that_ended_below_its_minimum_goes_on_when_the_site_that_declined_is_mended(
    fresh: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fresh(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Records, "read", lambda *_: (_ for _ in ()).throw(DataError("no column 'label'")))
        with pytest.raises(TooFewClients, match="could not read its records"):
            run(folder, Consortium(folder, A, B))
    assert [charges(folder / "sites" / site) for site in (A, B)] == [["reserved"]] * 2
    run(folder, Consortium(folder, A, B))
    assert participants(folder) == [[A, B]] * 2
    assert [charges(folder / "sites" / site) for site in (A, B)] == [["committed"]] * 2
