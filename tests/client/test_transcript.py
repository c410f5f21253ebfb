"""The transcript holds every byte as it left, and a crash cannot spoil it."""

from pathlib import Path

from limbeck.client.transcript import Transcript


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
