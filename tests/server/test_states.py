"""What a run's files say is read back as the values that were written, and so is what 0.1.0 wrote, which had only their texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.base.errors import RunError
from limbeck.protos.messages import Guarantee, Reason
from limbeck.server import events, record
from limbeck.server.events import (
    Continued,
    Ended,
    Event,
    Events,
    Joined,
    LeftOut,
    Paused,
    Progress,
    Resumed,
    StageFinished,
    Started,
    Stopped,
    Unknown,
    Warned,
)
from limbeck.server.record import ClientRecord, Record
from limbeck.server.states import (
    AGREE,
    EXPORT,
    TEACH,
    DeclinedBySite,
    EventKind,
    Exclusion,
    NoReply,
    Phase,
    RefusedReply,
    SiteState,
    Step,
    Why,
    WrongName,
)

ANSWERS = Phase(Step.ANSWERS, 2)
WHYS: list[Why] = [
    *map(DeclinedBySite, Reason),
    RefusedReply("Expected a reply, got error 5: gone: no reason given."),
    NoReply(3600.0),
    NoReply(0.5),
    NoReply(1e9),
    WrongName("site-00"),
    WrongName("a-b.c_d", taken=True),
]
EVENTS: list[Event] = [
    Started(plan="ab", stages=4),
    Resumed(after_stage=0),
    *(Progress(phase=phase, done=0, total=3) for phase in (AGREE, TEACH, ANSWERS, Phase(Step.DISTIL, 0), EXPORT)),
    *(Progress(phase=AGREE, done=1, total=3, why=why) for why in WHYS),
    *(LeftOut(site="a", phase=ANSWERS, why=why) for why in WHYS),
    Joined(site="a", stage=1),
    StageFinished(
        stage=0,
        sparsity=0.5,
        temperature=2.0,
        clients=("a", "b"),
        bytes_up=1,
        bytes_down=2,
        seconds={"answers": 1.5},
        losses=(0.25, None),
        at_floor=(0.0, 0.75),
    ),
    Warned(text="few inputs"),
    Paused(phase=ANSWERS, sites=1, minimum=2),
    Continued(phase=ANSWERS, sites=2),
    Stopped(reason="interrupted"),
    Ended(),
]


def test_every_kind_of_event_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    assert {event.kind for event in EVENTS} == set(EventKind)
    write = Events(tmp_path / "events.jsonl")
    for event in EVENTS:
        write(event)
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert [line.event for line in events.read(lines)] == EVENTS


@pytest.mark.parametrize("why", WHYS)
def test_events_of_0_1_0_have_the_same_reasons_as_text(why: Why) -> None:
    old = {"kind": "left out", "time": 1.5, "site": "a", "phase": "answers 3", "reason": str(why)}
    line = events.parse(json.dumps(old).encode())
    assert line is not None
    assert line.event == LeftOut(site="a", phase=ANSWERS, why=why)


def test_a_kind_that_is_unknown_is_kept_and_a_known_one_without_its_fields_is_none() -> None:
    line = events.parse(b'{"kind": "vote", "time": 1, "for": "x"}')
    assert line is not None
    assert line.event == Unknown(kind="vote", facts={"for": "x"})
    for broken in (
        b'{"kind": "paused", "time": 1}',
        b'{"kind": "end"}',
        b'{"kind": "end", "time": true}',
        b'{"kind": 3, "time": 0}',
    ):
        assert events.parse(broken) is None


@pytest.mark.parametrize("why", WHYS)
def test_a_site_in_the_record_is_read_back_and_the_words_of_0_1_0_are_kept(why: Why, tmp_path: Path) -> None:
    written = Record(tmp_path / "record.json", bytes(32))
    client = written.client("a")
    client.guarantee, client.label_counts = Guarantee.SEEDED, (3, -1)
    exclusion = client.leave_out(ANSWERS, why)
    written.save()
    (described,) = json.loads((tmp_path / "record.json").read_text())["clients"].values()
    assert described["status"] == ("lost" if isinstance(why, NoReply) else "left out")
    assert described["reason"] == f"answers 3: {why}"
    assert record.read(tmp_path / "record.json").clients == {"a": client}
    # As 0.1.0 wrote it, and as it leaves it where it goes on with such a run: there the text is newer.
    del described["exclusion"]
    for left in ({}, {"exclusion": {"phase": "agree", "kind": "no reply", "seconds": 1.0}}):
        whole = {"plan_hash": "", "clients": {"a": {**described, **left}}, "stages": [], "seconds": {}}
        read = record.parse(json.dumps(whole).encode()).clients["a"]
        assert (read.state, read.exclusion, read.guarantee) == (exclusion.state, exclusion, Guarantee.SEEDED)


def test_a_site_that_0_1_0_called_answered_though_another_had_its_name_is_left_out() -> None:
    old = {"status": "answered", "reason": "agree: calls itself a, as another node does", "bytes_up": 1, "bytes_down": 1}
    whole = {"plan_hash": "", "clients": {"unnamed node 1": old}, "stages": [], "seconds": {}}
    assert record.parse(json.dumps(whole).encode()).clients["unnamed node 1"].state is SiteState.LEFT_OUT


def test_what_a_site_answered_after_it_was_left_out_does_not_hide_that_it_was() -> None:
    client = ClientRecord()
    client.leave_out(ANSWERS, NoReply(1.0))
    client.state = SiteState.ANSWERED
    assert (client.status, client.reason) == ("answered", "answers 3: no answer within 1 s")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "fine"),
        ("guarantee", "total"),
        ("bytes_up", -1),
        ("reason", "no phase"),
        ("reason", "vote: x"),
        ("label_counts", "x"),
    ],
)
def test_a_record_that_says_what_no_coordinator_writes_is_refused(field: str, value: object, tmp_path: Path) -> None:
    client = {"status": "answered", "reason": None, "bytes_up": 1, "bytes_down": 1, "guarantee": None, field: value}
    whole = {"plan_hash": "", "clients": {"a": client}, "stages": [], "seconds": {}}
    (tmp_path / "record.json").write_text(json.dumps(whole))
    with pytest.raises(RunError, match="Expected a run's record in"):
        Record(tmp_path / "record.json", b"")


def test_phases_have_one_text_each_and_other_texts_are_none() -> None:
    phases = [AGREE, TEACH, ANSWERS, Phase(Step.DISTIL, 0), EXPORT]
    assert [str(phase) for phase in phases] == ["agree", "teach", "answers 3", "distil 1", "export"]
    assert [Phase.parse(str(phase)) for phase in phases] == phases
    for text in ("", "answers", "answers 0", "answers 01", "answers x", "agree 1", "vote", "answers  1"):
        with pytest.raises(ValueError, match="Expected a phase, got"):
            Phase.parse(text)


def test_an_exclusion_tells_the_state_of_its_site() -> None:
    told = {type(why): Exclusion(AGREE, why).state for why in WHYS}
    assert told == {
        DeclinedBySite: SiteState.DECLINED,
        RefusedReply: SiteState.LEFT_OUT,
        NoReply: SiteState.LOST,
        WrongName: SiteState.LEFT_OUT,
    }
