"""The log of a process: one line per entry, with its time, whatever is in it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from limbeck.base import logs
from limbeck.base.logs import LogFormat, LogLevel, Logs, about
from limbeck.base.printable import escape_logs

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
LONG = "a word " * 60


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """limbeck's, with all that `begin` changes put back afterwards."""
    loggers = [logging.getLogger(name) for name in ("", logs.ROOT, "flwr")]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    factory = logging.getLogRecordFactory()
    escape_logs()
    yield logging.getLogger("limbeck.test")
    logging.setLogRecordFactory(factory)
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)


def test_an_entry_of_a_daemon_is_one_line_with_its_time_in_utc(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.begin(Logs(daemon=True, level=LogLevel.INFO))
    entry = log.makeRecord(log.name, logging.INFO, __file__, 1, "%s", (LONG,), None)
    entry.created = datetime(2026, 11, 28, 14, 5, 6, 78_000, UTC).timestamp()
    log.handle(entry)
    log.info("%s", LONG)
    given, now = capsys.readouterr().err.splitlines()
    assert given == f"2026-11-28T14:05:06.078Z INFO {LONG}"
    assert re.fullmatch(f"{STAMP} INFO {LONG}", now)


def test_an_entry_as_json_has_its_fields_and_what_it_is_about(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.begin(Logs(format=LogFormat.JSON, daemon=True, level=LogLevel.INFO))
    log.warning("One\nTwo \x1b[31m", extra=about(event="charged", plan=b"\1\2", site="a", epsilon=2.5, spent=float("inf")))
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert re.fullmatch(STAMP, entry.pop("time"))
    assert entry == {
        "level": "warning",
        "logger": "limbeck.test",
        "message": "One\n    Two \\x1b[31m",
        "event": "charged",
        "plan": "0102",
        "site": "a",
        "epsilon": 2.5,
        "spent": None,
    }


def test_what_an_entry_is_about_cannot_replace_its_own_fields_or_end_its_line(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.begin(Logs(format=LogFormat.JSON))
    log.error("what happened", extra={"about": {"message": "another", "reason": "a\nb\u2028c\u202e"}})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isascii()
    entry = json.loads(line)
    assert (entry["message"], entry["reason"]) == ("what happened", "a\\x0ab\\u2028c\\u202e")


@pytest.mark.parametrize("form", LogFormat)
def test_an_exception_belongs_to_its_entry(log: logging.Logger, capsys: pytest.CaptureFixture[str], form: LogFormat) -> None:
    logs.begin(Logs(format=form, daemon=True))
    try:
        raise ValueError("forged\n2026-01-01T00:00:00.000Z INFO all is well")
    except ValueError:
        log.exception("It failed.")
    first, *more = capsys.readouterr().err.splitlines()
    if form is LogFormat.JSON:
        assert not more
        assert "ValueError: forged" in json.loads(first)["exception"]
    else:
        assert first.endswith("ERROR It failed.")
        assert more
        assert all(line.startswith("    ") for line in more)


def test_the_level_is_limbecks_and_libraries_are_heard_from_warnings_on(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.begin(Logs(level=LogLevel.DEBUG))
    log.debug("limbeck's detail")
    logging.getLogger("another").info("a library's detail")
    logging.getLogger("another").warning("a library's warning")
    assert capsys.readouterr().err.splitlines() == ["DEBUG limbeck's detail", "WARNING a library's warning"]


def test_flowers_entries_are_written_like_all_others(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    import flwr.app  # noqa: F401 - sets up its log

    logs.begin(Logs(format=LogFormat.JSON))
    logging.getLogger("flwr").warning("not this")
    logging.getLogger("flwr").error("Flower's own")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "Flower's own"


def test_beginning_again_replaces_the_former_log(log: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    logs.begin(Logs())
    logs.begin(now := Logs(format=LogFormat.JSON))
    assert logs.current() == now
    log.error("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_grpc_writes_no_lines_of_its_own_about_a_port_at_which_nobody_listens() -> None:
    script = (
        "from limbeck.protos import tls\n"
        "import grpc\n"
        "channel = grpc.insecure_channel('127.0.0.1:1')\n"
        "try:\n"
        "    channel.unary_unary('/a/b')(b'', timeout=5)\n"
        "except grpc.RpcError as error:\n"
        "    print(error.code().name)\n"
        "server = grpc.server(None)\n"
        "try:\n"
        "    server.add_insecure_port('192.0.2.1:1')\n"
        "except RuntimeError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["UNAVAILABLE", "refused"], done.stderr
    assert done.stderr == ""
