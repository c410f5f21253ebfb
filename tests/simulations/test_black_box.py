"""A federation of DP sites and one with a black-box teacher: what its ledger, the coordinator, the console and the report say."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from limbeck.base.errors import BudgetError, SettingError
from limbeck.client.app import respond
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Declined, Offer, Reason, Teach
from limbeck.simulations import black_box, metrics, prepare, run, scenario, summary

TINY = ["data.private=300", "data.public=60", "student.epochs=2", "student.dense_control=false", "run.workers=2"]


def tiny(*overrides: str) -> scenario.Scenario:
    return scenario.load("digits-black-box", [*TINY, *overrides])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that pools by class counts, which the third site does not release."""
    folder = tmp_path_factory.mktemp("black-box") / "run"
    run.simulate(tiny("pooling.kind=class-counts"), folder)
    return folder


def test_the_site_without_a_guarantee_is_named_and_the_others_keep_theirs(finished: Path) -> None:
    measured = metrics.read(finished)
    assert [client.guarantee for client in measured.clients] == ["record-dp", "record-dp", "none"]
    assert [client.epsilon is None for client in measured.clients] == [False, False, True]
    assert [client.label_counts is None for client in measured.clients] == [False, False, True]
    assert [stage.clients for stage in measured.stages] == [3, 3]
    assert measured.pool.quality.test is not None
    assert measured.clients[2].teacher.test is not None
    record = json.loads((finished / "server" / "record.json").read_text())
    assert record["clients"]["site-02"]["guarantee"] == "none"


def test_console_and_report_say_so(finished: Path) -> None:
    measured = metrics.read(finished)
    console = Console(record=True, width=160, quiet=False, file=io.StringIO())
    summary.show(console, measured)
    printed = console.export_text()
    (row,) = [line for line in printed.splitlines() if line.startswith("site-02")]
    assert "no DP guarantee" in row
    assert "No DP guarantee for the records of site-02" in printed
    page = (finished / "report.html").read_text()
    assert "<strong>No DP guarantee for the records of site-02.</strong>" in page
    assert page.count("no DP guarantee") >= 2  # the table's cell and the plot of budgets
    assert "Not protected at all: the records of site-02" in page


def test_a_run_of_dp_sites_alone_has_no_such_warning(tmp_path: Path) -> None:
    measured = run.simulate(tiny("black_box.sites=0"), tmp_path / "run")
    assert [client.guarantee for client in measured.clients] == ["record-dp"] * 3
    assert "no dp guarantee" not in (tmp_path / "run" / "report.html").read_text().lower()


def test_its_ledger_holds_one_declared_entry_that_all_its_answers_refer_to(finished: Path) -> None:
    site = Site(finished / "sites" / "site-02")
    with Ledger(site.ledger, site.budget) as ledger:
        (entry,) = ledger.entries()
        assert (entry.state, ledger.spent()) == ("declared", math.inf)
        assert "no DP guarantee" in str(entry.why)
    assert [sent.entry for sent in site.transcript] == [None, *[entry.id] * 2]
    assert not list(site.folder.rglob("teacher.safetensors"))


def test_the_ledger_then_refuses_dp_runs_unless_the_owner_allows_it(finished: Path) -> None:
    _, plan, _ = prepare.read_prepared(finished)
    site = Site(finished / "sites" / "site-02")
    with Ledger(site.ledger, site.budget) as ledger:
        ledger.check(plan.teaching, plan.label_counts)
    with (
        Ledger(site.ledger, replace(site.budget, allow_without_dp=False)) as ledger,
        pytest.raises(BudgetError, match="without one"),
    ):
        ledger.check(plan.teaching, plan.label_counts)


def test_without_the_owners_word_the_site_declines_and_nothing_is_asked(tmp_path: Path) -> None:
    measured = run.simulate(tiny("black_box.allow_without_dp=false"), tmp_path / "run")
    last = measured.clients[2]
    assert last.reason == "agree: the site's policy does not allow it"
    assert last.epsilon == 0
    assert [stage.clients for stage in measured.stages] == [2, 2]
    assert not list((tmp_path / "run" / "sites" / "site-02").rglob("black-box"))


@pytest.mark.parametrize("softening", ["power", "mixing"])
def test_labels_only_teaches_too(softening: str, tmp_path: Path) -> None:
    measured = run.simulate(tiny("black_box.labels_only=true", f"release.softening={softening}"), tmp_path / "run")
    assert [stage.clients for stage in measured.stages] == [3, 3]
    assert measured.pool.accuracy is not None
    assert measured.pool.accuracy > 0.6
    # What the model would have drawn for other inputs is not known; what a model of probabilities says is.
    quality = measured.pool.quality
    assert (quality.test, quality.public is None) == (None, False)
    assert quality.why == "site-02: its black-box teacher gives labels, and none were drawn for other inputs"
    assert measured.clients[2].epsilon is None


def settle(folder: Path) -> tuple[Site, bytes]:
    prepare.prepare(tiny(), folder)
    _, _, sites = prepare.read_prepared(folder)
    return Site(sites / "site-02"), (folder / "plan.pb").read_bytes()


def reason(site: Site, folder: Path, request: Offer | Teach | Ask) -> Reason:
    _, plan, _ = prepare.read_prepared(folder)
    reply = codec.decode_reply(respond(site, codec.encode_request(request)), plan=plan, expecting=request)
    assert isinstance(reply, Declined)
    return reply.reason


def test_a_word_taken_back_between_stages_stops_the_answers(tmp_path: Path) -> None:
    _, offer = settle(tmp_path)
    _, plan, sites = prepare.read_prepared(tmp_path)
    own = codec.plan_hash(plan)
    with black_box.served(sites, labels_only=False):
        respond(Site(sites / "site-02"), offer)
        respond(Site(sites / "site-02"), codec.encode_request(Teach(plan_hash=own)))
    first = Ask(plan_hash=own, stage=0, first=0, count=plan.samples)
    # The teacher is gone; its answers are stored.
    respond(Site(sites / "site-02"), codec.encode_request(first))
    path = sites / "site-02" / "policy.toml"
    path.write_text(path.read_text().replace("allow_without_dp = true", "allow_without_dp = false"))
    second = Ask(plan_hash=own, stage=1, first=0, count=plan.samples)
    assert reason(Site(sites / "site-02"), tmp_path, second) is Reason.POLICY


def test_a_teacher_that_cannot_be_reached_is_a_reason_of_its_own(tmp_path: Path) -> None:
    site, offer = settle(tmp_path)
    path = site.folder / "site.toml"
    path.write_text(path.read_text().replace("[black_box]", "[black_box]\nattempts = 1"))
    request = codec.decode_request(offer)
    assert isinstance(request, Offer)
    assert reason(Site(site.folder), tmp_path, request) is Reason.TEACHER


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('address = "10.0.0.5:50051"', "black_box.ca"),
        ('address = "127.0.0.1:5"\ncertificate = "c.pem"', "together"),
        ('address = "not an address"', "black_box.address"),
    ],
)
def test_settings_that_would_send_in_the_clear_or_make_no_sense_are_refused(line: str, said: str, tmp_path: Path) -> None:
    site, _ = settle(tmp_path)
    path = site.folder / "site.toml"
    path.write_text(path.read_text().replace(f'address = "{black_box.NOWHERE}"', line))
    with pytest.raises(SettingError, match=said):
        _ = Site(site.folder).black_box
