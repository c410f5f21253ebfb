"""While a run waits for sites, status and the live page say of each what became of it: it answered, declined and why, is lost or absent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.carriers import SETTINGS, A, B, C, Consortium, Strangers, participants, run
from limbeck.base.errors import TooFewClients
from limbeck.cli.main import app
from limbeck.deployment import status, watch
from limbeck.deployment.status import Status
from limbeck.protos.messages import Reason
from limbeck.server import checkpoint
from limbeck.server.states import RunState, SiteState
from limbeck.simulations import prepare, scenario

NOWHERE = "site-99"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Makes folders for runs."""
    base = tmp_path_factory.mktemp("prepared") / "run"
    prepare.prepare(scenario.load("digits-tiny", SETTINGS), base)
    return lambda folder: Path(shutil.copytree(base, folder))


class Watched(Consortium):
    """A carrier that expects one more site, which never comes, and ends the run as soon as its status is paused: `seen` is that status."""

    seen: Status
    page: str

    def __init__(self, folder: Path, *present: str, hook: Callable[[str, str], None] = lambda kind, site: None) -> None:
        super().__init__(folder, *present, hook=hook)
        self._server = folder / "server"

    def expected_sites(self) -> list[str]:
        return [A, B, C, NOWHERE]

    def get_node_ids(self) -> list[int]:
        seen = status.read(self._server)
        if seen.state is RunState.PAUSED:
            self.seen, self.page = seen, watch.fragment(self._server, now=0.0)
            raise KeyboardInterrupt
        return super().get_node_ids()


def states(run: Status) -> dict[str, tuple[SiteState, str]]:
    return {client.name: (client.state, client.reason) for client in run.clients}


def until_paused(folder: Path, grid: Watched, **patience: float) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(folder, grid, pause=60.0, **patience)


def test_in_a_pause_it_is_said_who_answered_who_declined_and_why_and_who_is_lost_or_absent(
    fresh: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = fresh(tmp_path / "run")

    def hook(kind: str, site: str) -> None:
        if (kind, site) == ("share", A) and grid.asked.count(("share", A)) == 2:
            # In the second stage B's teacher is gone, and C says nothing.
            for teacher in (folder / "sites" / B).rglob("teacher.safetensors"):
                teacher.unlink()
            grid.silent = {C}

    grid = Watched(folder, A, B, C, hook=hook)
    until_paused(folder, grid, answer=2.0)
    assert participants(folder) == [[A, B, C]]
    assert grid.seen.why == "Stage 2: sites answer: 1 of at least 2 sites"
    expected = {
        A: (SiteState.ANSWERED, ""),
        B: (SiteState.DECLINED, f"answers 2: {Reason.FAILED.value}"),
        C: (SiteState.LOST, "answers 2: no answer within 2 s"),
        NOWHERE: (SiteState.ABSENT, ""),
    }
    assert states(grid.seen) == expected
    assert grid.seen.counts == dict.fromkeys((state for state, _ in expected.values()), 1)
    for shown in (
        "1<small> of 4 in",
        '<span class="tag warn">declined',
        '<span class="tag warn">absent',
        Reason.FAILED.value,
    ):
        assert shown in grid.page
    told = CliRunner().invoke(app, ["status", str(folder)], env={"COLUMNS": "200"}).output
    for counted in ("1 answered", "1 declined", "1 lost", "1 absent", Reason.FAILED.value):
        assert counted in told
    # Nor is it forgotten when the coordinator is stopped.
    assert states(status.read(folder / "server")) == expected


def test_a_site_that_has_not_come_back_after_a_restart_is_absent(fresh: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = fresh(tmp_path / "run")
    run(folder, Consortium(folder, A, B, C))
    checkpoint.path_of(folder / "server" / "checkpoints", 1).unlink()
    grid = Watched(folder, A)
    until_paused(folder, grid)
    assert {name: state for name, (state, _) in states(grid.seen).items()} == {
        A: SiteState.ANSWERED,
        B: SiteState.ABSENT,
        C: SiteState.ABSENT,
        NOWHERE: SiteState.ABSENT,
    }


def test_a_run_that_ends_below_its_minimum_says_who_did_not_take_part(fresh: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = fresh(tmp_path / "run")
    rules = folder / "sites" / B / "policy.toml"
    rules.write_text(rules.read_text().replace("max_stages = 2", "max_stages = 1"))
    with pytest.raises(TooFewClients):
        run(folder, Consortium(folder, A, B))
    declined = SiteState.DECLINED, f"agree: {Reason.POLICY.value}"
    assert states(status.read(folder / "server")) == {A: (SiteState.ANSWERED, ""), B: declined}


def test_a_node_that_takes_anothers_name_is_left_out_and_never_answered(
    fresh: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = fresh(tmp_path / "run")
    settings = folder / "sites" / C / "site.toml"
    settings.write_text(settings.read_text().replace(C, A))
    run(folder, Strangers(folder, A, B, C))
    assert participants(folder) == [[A, B]] * 2
    (taker,) = [client for client in status.read(folder / "server").clients if client.name not in (A, B)]
    assert (taker.state, taker.reason) == (SiteState.LEFT_OUT, f"agree: calls itself {A}, as another node does")
