"""The nodes of a run: what each is in, and which event takes it where. One table, after h11's `_state.py`.

A node is what the carrier delivers questions to; a site is a node that has agreed to the plan. `docs/link.md` has the table as a diagram,
which `diagram` draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

# Waits before a node that declined or failed is asked again in a pause double up to this.
LONGEST_RETRY_SECONDS = 3600.0


class NodeState(StrEnum):
    """What a node is in. Those that come late, when others are being taught or have been, have states of their own."""

    KNOWN = "known"
    OFFERED = "offered"
    AGREED = "agreed"
    OFFERED_AGAIN = "offered again"
    TRAINING = "training"
    UNTAUGHT = "untaught"
    MEMBER = "member"
    ASKED = "asked"
    ANSWERED = "answered"
    MISSING = "missing"
    LATE_OFFERED = "late: offered"
    LATE_AGREED = "late: agreed"
    LATE_TRAINING = "late: training"
    LATE_TAUGHT = "late: taught"


class NodeEvent(StrEnum):
    """What happens to a node: the coordinator asks it, it replies or does not, a phase begins or ends."""

    OFFER = "offer"
    OFFER_LATE = "offer late"
    ACCEPT = "accepts"
    TEACH = "teach"
    TAUGHT = "taught"
    ASK = "ask"
    ANSWER = "answers"
    DECLINE = "declines"
    REFUSE = "reply refused"
    LOSE = "no reply in time"
    MISNAME = "wrong name"
    JOIN = "joins"
    BEGIN_STAGE = "stage begins"
    END_TEACHING = "teaching ends"


# A question came to nothing.
_NOTHING = (NodeEvent.DECLINE, NodeEvent.REFUSE, NodeEvent.LOSE)


def _to(state: NodeState, *events: NodeEvent) -> dict[NodeEvent, NodeState]:
    return dict.fromkeys(events, state)


def _transitions() -> dict[NodeState, dict[NodeEvent, NodeState]]:
    s, e = NodeState, NodeEvent
    return {
        # In time: offered, taught, then asked stage by stage.
        s.KNOWN: {e.OFFER: s.OFFERED, e.OFFER_LATE: s.LATE_OFFERED},
        s.OFFERED: {e.ACCEPT: s.AGREED, **_to(s.KNOWN, *_NOTHING, e.MISNAME)},
        s.AGREED: {e.OFFER: s.OFFERED_AGAIN, e.TEACH: s.TRAINING, e.END_TEACHING: s.KNOWN},
        # One that has agreed and connects anew while others are waited for is offered the plan once more; its word holds.
        s.OFFERED_AGAIN: _to(s.AGREED, e.ACCEPT, *_NOTHING, e.MISNAME),
        s.TRAINING: {e.TAUGHT: s.MEMBER, **_to(s.UNTAUGHT, *_NOTHING)},
        s.UNTAUGHT: {e.TEACH: s.TRAINING, e.END_TEACHING: s.KNOWN},
        s.MEMBER: {e.ASK: s.ASKED, e.BEGIN_STAGE: s.MEMBER},
        s.ASKED: {e.ANSWER: s.ANSWERED, **_to(s.MISSING, *_NOTHING)},
        s.ANSWERED: {e.BEGIN_STAGE: s.MEMBER},
        s.MISSING: {e.ASK: s.ASKED, e.BEGIN_STAGE: s.MEMBER},
        # Late: offered and taught while others are at work, and a member from the next stage on.
        s.LATE_OFFERED: {e.ACCEPT: s.LATE_AGREED, **_to(s.KNOWN, *_NOTHING, e.MISNAME)},
        s.LATE_AGREED: {e.TEACH: s.LATE_TRAINING},
        s.LATE_TRAINING: {e.TAUGHT: s.LATE_TAUGHT, **_to(s.KNOWN, *_NOTHING)},
        s.LATE_TAUGHT: {e.JOIN: s.MEMBER},
    }


TRANSITIONS: Mapping[NodeState, Mapping[NodeEvent, NodeState]] = MappingProxyType(
    {state: MappingProxyType(row) for state, row in _transitions().items()}
)
INITIAL = NodeState.KNOWN
# A question to the node is open.
OPEN = frozenset(
    {
        NodeState.OFFERED,
        NodeState.OFFERED_AGAIN,
        NodeState.TRAINING,
        NodeState.ASKED,
        NodeState.LATE_OFFERED,
        NodeState.LATE_TRAINING,
    }
)
# It is a site, and nobody else may bear its name: it has agreed and has not been left behind since.
SITES = frozenset(NodeState) - {NodeState.KNOWN, NodeState.OFFERED, NodeState.LATE_OFFERED}
# Has a teacher, and takes part in the stage that begins or is under way.
MEMBERS = frozenset({NodeState.MEMBER, NodeState.ASKED, NodeState.ANSWERED, NodeState.MISSING})


class IllegalTransition(Exception):
    """An event that the table does not have in a node's state: a bug of the coordinator."""


