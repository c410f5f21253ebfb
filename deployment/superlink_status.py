"""What a SuperLink says of a run and of its nodes, for those who watch. Flower's own command asks it, read-only and in bounded time.

The run's folder holds a note, written by `limbeck flower run`, of the SuperLink that carries it. What is in the folder says what the
coordinator did; what is here says what carries it: a server app that was killed leaves no event, but its SuperLink knows.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from limbeck.base.errors import RunError, SettingError
from limbeck.base.files import write_durably
from limbeck.deployment import flower

NOTE = "superlink.json"
# Each question starts a process of Flower's, for about two seconds; there are two.
ASK_SECONDS = 20.0
PERIOD_SECONDS = 10.0
_NEVER = "N/A"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One SuperNode. name: of its site, or its node id. state: "registered" (never seen yet), "online" or "offline". since: seconds since
    the epoch, or None."""

    name: str
    state: str
    since: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperLinkStatus:
    """A SuperLink at one moment. state: of the run there, such as "running" or "finished:failed"; details: why. error: why nobody
    answered, else "" and the rest is what was said. asked: seconds since the epoch, or None before the first answer."""

    run: int
    state: str = ""
    details: str = ""
    nodes: tuple[Node, ...] = ()
    error: str = ""
    asked: float | None = None

    @property
    def online(self) -> int:
        """Nodes that are there."""
        return sum(node.state == "online" for node in self.nodes)

    @property
    def failed(self) -> bool:
        """Whether the run has ended there without being completed."""
        return self.state.startswith(flower.FINISHED) and self.state != flower.COMPLETED


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Which SuperLink carries a run: its folder, as `limbeck flower` keeps it, and the run's id there."""

    folder: Path
    run: int

    def write(self, out: Path) -> None:
        """Into the run's folder."""
        described = {"folder": str(self.folder.resolve()), "run": self.run}
        write_durably(out / NOTE, json.dumps(described, indent=1).encode())


def read_note(out: Path) -> Note | None:
    """The note in a run's folder; None if absent. Raises RunError if it cannot be read."""
    try:
        described = json.loads((out / NOTE).read_text(encoding="utf-8"))
        return Note(folder=Path(described["folder"]), run=int(described["run"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise RunError(f"Expected a SuperLink's folder and a run's id in {out / NOTE}: {error!r}.") from error


def ask(note: Note, *, now: Callable[[], float] = time.time) -> SuperLinkStatus:
    """Ask a SuperLink once. Where it does not answer, the status says why."""
    try:
        run = flower.run_of(note.folder, note.run, seconds=ASK_SECONDS)
        nodes = parse_nodes(flower.nodes(note.folder, seconds=ASK_SECONDS), flower.names(note.folder))
        state, details = str(run["status"]), str(run["status-details"])
    except (RunError, SettingError) as error:
        return SuperLinkStatus(run=note.run, error=str(error), asked=now())
    except (KeyError, ValueError, TypeError) as error:
        return SuperLinkStatus(run=note.run, error=f"Expected Flower's status, got {error!r}.", asked=now())
    return SuperLinkStatus(run=note.run, state=state, details=details, nodes=nodes, asked=now())


def parse_nodes(listed: Sequence[Mapping[str, object]], names: Mapping[str, str]) -> tuple[Node, ...]:
    """Nodes as `flwr supernode list` gives them, those that are away first; without those that were unregistered."""
    nodes = []
    for described in listed:
        state = str(described["status"])
        if state != "unregistered":
            since = {"online": described["online-at"], "offline": described["offline-at"]}.get(
                state, described["created-at"]
            )
            node_id = str(described["node-id"])
            nodes.append(Node(name=names.get(node_id, node_id), state=state, since=_time(str(since))))
    return tuple(sorted(nodes, key=lambda node: (node.state == "online", node.name)))


def _time(text: str) -> float | None:
    return None if text == _NEVER else datetime.fromisoformat(text).timestamp()


class Asker:
    """Asks in the background while somebody looks, at most every ten seconds. `latest` never waits."""

    def __init__(self, ask: Callable[[Note], SuperLinkStatus] = ask, *, period: float = PERIOD_SECONDS) -> None:
        self._ask, self._period = ask, period
        self._lock = threading.Lock()
        self._answers: dict[Note, SuperLinkStatus] = {}
        self._busy: set[Note] = set()
        self._next: dict[Note, float] = {}

    def latest(self, out: Path) -> SuperLinkStatus | None:
        """What was said last about the run in this folder; None where no SuperLink carries it. Raises RunError where its note is none."""
        note = read_note(out)
        if note is None:
            return None
        with self._lock:
            if note not in self._busy and time.monotonic() >= self._next.get(note, 0.0):
                self._busy.add(note)
                threading.Thread(target=self._refresh, args=(note,), daemon=True).start()
            return self._answers.get(note, SuperLinkStatus(run=note.run))

    def _refresh(self, note: Note) -> None:
        try:
            answer = self._ask(note)
            with self._lock:
                self._answers[note] = answer
        finally:
            with self._lock:
                self._busy.discard(note)
                self._next[note] = time.monotonic() + self._period
