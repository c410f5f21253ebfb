"""What commands list is whole at 80 columns, in a pipe and in a file: serial numbers, dates, hashes and commands can be copied."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers import sites
from limbeck.cli.main import app
from limbeck.client import ledger as ledgers
from limbeck.client.app import respond
from limbeck.client.site import Site
from limbeck.deployment import certificates, keys
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Teach
from limbeck.simulations.data import KNOWN, artefacts
from limbeck.simulations.scenario import shipped


def said(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "80"}, terminal_width=80)
    assert done.exit_code == 0, done.output
    assert "…" not in done.output
    return done.output


@pytest.fixture
def site(tmp_path: Path) -> Path:
    made, plan = sites.make(tmp_path / "site"), sites.plan()
    plan_hash = codec.plan_hash(plan)
    for question in (sites.offer(), Teach(plan_hash=plan_hash), Ask(plan_hash=plan_hash, stage=0, first=0, count=20)):
        respond(made, codec.encode_request(question))
    return made.folder


def test_serial_numbers_and_dates_of_certificates(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = keys.init(
        tmp_path / "keys", names=("coordinator.of-a-long-name.example.org",), addresses=(), days=90, now=now
    )
    authority.node("north", days=30, now=now)
    output = said("keys", "show", tmp_path / "keys")
    issued = authority.issued(now)
    assert len(issued) == 2
    for each in issued:
        assert certificates.serial_of(each.certificate) in output
        assert f"{each.certificate.not_valid_after_utc:%Y-%m-%d}" in output


def test_times_plans_and_reasons_of_a_ledger(site: Path) -> None:
    output = said("ledger", "show", site)
    for entry in ledgers.read(Site(site).ledger).entries:
        assert f"{datetime.fromisoformat(entry.time):%Y-%m-%d %H:%M:%S}" in output
        assert entry.plan_hash.hex()[:12] in output
        assert (entry.why or "") in output


def test_times_and_plans_of_a_transcript(site: Path) -> None:
    output = said("transcript", "show", site)
    for each in Site(site).transcript:
        assert f"{datetime.fromisoformat(each.time):%Y-%m-%d %H:%M:%S}" in output
        assert each.plan_hash.hex()[:12] in output


def test_what_a_scenario_needs_and_what_fetches_a_data_set() -> None:
    listed = said("scenarios")
    words = set(" ".join(shipped().values()).split())
    assert any("limbeck[encoders]" in word for word in words)
    assert words <= set(listed.split())
    listed = said("data", "list")
    for name in (*KNOWN, *artefacts.ENCODERS):
        assert re.search(rf"^{name} ", listed, flags=re.MULTILINE)
        assert name not in artefacts.ARTEFACTS or f"limbeck data get {name}" in listed or " yes" in listed
