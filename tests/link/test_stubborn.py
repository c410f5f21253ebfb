"""Sites that stop reading: whatever the coordinator has for them, their connection ends, and nobody waits for them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from flwr.app import Message

from helpers.http2 import Stubborn
from helpers.links import RawSite, ask, listen, pull
from limbeck.experiments.faults.linked import until
from limbeck.experiments.faults.throwaway_keys import Authority
from limbeck.protos import carry
from limbeck.protos.flower_messages import node_of
from limbeck.server.link import LinkGrid

LONG = 40.0  # for what takes a second or four, on whatever machine


@pytest.mark.parametrize("window", [0, 1000])
def test_a_site_that_reads_nothing_makes_way_for_its_successor_at_once(grid: LinkGrid, keys: Authority, window: int) -> None:
    """With no window at all it does not even take the greeting."""
    before = Stubborn(grid.address, keys.folder, "a", window=window, beats=0.3)
    until(lambda: list(grid.get_node_ids()), LONG)
    after = RawSite(grid, keys, "a")
    message_id = ask(grid, "a")
    after.answer(after.take())
    assert pull(grid, message_id).has_content()
    assert before.ended.wait(LONG)
    assert grid.connected == ["a"]
    after.close()


def test_a_site_that_is_revoked_is_cut_off_whether_it_reads_or_not(keys: Authority, tmp_path: Path) -> None:
    lost = keys.site("a", file="lost")
    revoked = tmp_path / "revoked"
    revoked.write_text("")
    # So long a heartbeat that silence is not what ends it.
    grid = listen(keys, revoked, heartbeat=2)
    for window in (0, 1000):
        site = Stubborn(grid.address, keys.folder, "lost", window=window, beats=0.3)
        until(lambda: grid.connected, LONG)
        if window:
            ask(grid, "a", bytes(100_000))
            site.wait_for(window)
        revoked.write_text(f"{lost.serial_number:x}\n")
        assert site.ended.wait(LONG)
        assert grid.connected == []
        revoked.write_text("\n" * (window + 1))
    after = RawSite(grid, keys, "a")
    assert carry.unpack(after.take().content) == bytes(100_000)
    after.close()
    grid.close()


@pytest.mark.parametrize(("beats", "reason"), [(0.3, "nothing could be sent"), (None, "nothing was heard")])
def test_three_missed_intervals_end_a_connection_in_the_middle_of_a_write(
    grid: LinkGrid, keys: Authority, caplog: pytest.LogCaptureFixture, beats: float | None, reason: str
) -> None:
    with caplog.at_level(logging.INFO, "limbeck.server.link"):
        site = Stubborn(grid.address, keys.folder, "a", window=1000, beats=beats)
        until(lambda: grid.connected, LONG)
        grid.push_messages([Message(carry.pack(bytes(500_000)), node_of("a"), "query.agree", ttl=60.0)])
        site.wait_for(1000)
        assert site.ended.wait(LONG)
    assert grid.connected == []
    assert reason in caplog.text


def test_a_coordinator_ends_though_a_site_reads_nothing(keys: Authority) -> None:
    grid = listen(keys)
    site = Stubborn(grid.address, keys.folder, "a", beats=0.3)
    until(lambda: list(grid.get_node_ids()), LONG)
    grid.close()
    assert site.ended.wait(LONG)
