"""Files that a crash, a disk or a hand has changed: a doctor names them, a status is what is left, and nothing ends in a traceback."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers import recorded_runs, sites
from limbeck.base.errors import LimbeckError, RunError
from limbeck.base.findings import Findings, ok
from limbeck.base.printable import plain_console
from limbeck.client.ledger import Ledger, close_idle
from limbeck.client.site import Site
from limbeck.deployment import bringup, commands, doctor, status, superlink_status, watch
from limbeck.deployment.doctor import Finding, Outcome, site
from limbeck.deployment.doctor.checks import Examination
from limbeck.protos import codec

# What a value of JSON or TOML is replaced by.
VALUES = [
    *("null", "true", "-1", "1.5", "1e999", "NaN", "-Infinity", "9" * 30, '""', '"\\u001b[31m\\n\\u202e"', "[]", "{}"),
    *("[" * 100_000, '{"a": [null]}', '"' + "x" * 100_000 + '"'),
]
VALUE = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?|null|true|\[|\{')


def torn(content: bytes) -> Iterator[bytes]:
    """A file as it may be found."""
    middle = len(content) // 2
    yield b""
    yield content[:middle]
    yield content[:-1]
    yield b"\x00" * len(content)
    yield content[:middle] + b"\xff\xfe\x1b[31m\x00" + content[middle + 7 :]
    yield content + content[:middle]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With everything in it that a doctor looks at."""
    out = tmp_path_factory.mktemp("torn") / "federation"
    bringup.init(bringup.Federation(server=("localhost",), sites=("A", "B"), days=90), out, now=datetime.now(UTC))
    source, a = sites.make(out.parent / "site"), out / "sites" / "A"
    for name in ("records.npz", "policy.toml"):
        shutil.copy(source.folder / name, a / name)
    for folder in (a, out / "coordinator"):
        shutil.copytree(source.folder / "transfer", folder / "transfer-sets", dirs_exist_ok=True)
    (out / "coordinator" / "plan.pb").write_bytes(codec.encode_request(sites.offer()))
    site, plan = Site(a), sites.plan()
    with Ledger(site.ledger, site.budget) as ledger:
        entry = ledger.reserve(codec.plan_hash(plan), "teacher", plan.teaching, plan.counts)
        ledger.commit(entry)
    close_idle()
    for again in (False, True):
        site.transcript.append("taught", codec.plan_hash(plan), entry, b"x" * 30, again=again)
    return out


@pytest.mark.parametrize("side", ["sites/A", "coordinator", "authority"])
def test_a_doctor_survives_whatever_has_become_of_a_file(side: str, federation: Path) -> None:
    folder = federation / side
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".service"):
        whole = path.read_bytes()
        for content in torn(whole):
            path.write_bytes(content)
            findings = doctor.examine(folder, now=datetime.now(UTC), network=False)
            for finding in findings:
                assert not finding.found.startswith("Unexpected"), (path, finding)
                assert finding.outcome is doctor.Outcome.OK or finding.found, path
            close_idle()
        path.write_bytes(whole)
    assert doctor.healthy(doctor.examine(folder, now=datetime.now(UTC), network=False))


@pytest.mark.parametrize(
    "name", ["keys/ca.pem", "keys/A.pem", "keys/A.key", "policy.toml", "site.toml", "records.npz.ledger"]
)
def test_what_no_site_can_do_without_is_not_healthy_when_it_is_torn(name: str, federation: Path) -> None:
    path = federation / "sites" / "A" / name
    whole = path.read_bytes()
    for content in torn(whole):
        if content.startswith(whole):
            continue
        path.write_bytes(content)
        findings = doctor.examine(federation / "sites" / "A", now=datetime.now(UTC), network=False)
        # What a file lacks at its end may be no more than a line's end.
        assert not doctor.healthy(findings) or content == whole[:-1]
    path.write_bytes(whole)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_runs.make(tmp_path_factory.mktemp("run") / "run")


def look(run: Path) -> bool:
    """Everything that shows a run, harmless; whether there was a status."""
    page = watch.fragment(run, now=time.time())
    assert all(line.isprintable() for line in page.split("\n"))
    assert len(page) < 3_000_000
    try:
        read = status.read(run)
    except RunError:
        assert "No run to show yet" in page
        return False
    json.dumps(status.to_json(read), allow_nan=False)
    out = plain_console()
    out.file = io.StringIO()
    commands._show(out, read)
    assert all(line.isprintable() for line in out.file.getvalue().split("\n"))
    return True


@pytest.mark.parametrize("name", ["events.jsonl", "record.json", "plan.pb"])
def test_a_torn_file_of_a_run_leaves_a_status_or_an_error(name: str, run: Path) -> None:
    whole = (run / name).read_bytes()
    for content in torn(whole):
        (run / name).write_bytes(content)
        # A record is written whole or not at all, so one that is torn is an error; events and plan are passed over.
        assert look(run) or name == "record.json"
    (run / name).write_bytes(whole)


@pytest.mark.parametrize("name", ["events.jsonl", "record.json"])
def test_an_invalid_value_leaves_a_status_or_an_error(name: str, run: Path) -> None:
    """Each of the first and last values in turn, a name's among them, by each that it cannot be."""
    whole = (run / name).read_text()
    places = list(VALUE.finditer(whole))
    for number, place in enumerate([*places[:24], *places[-12:]]):
        for value in VALUES[number % 3 :: 3]:
            (run / name).write_text(whole[: place.start()] + value + whole[place.end() :])
            look(run)
    (run / name).write_text(whole)
    assert look(run)


@pytest.mark.parametrize("value", [*VALUES, '{"folder": 1, "run": 1}', '{"folder": "a", "run": 1e999}', '{"folder": "a"}'])
def test_a_note_of_a_superlink_that_is_none_is_an_error(value: str, tmp_path: Path) -> None:
    (tmp_path / superlink_status.NOTE).write_text(value)
    with pytest.raises(LimbeckError, match="Expected a SuperLink's folder and a run's id"):
        superlink_status.read_note(tmp_path)


def test_a_check_that_meets_what_nobody_foresaw_hides_no_other(federation: Path) -> None:
    @doctor.check("broken", advice="Do something.")
    def broken(_: Site, __: Examination) -> Findings:
        yield ok("so far")
        raise RuntimeError("\x1b[31mbroken")

    side = replace(site.SIDE, checks=(broken, *site.SIDE.checks))
    folder, now = federation / "sites" / "A", datetime.now(UTC)
    findings = doctor.examine(folder, now=now, network=False, sides=[side])
    assert [each for each in findings if each.check == "broken"] == [
        Finding(check="broken", outcome=Outcome.OK, found="so far"),
        Finding(
            check="broken", outcome=Outcome.FAIL, found="Unexpected RuntimeError: \\x1b[31mbroken", advice="Do something."
        ),
    ]
    assert {each.check for each in doctor.examine(folder, now=now, network=False)} < {each.check for each in findings}
