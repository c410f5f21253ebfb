"""The end of a run: connected sites are told, older ones are not, and nothing but the end of a daemon depends on it."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from subprocess import Popen
from threading import Thread

import grpc
import pytest

from helpers.http2 import Stubborn
from helpers.links import RawSite, Running, ask, make_site, port_of, pull
from helpers.sites import charges
from limbeck.client import backup, ledger
from limbeck.client.site import Site
from limbeck.experiments.faults.linked import HANG_SECONDS, Federation, until
from limbeck.experiments.faults.throwaway_keys import Authority
from limbeck.protos import carry, link
from limbeck.protos.flower_messages import node_of
from limbeck.protos.link import Announce, Finished
from limbeck.server import link as server_link
from limbeck.server.link import LinkGrid
from limbeck.simulations.scenario import load

PLAN = bytes(range(32))


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "is finished" in each.getMessage()]


def test_a_daemon_that_waits_for_the_end_of_the_run_ends_when_it_is_told(
    grid: LinkGrid, keys: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "limbeck")
    running = Running(make_site(tmp_path / "a", keys, port_of(grid)), until_finished=True)
    until(lambda: grid.connected)
    assert grid.say_finished(PLAN) == ["a"]
    running.thread.join(HANG_SECONDS)
    assert not running.thread.is_alive()
    assert told(caplog)[0].startswith(f"a: the run of plan {PLAN.hex()[:16]} is finished, of which this site was no part.")


def test_any_other_daemon_dials_on_and_answers_the_next_run(grid: LinkGrid, keys: Authority, tmp_path: Path) -> None:
    running = Running(make_site(tmp_path / "a", keys, port_of(grid)))
    until(lambda: grid.connected)
    assert grid.say_finished(PLAN) == ["a"]
    until(lambda: grid.connections_of(node_of("a")) == 2)
    assert carry.unpack(pull(grid, ask(grid, "a", b"hello")).content) == b"hello"
    running.stop()


def test_a_daemon_that_is_told_finishes_the_answer_under_way(grid: LinkGrid, keys: Authority, tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", keys, port_of(grid))
    running = Running(site, until_finished=True)
    until(lambda: grid.connected)
    ask(grid, "a", b"slowly")
    until((site.folder / "calls").exists)
    assert grid.say_finished(PLAN) == ["a"]
    running.thread.join(HANG_SECONDS)
    assert not running.thread.is_alive()
    # Nobody wanted it any more, so it was not waited for until it was sent; it is there if it is asked for again.
    assert len(list((site.link_state / "answers").iterdir())) == 1


@pytest.mark.parametrize("understands", [None, "", "something else", "finished-2"])
def test_a_site_that_does_not_say_it_understands_is_told_nothing(
    grid: LinkGrid, keys: Authority, understands: str | None
) -> None:
    """A site of 0.1 takes a frame that it does not know for a broken protocol."""
    site = RawSite(grid, keys, "a", understands=understands)
    until(lambda: grid.connected)
    assert grid.say_finished(PLAN) == []
    ask(grid, "a")
    assert isinstance(site.next(), Announce)
    site.close()


def test_a_site_is_told_the_plan_and_the_coordinator_waits_until_it_has_gone(grid: LinkGrid, keys: Authority) -> None:
    site = RawSite(grid, keys, "a", understands=f"else {link.FINISHED}")
    until(lambda: grid.connected)

    def take_it_in() -> None:
        assert site.next() == Finished(plan=PLAN)
        site.close()

    taker = Thread(target=take_it_in)
    taker.start()
    assert grid.say_finished(PLAN) == ["a"]
    taker.join(HANG_SECONDS)
    assert grid.connected == []


def test_a_site_that_stays_does_not_keep_the_coordinator(
    grid: LinkGrid, keys: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "limbeck")
    monkeypatch.setattr(server_link, "FAREWELL_SECONDS", 0.2)
    site = RawSite(grid, keys, "a", understands=link.FINISHED)
    until(lambda: grid.connected)
    assert grid.say_finished(PLAN) == []
    assert told(caplog) == ["a was not told that the run is finished: TimeoutError"]
    site.close()


def test_a_site_that_takes_no_greeting_does_not_keep_the_coordinator_either(
    grid: LinkGrid, keys: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is being greeted is waited for, as it can be told in a moment; one that reads nothing never is."""
    caplog.set_level(logging.INFO, "limbeck")
    monkeypatch.setattr(server_link, "FAREWELL_SECONDS", 0.2)
    site = Stubborn(grid.address, keys.folder, "a", window=0, beats=0.3)
    until(lambda: grid.connected)
    assert grid.say_finished(PLAN) == []
    assert told(caplog) == ["a was not told that the run is finished: TimeoutError"]
    grid.close()
    assert site.ended.wait(HANG_SECONDS)


