"""Small messages that used to become gigabytes: what they cost is measured, in processes of their own, as either end reads them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flwr.app import Message

from helpers import measured
from helpers.links import Running, ask, listen, make_site, port_of, pull
from limbeck.client.child import NO_QUESTION
from limbeck.experiments.faults import bombs
from limbeck.experiments.faults.linked import until
from limbeck.experiments.faults.throwaway_keys import Authority
from limbeck.protos import carry, codec, flower_messages
from limbeck.protos.flower_messages import node_of
from limbeck.protos.link import MAX_TRANSFER, Transfer
from limbeck.server import link as server_link
from limbeck.server.link import LinkGrid

BOMBS = dict(bombs.flower_messages())
# Beside three times the message: Python's own arenas, what a parser allocates ahead.
CONSTANT = 24 << 20
# Of a site, which is asked small questions, and the most that a coordinator is set to unless told otherwise.
LIMITS = [codec.MAX_REQUEST, MAX_TRANSFER]


@pytest.fixture(scope="module")
def costs() -> dict[tuple[str, int], dict[str, object]]:
    command = [sys.executable, measured.__file__, *map(str, LIMITS)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return {(line["name"], line["limit"]): line for line in map(json.loads, lines)}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("limit", LIMITS)
def test_a_bomb_is_refused_within_three_times_its_own_size(
    costs: dict[tuple[str, int], dict[str, object]], name: str, limit: int
) -> None:
    cost = costs[name, limit]
    assert cost["outcome"] == "refused"
    assert int(str(cost["grown"])) < 3 * len(BOMBS[name]) + CONSTANT


def test_chunks_that_are_alike_come_back_as_often_as_the_bound_allows_and_no_more(
    costs: dict[tuple[str, int], dict[str, object]],
) -> None:
    """What Flower's format may do, within the bound: 64 MiB of zeros travel as 5."""
    small, large = (costs["zeros", limit] for limit in LIMITS)
    assert (small["outcome"], large["outcome"]) == ("refused", "decoded")
    assert int(str(small["grown"])) < CONSTANT
    assert measured.ZEROS < int(str(large["grown"])) < 2 * measured.ZEROS + CONSTANT


def put_raw(grid: LinkGrid, name: str, data: bytes) -> str:
    """Put these bytes to a site as if they were a question."""
    message = Message(carry.pack(b"never sent"), node_of(name), "query.agree", ttl=60.0)
    message_id = flower_messages.name_by_content(message)
    transfer = Transfer(id=bytes.fromhex(message_id), data=data)
    question = server_link._Open(transfer=transfer, message=message, until=time.monotonic() + 60, limit=1 << 20)
    grid._in_loop(grid._push([question]))
    return message_id


def test_a_bomb_in_either_direction_ends_nothing(tmp_path: Path) -> None:
    """A coordinator that sends one hears that it is no question; of a site that sends one, this is that site's error."""
    keys = Authority(tmp_path / "keys")
    keys.server()
    keys.site("a")
    grid = listen(keys, heartbeat=1)
    bomb = BOMBS["one chunk named as often as an array of its length would"]
    site = make_site(tmp_path / "a", keys, port_of(grid))
    running = Running(site)
    until(lambda: grid.connected)
    assert pull(grid, put_raw(grid, "a", bomb)).error.reason == NO_QUESTION
    running.stop()
    # An answer that lies there already is sent as it is.
    answered = ask(grid, "a", b"answered by a bomb")
    (site.link_state / "answers" / answered).write_bytes(bomb)
    running = Running(site)
    assert str(pull(grid, answered).error.reason).startswith("Expected")
    assert carry.unpack(pull(grid, ask(grid, "a", b"after")).content) == b"after"
    running.stop()
    grid.close()
