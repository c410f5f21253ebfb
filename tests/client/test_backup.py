"""A backup holds ledger, head and transcript of one moment, is read again before it counts, and gives no budget back."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import tarfile
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from helpers import sites
from helpers.owner import limbeck
from limbeck.base.errors import LedgerError, SettingError, TranscriptError
from limbeck.client import backup
from limbeck.client import ledger as ledgers
from limbeck.client.app import respond
from limbeck.client.site import Site
from limbeck.client.transcript import Transcript
from limbeck.plans.schema import Plan
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Teach

PLAN, OTHER = sites.plan(), sites.plan(public_seed=7)
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def run_plan(site: Site, plan: Plan) -> None:
    plan_hash = codec.plan_hash(plan)
    questions = (sites.offer(plan), Teach(plan_hash=plan_hash), Ask(plan_hash=plan_hash, stage=0, first=0, count=20))
    for question in questions:
        respond(site, codec.encode_request(question))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """One that has been charged once, and can be again."""
    made = sites.make(tmp_path / "site", budget__epsilon=20.0)
    run_plan(made, PLAN)
    return made


def back(copies: Path, site: Site) -> None:
    """Put a backup in the place of what is there, as somebody would who knows no better."""
    ledgers.close_idle()
    for path in site.ledger.parent.glob(f"{site.ledger.name}*"):
        path.unlink()
    for path in copies.iterdir():
        shutil.copy(path, site.folder / path.name)


def test_a_backup_is_the_account_as_it_is_and_its_head_is_printed(site: Site, tmp_path: Path) -> None:
    out = tmp_path / "backups" / "first"
    told = limbeck("backup", site.folder, "--out", out).splitlines()
    book = ledgers.read(site.ledger)
    assert told[-1] == book.head
    assert f"a ledger of {len(book.rows)} rows and 3 messages" in told[0]
    assert "at delta = 1e-05, per record, add-remove-one" in told[1]
    assert sorted(path.name for path in out.iterdir()) == [
        "backup.json",
        "records.npz.ledger",
        "records.npz.ledger.head",
        "transcript.jsonl",
    ]
    copied = ledgers.read(out / site.ledger.name)
    assert copied == book
    assert list(Transcript(out / "transcript.jsonl")) == list(site.transcript)
    described = json.loads((out / "backup.json").read_text())
    assert (described["site"], described["rows"], described["head"]) == ("site", len(book.rows), book.head)
    assert described["spent_epsilon"] == book.spent()
    # The ledger of a backup is one file, and can be verified where it lies.
    assert limbeck("ledger", "verify", out / site.ledger.name, "--head", book.head).strip().endswith(book.head)


def test_what_is_written_is_its_owners_alone(site: Site, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        backup.make(site, tmp_path / "b" / "folder", now=NOW)
        backup.make(site, tmp_path / "b" / "file.tar.gz", now=NOW)
    finally:
        os.umask(before)
    for path in (tmp_path / "b", *(tmp_path / "b").rglob("*")):
        wanted = stat.S_IRWXU if path.is_dir() else stat.S_IRUSR | stat.S_IWUSR
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


@pytest.mark.parametrize("name", ["b.tar", "b.tar.gz", "b.tgz"])
def test_an_archive_holds_the_same_files(site: Site, tmp_path: Path, name: str) -> None:
    backup.make(site, tmp_path / name, now=NOW)
    with tarfile.open(tmp_path / name) as packed:
        packed.extractall(tmp_path / "out", filter="data")
    assert ledgers.read(tmp_path / "out" / "b" / site.ledger.name).head == ledgers.read(site.ledger).head
    assert len(list(Transcript(tmp_path / "out" / "b" / "transcript.jsonl"))) == 3


@pytest.mark.parametrize("there", ["a file", "a folder", "a link"])
@pytest.mark.parametrize("name", ["backup", "backup.tar"])
def test_nothing_is_overwritten(site: Site, tmp_path: Path, name: str, there: str) -> None:
    out = tmp_path / name
    if there == "a file":
        out.write_text("kept")
    elif there == "a folder":
        out.mkdir()
    else:
        out.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir()), out.lstat()
    with pytest.raises(SettingError, match="Expected nothing at"):
        backup.make(site, out, now=NOW)
    assert (sorted(tmp_path.iterdir()), out.lstat()) == before


def test_before_anything_was_spent_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="nothing was spent yet"):
        backup.make(sites.make(tmp_path / "site"), tmp_path / "backup", now=NOW)
    assert not (tmp_path / "backup").exists()


def test_what_is_charged_and_sent_meanwhile_is_in_both_or_in_the_ledger_alone(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole plan is charged and answered between the two copies."""
    rows = len(ledgers.read(site.ledger).rows)
    copying = Transcript.copy_to

    def copy_and_spend(own: Transcript, folder: Path) -> list[Path]:
        copies = copying(own, folder)
        run_plan(site, OTHER)
        return copies

    monkeypatch.setattr(Transcript, "copy_to", copy_and_spend)
    made = backup.make(site, tmp_path / "backup", now=NOW)
    assert len(made.book.rows) == len(ledgers.read(site.ledger).rows) > rows
    assert made.messages == 3
    assert len(list(site.transcript)) == 6


