"""The last words of a daemon are an entry of its log, like any other: an error, a bug, an interruption."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import sites
from limbeck.base import logs
from limbeck.cli.main import main
from limbeck.client import link
from limbeck.server import serve


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("", logs.ROOT, "flwr")]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr(sys, "argv", ["limbeck", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_an_error_is_an_entry_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "site", "run", tmp_path / "nowhere", "--log-format", "json") == 1
    (line,) = capfd.readouterr().err.splitlines()
    entry = json.loads(line)
    assert entry["level"] == "error"
    assert entry["message"].startswith("Expected ")
    assert run(monkeypatch, "site", "run", tmp_path / "nowhere") == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ERROR Expected ", line)


def test_a_bug_is_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a bug\nforged")

    monkeypatch.setattr(link, "run", fail)
    assert run(monkeypatch, "site", "run", sites.make(tmp_path / "site").folder, "--log-format", "json") == 1
    (line,) = capfd.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["message"]) == ("critical", "An unexpected error ended this process.")
    assert "ValueError: a bug" in entry["exception"]


def test_a_coordinator_that_is_told_to_stop_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Grid:
        address = "127.0.0.1:1"

        def close(self) -> None:
            pass

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "open_link", lambda *_: Grid())
    monkeypatch.setattr(serve, "app", interrupt)
    (tmp_path / "coordinator.toml").write_text('listen = "127.0.0.1:1"\nsites = ["a"]\n')
    options = ("--settings", tmp_path / "coordinator.toml", "--log-format", "json")
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run(monkeypatch, "serve", tmp_path / "plan.pb", *options) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    *_, last = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line]
    assert last["event"] == "stopped"
    assert "the same command continues" in last["message"]


def test_a_command_that_is_no_daemon_says_it_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "ledger", "show", tmp_path / "nowhere") == 1
    assert capfd.readouterr().err.startswith("limbeck: Expected ")


def test_a_site_without_a_policy_starts_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = sites.make(tmp_path / "site")
    site.policy_path.unlink()
    caplog.set_level(logging.INFO, "limbeck")
    link._tell_start(site)
    assert "starts without a policy, and declines every plan until there is one" in caplog.messages[0]


def test_a_site_says_what_is_spent_of_its_budget(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "limbeck")
    link._tell_start(sites.make(tmp_path / "site"))
    (entry,) = caplog.records
    assert (
        "Of its budget of epsilon = 3 at delta = 1e-05, per record, add-remove-one, epsilon = 0 is spent."
        in entry.getMessage()
    )
    assert entry.__dict__["about"]["event"] == "started"
