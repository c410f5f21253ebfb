"""The client app as a coordinator meets it: bytes in, bytes out."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers import sites
from limbeck.base.errors import DataError, LedgerError, SettingError, TranscriptError
from limbeck.client import app as client_app
from limbeck.client import ledger as ledgers
from limbeck.client import release, stored, teachers
from limbeck.client import site as client_site
from limbeck.client.app import respond
from limbeck.client.holdings import Records
from limbeck.client.ledger import Ledger
from limbeck.client.noise import Noise
from limbeck.client.site import Site
from limbeck.client.teachers.linear import Linear
from limbeck.client.training import TRAININGS
from limbeck.client.transcript import Transcript
from limbeck.inputs import encodings
from limbeck.inputs.tables import Table
from limbeck.inputs.transfer_set import digest
from limbeck.plans import accounting
from limbeck.plans.schema import Plan, Sampled, TopK
from limbeck.protos import codec
from limbeck.protos.messages import Accepted, Ask, Declined, Guarantee, Reason, Reply, Request, Share, Taught, Teach
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
    reply = codec.decode_reply(sent, plan=plan, expecting=teach)
    assert reply == Declined(plan_hash=teach.plan_hash, site="site-00", reason=Reason.FAILED)


def test_a_plan_whose_hash_begins_like_an_accepted_ones_is_not_that_one(tmp_path: Path) -> None:
    """Folders of plans are named by the first half of a hash."""
    site, plan = sites.make(tmp_path), sites.plan()
    respond(site, codec.encode_request(sites.offer(plan)))
    other = Teach(plan_hash=codec.plan_hash(plan)[:16] + bytes(16))
    assert Reason.PLAN.name.encode() in respond(site, codec.encode_request(other))
    with Ledger(site.ledger, site.budget) as ledger:
        assert list(ledger.entries()) == []


CELLS = Table(
    columns={"age": ["50", "70", *map(str, range(31, 41)), None], "sex": ["m", "f", "f", *"mf" * 5]}, source="public"
)
ENCODING = encodings.fit_table(CELLS, numbers=["age"], categories=["sex"])


def of_patients(folder: Path) -> tuple[Site, Plan]:
    """A site with a table and a public encoding, and a plan that names it."""
    sites.make(folder, answers__max_bits=200)
    rows = ENCODING(CELLS)
    np.savez(folder / "transfer" / f"{digest(rows).hex()}.npz", x=rows)
    (folder / "patients.csv").write_text("age,sex,sick\n61,m,1\n40,f,0\n")
    encodings.save(ENCODING, folder / "encoding.json")
    records = {"path": "patients.csv", "label": "sick", "encoding": "encoding.json"}
    (folder / "site.toml").write_text(tomli_w.dumps({"name": "site", "transfer_sets": "transfer", "records": records}))
    plan = sites.plan(classes=2, samples=13, truncation=TopK(k=2), encoding=encodings.digest(ENCODING))
    return Site(folder), sites.about_rows(plan, transfer_set=digest(rows))


def ask(site: Site, plan: Plan, question: Request) -> Reply:
    return codec.decode_reply(respond(site, codec.encode_request(question)), plan=plan, expecting=question)


@pytest.mark.parametrize("named", [None, bytes(32)])
def test_a_plan_with_another_encoding_is_declined_and_the_log_names_the_rule(
    named: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site, plan = of_patients(tmp_path)
    with caplog.at_level(logging.WARNING, "limbeck"):
        reply = ask(site, replace(plan, encoding=named), sites.offer(replace(plan, encoding=named)))
    assert isinstance(reply, Declined)
    assert reply.reason is Reason.ENCODING
    assert f"records.encoding: expected the encoding of the plan, SHA-256 {named.hex() if named else 'none'}" in caplog.text
    assert encodings.digest(ENCODING).hex() in caplog.text


def test_a_site_without_the_encoding_of_a_plan_declines(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan(encoding=bytes(32))
    reply = ask(site, plan, sites.offer(plan))
    assert isinstance(reply, Declined)
    assert reply.reason is Reason.ENCODING


def test_an_encoding_changed_after_a_plan_was_accepted_is_noticed_before_a_charge_or_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan = of_patients(tmp_path)
    teach = Teach(plan_hash=codec.plan_hash(plan))
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    path = tmp_path / "encoding.json"
    honest = path.read_bytes()
    path.write_bytes(honest.replace(b'"mean": 39.', b'"mean": 40.'))
    assert path.read_bytes() != honest
    with monkeypatch.context() as patch:
        patch.setattr(Records, "read", lambda *_: pytest.fail("a record was read"))
        reply = ask(site, plan, teach)
    assert isinstance(reply, Declined)
    assert reply.reason is Reason.ENCODING
    with Ledger(site.ledger, site.budget) as ledger:
        assert ledger.entries() == []
    path.write_bytes(honest)
    assert isinstance(ask(site, plan, teach), Taught)


# Seeded noise


def seeded(site: Site) -> Site:
    with (site.folder / "site.toml").open("a") as file:
        file.write('[noise]\nsource = "UnsafeSeeded"\nseed = 1\n')
    return Site(site.folder)


def test_a_site_with_seeded_noise_declines_unless_its_owner_allows_releases_without_a_guarantee(tmp_path: Path) -> None:
    site, plan = seeded(sites.make(tmp_path)), sites.plan()
    reply = ask(site, plan, sites.offer(plan))
    assert isinstance(reply, Declined)
    assert reply.reason is Reason.POLICY
    with Ledger(site.ledger, site.budget) as ledger:
        assert ledger.entries() == []


def test_noise_that_is_seeded_after_a_plan_was_accepted_is_found_before_anything_is_charged(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan()
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    reply = ask(seeded(site), plan, Teach(plan_hash=codec.plan_hash(plan)))
    assert isinstance(reply, Declined)
    assert reply.reason is Reason.POLICY
    with Ledger(site.ledger, site.budget) as ledger:
        assert ledger.entries() == []


def test_seeded_noise_is_declared_before_a_record_is_read_and_in_every_reply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan = seeded(sites.make(tmp_path, teachers__allow_without_dp=True)), sites.plan()
    plan_hash, real = codec.plan_hash(plan), Records.read
    seen: list[str] = []

    def look(records: Records, *arguments: Any) -> Any:
        seen.extend(entry.state for entry in ledgers.read(Site(records.folder).ledger).entries)
        return real(records, *arguments)

    monkeypatch.setattr(Records, "read", look)
    accepted, taught = ask(site, plan, sites.offer(plan)), ask(site, plan, Teach(plan_hash=plan_hash))
    assert isinstance(accepted, Accepted)
    assert isinstance(taught, Taught)
    assert accepted.guarantee is taught.guarantee is Guarantee.SEEDED
    assert taught.label_counts is not None
    assert seen == ["declared", "reserved"]
    book = ledgers.read(site.ledger)
    assert (book.declared, book.spent()) == (True, math.inf)
    # It stays so whatever the settings say later, and answers leave as long as the owner allows it.
    text = (site.folder / "site.toml").read_text()
    (site.folder / "site.toml").write_text(text.replace("UnsafeSeeded", "system-entropy"))
    site = Site(site.folder)
    again = ask(site, plan, sites.offer(plan))
    assert isinstance(again, Accepted)
    assert again.guarantee is Guarantee.SEEDED
    assert isinstance(ask(site, plan, Ask(plan_hash=plan_hash, stage=0, first=0, count=9)), Share)
    assert [entry.state for entry in ledgers.read(site.ledger).entries] == ["declared", "committed"]
    (site.folder / "policy.toml").write_text(tomli_w.dumps(sites.rules()))
    declined = ask(site, plan, Ask(plan_hash=plan_hash, stage=0, first=9, count=9))
    assert isinstance(declined, Declined)
    assert declined.reason is Reason.POLICY


def test_real_noise_is_never_declared(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path, teachers__allow_without_dp=True), sites.plan()
    replies = [ask(site, plan, question) for question in (sites.offer(plan), Teach(plan_hash=codec.plan_hash(plan)))]
    assert [each.guarantee for each in replies if isinstance(each, Accepted | Taught)] == [Guarantee.RECORD_DP] * 2
    assert not ledgers.read(site.ledger).declared


# Costs


def test_a_plan_that_claims_less_than_it_costs_is_declined_and_charges_nothing(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan()
    cheap = replace(plan, privacy=replace(plan.privacy, epsilon=1.0))
    reply = ask(site, cheap, sites.offer(cheap))
    assert isinstance(reply, Declined)
    assert reply.reason is Reason.PLAN
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    with Ledger(site.ledger, site.budget) as ledger:
        assert ledger.entries() == []


def test_when_the_first_record_is_read_the_cost_is_in_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process would find it, which is what a crash leaves."""
    site, plan = sites.make(tmp_path), sites.plan()
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    seen: list[list[tuple[str, float]]] = []
    real = Records.read

    def look(records: Records, *arguments: Any) -> object:
        book = ledgers.read(Site(records.folder).ledger)
        seen.append([(entry.state, book.spent()) for entry in book.entries])
        return real(records, *arguments)

    monkeypatch.setattr(Records, "read", look)
    assert isinstance(ask(site, plan, Teach(plan_hash=codec.plan_hash(plan))), Taught)
    (((state, spent),),) = seen
    assert state == "reserved"
    assert spent == pytest.approx(accounting.epsilon(((plan.teaching, plan.counts),), 1e-5))


