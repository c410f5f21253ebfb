"""What an owner or an officer sees of policy, ledger and transcript on the command line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import sites
from helpers.owner import limbeck, write
from helpers.plans import NET
from limbeck.base.errors import LedgerError, SettingError, TranscriptError
from limbeck.client import ledger as ledgers
from limbeck.client import policy
from limbeck.client.app import respond
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.plans import accounting, privacy_filter, second_opinion
from limbeck.plans.schema import TopK
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Teach


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site that accepted a plan, taught and answered once."""
    made, offer = sites.make(tmp_path / "site"), sites.offer()
    plan_hash = codec.plan_hash(offer.plan)
    for question in (offer, Teach(plan_hash=plan_hash), Ask(plan_hash=plan_hash, stage=0, first=0, count=20)):
        respond(made, codec.encode_request(question))
    return made


def test_a_plan_is_checked_against_a_policy_before_anybody_is_asked(tmp_path: Path) -> None:
    site = sites.make(tmp_path / "site", answers__max_bits=200)
    assert "allowed" in limbeck("policy", "check", write(tmp_path / "a.pb", sites.plan()), site.folder)
    said = limbeck("policy", "check", write(tmp_path / "b.pb", sites.plan(truncation=TopK(k=5))), site.folder, status=1)
    assert "refused by answers.max_k = 3: the plan keeps 5" in said
    cheap = sites.make(tmp_path / "cheap", budget__epsilon=0.5)
    said = limbeck("policy", "check", tmp_path / "a.pb", cheap.folder / "policy.toml", status=1)
    assert "budget.epsilon = 0.5: the plan alone costs" in said


def test_a_policy_is_begun_from_a_template_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    limbeck("policy", "init", path)
    policy.read(path)
    path.write_text("mine")
    with pytest.raises(SettingError, match="left as it is"):
        limbeck("policy", "init", path)
    assert path.read_text() == "mine"


def test_a_policy_is_explained_in_sentences(site: Site) -> None:
    said = limbeck("policy", "explain", site.folder)
    assert "epsilon = 3 at delta = 1e-05" in said
    assert "at most the 3 likeliest classes, in 100 bits" in said


def test_the_ledger_is_shown_with_cost_and_reason(site: Site) -> None:
    said = limbeck("ledger", "show", site.folder)
    assert "committed" in said
    assert "post-processing" in said
    shown = json.loads(limbeck("ledger", "show", "--json", site.folder))
    assert [entry["state"] for entry in shown["entries"]] == ["committed", "free"]
    assert shown["entries"][0]["epsilon_alone"] == pytest.approx(shown["spent_epsilon"])
    assert shown["spent_epsilon_if_fixed"] == pytest.approx(shown["spent_epsilon"])
    exported = json.loads(limbeck("ledger", "export", site.ledger))
    assert {name: exported[name] for name in shown} == shown
    assert [row["kind"] for row in exported["rows"]] == ["open", "reserve", "commit", "free"]


def test_the_ledger_shows_what_holds_whatever_plans_depend_on_and_what_would_had_they_been_fixed(tmp_path: Path) -> None:
    site = sites.make(tmp_path, budget__epsilon=20.0)
    with Ledger(site.ledger, site.budget) as ledger:
        for noise in (1.2, 1.3):
            ledger.reserve(bytes(32), "teacher", replace(NET, noise_multiplier=noise), None)
    book = ledgers.read(site.ledger)
    said = limbeck("ledger", "show", site.folder)
    terms = "at delta = 1e-05, per record, add-remove-one"
    assert f"epsilon = {book.spent():.4g} spent in all {terms}" in said
    assert f"Had all plans been fixed beforehand: epsilon = {book.spent_if_fixed():.4g} {terms}" in said
    assert book.spent() > 1.02 * book.spent_if_fixed()
    for command in (("show", "--json"), ("export",)):
        shown = json.loads(limbeck("ledger", *command, site.folder))
        assert (shown["spent_epsilon"], shown["spent_epsilon_if_fixed"]) == (book.spent(), book.spent_if_fixed())
        assert shown["filter"] == privacy_filter.FIXED