def test_a_site_that_says_the_run_is_finished_breaks_the_protocol(grid: LinkGrid, keys: Authority) -> None:
    site = RawSite(grid, keys, "a", understands=link.FINISHED)
    site.send(Finished(plan=PLAN))
    assert site.end() is grpc.StatusCode.INVALID_ARGUMENT


def backups_while(process: Popen[str], site: Path, folder: Path) -> Iterator[backup.Backup]:
    """One backup after the other of a site at work, each of which is read again; none before anything is spent."""
    for number in count():
        if process.poll() is not None:
            return
        if ledger.begun(Site(site).ledger):
            yield backup.make(Site(site), folder / str(number), now=datetime.now(UTC))
        time.sleep(0.2)


def test_processes_end_when_the_run_does_and_their_logs_say_how_it_went(tmp_path: Path) -> None:
    """Two sites wait for the end of the run, in JSON and in text; a third would wait for the next run."""
    # Each stage asks: at one temperature, the second would not.
    asking = "stages.temperature=[2.0, 3.0]"
    scenario = load("digits-tiny", ["student.epochs=2", "data.public=120", "run.workers=1", asking])
    with Federation(tmp_path / "run", scenario, settings={"join_seconds": HANG_SECONDS}) as federation:
        first, second, third = federation.sites
        ending = [
            federation.site(first, "--until-finished", "--log-format", "json"),
            federation.site(second, "--until-finished"),
        ]
        staying = federation.site(third)
        coordinator = federation.serve("--log-format", "json")
        made = [*backups_while(coordinator, federation.sites[third], tmp_path / "backups")]
        assert coordinator.wait(HANG_SECONDS) == 0, (tmp_path / "run" / "serve.log").read_text()
        # Once more, with the daemon still there.
        made.append(backup.make(Site(federation.sites[third]), tmp_path / "backups" / "last", now=datetime.now(UTC)))
        assert [process.wait(HANG_SECONDS) for process in ending] == [0, 0]
        assert staying.poll() is None
        staying.terminate()
        assert staying.wait(HANG_SECONDS) == 0
    assert [charges(site) for site in federation.sites.values()] == [["committed"]] * 3
    assert [len(each.book.rows) for each in made] == sorted(len(each.book.rows) for each in made)
    assert made[-1].book == ledger.read(Site(federation.sites[third]).ledger)
    assert made[-1].messages == 4
    logs = {name: (tmp_path / "run" / f"{name}.log").read_text().splitlines() for name in (first, second, third, "serve")}

    entries = [json.loads(line) for line in logs[first]]
    events = [entry["event"] for entry in entries if "event" in entry]
    expected = ["started", "connected", "accepted", "charged", "taught", "answered", "answered", "finished", "ended"]
    assert [event for event in events if event != "no connection"] == expected
    of_plan = [entry for entry in entries if entry.get("event") in {"accepted", "charged", "taught", "answered", "finished"}]
    (plan,) = {entry["plan"] for entry in of_plan}
    assert re.fullmatch("[0-9a-f]{64}", plan)
    charged = next(entry for entry in entries if entry.get("event") == "charged")
    assert charged["site"] == first
    assert charged["epsilon"] == charged["spent"] == pytest.approx(scenario.privacy.epsilon, rel=0.01)
    assert (charged["delta"], charged["unit"], charged["adjacency"]) == (
        scenario.privacy.delta,
        "record",
        "add-remove-one",
    )
    assert [entry["stage"] for entry in of_plan if entry["event"] == "answered"] == [1, 2]

    stamp = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR) ")
    assert all(stamp.match(line) for name in (second, third) for line in logs[name])
    text = "\n".join(logs[second])
    terms = f"at delta = {scenario.privacy.delta:g}, per record, add-remove-one"
    assert re.search(rf"{second} is charged epsilon = [\d.]+ {terms} for plan {plan[:16]}", text)
    assert f"{second}: the run of plan {plan[:16]} is finished. Nothing more is to be done: this daemon ends." in text
    assert f"{third}: the run of plan {plan[:16]} is finished. Dialling on" in "\n".join(logs[third])

    said = [json.loads(line) for line in logs["serve"] if line.startswith("{")]
    assert len(said) >= len(logs["serve"]) - 2  # where student and record are, on standard output
    told_of = [(entry["event"], entry.get("stage"), entry.get("done")) for entry in said if "event" in entry]
    for step in [("asked", 1, 0), ("replied", 1, 3), ("stage finished", 1, 1), ("stage finished", 2, 2)]:
        assert step in told_of
    assert said[-1]["event"] == "finished"
    assert said[-1]["message"].endswith(f"told {first}, {second}, {third}.")
