"""The table of a node's states: every transition that it has is taken, every other is refused, and the documentation draws this table."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.server.roster import (
    INITIAL,
    MEMBERS,
    OPEN,
    SITES,
    TRANSITIONS,
    IllegalTransition,
    Node,
    NodeEvent,
    NodeState,
    Roster,
    diagram,
)

EVERYTHING = [(state, event) for state in NodeState for event in NodeEvent]
LEGAL = {(state, event): target for state, row in TRANSITIONS.items() for event, target in row.items()}
NOTHING = {NodeEvent.DECLINE, NodeEvent.REFUSE, NodeEvent.LOSE}
LATE = {state for state in NodeState if state.name.startswith("LATE_")}


@pytest.mark.parametrize(("state", "event"), EVERYTHING)
def test_a_node_goes_where_the_table_says_and_nowhere_else(state: NodeState, event: NodeEvent) -> None:
    node = Node(id=1, label="a", state=state)
    if (state, event) in LEGAL:
        node.on(event)
        assert node.state is LEGAL[state, event]
    else:
        with pytest.raises(IllegalTransition, match=f"in state {state}, got {event}"):
            node.on(event)
        assert node.state is state


def test_a_node_that_comes_in_time_and_one_that_comes_late_become_members() -> None:
    event = NodeEvent
    in_time = [event.OFFER, event.ACCEPT, event.TEACH, event.TAUGHT]
    late = [event.OFFER_LATE, event.ACCEPT, event.TEACH, event.TAUGHT, event.JOIN]
    for way in (in_time, late):
        node = Node(id=1, label="a")
        for step in [*way, event.BEGIN_STAGE, event.ASK, event.ANSWER, event.BEGIN_STAGE, event.ASK, event.LOSE, event.ASK]:
            node.on(step)
        assert node.state is NodeState.ASKED


def test_every_state_has_a_row_and_can_be_reached_and_left() -> None:
    assert set(TRANSITIONS) == set(NodeState)
    reached, before = {INITIAL}, set[NodeState]()
    while reached != before:
        before, reached = reached, reached | {target for state in reached for target in TRANSITIONS[state].values()}
    assert reached == set(NodeState)
    assert all(set(row.values()) - {state} for state, row in TRANSITIONS.items())


def test_a_question_may_come_to_nothing_in_every_state_where_one_is_open_and_in_no_other() -> None:
    for state, row in TRANSITIONS.items():
        assert (set(row) >= NOTHING) == (state in OPEN)
        assert not (set(row) & NOTHING) or state in OPEN


def test_a_name_is_kept_from_agreeing_to_being_left_behind() -> None:
    """Nobody becomes a site but by accepting, and only one that came to nothing stops being one."""
    for (state, event), target in LEGAL.items():
        if state not in SITES and target in SITES:
            assert event is NodeEvent.ACCEPT
        if state in SITES and target not in SITES:
            assert event is NodeEvent.END_TEACHING or (state in LATE and event in NOTHING)
        if state in MEMBERS:
            assert target in MEMBERS


def test_a_name_has_one_bearer() -> None:
    roster = Roster()
    roster.add(Node(id=1, label="unnamed node 0", site="a"))
    roster.add(Node(id=2, label="unnamed node 1", site="a", state=NodeState.AGREED))
    assert roster.bearer("a") is roster[2]
    assert roster.bearer("b") is None
    assert [node.id for node in roster.in_state(NodeState.KNOWN, NodeState.AGREED)] == [1, 2]


def test_a_node_is_asked_again_when_it_connects_anew_is_lost_or_has_had_time_to_correct_something() -> None:
    node = Node(id=1, label="a")
    assert node.may_answer_now(1, 0.0)
    node.replied(1, useful=True, now=0.0, retry_seconds=60.0)
    assert not node.may_answer_now(1, 1e9)
    assert node.may_answer_now(2, 0.0)
    node.lost = True
    assert node.may_answer_now(1, 0.0)
    # Each wait is twice the one before, up to an hour, until a reply is good.
    now = 0.0
    for wait in (60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0):
        node.replied(1, useful=False, now=now, retry_seconds=60.0)
        assert not node.may_answer_now(1, now + wait - 1)
        assert node.may_answer_now(1, now + wait)
        now += wait
    node.state = NodeState.LATE_TRAINING
    assert not node.may_answer_now(2, now)
    node.state = NodeState.KNOWN
    node.replied(1, useful=True, now=now, retry_seconds=60.0)
    assert not node.may_answer_now(1, now + 1e9)


def test_the_documentation_draws_this_table_and_says_what_each_state_is() -> None:
    text = (Path(__file__).parents[2] / "docs" / "link.md").read_text(encoding="utf-8")
    assert f"```mermaid\n{diagram()}\n```" in text
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    assert [row.strip("`") for row in rows if row.strip("`") in set(NodeState)] == [state.value for state in NodeState]