def test_a_ledger_shows_both_accountants_and_is_loud_where_they_disagree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites.make(tmp_path, budget__epsilon=20.0)
    with Ledger(site.ledger, site.budget) as ledger:
        ledger.reserve(bytes(32), "teacher", NET, None)
    said, schedules = limbeck("ledger", "show", site.folder), ((NET, None),)
    opinion = second_opinion.of(schedules, 1e-5)
    assert opinion.epsilon == pytest.approx(accounting.epsilon(schedules, 1e-5), abs=2e-3)
    assert "by PRV" in said
    assert f"{opinion.sentence}, for the charges together, had they been fixed." in said
    assert "DISAGREE" not in said
    shown = json.loads(limbeck("ledger", "show", "--json", site.folder))
    assert shown["second_opinion"] == shown["entries"][0]["second_opinion"] == opinion.values
    assert shown["disagreements"] == []
    monkeypatch.setattr(second_opinion, "_of", lambda *_: second_opinion.Opinion(9.0, 8.99, 9.01))
    said = limbeck("ledger", "show", site.folder)
    entry = ledgers.read(site.ledger).entries[0].id
    assert f"Entry {entry}: THE TWO ACCOUNTANTS DISAGREE" in said
    assert "All charges: THE TWO ACCOUNTANTS DISAGREE" in said
    assert len(json.loads(limbeck("ledger", "export", site.folder))["disagreements"]) == 2


def test_the_ledger_shows_that_no_epsilon_holds_and_what_its_charges_alone_cost(tmp_path: Path) -> None:
    site = sites.make(tmp_path, teachers__allow_without_dp=True)
    with Ledger(site.ledger, site.budget) as ledger:
        ledger.declare(bytes(32), "answers", "no DP guarantee")
        ledger.reserve(bytes(32), "teacher", sites.plan().teaching, None)
        alone = privacy_filter.spent(ledgers.read(site.ledger).schedules, 1e-5)
    said = limbeck("ledger", "show", site.folder)
    assert "epsilon is infinite, at any delta" in said
    assert f"The charges alone come to epsilon = {alone:.4g} at delta = 1e-05" in said
    shown = json.loads(limbeck("ledger", "show", "--json", site.folder))
    assert (shown["spent_epsilon"], shown["spent_epsilon_if_fixed"]) == (None, None)


def test_a_head_noted_earlier_and_the_transcript_are_witnesses(site: Site, tmp_path: Path) -> None:
    head = limbeck("ledger", "verify", site.folder).split()[-1]
    limbeck("ledger", "verify", site.folder, "--head", head)
    # Ledger and head both put back to a new one: the chain is whole, but two witnesses say otherwise.
    other = sites.make(tmp_path / "other")
    offer = sites.offer()
    respond(other, codec.encode_request(offer))
    ledgers.close_idle()  # as at the end of the process
    for suffix in ("", ".head"):
        source = other.ledger.with_name(other.ledger.name + suffix)
        site.ledger.with_name(site.ledger.name + suffix).write_bytes(source.read_bytes())
    with pytest.raises(LedgerError, match="not a later state"):
        limbeck("ledger", "verify", site.ledger, "--head", head)
    with pytest.raises(LedgerError, match="to have row 4 with hash"):
        limbeck("ledger", "verify", site.folder)


def test_the_transcript_lists_what_left_and_decodes_it(site: Site) -> None:
    said = limbeck("transcript", "show", site.folder)
    assert [word in said for word in ("accepted", "taught", "share of stage 1")] == [True] * 3
    said = limbeck("transcript", "show", site.folder, "--message", 3)
    assert "20 answers, at temperature 2" in said
    assert "Noisy counts" in limbeck("transcript", "show", site.folder, "--message", 2)
    assert "3 messages" in limbeck("transcript", "show", site.folder, "--verify")
    with pytest.raises(TranscriptError, match="from 1 to 3"):
        limbeck("transcript", "show", site.folder, "--message", 4)