def after(state: NodeState, event: NodeEvent) -> NodeState:
    """The state after an event. Raises IllegalTransition where the table has none."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(
            f"Expected one of {[legal.value for legal in TRANSITIONS[state]]} in state {state}, got {event}."
        ) from None


@dataclass(slots=True, kw_only=True)
class Node:
    """One node, from when the carrier first names it to the end of the process.

    id: the carrier's. label: what it is called before it has said who it is: by its certificate, or by number. site: its name as a site;
    empty before it agreed for the first time. asked, heard: how often it had connected when it was last asked, and when it last replied;
    None if never. lost: the last question was not answered in time. retry: when it may be asked again although it has replied (monotonic
    seconds), and after how long a wait; None where its last reply was good.
    """

    id: int
    label: str
    site: str = ""
    state: NodeState = INITIAL
    asked: int | None = None
    heard: int | None = None
    lost: bool = False
    retry: tuple[float, float] | None = None

    def on(self, event: NodeEvent) -> None:
        """Go where the table says. Raises IllegalTransition where it has no such event in this state; then nothing changes."""
        self.state = after(self.state, event)

    def replied(self, connections: int, *, useful: bool, now: float, retry_seconds: float) -> None:
        """Note that a reply came. useful: it is no refusal, and can be used. retry_seconds: the first wait before it is asked again."""
        waited = retry_seconds / 2 if self.retry is None else self.retry[1]
        wait = min(2 * waited, LONGEST_RETRY_SECONDS)
        self.heard, self.lost, self.retry = connections, False, None if useful else (now + wait, wait)

    def may_answer_now(self, connections: int, now: float) -> bool:
        """Whether asking it is worth while in a pause.

        Not if a question to it is open, nor if it has replied since it last connected, and would say the same again. One that declined may
        say something else after a while: its owner may have corrected a setting, a file or a disk.
        """
        if self.state in OPEN:
            return False
        if self.retry is not None and now >= self.retry[0]:
            return True
        return self.lost or connections != self.heard


@dataclass(slots=True)
class Roster:
    """All nodes that the carrier has named, in the order in which it did."""

    _nodes: dict[int, Node] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __contains__(self, node_id: int) -> bool:
        return node_id in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, node_id: int) -> Node:
        return self._nodes[node_id]

    def add(self, node: Node) -> None:
        """A node that is new."""
        self._nodes[node.id] = node

    def in_state(self, *states: NodeState) -> list[Node]:
        """The nodes in any of these states."""
        return [node for node in self if node.state in states]

    def bearer(self, site: str) -> Node | None:
        """The site with this name, if there is one."""
        return next((node for node in self if node.state in SITES and node.site == site), None)


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    names = {state: f"s{index}" for index, state in enumerate(NodeState)}
    lines = [
        "stateDiagram-v2",
        *(f'    state "{state}" as {name}' for state, name in names.items()),
        f"    [*] --> {names[INITIAL]}",
    ]
    for state, row in TRANSITIONS.items():
        for target in dict.fromkeys(row.values()):
            events = ", ".join(event.value for event in row if row[event] is target)
            lines.append(f"    {names[state]} --> {names[target]} : {events}")
    return "\n".join(lines)