def test_a_transcript_that_is_newer_than_the_ledger_is_no_backup(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, copying = ledgers.read(site.ledger), Transcript.copy_to

    def spend_and_copy(own: Transcript, folder: Path) -> list[Path]:
        run_plan(site, OTHER)
        return copying(own, folder)

    monkeypatch.setattr(Transcript, "copy_to", spend_and_copy)
    monkeypatch.setattr(ledgers, "write", lambda path, _, write=ledgers.write: write(path, older.rows))
    with pytest.raises(LedgerError, match=r"(?s)Expected (entry|the ledger)"):
        backup.make(site, tmp_path / "backup", now=NOW)
    assert list(tmp_path.iterdir()) == [site.folder]


def test_a_copy_that_lacks_what_the_ledger_held_before_is_no_backup(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = ledgers.read(site.ledger)
    with site.account.open(site.budget) as ledger:
        ledger.record_free(codec.plan_hash(OTHER), "something", "for a test")
    monkeypatch.setattr(ledgers, "write", lambda path, _, write=ledgers.write: write(path, older.rows))
    with pytest.raises(LedgerError, match="to begin with the"):
        backup.make(site, tmp_path / "backup", now=NOW)
    assert list(tmp_path.iterdir()) == [site.folder]


def test_a_transcript_that_was_changed_is_no_backup(site: Site, tmp_path: Path) -> None:
    path = site.folder / "transcript.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    message = json.loads(first)
    message["data"] = "AAAA" + message["data"][4:]
    path.write_text("".join([json.dumps(message) + "\n", *others]))
    with pytest.raises(TranscriptError, match="SHA-256"):
        backup.make(site, tmp_path / "backup", now=NOW)
    assert list(tmp_path.iterdir()) == [site.folder]


def test_a_line_that_is_being_written_is_left_out(site: Site, tmp_path: Path) -> None:
    with (site.folder / "transcript.jsonl").open("ab") as file:
        file.write(b'{"time": "2026-')
    made = backup.make(site, tmp_path / "backup", now=NOW)
    assert made.messages == 3
    assert (tmp_path / "backup" / "transcript.jsonl").read_bytes().endswith(b"}\n")


def test_rotated_files_are_copied_too(tmp_path: Path) -> None:
    made = sites.make(tmp_path / "site")
    with (made.folder / "site.toml").open("a") as file:
        file.write("transcript_file_bytes = 1024\n")
    site = Site(made.folder)
    run_plan(site, PLAN)
    names = [path.name for path in site.transcript.files()]
    assert len(names) > 1
    backup.make(site, tmp_path / "backup", now=NOW)
    assert {path.name for path in (tmp_path / "backup").glob("transcript*")} == set(names)


def test_while_the_transcript_is_being_written_to_the_copy_waits(site: Site, tmp_path: Path) -> None:
    with (site.folder / "transcript.jsonl.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        copied = threading.Event()

        def copy() -> None:
            (tmp_path / "copy").mkdir()
            site.transcript.copy_to(tmp_path / "copy")
            copied.set()

        thread = threading.Thread(target=copy)
        thread.start()
        assert not copied.wait(0.2)
    thread.join()
    assert copied.is_set()


def test_another_users_ledger_is_not_touched(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: site.ledger.stat().st_uid + 1)
    with pytest.raises(SettingError, match="Expected the owner of"):
        backup.make(site, tmp_path / "backup", now=NOW)


# An older backup


@pytest.mark.parametrize("with_transcript", [False, True])
def test_a_backup_that_is_older_than_what_was_spent_is_refused_wherever_it_is_put(
    site: Site, tmp_path: Path, with_transcript: bool
) -> None:
    made = backup.make(site, tmp_path / "backup", now=NOW)
    (tmp_path / "backup" / "backup.json").unlink()
    run_plan(site, OTHER)
    spent = ledgers.read(site.ledger).spent()
    if not with_transcript:
        (tmp_path / "backup" / "transcript.jsonl").unlink()
    kept = tmp_path / "kept.ledger"
    shutil.copy(tmp_path / "backup" / site.ledger.name, kept)
    back(tmp_path / "backup", site)
    refusal = r"(?s)Expected the ledger in .* to have row \d+ with hash .* It is lost, older, or another's"
    with pytest.raises(LedgerError, match=refusal):
        Site(site.folder).account.check()
    with pytest.raises(LedgerError, match=refusal):
        limbeck("ledger", "restore", site.folder, "--from", kept, "--head", made.book.head)
    # Nor does the site answer: neither what was charged before, nor anything new.
    reply = respond(Site(site.folder), codec.encode_request(sites.offer(sites.plan(public_seed=8))))
    declined = codec.decode_reply(reply, plan=sites.plan(public_seed=8), expecting=sites.offer(sites.plan(public_seed=8)))
    assert type(declined).__name__ == "Declined"
    assert spent > made.book.spent()


def test_the_guide_quotes_what_is_said_of_an_older_backup(site: Site, tmp_path: Path) -> None:
    backup.make(site, tmp_path / "backup", now=NOW)
    run_plan(site, OTHER)
    back(tmp_path / "backup", site)
    with pytest.raises(LedgerError) as refused:
        Site(site.folder).account.check()
    guide = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
    (quoted,) = re.findall(r"```text\n( *Expected the ledger in.*?)```", guide, flags=re.S)

    def sentence(text: str) -> str:
        return re.sub(r"(?<=hash )[0-9a-f]{16}|\d+|\S*/(?=records.npz|state)", "", " ".join(text.split()))

    assert sentence(quoted) == sentence(str(refused.value))


def test_the_newest_backup_restores_a_lost_ledger(site: Site, tmp_path: Path) -> None:
    run_plan(site, OTHER)
    made = backup.make(site, tmp_path / "backup", now=NOW)
    ledgers.close_idle()
    for path in site.ledger.parent.glob(f"{site.ledger.name}*"):
        path.unlink()
    limbeck("ledger", "restore", site.folder, "--from", tmp_path / "backup" / site.ledger.name, "--head", made.book.head)
    book = Site(site.folder).account.check(every_line=True)
    assert book == made.book
