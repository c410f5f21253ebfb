"""The transcript holds every byte as it left, and a crash cannot spoil it."""

import base64
import json
from pathlib import Path

import pytest

from helpers import sites
from limbeck.base.errors import TranscriptError
from limbeck.client import transcript as transcripts
from limbeck.client.app import respond
from limbeck.client.transcript import Transcript
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Request, Teach


def test_what_was_sent_comes_back_in_order(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "t.jsonl")
    for index in range(3):
        transcript.append(f"share {index}", bytes(32), index, bytes([index]) * 5)
    assert [(sent.what, sent.entry, sent.data) for sent in transcript] == [
        (f"share {i}", i, bytes([i]) * 5) for i in range(3)
    ]


def test_a_line_torn_by_a_crash_is_dropped_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    transcript = Transcript(path)
    transcript.append("one", bytes(32), 1, b"x")
    whole = path.read_bytes()
    for torn in (whole[:-1], whole[: len(whole) // 2], b"{" * 200_000):
        path.write_bytes(whole + torn)
        assert [sent.what for sent in transcript] == ["one"]
        transcript.append("two", bytes(32), 2, b"y")
        assert [sent.what for sent in transcript] == ["one", "two"]
        path.write_bytes(whole)


def test_a_transcript_that_was_never_written_is_empty(tmp_path: Path) -> None:
    assert list(Transcript(tmp_path / "none.jsonl")) == []


def test_every_reply_is_written_accepting_and_declining_and_said_again(tmp_path: Path) -> None:
    site, offer = sites.make(tmp_path / "s"), sites.offer()
    plan_hash = codec.plan_hash(offer.plan)
    share = Ask(plan_hash=plan_hash, stage=0, first=0, count=20)
    too_far = Ask(plan_hash=plan_hash, stage=5, first=0, count=20)
    early = Ask(plan_hash=bytes(32), stage=0, first=0, count=20)
    questions: list[Request] = [
        early,
        offer,
        share,
        Teach(plan_hash=plan_hash),
        Teach(plan_hash=plan_hash),
        share,
        share,
        too_far,
    ]
    left = [respond(site, codec.encode_request(question)) for question in questions]
    written = list(site.transcript)
    # What is refused of a plan that was never accepted is kept apart.
    assert [sent.data for sent in site.refusals] == left[:1]
    assert [sent.data for sent in written] == left[1:]
    assert [sent.what.split(":")[0].split(" of")[0] for sent in written] == [
        "accepted",
        "declined",
        "taught",
        "taught",
        "share",
        "share",
        "declined",
    ]
    assert [sent.again for sent in written] == [False] * 3 + [True, False, True, False]
    assert [sent.entry is not None for sent in written] == [False] * 2 + [True, False, True, False, False]


def test_full_files_are_closed_and_chained_and_nothing_is_lost(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "t.jsonl", file_bytes=1000)
    for index in range(20):
        transcript.append("share", bytes(32), index, bytes([index]) * 50)
    transcript.append("share", bytes(32), None, bytes([0]) * 50, again=True)
    files = transcript.files()
    assert len(files) > 3
    assert all(path.stat().st_size <= 1000 + 200 for path in files)
    assert [sent.data[0] for sent in transcript] == [*range(20), 0]


def test_a_closed_file_changed_or_taken_out_of_the_middle_shows(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "t.jsonl", file_bytes=1000)
    for index in range(20):
        transcript.append("share", bytes(32), index, bytes([index]) * 50)
    middle = transcript.files()[1]
    whole = middle.read_bytes()
    middle.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(TranscriptError, match="before"):
        list(transcript)
    middle.unlink()
    with pytest.raises(TranscriptError, match="before"):
        list(transcript)
    middle.write_bytes(whole)
    # Moved elsewhere from the front is what an owner may do.
    transcript.files()[0].unlink()
    assert [sent.data[0] for sent in transcript][-1] == 19


def test_a_message_changed_in_place_shows(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "t.jsonl")
    transcript.append("share", bytes(32), 1, b"what left")
    line = json.loads((tmp_path / "t.jsonl").read_text())
    line["data"] = base64.b64encode(b"what LEFT").decode()
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(TranscriptError, match="SHA-256"):
        list(transcript)


def test_a_line_reaches_the_disk_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "t.jsonl", []
    monkeypatch.setattr(transcripts, "sync", lambda descriptor: synced.append(path.read_bytes()))
    for index in range(2):
        Transcript(path).append("share", bytes(32), index, b"x")
        assert synced[index:] == [path.read_bytes()]


def test_a_transcript_that_may_forget_drops_its_oldest_files_and_stays_whole(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path / "t.jsonl", file_bytes=1000, total_bytes=3000, forget=True)
    for index in range(40):
        transcript.append("declined", bytes(32), None, bytes([index]) * 50)
        assert sum(path.stat().st_size for path in transcript.files()) <= 3000
    kept = [sent.data[0] for sent in transcript]
    assert kept == list(range(kept[0], 40))
    assert len(kept) > 3


def test_at_the_bound_of_its_size_nothing_is_sent_any_more(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    site, offer = sites.make(folder), sites.offer()
    (folder / "site.toml").write_text((folder / "site.toml").read_text() + "transcript_total_bytes = 900\n")
    site = type(site)(folder)
    request = codec.encode_request(offer)
    respond(site, request)
    respond(site, request)
    with pytest.raises(TranscriptError, match="which is not sent"):
        respond(site, request)
    assert sum(path.stat().st_size for path in site.transcript.files()) <= 900