def test_a_second_training_is_a_second_charge_and_declined_when_the_budget_pays_for_one(tmp_path: Path) -> None:
    """Choosing among trainings by their results would otherwise be free."""
    site, replies = sites.make(tmp_path), []
    for seed in (1, 2):
        plan = sites.plan(public_seed=seed)
        assert isinstance(ask(site, plan, sites.offer(plan)), Accepted if seed == 1 else Declined)
        replies.append(ask(site, plan, Teach(plan_hash=codec.plan_hash(plan))))
    assert isinstance(replies[0], Taught)
    assert isinstance(replies[1], Declined)


# Training again under one charge


def _raise(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: object, **__: object) -> NoReturn:
        raise error

    return fail


SLIPS: dict[str, tuple[object, str, Exception, Reason]] = {
    "records that cannot be read": (Records, "read", DataError("no such column"), Reason.DATA),
    "records of a wrong shape": (teachers, "train", SettingError("another shape"), Reason.TEACHING_FAILED),
    "no memory": (teachers, "train", RuntimeError("out of memory"), Reason.TEACHING_FAILED),
    "no room for the teacher": (Linear, "save", OSError(errno.ENOSPC, "no room"), Reason.FAILED),
    "counts that fail": (release, "label_counts", RuntimeError("a bug"), Reason.FAILED),
    "no room for the commit": (Ledger, "commit", OSError(errno.ENOSPC, "no room"), Reason.FAILED),
}


