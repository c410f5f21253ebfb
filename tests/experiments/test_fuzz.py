"""The fuzz command finds nothing, and would find it: bad values, other exceptions, memory, time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.base.errors import WireError
from limbeck.experiments.faults import fuzz, mutations
from limbeck.experiments.faults.fuzz import Fault, Target
from limbeck.protos import link, link_codec

MESSAGES = 10_000


def test_ten_thousand_bad_messages_find_nothing_wrong(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    arguments = ["--messages", str(MESSAGES), "--seed", "1", "--out", str(tmp_path / "failed"), "--record", str(record)]
    done = subprocess.run(
        [sys.executable, "-m", "limbeck.experiments.faults.fuzz", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {target["target"]: target for target in json.loads(record.read_text())["targets"]}
    assert set(found) == set(fuzz.TARGETS)
    assert sum(target["messages"] for target in found.values()) == MESSAGES
    for target in found.values():
        assert target["failures"] == []
        assert target["outcomes"]["refused"] > 0
        assert sum(target["outcomes"].values()) > target["outcomes"]["refused"]
        assert target["peak_MB_above_before"] < fuzz.MEMORY / 1e6


def target(read: Callable[[bytes], str]) -> Target:
    """A target that takes its one good message."""

    def careful(data: bytes) -> str:
        return "accepted" if data == b"good message" else read(data)

    return Target(name="test", good=[b"good message"], read=careful, share=1.0)


def refuse(_: bytes) -> str:
    raise WireError("no")


def not_the_same(_: bytes) -> str:
    raise Fault("encodes to other bytes")


def another_exception(_: bytes) -> str:
    raise KeyError("x")


def too_much(_: bytes) -> str:
    return "accepted" if bytearray(2 * fuzz.MEMORY) else "never"


def for_ever(_: bytes) -> str:
    while True:
        pass


def test_a_value_that_encodes_to_other_bytes_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    own = fuzz.frames(Path())
    monkeypatch.setattr(link_codec, "encode_frame", lambda _: b"other")
    monkeypatch.setattr(link_codec, "decode_frame", lambda _: link.Heartbeat())
    with pytest.raises(Fault, match="a frame encodes to other bytes"):
        own.read(own.good[0])


def test_what_is_refused_is_no_failure(tmp_path: Path) -> None:
    summary = fuzz.fuzz(target(refuse), 0, range(200), tmp_path)
    assert (summary.messages, summary.failures) == (200, [])
    assert summary.outcomes["refused"] > 150


@pytest.mark.parametrize(
    ("read", "what"),
    [(not_the_same, "Fault"), (another_exception, "KeyError"), (too_much, "MemoryError"), (for_ever, "Hang")],
)
def test_a_failure_is_kept_and_shown(
    read: Callable[[bytes], str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "HANG_SECONDS", 1.0)
    monkeypatch.setattr(fuzz, "FAILURES_SHOWN", 2)
    own = target(read)
    summary = fuzz.fuzz(own, 0, range(100), tmp_path)
    assert len(summary.failures) == 2
    for failure in summary.failures:
        assert failure.startswith(what)
    kept = sorted(tmp_path.iterdir(), key=lambda path: int(path.stem.rpartition("-")[2]))
    index = int(kept[0].stem.rpartition("-")[2])
    assert kept[0].read_bytes() == own.message(0, index)
    assert kept[0].read_bytes()[:64].hex() in summary.failures[0]


def test_what_is_known_fails_nothing_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "KNOWN", {"encodes to other bytes": "a reason"})
    summary = fuzz.fuzz(target(not_the_same), 0, range(50), tmp_path)
    assert summary.failures == []
    assert summary.known["encodes to other bytes"] > 30


def test_messages_follow_from_seed_target_and_number() -> None:
    own = target(refuse)
    assert [own.message(3, index) for index in range(50)] == [own.message(3, index) for index in range(50)]
    assert [own.message(3, index) for index in range(50)] != [own.message(4, index) for index in range(50)]


def test_a_parcel_is_changed_inside_and_its_hashes_are_right_again() -> None:
    from limbeck.experiments.faults.fuzz import flower

    own = flower(Path())
    reached = 0
    for index in range(400):
        data = mutations.parcel(mutations.Mutator(str(index), own.good), own.good[1])
        try:
            own.read(data)
        except WireError as error:
            reached += "canonical" in str(error) or "field" in str(error) or "record" in str(error)
    # Behind the hashes: the forms of the objects themselves.
    assert reached > 40
