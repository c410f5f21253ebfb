"""The client app as a coordinator meets it: bytes in, bytes out."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sites
import tomli_w

from limbeck.client import encodings, teachers
from limbeck.client import ledger as ledgers
from limbeck.client.app import respond
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.client.tables import Table
from limbeck.client.teachers.linear import Linear
from limbeck.client.transcript import Transcript
from limbeck.operators.errors import TranscriptError
from limbeck.protos import accounting, codec
from limbeck.protos.messages import Accepted, Ask, Declined, Plan, Reason, Reply, Request, Share, Taught, Teach, TopK
from limbeck.protos.transfer_set import digest
from limbeck.simulations import prepare, scenario


def test_what_an_error_says_never_leaves_the_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("patient 17 has label 3")

    plan = prepare.prepare(scenario.load("digits-tiny", ["data.private=60", "data.public=20"]), tmp_path / "run")
    site, teach = Site(tmp_path / "run" / "sites" / "site-00"), Teach(plan_hash=codec.plan_hash(plan))
    respond(site, (tmp_path / "run" / "plan.pb").read_bytes())
    monkeypatch.setattr(teachers, "train", fail)
    sent = respond(site, codec.encode_request(teach))
    assert b"patient" not in sent
    found = codec.decode_reply(sent, plan=plan, expecting=teach)
    assert found == Declined(plan_hash=teach.plan_hash, site="site-00", reason=Reason.FAILED)


CELLS = Table(columns={"age": ["50", "70", None], "sex": ["m", "f", "f"]}, source="public")
ENCODING = encodings.fit_table(CELLS, numbers=["age"], categories=["sex"])


def of_patients(folder: Path) -> tuple[Site, Plan]:
    """A site with a table and a public encoding, and a plan that names it."""
    sites.make(folder, answers__max_bits=200)
    rows = ENCODING(CELLS)
    np.savez(folder / "transfer" / f"{digest(rows).hex()}.npz", x=rows)
    (folder / "patients.csv").write_text("age,sex,sick\n61,m,1\n40,f,0\n")
    encodings.save(ENCODING, folder / "encoding.json")
    own = {"path": "patients.csv", "label": "sick", "encoding": "encoding.json"}
    (folder / "site.toml").write_text(tomli_w.dumps({"name": "site", "transfer_sets": "transfer", "records": own}))
    plan = sites.plan(classes=2, samples=3, truncation=TopK(k=2), encoding=encodings.digest(ENCODING))
    teaching = replace(plan.teaching, features="rows")  # type: ignore[type-var]
    return Site(folder), replace(plan, transfer_set=digest(rows), teaching=teaching)


def ask(site: Site, plan: Plan, question: Request) -> Reply:
    return codec.decode_reply(respond(site, codec.encode_request(question)), plan=plan, expecting=question)


@pytest.mark.parametrize("named", [None, bytes(32)])
def test_a_plan_with_another_encoding_is_declined_and_the_log_names_the_rule(
    named: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site, plan = of_patients(tmp_path)
    with caplog.at_level(logging.WARNING, "limbeck"):
        found = ask(site, replace(plan, encoding=named), sites.offer(replace(plan, encoding=named)))
    assert isinstance(found, Declined)
    assert found.reason is Reason.ENCODING
    assert f"records.encoding: expected the encoding of the plan, SHA-256 {named.hex() if named else 'none'}" in caplog.text
    assert encodings.digest(ENCODING).hex() in caplog.text


def test_a_site_without_the_encoding_of_a_plan_declines(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan(encoding=bytes(32))
    found = ask(site, plan, sites.offer(plan))
    assert isinstance(found, Declined)
    assert found.reason is Reason.ENCODING


def test_an_encoding_changed_after_a_plan_was_accepted_is_noticed_before_a_charge_or_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan = of_patients(tmp_path)
    teach = Teach(plan_hash=codec.plan_hash(plan))
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    path = tmp_path / "encoding.json"
    honest = path.read_bytes()
    path.write_bytes(honest.replace(b'"deviation": 10.0', b'"deviation": 10.5'))
    assert path.read_bytes() != honest
    with monkeypatch.context() as patch:
        patch.setattr(Site, "read_records", lambda *_: pytest.fail("a record was read"))
        found = ask(site, plan, teach)
    assert isinstance(found, Declined)
    assert found.reason is Reason.ENCODING
    with Ledger(site.ledger, site.budget) as ledger:
        assert ledger.entries() == []
    path.write_bytes(honest)
    assert isinstance(ask(site, plan, teach), Taught)


# Costs


def test_a_plan_that_claims_less_than_it_costs_is_declined_and_charges_nothing(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan()
    cheap = replace(plan, privacy=replace(plan.privacy, epsilon=1.0))
    found = ask(site, cheap, sites.offer(cheap))
    assert isinstance(found, Declined)
    assert found.reason is Reason.PLAN
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    with Ledger(site.ledger, site.budget) as ledger:
        assert ledger.entries() == []


def test_when_the_first_record_is_read_the_cost_is_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process would find it, which is what a crash leaves."""
    site, plan = sites.make(tmp_path), sites.plan()
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    seen: list[tuple[str, float]] = []
    real = Site.read_records

    def look(own: Site, classes: int) -> object:
        book = ledgers.read(own.ledger)
        seen.extend((entry.state, book.spent()) for entry in book.entries)
        return real(own, classes)

    monkeypatch.setattr(Site, "read_records", look)
    assert isinstance(ask(site, plan, Teach(plan_hash=codec.plan_hash(plan))), Taught)
    assert seen == [("reserved", pytest.approx(accounting.epsilon(((plan.teaching, plan.counts),), 1e-5)))]