def states(site: Site) -> list[str]:
    return [entry.state for entry in ledgers.read(site.ledger).entries]


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_charged_once_and_after_the_fix_the_site_trains_under_the_same_charge(
    slip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget pays for one training only, and the plan is offered again as by a coordinator that was started again."""
    site, plan = sites.make(tmp_path), sites.plan()
    teach = Teach(plan_hash=codec.plan_hash(plan))
    place, name, error, reason = SLIPS[slip]
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, _raise(error))
        for _ in range(2):
            assert isinstance(declined := ask(site, plan, teach), Declined)
            assert declined.reason is reason
            assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    assert states(site) == ["reserved"]
    assert isinstance(ask(site, plan, teach), Taught)
    assert isinstance(ask(site, plan, Ask(plan_hash=teach.plan_hash, stage=0, first=0, count=20)), Share)
    assert states(site) == ["committed", "free"]


def test_counts_and_noise_of_a_training_that_came_to_nothing_are_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan = sites.make(tmp_path), sites.plan()
    teach, drawn, keys = Teach(plan_hash=codec.plan_hash(plan)), [], []
    real_counts, real_noise = release.label_counts, Site.noise

    def note_counts(*arguments: Any) -> tuple[float, ...]:
        drawn.append(real_counts(*arguments))
        if len(drawn) == 1:
            raise RuntimeError("between drawing and writing down")
        return drawn[-1]

    def note_noise(noisy: Site) -> Noise:
        noise = real_noise(noisy)
        keys.append(noise)
        return noise

    monkeypatch.setattr(release, "label_counts", note_counts)
    monkeypatch.setattr(Site, "noise", note_noise)
    ask(site, plan, sites.offer(plan))
    assert isinstance(ask(site, plan, teach), Declined)
    taught = ask(site, plan, teach)
    assert isinstance(taught, Taught)
    assert taught.label_counts == drawn[1] != drawn[0]
    assert keys[0] is not keys[1]


@pytest.mark.parametrize("gone", ["taught.pb", "taught-unsent.pb"])
def test_what_may_have_left_is_never_trained_again_under_the_same_charge(
    gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored reply is gone: once after it was sent, and once after it was committed, where only the ledger says so."""
    site, plan = sites.make(tmp_path, budget__epsilon=50.0), sites.plan()
    teach = Teach(plan_hash=codec.plan_hash(plan))
    ask(site, plan, sites.offer(plan))
    with monkeypatch.context() as patch:
        if gone == "taught-unsent.pb":
            patch.setattr(Transcript, "append", _raise(TranscriptError("no room")))
            with pytest.raises(TranscriptError):
                ask(site, plan, teach)
        else:
            assert isinstance(ask(site, plan, teach), Taught)
    (site.state(teach.plan_hash) / gone).unlink()
    monkeypatch.setattr(Records, "read", lambda *_: pytest.fail("a record was read"))
    for question in (teach, sites.offer(plan)):
        assert isinstance(reply := ask(site, plan, question), Declined)
        assert reply.reason is Reason.BUDGET
    assert states(site) == ["committed"]


def test_the_transcript_alone_says_that_something_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a ledger in which somebody's hand made a commit a reservation again."""
    site, plan = sites.make(tmp_path, budget__epsilon=50.0), sites.plan()
    teach = Teach(plan_hash=codec.plan_hash(plan))
    ask(site, plan, sites.offer(plan))
    assert isinstance(ask(site, plan, teach), Taught)
    for name in ("taught.pb", "ledger.json"):
        next((tmp_path / "state").rglob(name)).unlink()
    rows = ledgers.read(site.ledger).rows[:2]
    ledgers.put_aside(site.ledger, "aside")
    ledgers.write(site.ledger, rows)
    # Nor does the transcript say how far the ledger had come.
    lines = [json.loads(line) for line in (tmp_path / "transcript.jsonl").read_text().splitlines()]
    for line in lines:
        del line["ledger"]
    (tmp_path / "transcript.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert states(site) == ["reserved"]
    assert isinstance(reply := ask(site, plan, teach), Declined)
    assert reply.reason is Reason.BUDGET


def test_of_two_sites_that_share_a_charge_one_trains_and_of_two_trainings_one_leaves(tmp_path: Path) -> None:
    """Another site's charge is not this one's. A copy of the site's folder has the same name: its training cannot be committed too."""
    site, plan = sites.make(tmp_path / "one"), sites.plan()
    teach = Teach(plan_hash=codec.plan_hash(plan))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teachers, "train", _raise(RuntimeError("no memory")))
        ask(site, plan, sites.offer(plan))
        assert isinstance(ask(site, plan, teach), Declined)
    settings = (tmp_path / "one" / "site.toml").read_text().replace('"records.npz"', '"../one/records.npz"')
    for name in ("copy", "other"):
        shutil.copytree(tmp_path / "one", tmp_path / name)
        (tmp_path / name / "site.toml").write_text(settings.replace('name = "site"', f'name = "{name}"'))
    (tmp_path / "copy" / "site.toml").write_text(settings)
    copy, other = Site(tmp_path / "copy"), Site(tmp_path / "other")
    assert copy.ledger == other.ledger == site.ledger
    assert isinstance(ask(other, plan, teach), Declined)
    # Both train, and the one that began first ends last.
    real = Ledger.commit
    with pytest.MonkeyPatch.context() as patch:

        def overtaken(ledger: Ledger, entry: int, training: str = "") -> None:
            patch.setattr(Ledger, "commit", real)
            assert isinstance(ask(copy, plan, teach), Taught)
            ledger.commit(entry, training)

        patch.setattr(Ledger, "commit", overtaken)
        assert isinstance(ask(site, plan, teach), Declined)
    for _ in range(2):
        assert isinstance(ask(site, plan, teach), Declined)
        assert isinstance(ask(copy, plan, teach), Taught)
    assert [sent.what for sent in site.transcript if sent.entry is not None] == []
    assert states(site) == ["committed"]


def test_a_training_that_never_ends_well_is_not_begun_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site, plan = sites.make(tmp_path), sites.plan()
    teach, begun = Teach(plan_hash=codec.plan_hash(plan)), []

    def fail(*_: object, **__: object) -> NoReturn:
        begun.append(1)
        raise RuntimeError("no memory")

    ask(site, plan, sites.offer(plan))
    with monkeypatch.context() as patch:
        patch.setattr(teachers, "train", fail)
        with caplog.at_level(logging.WARNING, "limbeck"):
            replies = [ask(site, plan, teach) for _ in range(TRAININGS + 2)]
    assert len(begun) == TRAININGS
    assert [each.reason for each in replies if isinstance(each, Declined)] == [
        *[Reason.TEACHING_FAILED] * TRAININGS,
        *[Reason.BUDGET] * 2,
    ]
    kept = site.state(teach.plan_hash) / "training.json"
    assert f"remove {kept} to let it begin as often again" in caplog.text
    kept.unlink()
    assert isinstance(ask(site, plan, teach), Taught)
    assert states(site) == ["committed"]


def test_two_processes_that_are_asked_to_train_at_once_train_once(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan()
    teach = Teach(plan_hash=codec.plan_hash(plan))
    ask(site, plan, sites.offer(plan))
    children = []
    for index in range(3):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                (tmp_path / f"reply-{index}").write_bytes(respond(site, codec.encode_request(teach)))
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len({(tmp_path / f"reply-{index}").read_bytes() for index in range(3)}) == 1
    assert states(site) == ["committed"]
    assert json.loads((site.state(teach.plan_hash) / "training.json").read_text())["begun"] == 1


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
    assert [each.what for each in site.transcript] == ["accepted", "accepted", "taught"]


def test_a_question_asked_twice_gets_the_same_bytes_so_noise_cannot_be_averaged_away(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan()
    plan_hash = codec.plan_hash(plan)
    ask(site, plan, sites.offer(plan))
    for question in (Teach(plan_hash=plan_hash), Ask(plan_hash=plan_hash, stage=1, first=3, count=9)):
        first, second = (respond(site, codec.encode_request(question)) for _ in range(2))
        assert first == second
    with Ledger(site.ledger, site.budget) as ledger:
        assert sum(entry.schedule is not None for entry in ledger.entries()) == 1


# Answers: one for each input and stage, however it is asked for


def of_draws(folder: Path, **changes: object) -> tuple[Site, Plan]:
    """A site that has taught, under a plan of five random draws an input."""
    site = sites.make(folder, answers__max_draws=5, answers__max_bits=500)
    plan = sites.plan(truncation=Sampled(draws=5), **changes)
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    assert isinstance(ask(site, plan, Teach(plan_hash=codec.plan_hash(plan))), Taught)
    return site, plan


def rows_of(site: Site, plan: Plan, stage: int, first: int, stop: int) -> list[dict[int, float]]:
    """Answers to these inputs, each as classes and probabilities."""
    question = Ask(plan_hash=codec.plan_hash(plan), stage=stage, first=first, count=stop - first)
    share = ask(site, plan, question)
    assert isinstance(share, Share)
    answers = share.answers
    return [
        {int(key): float(value) for key, value in zip(ids, p, strict=True) if value > 0}
        for ids, p in zip(answers.ids_Nk, answers.p_Nk, strict=True)
    ]


@settings(max_examples=8, deadline=None)
@given(
    ranges=st.lists(
        st.tuples(st.integers(0, 19), st.integers(1, 20)).map(lambda each: (each[0], min(20, sum(each)))), min_size=3
    )
)
def test_whatever_ranges_are_asked_for_an_input_has_one_answer_a_stage(
    ranges: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By overlapping ranges, five draws a row became six hundred."""
    site, plan = of_draws(tmp_path_factory.mktemp("site"))
    for stage in range(len(plan.stages)):
        seen: dict[int, dict[int, float]] = {}
        for first, stop in [*ranges, (0, 20)]:
            for row, answer in enumerate(rows_of(site, plan, stage, first, stop), start=first):
                assert seen.setdefault(row, answer) == answer
    # One row of the ledger for a stage, not for a range.
    assert states(site) == ["committed", "free", "free"]


def test_stages_are_drawn_apart_and_answers_are_on_the_disk_before_one_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, plan = of_draws(tmp_path)
    first, second = (rows_of(site, plan, stage, 0, 20) for stage in (0, 1))
    assert first != second
    other, _ = of_draws(tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.setattr(Transcript, "append", _raise(TranscriptError("no room")))
        with pytest.raises(TranscriptError):
            rows_of(other, plan, 0, 0, 5)
    drawn = (other.state(codec.plan_hash(plan)) / "answers-0.safetensors").read_bytes()
    monkeypatch.setattr(release, "answers", lambda *_: pytest.fail("drawn again"))
    rows_of(other, plan, 0, 2, 9)
    assert (other.state(codec.plan_hash(plan)) / "answers-0.safetensors").read_bytes() == drawn


def test_what_limbeck_0_1_sent_by_ranges_stays_what_it_was(tmp_path: Path) -> None:
    """It drew for each range: where two overlap, a row has the answer that it had first."""
    site, plan = of_draws(tmp_path / "old")
    plan_hash, earlier, known = codec.plan_hash(plan), {}, []
    for age, (first, stop) in enumerate([(0, 8), (5, 12)]):
        donor, _ = of_draws(tmp_path / f"donor-{first}")
        question = Ask(plan_hash=plan_hash, stage=0, first=first, count=stop - first)
        earlier[question] = respond(donor, codec.encode_request(question))
        known.append(rows_of(donor, plan, 0, 0, 20))
        path = site.state(plan_hash) / f"share-0-{first}-{stop}.pb"
        path.write_bytes(earlier[question])
        os.utime(path, ns=(age, age))
    wanted = [*known[0][:8], *known[1][8:12]]
    assert wanted != known[1][:12]
    assert rows_of(site, plan, 0, 0, 20)[:12] == wanted
    assert rows_of(site, plan, 0, 3, 11) == wanted[3:11]
    for question, data in earlier.items():
        assert respond(site, codec.encode_request(question)) == data


def test_a_reply_that_0_1_0_stored_is_in_the_transcript_as_it_leaves_now(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan()
    teach = Teach(plan_hash=codec.plan_hash(plan))
    ask(site, plan, sites.offer(plan))
    taught = ask(site, plan, teach)
    assert isinstance(taught, Taught)
    assert taught.label_counts is not None
    packed = np.array(taught.label_counts, "<f4").tobytes()
    inner = b"\x0a\x20" + teach.plan_hash + b"\x12" + bytes([len(packed)]) + packed + b"\x4a\x09record-dp"
    (site.state(teach.plan_hash) / "taught.pb").write_bytes(b"\x1a" + bytes([len(inner)]) + inner)
    (tmp_path / "transcript.jsonl").unlink()
    left = [respond(site, codec.encode_request(teach)) for _ in range(3)]
    assert len(set(left)) == 1
    assert [(each.data, each.again) for each in site.transcript] == [(left[0], False), (left[0], True), (left[0], True)]


# What anybody could fill a disk with


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_questions_about_plans_that_were_never_accepted_leave_nothing_that_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_site, "REFUSALS_FILE_BYTES", 4000)
    monkeypatch.setattr(client_site, "REFUSALS_BYTES", 12_000)
    site = sites.make(tmp_path)
    before, growth = size(tmp_path), set()
    for index in range(100):
        unknown = index.to_bytes(32, "big")
        refused = sites.plan(public_seed=index, minimum_clients=1)
        for question in (Teach(plan_hash=unknown), Ask(plan_hash=unknown, stage=0, first=0, count=1), sites.offer(refused)):
            reply = respond(site, codec.encode_request(question))
            assert b"PLAN" in reply or b"POLICY" in reply
        growth.add(size(tmp_path) - before)
    assert max(growth) <= 12_000
    assert not (tmp_path / "state").exists()
    assert list(site.transcript) == []
    # The last of them are kept, whole.
    assert list(site.refusals)[-1].data == reply


def test_of_plans_that_were_accepted_and_never_trained_for_the_oldest_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_app, "ACCEPTED", 3)
    site = sites.make(tmp_path)
    trained = sites.plan()
    assert isinstance(ask(site, trained, sites.offer(trained)), Accepted)
    with monkeypatch.context() as patch:
        patch.setattr(Records, "read", _raise(DataError("no such file")))
        ask(site, trained, Teach(plan_hash=codec.plan_hash(trained)))
    monkeypatch.setattr(Ledger, "check", lambda *_: None)
    plans = [sites.plan(public_seed=seed) for seed in range(11, 16)]
    for index, plan in enumerate(plans):
        assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
        os.utime(site.state(codec.plan_hash(plan)) / "plan.pb", ns=(index, index))
    kept = [plan.public_seed for plan in plans if site.state(codec.plan_hash(plan)).exists()]
    assert kept == [13, 14, 15]
    assert isinstance(ask(site, trained, Teach(plan_hash=codec.plan_hash(trained))), Taught)


def test_the_ranges_of_a_stage_are_bounded_and_one_that_was_answered_is_answered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stored, "RANGES", 3)
    site, plan = of_draws(tmp_path)
    first = rows_of(site, plan, 0, 0, 20)
    for stop in (1, 2):
        rows_of(site, plan, 0, 0, stop)
    with caplog.at_level(logging.WARNING, "limbeck"):
        reply = ask(site, plan, Ask(plan_hash=codec.plan_hash(plan), stage=0, first=4, count=1))
    assert isinstance(reply, Declined)
    assert reply.reason is Reason.PLAN
    assert "at most 3 different ranges of stage 1" in caplog.text
    assert rows_of(site, plan, 0, 0, 20) == first
    assert [sent.again for sent in site.transcript if sent.what == "share of stage 1, samples 0 to 19"] == [False, True]


def test_a_ledger_has_no_more_rows_than_can_be_read_in_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, plan = sites.make(tmp_path, budget__epsilon=50.0), sites.plan()
    monkeypatch.setattr(ledgers, "MAX_ROWS", 3)
    with site.account.open(site.budget) as ledger:
        entry = ledger.reserve(bytes(32), "teacher", plan.teaching, None)
        assert ledger.record_free(bytes(32), "answers of stage 1", "why") == 3
        # What was begun can be ended, and what is there is found.
        ledger.commit(entry)
        assert ledger.record_free(bytes(32), "answers of stage 1", "why") == 3
        for call in (
            lambda: ledger.reserve(bytes(32), "teacher", plan.teaching, None),
            lambda: ledger.record_free(bytes(32), "answers of stage 2", "why"),
        ):
            with pytest.raises(LedgerError, match="of fewer than 3 rows"):
                call()


# Public inputs and weights of classes


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda x: np.where(np.arange(x.size).reshape(x.shape) == 7, np.nan, x / 255), id="one NaN"),
        pytest.param(lambda x: np.where(np.arange(x.size).reshape(x.shape) == 7, np.inf, x / 255), id="one infinity"),
        pytest.param(lambda x: x[:1].repeat(len(x), 0), id="one input again and again"),
        pytest.param(lambda x: x.astype(np.int64), id="bytes as int64"),
        pytest.param(lambda x: x * 1e5, id="far too large"),
    ],
)
def test_a_site_declines_public_inputs_that_would_ruin_the_run_before_a_charge_also_under_an_older_plan(
    spoil: Callable[[NDArray[np.uint8]], NDArray[np.generic]], tmp_path: Path
) -> None:
    """An author's check is not this site's: a plan by an earlier version, or by somebody else's program, has none."""
    site = sites.make(tmp_path)
    x_N = spoil(sites.PUBLIC)
    np.savez(tmp_path / "transfer" / f"{digest(x_N).hex()}.npz", x=x_N)
    plan = replace(sites.plan(), transfer_set=digest(x_N))
    assert plan.inputs is None
    reply = ask(site, plan, sites.offer(plan))
    assert isinstance(reply, Declined)
    assert reply.reason is Reason.PLAN
    with Ledger(site.ledger, site.budget) as ledger:
        assert ledger.entries() == []


def test_a_site_trains_with_the_weights_of_classes_that_the_plan_states(tmp_path: Path) -> None:
    site, plan = sites.make(tmp_path), sites.plan(class_weights=(0.5,) * 9 + (1.0,))
    seen: list[object] = []

    class Noting:
        load = staticmethod(teachers.load)

        @staticmethod
        def train(*given: Any, **options: Any) -> teachers.Teacher:
            seen.append(options["class_weights"])
            return teachers.train(*given, **options)

    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    respond(site, codec.encode_request(Teach(plan_hash=codec.plan_hash(plan))), backend=Noting())
    assert seen == [plan.class_weights]


@pytest.mark.parametrize(("temperature", "said"), [(0.002, True), (1000.0, False)])
def test_answers_on_the_floor_are_in_the_sites_own_log(
    temperature: float, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = sites.make(tmp_path, answers__min_temperature=0.001)
    plan = sites.plan(stages=tuple(replace(stage, temperature=temperature) for stage in sites.plan().stages))
    assert isinstance(ask(site, plan, sites.offer(plan)), Accepted)
    assert isinstance(ask(site, plan, Teach(plan_hash=codec.plan_hash(plan))), Taught)
    answers = Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=plan.samples)
    with caplog.at_level(logging.WARNING, "limbeck"):
        assert isinstance(ask(site, plan, answers), Share)
    assert ("lie on the floor of the wire" in caplog.text) is said
