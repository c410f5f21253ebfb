"""A ledger that is lost, older or another's is never opened, and what an owner does about it gives no budget back."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from helpers import sites
from helpers.owner import limbeck, write
from limbeck.base.errors import BudgetError, LedgerError, LimbeckError, SettingError
from limbeck.client import blackbox, recovery, teachers
from limbeck.client import ledger as ledgers
from limbeck.client.app import respond
from limbeck.client.holdings import Records
from limbeck.client.ledger import Ledger
from limbeck.client.site import Site
from limbeck.deployment import doctor
from limbeck.plans import accounting, privacy_filter
from limbeck.plans.schema import BlackBoxTeaching, Plan, Sampled
from limbeck.protos import codec
from limbeck.protos.messages import Accepted, Ask, Declined, Reason, Reply, Request, Share, Taught, Teach

PLAN = sites.plan()
HASH = codec.plan_hash(PLAN)
SHARE = Ask(plan_hash=HASH, stage=0, first=0, count=20)
QUESTIONS: tuple[Request, ...] = (sites.offer(), Teach(plan_hash=HASH), SHARE)
OTHER = sites.plan(public_seed=7)
ONCE = accounting.epsilon(((PLAN.teaching, PLAN.counts),), 1e-5)


def ask(site: Site, question: Request, plan: Plan = PLAN) -> Reply:
    return codec.decode_reply(respond(site, codec.encode_request(question)), plan=plan, expecting=question)


def spend(folder: Path, **rules: object) -> Site:
    """A site that has taught and answered once, with its ledger closed."""
    site = sites.make(folder, **rules)
    assert [type(ask(site, own)) for own in QUESTIONS][1:] == [Taught, Share]
    ledgers.close_idle()
    return site


def files_of(ledger: Path) -> list[Path]:
    return sorted(ledger.parent.glob(f"{ledger.name}*"))


def lose(site: Site) -> None:
    """As `rm records*.ledger*` does."""
    for path in files_of(site.ledger):
        path.unlink()


def put_back(site: Site) -> None:
    """Ledger and head both as they were before anything was spent."""
    rows = ledgers.read(site.ledger).rows[:1]
    lose(site)
    ledgers.write(site.ledger, rows)


def copy_records(site: Site) -> None:
    """Settings that name a copy of the records."""
    (site.folder / "elsewhere").mkdir()
    shutil.copy(site.folder / "records.npz", site.folder / "elsewhere" / "copy.npz")
    path = site.folder / "site.toml"
    path.write_text(path.read_text().replace('"records.npz"', '"elsewhere/copy.npz"'))


def another_ledger(site: Site) -> None:
    path = site.folder / "site.toml"
    path.write_text('ledger = "new.ledger"\n' + path.read_text())


def forget(*names: str) -> Callable[[Site], None]:
    """Also without what the site itself keeps of it."""

    def change(site: Site) -> None:
        for name in names:
            for path in site.folder.glob(name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def as_of_0_1(site: Site) -> None:
    """As limbeck 0.1 left a site: nothing noted beside the state, and no heads in the transcript."""
    (site.folder / "state" / "ledger.json").unlink()
    path = site.folder / "transcript.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "ledger"}) + "\n" for line in lines))


LOSSES: dict[str, tuple[Callable[[Site], None], ...]] = {
    "gone": (lose,),
    "older": (put_back,),
    "records copied": (copy_records,),
    "records copied, first ledger gone": (lose, copy_records),
    "another file named": (another_ledger,),
    "gone with the transcript": (lose, forget("transcript*")),
    "gone with what was noted": (lose, forget("state/ledger.json")),
    "gone with all of the state": (lose, forget("state")),
    "gone with the transcript and what was noted": (lose, forget("transcript*", "state/ledger.json")),
    "gone, site of 0.1": (as_of_0_1, lose),
    "older, site of 0.1": (as_of_0_1, put_back),
    "records copied, site of 0.1": (as_of_0_1, lose, copy_records),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_ledger_that_is_lost_or_older_is_refused_at_every_opening(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = spend(tmp_path / "site")
    for change in LOSSES[name]:
        change(site)
    site = Site(site.folder)
    before = files_of(site.ledger)
    for command in (
        ("policy", "check", write(tmp_path / "plan.pb", PLAN), site.folder),
        ("site", "run", site.folder),
        ("ledger", "verify", site.folder),
    ):
        with pytest.raises(LedgerError, match=r"limbeck ledger|found none"):
            limbeck(*command)
    found = [own for own in doctor.examine(site.folder, now=datetime.now(UTC), network=False) if own.check == "ledger"]
    assert [own.outcome for own in found] == [doctor.Outcome.FAIL]
    assert "limbeck ledger declare-lost" in found[0].found
    monkeypatch.setattr(Records, "read", lambda *_: pytest.fail("a record was read"))
    for plan in (PLAN, OTHER):
        for question in (
            sites.offer(plan),
            Teach(plan_hash=codec.plan_hash(plan)),
            replace(SHARE, plan_hash=codec.plan_hash(plan)),
        ):
            reply = ask(site, question, plan)
            assert isinstance(reply, Declined)
            assert reply.reason in {Reason.FAILED, Reason.PLAN}
    # Nothing is made where nothing was.
    assert files_of(site.ledger) == before
    assert "limbeck ledger move SITE" in caplog.text


@pytest.mark.parametrize("change", [lose, put_back])
def test_opening_a_ledger_compares_by_itself(change: Callable[[Site], None], tmp_path: Path) -> None:
    """Whoever opens it, and whether it is there or not."""
    site = spend(tmp_path)
    change(site)
    before = files_of(site.ledger)
    for opening in (lambda: site.account.open(site.budget), lambda: Ledger(site.ledger, site.budget, site.witness)):
        with pytest.raises(LedgerError, match="limbeck ledger declare-lost"):
            opening()
        assert [path for path in files_of(site.ledger) if path.suffix not in {".ledger-shm", ".ledger-wal"}] == before


def test_the_last_line_of_the_transcript_is_compared(tmp_path: Path) -> None:
    """Where what was noted beside the state was put back as well."""
    site = sites.make(tmp_path)
    ask(site, sites.offer())
    noted = (tmp_path / "state" / "ledger.json").read_bytes()
    for question in QUESTIONS[1:]:
        ask(site, question)
    last = site.transcript.last()
    assert last is not None
    assert last.head == site.witness.head == (4, ledgers.read(site.ledger).head)
    ledgers.close_idle()
    put_back(site)
    (tmp_path / "state" / "ledger.json").write_bytes(noted)
    with pytest.raises(LedgerError, match="as the transcript's message of"):
        site.account.check()
    # A line that a crash tore says nothing; the one before it does.
    with (tmp_path / "transcript.jsonl").open("ab") as file:
        file.write(b'{"time": ')
    with pytest.raises(LedgerError, match="as the transcript's message of"):
        site.account.check()


def test_another_ledger_that_is_as_long_is_refused(tmp_path: Path) -> None:
    site, stranger = spend(tmp_path / "site"), sites.make(tmp_path / "stranger")
    hash_of_other = codec.plan_hash(OTHER)
    for question in (sites.offer(OTHER), Teach(plan_hash=hash_of_other), replace(SHARE, plan_hash=hash_of_other)):
        ask(stranger, question, OTHER)
    rows = ledgers.read(stranger.ledger).rows
    assert len(rows) == len(ledgers.read(site.ledger).rows)
    lose(site)
    ledgers.write(site.ledger, rows)
    with pytest.raises(LedgerError, match="limbeck ledger"):
        site.account.check()


def test_a_charge_of_which_nothing_left_is_known_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reserved, and the process died before it could say anything: no line of the transcript names an entry."""
    site = sites.make(tmp_path)
    ask(site, sites.offer())
    with monkeypatch.context() as patch:
        patch.setattr(teachers, "train", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ask(site, QUESTIONS[1])
    lose(site)
    assert isinstance(ask(site, sites.offer()), Declined)
    with pytest.raises(LedgerError, match="limbeck ledger declare-lost"):
        site.account.check()
    assert [own.plan for own in site.witness.named()] == [HASH.hex()]


def test_where_nothing_was_spent_a_ledger_may_be_lost(tmp_path: Path) -> None:
    site = sites.make(tmp_path)
    ask(site, sites.offer())
    lose(site)
    copy_records(site)
    site = Site(tmp_path)
    assert isinstance(ask(site, QUESTIONS[0]), type(ask(site, sites.offer())))
    assert isinstance(ask(site, QUESTIONS[1]), Taught)


def test_a_site_of_0_1_opens_and_notes_what_its_ledger_says(tmp_path: Path) -> None:
    site = spend(tmp_path)
    as_of_0_1(site)
    assert isinstance(ask(site, replace(SHARE, stage=1)), Share)
    assert site.witness.head == (5, ledgers.read(site.ledger).head)
    marks = [mark.head for mark in site.transcript.marks()]
    assert marks == [None] * 3 + [site.witness.head]


def test_sites_that_share_a_ledger_go_on_and_each_knows_what_the_other_spent_before(tmp_path: Path) -> None:
    one = spend(tmp_path / "one", budget__epsilon=10.0)
    other = sites.make(tmp_path / "other", budget__epsilon=10.0)
    settings = (other.folder / "site.toml").read_text()
    (other.folder / "site.toml").write_text(
        settings.replace('"records.npz"', '"../one/records.npz"').replace('"site"', '"other"')
    )
    other = Site(other.folder)
    hash_of_other = codec.plan_hash(OTHER)
    for question in (sites.offer(OTHER), Teach(plan_hash=hash_of_other), replace(SHARE, plan_hash=hash_of_other)):
        assert not isinstance(ask(other, question, OTHER), Declined)
        for own in QUESTIONS:
            assert not isinstance(ask(one, own), Declined)
    for site in (one, other):
        assert site.account.check(every_line=True) is not None
    assert [(own.site, own.state) for own in ledgers.read(one.ledger).entries if own.schedule] == [
        ("site", "committed"),
        ("other", "committed"),
    ]
    # The second knows of the first one's charges, and of nothing to charge for them itself.
    assert other.witness.head == (7, ledgers.read(one.ledger).head)
    assert [own.plan for own in other.witness.named()] == [hash_of_other.hex()]
    lose(one)
    for site in (one, other):
        with pytest.raises(LedgerError, match="limbeck ledger"):
            site.account.check()


def test_an_opening_reads_one_line_of_the_transcript_and_not_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = spend(tmp_path)
    transcript = type(site.transcript)
    monkeypatch.setattr(transcript, "marks", lambda *_: pytest.fail("all lines were read"))
    monkeypatch.setattr(transcript, "__iter__", lambda *_: pytest.fail("all lines were read"))
    for question in (*QUESTIONS, replace(SHARE, stage=1)):
        assert not isinstance(ask(site, question), Declined)


def test_transcripts_moved_away_are_still_known_by_what_was_noted(tmp_path: Path) -> None:
    site = spend(tmp_path)
    (tmp_path / "transcript.jsonl").rename(tmp_path / "archive.jsonl")
    assert isinstance(ask(site, SHARE), Share)
    lose(site)
    assert isinstance(ask(site, SHARE), Declined)


# Move


def test_a_ledger_is_moved_after_its_records_and_nothing_goes_on_in_its_old_place(tmp_path: Path) -> None:
    site = spend(tmp_path / "site", budget__epsilon=10.0)
    old, rows = site.ledger, ledgers.read(site.ledger).rows
    other = sites.make(tmp_path / "other", budget__epsilon=10.0)
    path = other.folder / "site.toml"
    path.write_text(path.read_text().replace('"records.npz"', f'"{site.folder / "records.npz"}"'))
    other = Site(other.folder)
    with other.account.open(other.budget):
        pass
    copy_records(site)
    site = Site(site.folder)
    said = limbeck("ledger", "move", site.folder)
    assert f"{old} is now {site.ledger}." in said
    assert ledgers.read(site.ledger).rows == rows
    assert not old.exists()
    assert not ledgers.head_path(old).exists()
    for question in QUESTIONS:
        assert not isinstance(ask(site, question), Declined)
    # Whoever still looks in the old place is told, and nothing is begun there.
    with pytest.raises(LedgerError, match="limbeck ledger move"):
        other.account.open(other.budget)
    assert not old.exists()


def test_a_ledger_that_is_open_while_it_is_moved_is_not_written_to_any_more(tmp_path: Path) -> None:
    site = spend(tmp_path, budget__epsilon=10.0)
    old = site.ledger
    with site.account.open(site.budget) as ledger:
        copy_records(site)
        recovery.move(Site(tmp_path))
        with pytest.raises(LedgerError, match="found it moved or removed"):
            ledger.reserve(bytes(32), "teacher", PLAN.teaching, None)
    assert not old.exists()
    assert not ledgers.head_path(old).exists()


def test_a_move_that_was_killed_is_ended_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for point in ("write", "link", "put_aside", "note"):
        site = spend(tmp_path / point)
        rows = ledgers.read(site.ledger).rows
        copy_records(site)
        site = Site(site.folder)
        with monkeypatch.context() as patch:
            place = {"write": (ledgers, "write"), "link": (os, "link"), "put_aside": (ledgers, "put_aside")}
            module, name = place.get(point, (type(site.witness), "note"))
            patch.setattr(module, name, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                recovery.move(site)
        if point in {"write", "link"}:
            with pytest.raises(LedgerError):
                site.account.check()
        if point != "note":
            recovery.move(site)
        assert ledgers.read(site.ledger).rows == rows
        assert isinstance(ask(site, SHARE), Share)


def test_a_ledger_is_not_moved_onto_another_nor_in_from_elsewhere(tmp_path: Path) -> None:
    site, stranger = spend(tmp_path / "site"), sites.make(tmp_path / "stranger")
    ask(stranger, sites.offer())
    ledgers.close_idle()
    with pytest.raises(LedgerError, match="found that it is there"):
        recovery.move(site)
    # One that lacks what the site knows, into the place of one that is lost.
    lost = spend(tmp_path / "lost")
    lose(lost)
    with pytest.raises(LedgerError, match="to have row 4"):
        recovery.move(lost, stranger.ledger)
    assert not files_of(lost.ledger)
    # One in whose place another account is kept.
    second = spend(tmp_path / "second")
    with pytest.raises(LedgerError, match=r"limbeck ledger|two accounts cannot be made one"):
        recovery.move(second, site.ledger)
    with pytest.raises(LedgerError, match="two accounts cannot be made one"):
        recovery.move(sites_without_memory(second), site.ledger)
    with pytest.raises(LedgerError, match="its head at"):
        recovery.move(site, tmp_path / "none.ledger")
    for own in (site, second):
        assert own.account.check() is not None


def sites_without_memory(site: Site) -> Site:
    forget("state", "transcript*")(site)
    return Site(site.folder)


# Restore


def test_a_backup_is_restored_only_if_it_goes_as_far_as_all_that_is_known(tmp_path: Path) -> None:
    site = spend(tmp_path / "site")
    ledgers.close_idle()
    backup = tmp_path / "backup.ledger"
    shutil.copy(site.ledger, backup)
    head = limbeck("ledger", "verify", site.folder).split()[-1]
    early = ledgers.read(site.ledger).rows[1][3]
    rows = ledgers.read(site.ledger).rows
    lose(site)
    older = tmp_path / "older.ledger"
    ledgers.write(older, rows[:2])
    with pytest.raises(LedgerError, match="it is older"):
        limbeck("ledger", "restore", site.folder, "--from", older, "--head", head)
    # A head that was noted too early, of a backup that is older than what the site knows.
    with pytest.raises(LedgerError, match="to have row 4"):
        limbeck("ledger", "restore", site.folder, "--from", older, "--head", early)
    assert not site.ledger.exists()
    assert "Restored." in limbeck("ledger", "restore", site.folder, "--from", backup, "--head", head)
    assert ledgers.read(site.ledger).rows == rows
    assert isinstance(ask(site, SHARE), Share)


def test_restoring_never_loses_rows_of_the_ledger_in_place(tmp_path: Path) -> None:
    """The site's own memory is gone, and the ledger in place is cut: what is still there of it counts."""
    site = spend(tmp_path / "site", budget__epsilon=50.0)
    rows = ledgers.read(site.ledger).rows
    backup = tmp_path / "backup.ledger"
    ledgers.write(backup, rows[:2])
    site = sites_without_memory(site)
    ledgers.head_path(site.ledger).unlink()
    with pytest.raises(LedgerError, match="it holds what the backup lacks"):
        recovery.restore(site, backup, rows[1][3])
    ledgers.put_aside(site.ledger, "test")
    ledgers.write(site.ledger, rows[:1])
    ledgers.head_path(site.ledger).unlink()
    aside = recovery.restore(site, backup, rows[1][3])
    assert aside is not None
    assert ledgers.read(aside, with_head=False).rows == rows[:1]
    assert ledgers.read(site.ledger).rows == rows[:2]


# Declare lost


def test_what_transcript_and_state_name_stays_charged_and_the_owners_number_is_added(tmp_path: Path) -> None:
    site = spend(tmp_path / "site", budget__epsilon=8.0)
    lose(site)
    command = ("ledger", "declare-lost", site.folder, "--epsilon", 1.5, "--why", "the disk was replaced")
    with pytest.raises(SettingError, match="a reason"):
        limbeck(*command[:-1], " ")
    assert "Charged on your word for everything else: epsilon = 1.5" in limbeck(*command, status=1)  # not confirmed
    assert not site.ledger.exists()
    said = limbeck(*command, "--yes")
    assert f"1 plans ({HASH.hex()[:12]})" in said
    book = ledgers.read(site.ledger)
    assert [(own.state, own.epsilon) for own in book.entries] == [("committed", None), ("lost", 1.5)]
    half = privacy_filter.spent(((PLAN.teaching, PLAN.counts),), 0.5e-5)
    assert book.spent() == pytest.approx(1.5 + half)
    assert 1.5 + half > 1.5 + ONCE
    # The site goes on: what it answered it answers again, and what is left of the budget is held to all of it.
    assert [type(ask(site, own)) for own in QUESTIONS][1:] == [Taught, Share]
    assert isinstance(ask(site, replace(SHARE, stage=1)), Share)
    assert site.account.check(every_line=True) is not None
    both = 1.5 + privacy_filter.spent(((PLAN.teaching, PLAN.counts),) * 2, 0.5e-5)
    with Ledger(site.ledger, replace(site.budget, epsilon=both + 0.01), site.witness) as ledger:
        ledger.check(PLAN.teaching, PLAN.counts)
    with Ledger(site.ledger, replace(site.budget, epsilon=both - 0.01), site.witness) as ledger, pytest.raises(BudgetError):
        ledger.check(PLAN.teaching, PLAN.counts)
    shown = limbeck("ledger", "show", site.folder)
    assert "the disk was replaced" in shown
    assert json.loads(limbeck("ledger", "show", "--json", site.folder))["entries"][1]["epsilon_alone"] == 1.5


@pytest.mark.parametrize("name", LOSSES)
def test_after_any_loss_that_was_declared_no_less_is_spent_than_before(name: str, tmp_path: Path) -> None:
    site = spend(tmp_path / "site")
    for change in LOSSES[name]:
        change(site)
    site = Site(site.folder)
    unknown = name == "gone with all of the state"
    if unknown:
        with pytest.raises(LedgerError, match="say what they can have cost"):
            recovery.loss(site, 0.0, "a test")
    recovery.declare_lost(site, recovery.loss(site, ONCE if unknown else 0.0, "a test"))
    book = site.account.check(every_line=True)
    assert book is not None
    assert book.spent() >= ONCE
    # A second training is refused as before, and what was taught is not taught again.
    assert isinstance(ask(site, sites.offer(OTHER), OTHER), Declined)
    for question in QUESTIONS[:2]:
        reply = ask(site, question)
        assert isinstance(reply, Declined) == unknown, reply


def test_an_older_backup_keeps_what_it_holds_and_gets_what_came_after(tmp_path: Path) -> None:
    site = spend(tmp_path / "site", budget__epsilon=20.0)
    backup = tmp_path / "backup.ledger"
    ledgers.write(backup, ledgers.read(site.ledger).rows)
    for question in (sites.offer(OTHER), Teach(plan_hash=codec.plan_hash(OTHER))):
        ask(site, question, OTHER)
    spent = ledgers.read(site.ledger).spent()
    lose(site)
    found = recovery.loss(site, 0.0, "a test", backup)
    assert (found.kept, found.charged, found.unknown) == (4, [codec.plan_hash(OTHER).hex()], [])
    recovery.declare_lost(site, found)
    assert ledgers.read(site.ledger).spent() == pytest.approx(spent)
    stranger = spend(tmp_path / "stranger")
    with pytest.raises(LedgerError, match="states of one ledger"):
        recovery.loss(stranger, 0.0, "a test", backup)


def test_declared_after_a_crash_in_between_it_is_charged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = spend(tmp_path / "site", budget__epsilon=20.0)
    lose(site)
    with monkeypatch.context() as patch:
        patch.setattr(type(site.witness), "note", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            recovery.declare_lost(site, recovery.loss(site, 2.0, "a test"))
    with pytest.raises(LedgerError, match="limbeck ledger"):
        site.account.check()
    recovery.declare_lost(site, recovery.loss(site, 2.0, "a test"))
    assert [own.state for own in ledgers.read(site.ledger).entries] == ["committed", "lost"]
    assert site.account.check() is not None


def test_a_charge_that_was_only_reserved_is_trained_for_after_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites.make(tmp_path)
    ask(site, sites.offer())
    with monkeypatch.context() as patch:
        patch.setattr(teachers, "train", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no memory")))
        assert isinstance(ask(site, QUESTIONS[1]), Declined)
    lose(site)
    recovery.declare_lost(site, recovery.loss(site, 0.0, "a test"))
    assert [own.state for own in ledgers.read(site.ledger).entries] == ["reserved", "lost"]
    assert isinstance(ask(site, QUESTIONS[1]), Taught)


@pytest.mark.parametrize("epsilon", [-1.0, math.inf, math.nan])
def test_an_owners_number_that_is_none_is_refused(epsilon: float, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="Expected epsilon >= 0 and finite"):
        recovery.loss(spend(tmp_path), epsilon, "a test")


def test_nothing_is_recovered_while_the_daemon_runs(tmp_path: Path) -> None:
    site = spend(tmp_path)
    site.link_state.mkdir(exist_ok=True)
    lock = site.daemon_lock
    import fcntl

    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for call in (
            lambda: recovery.move(site),
            lambda: recovery.restore(site, site.ledger, "x"),
            lambda: recovery.declare_lost(site, recovery.loss(site, 1.0, "a test")),
        ):
            with pytest.raises(SettingError, match="found its daemon running"):
                call()


def test_a_teacher_without_a_guarantee_is_drawn_from_once_and_after_a_loss_no_epsilon_holds_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"answers__max_draws": 5, "answers__max_bits": 500, "teachers__allow_without_dp": True}
    site = sites.make(tmp_path, **changes)
    with (tmp_path / "site.toml").open("a") as file:
        file.write('[black_box]\naddress = "127.0.0.1:1"\n')
    site = Site(tmp_path)
    p_NK = torch.full((20, 10), 0.1)
    monkeypatch.setattr(blackbox.BlackBox, "check", lambda *_: None)
    monkeypatch.setattr(blackbox.BlackBox, "ask", lambda own, plan, x_N, folder: folder.mkdir())
    monkeypatch.setattr(blackbox, "log_probabilities", lambda plan, folder, temperature: (p_NK.log(), temperature))
    plan = sites.plan(truncation=Sampled(draws=5), black_box=BlackBoxTeaching(draws=1))
    own = codec.plan_hash(plan)
    assert isinstance(ask(site, sites.offer(plan), plan), Accepted)
    assert isinstance(ask(site, Teach(plan_hash=own), plan), Taught)
    whole = ask(site, Ask(plan_hash=own, stage=0, first=0, count=20), plan)
    part = ask(site, Ask(plan_hash=own, stage=0, first=3, count=9), plan)
    assert isinstance(whole, Share)
    assert isinstance(part, Share)
    assert torch.equal(part.answers.ids_Nk, whole.answers.ids_Nk[3:12])
    assert torch.equal(part.answers.p_Nk, whole.answers.p_Nk[3:12])
    assert [entry.state for entry in ledgers.read(site.ledger).entries] == ["declared"]
    lose(site)
    assert isinstance(ask(site, Ask(plan_hash=own, stage=0, first=3, count=9), plan), Declined)
    recovery.declare_lost(site, recovery.loss(site, 0.0, "a test"))
    book = ledgers.read(site.ledger)
    assert [entry.state for entry in book.entries] == ["declared", "lost"]
    assert book.spent() == math.inf
    assert isinstance(ask(site, Ask(plan_hash=own, stage=1, first=3, count=9), plan), Share)


# Names of the same records


def test_a_hard_link_in_the_same_folder_finds_the_same_ledger_and_elsewhere_is_refused(tmp_path: Path) -> None:
    site = spend(tmp_path / "one")
    os.link(site.folder / "records.npz", site.folder / "again.npz")
    other = sites.make(tmp_path / "two")
    path = other.folder / "site.toml"
    path.write_text(path.read_text().replace('"records.npz"', '"../one/again.npz"'))
    assert Site(other.folder).ledger == site.ledger
    assert isinstance(ask(Site(other.folder), sites.offer(OTHER), OTHER), Declined)  # the budget pays for one
    other = sites_without_memory(other)
    (other.folder / "records.npz").unlink()
    os.link(site.folder / "records.npz", other.folder / "records.npz")
    path.write_text(path.read_text().replace('"../one/again.npz"', '"records.npz"'))
    with pytest.raises(LedgerError, match="hard links"):
        Site(other.folder).account.open(Site(other.folder).budget)
    assert isinstance(ask(Site(other.folder), sites.offer()), Declined)
    assert not files_of(Site(other.folder).ledger)
    # Two accounts of one file, as limbeck 0.1 made them.
    ledgers.write(site.folder / "again.npz.ledger", ledgers.read(site.ledger).rows[:1])
    for look in (lambda: site.account.open(site.budget), site.account.check):
        with pytest.raises(LedgerError, match=r"again.npz.ledger .*one account"):
            look()


def test_a_copy_in_the_same_folder_under_another_name_is_refused_and_other_records_are_not(tmp_path: Path) -> None:
    site = spend(tmp_path / "one")
    shutil.copy(site.folder / "records.npz", site.folder / "copy.npz")
    other = sites.make(tmp_path / "two")
    path = other.folder / "site.toml"
    path.write_text(path.read_text().replace('"records.npz"', '"../one/copy.npz"'))
    other = Site(other.folder)
    with pytest.raises(LedgerError, match=r"limbeck ledger move SITE --from .*records.npz.ledger"):
        other.account.open(other.budget)
    assert isinstance(ask(other, sites.offer()), Declined)
    assert not other.ledger.exists()
    policy = other.folder / "policy.toml"
    policy.write_text(policy.read_text().replace('"a-test"', '"other-records"'))
    assert not isinstance(ask(other, sites.offer()), Declined)


# Reading where nothing can be written


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that any user can enter, as pytest's own need not be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_ledger_is_shown_verified_and_exported_where_nothing_can_be_written(open_to_all: Path) -> None:
    """In a process without the right to write, as an auditor's: root's is given up."""
    site = spend(open_to_all / "site")
    limbeck("ledger", "show", site.folder)  # so that everything is imported
    with site.account.open(site.budget):
        pass
    ledgers.close_idle()
    for rows in (4, 5):
        # While another process has it open, the last rows are in a file beside it.
        with site.account.open(site.budget) if rows == 5 else contextlib.nullcontext() as ledger:
            if ledger is not None:
                ledger.record_free(bytes(32), "answers of another plan", "why")
            assert site.ledger.with_name(site.ledger.name + "-wal").exists() == (rows == 5)
            before = _contents(site)
            child = os.fork()
            if child == 0:
                _look_without_leave_to_write(site, rows)
            assert os.waitpid(child, 0)[1] == 0
            for path in [site.folder, *site.folder.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
            assert _contents(site) == before


def _contents(site: Site) -> dict[str, bytes]:
    """Of the ledger's files, but for what its readers share in memory."""
    return {path.name: path.read_bytes() for path in files_of(site.ledger) if not path.name.endswith("-shm")}


def _look_without_leave_to_write(site: Site, rows: int) -> NoReturn:
    status = 1
    try:
        for path in [site.folder, *site.folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        assert not os.access(site.folder, os.W_OK)
        assert "committed" in limbeck("ledger", "show", site.folder)
        assert limbeck("ledger", "verify", site.folder).startswith(f"{rows} rows, head ")
        assert len(json.loads(limbeck("ledger", "export", site.ledger))["rows"]) == rows
        assert "Noisy counts" in limbeck("transcript", "show", site.folder, "--message", 2)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def test_nothing_that_only_looks_makes_a_folder(tmp_path: Path) -> None:
    site = sites.make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    site.account.check(every_line=True)
    limbeck("policy", "check", write(tmp_path.parent / "plan.pb", PLAN), tmp_path)
    assert list(site.transcript) == [] == site.witness.named()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_note_that_cannot_be_read_is_no_note_of_nothing(tmp_path: Path) -> None:
    site = spend(tmp_path)
    for text in ("", "{", '{"rows": 1}', "[]"):
        (tmp_path / "state" / "ledger.json").write_text(text)
        assert isinstance(ask(site, SHARE), Declined)
        with pytest.raises(LimbeckError, match="what the site knows"):
            site.account.check()


def test_a_ledger_may_hold_more_than_a_site_knows(tmp_path: Path) -> None:
    site = spend(tmp_path, budget__epsilon=50.0)
    with Ledger(site.ledger, site.budget) as ledger:
        ledger.reserve(bytes(32), "teacher", PLAN.teaching, None)
    assert site.account.check(every_line=True) is not None
    assert isinstance(ask(site, SHARE), Share)