def test_a_second_training_is_a_second_charge_and_declined_when_the_budget_pays_for_one(tmp_path: Path) -> None:
    """Choosing among trainings by their results would otherwise be free."""
    site, found = sites.make(tmp_path), []
    for seed in (1, 2):
        plan = sites.plan(public_seed=seed)
        assert isinstance(ask(site, plan, sites.offer(plan)), Accepted if seed == 1 else Declined)
        found.append(ask(site, plan, Teach(plan_hash=codec.plan_hash(plan))))
    assert isinstance(found[0], Taught)
    assert isinstance(found[1], Declined)


def test_a_training_that_came_to_nothing_is_not_charged_again_even_where_the_budget_would_allow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk, where a site is asked again and again."""
    site, plan = sites.make(tmp_path, budget__epsilon=50.0), sites.plan()
    teach = Teach(plan_hash=codec.plan_hash(plan))
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    with monkeypatch.context() as patch:
        patch.setattr(Linear, "save", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no room")))
        assert isinstance(failed := ask(site, plan, teach), Declined)
    assert isinstance(again := ask(site, plan, teach), Declined)
    assert (failed.reason, again.reason) == (Reason.FAILED, Reason.BUDGET)
    with Ledger(site.ledger, site.budget) as ledger:
        assert [entry.state for entry in ledger.entries()] == ["reserved"]


def test_what_a_trained_site_could_not_write_down_is_sent_when_it_can_and_charged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan = sites.make(tmp_path, budget__epsilon=50.0), sites.plan()
    teach = Teach(plan_hash=codec.plan_hash(plan))
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    with monkeypatch.context() as patch:
        patch.setattr(Transcript, "append", lambda *_, **__: (_ for _ in ()).throw(TranscriptError("no room")))
        for _ in range(3):
            with pytest.raises(TranscriptError):
                ask(site, plan, teach)
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    assert isinstance(ask(site, plan, teach), Taught)
    with Ledger(site.ledger, site.budget) as ledger:
        assert [entry.state for entry in ledger.entries()] == ["committed"]
    assert [own.what for own in site.transcript] == ["accepted", "accepted", "taught"]


def test_a_question_asked_twice_gets_the_same_bytes_so_noise_cannot_be_averaged_away(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan()
    own = codec.plan_hash(plan)
    ask(site, plan, sites.offer(plan))
    for question in (Teach(plan_hash=own), Ask(plan_hash=own, stage=1, first=3, count=9)):
        first, second = (respond(site, codec.encode_request(question)) for _ in range(2))
        assert first == second
    with Ledger(site.ledger, site.budget) as ledger:
        assert sum(entry.schedule is not None for entry in ledger.entries()) == 1


def test_what_0_1_0_answered_is_sent_in_todays_encoding_and_written_down_as_it_left(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan()
    own = codec.plan_hash(plan)
    ask(site, plan, sites.offer(plan))
    taught = ask(site, plan, Teach(plan_hash=own))
    assert isinstance(taught, Taught)
    assert taught.label_counts is not None
    packed = np.array(taught.label_counts, "<f4").tobytes()
    inner = b"\x0a\x20" + own + b"\x12" + bytes([len(packed)]) + packed + b"\x4a\x09record-dp"
    former = b"\x1a" + bytes([len(inner)]) + inner
    (site.state(own) / "taught.pb").write_bytes(former)
    first, second = (respond(site, codec.encode_request(Teach(plan_hash=own))) for _ in range(2))
    assert first == second == codec.encode_reply(taught)
    assert [(sent.what, sent.data, sent.again) for sent in site.transcript][2:] == [
        ("taught", first, False),
        ("taught", first, True),
    ]
    assert isinstance(ask(site, plan, Ask(plan_hash=own, stage=0, first=0, count=20)), Share)
