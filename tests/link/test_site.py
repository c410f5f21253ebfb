"""The site's end of the link: a process per question with limits, each question answered once, breaks and restarts survived."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import datetime, tzinfo
from pathlib import Path

import grpc
import pytest
from flwr.app import Error, Message

from helpers.answering import megabytes
from helpers.links import APP, LIMIT, Running, ask, listen, make_site, port_of, pull
from limbeck.base.errors import SettingError, WireError
from limbeck.base.files import create_private
from limbeck.client import link as client_link
from limbeck.client.child import DIED, FAILED, LATE, MAX_QUESTION, NO_QUESTION, Child, Question
from limbeck.client.link import Daemon
from limbeck.client.site import Site
from limbeck.experiments.faults.linked import HANG_SECONDS, free_port, until
from limbeck.experiments.faults.relay import Relay
from limbeck.experiments.faults.throwaway_keys import Authority
from limbeck.protos import carry, flower_messages
from limbeck.protos.link import Announce, Disconnected
from limbeck.server import link as server_link
from limbeck.server.link import LinkGrid


def calls(site: Site) -> int:
    path = site.folder / "calls"
    return len(path.read_text().splitlines()) if path.exists() else 0


# A process per question


def asking(message: Message) -> Question:
    data = flower_messages.encode(message)
    return Question(id=bytes.fromhex(message.metadata.message_id), node=message.metadata.dst_node_id, data=data)


def answer_in_child(
    folder: Path, content: bytes, *, seconds: float = HANG_SECONDS, memory: int = 2 << 30, group: str = ""
) -> Message:
    flower_messages.identify(1, 1)
    message = Message(carry.pack(content), 5, "query.agree", group_id=group)
    flower_messages.name_by_content(message)
    path = folder / "answer"
    child = Child(folder, folder, memory, APP)
    try:
        child.answer(asking(message), path, seconds)
    finally:
        child.stop()
    return flower_messages.decode(path.read_bytes(), limit=LIMIT)


@pytest.mark.parametrize(("content", "reason"), [(b"raise", FAILED), (b"die", DIED), (b"sleep", LATE), (b"eat", FAILED)])
def test_an_app_that_fails_dies_is_late_or_takes_too_much_is_an_error_in_fixed_words(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    reply = answer_in_child(tmp_path, content, seconds=1.0 if content == b"sleep" else HANG_SECONDS)
    assert reply.has_error()
    assert reply.error.reason == reason


def test_the_memory_of_a_process_is_bounded_as_it_is_set(tmp_path: Path) -> None:
    assert carry.unpack(answer_in_child(tmp_path, b"limit", memory=1234 << 20).content) == b"%d" % (1234 << 20)


def test_nothing_in_a_message_says_what_is_run(tmp_path: Path) -> None:
    assert carry.unpack(answer_in_child(tmp_path, b"hello", group="os:abort").content) == b"hello"


def test_a_site_has_no_more_questions_open_than_it_has_room_for(keys: Authority, tmp_path: Path) -> None:
    daemon = Daemon(make_site(tmp_path / "a", keys, 1, max_message_mb=2), client_app=APP)
    announce = Announce(id=bytes(range(32)), total=1 << 16, sha256=bytes(32))
    daemon._open = {bytes([index]): 1 for index in range(client_link.OPEN - 1)}
    assert daemon.wants(announce)
    daemon._open[b"last"] = 1
    with pytest.raises(WireError, match=f"at most {client_link.OPEN} open questions"):
        daemon.wants(announce)
    daemon._open = {b"large": (2 << 20) - (1 << 16) + 1}
    with pytest.raises(WireError, match=r"2097152 bytes in all"):
        daemon.wants(announce)


def test_what_the_app_says_is_the_answer(tmp_path: Path) -> None:
    assert carry.unpack(answer_in_child(tmp_path, b"hello").content) == b"hello"


def test_a_child_without_its_daemon_finishes_and_the_next_one_finds_its_answer(tmp_path: Path) -> None:
    """As after `kill -9` of a daemon: the first child keeps at it, the second waits for it and does not ask the app again."""
    flower_messages.identify(1, 1)
    message = Message(carry.pack(b"slowly"), 5, "query.agree")
    flower_messages.name_by_content(message)
    question, path = asking(message), tmp_path / "answer"
    orphan, second = (Child(tmp_path, tmp_path, 2 << 30, APP) for _ in range(2))
    orphan._connection.send((str(path), question))
    until((tmp_path / "calls").exists)
    orphan._connection.close()
    second.answer(question, path, HANG_SECONDS)
    assert carry.unpack(flower_messages.decode(path.read_bytes(), limit=LIMIT).content) == b"slowly"
    assert (tmp_path / "calls").read_text() == "call\n"
    second.stop()
    orphan._process.join(HANG_SECONDS)


# The daemon


def test_a_question_that_comes_again_gets_the_same_bytes_without_the_app(
    grid: LinkGrid, keys: Authority, tmp_path: Path
) -> None:
    site = make_site(tmp_path / "a", keys, port_of(grid))
    running = Running(site)
    until(lambda: grid.connected)
    message_id = ask(grid, "a", b"hello")
    first = pull(grid, message_id)
    asked = next(iter((site.link_state / "answers").iterdir())).read_bytes()
    running.stop()
    # After a restart, by whoever repeats it: the daemon needs no more than the id.
    daemon = Daemon(site, client_app=APP)
    announce = Announce(id=bytes.fromhex(message_id), total=5, sha256=bytes(32))
    assert not daemon.wants(announce)
    again = asyncio.run(daemon.next_transfer())
    assert again.data == asked == flower_messages.encode(first)
    assert calls(site) == 1


def test_through_cuts_in_mid_message_everything_arrives_once(grid: LinkGrid, keys: Authority, tmp_path: Path) -> None:
    relay = Relay(port_of(grid), record=False)
    site = make_site(tmp_path / "a", keys, relay.port)
    running = Running(site)
    until(lambda: grid.connected)
    content = megabytes(24)
    relay.cut_after(10 << 20)
    message_id = ask(grid, "a", b"24 megabytes")
    until(lambda: relay.cuts == 1)
    relay.cut_after(10 << 20)
    assert carry.unpack(pull(grid, message_id).content) == content
    assert calls(site) == 1
    assert relay.cuts == 2
    # What was there before a cut did not pass again: two cuts cost two windows and what was on the way, no whole message.
    assert relay.passed < len(content) + (20 << 20)
    running.stop()
    relay.close()


def test_a_question_that_comes_again_while_it_is_being_answered_is_not_begun_twice(
    grid: LinkGrid, keys: Authority, tmp_path: Path
) -> None:
    relay = Relay(port_of(grid), record=False)
    site = make_site(tmp_path / "a", keys, relay.port)
    running = Running(site)
    until(lambda: grid.connected)
    message_id = ask(grid, "a", b"slowly")
    until(lambda: calls(site) == 1)
    relay.cut()
    assert carry.unpack(pull(grid, message_id).content) == b"slowly"
    assert grid.connections_of(flower_messages.node_of("a")) >= 2
    assert calls(site) == 1
    running.stop()
    relay.close()


def test_what_a_coordinator_says_as_it_ends_is_one_line_of_the_log() -> None:
    details = "gone\nERROR forged\x1b[2J"
    error = grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
    with pytest.raises(Disconnected) as ended, client_link._explained():
        raise error
    assert str(ended.value) == r"ABORTED: gone\x0aERROR forged\x1b[2J"


def test_a_port_at_which_nobody_listens_is_said_in_words_and_once(
    keys: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "limbeck")
    monkeypatch.setattr(client_link, "FIRST_BACKOFF", 0.01)
    port = free_port()

    def said(level: int) -> list[str]:
        entries = [each for each in caplog.records if each.levelno == level]
        return [each.getMessage() for each in entries if each.getMessage().startswith("No connection")]

    running = Running(make_site(tmp_path / "a", keys, port))
    until(lambda: len(said(logging.DEBUG)) > 1)
    running.stop()
    (message,) = said(logging.WARNING)
    assert message.startswith(f"No connection to 127.0.0.1:{port}: nothing listens there (is the coordinator started")


def test_a_failure_is_said_again_when_it_changes_and_after_an_hour_but_not_between_two_runs(
    keys: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "limbeck")
    daemon = Daemon(make_site(tmp_path / "a", keys, 1), client_app=APP)

    def loud(reason: str) -> bool:
        daemon._log_failure(reason, 1.0)
        return caplog.records[-1].levelno == logging.WARNING

    assert [loud(reason) for reason in ("one", "one", "another", "another", "one")] == [True, False, True, False, True]
    monkeypatch.setattr(client_link, "SAID_AGAIN_SECONDS", 0.0)
    assert loud("one")
    daemon._log_failure("nobody listens", 1.0, expected=True)
    assert caplog.records[-1].levelno == logging.DEBUG


def test_between_two_runs_a_fault_of_its_own_is_said_all_the_same(
    grid: LinkGrid, keys: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "limbeck")
    site = make_site(tmp_path / "a", keys, port_of(grid))
    key = site.folder / "own.key"
    create_private(key, (keys.folder / "a.key").read_bytes())
    described = (site.folder / "site.toml").read_text()
    (site.folder / "site.toml").write_text(described.replace(f"{keys.folder}/a.key", "own.key"))
    running = Running(Site(site.folder))
    until(lambda: grid.connected)
    key.chmod(0o644)
    assert grid.say_finished(bytes(32)) == ["a"]
    until(lambda: any("No connection" in each and "mode 644" in each for each in caplog.messages))
    assert not any("is finished. Dialling again" in each for each in caplog.messages)
    running.stop()


def test_nothing_that_is_known_passes_in_plaintext(grid: LinkGrid, keys: Authority, tmp_path: Path) -> None:
    relay = Relay(port_of(grid))
    site = make_site(tmp_path / "a", keys, relay.port)
    running = Running(site)
    until(lambda: grid.connected)
    known = b"known bytes of a share " * 100
    assert carry.unpack(pull(grid, ask(grid, "a", known)).content) == known
    running.stop()
    seen = bytes(relay.seen)
    assert len(seen) > 2 * len(known)
    for word in (known[:24], b"query.agree", b"limbeck.link", b"RecordDict", b"throwaway authority", b"-----BEGIN"):
        assert word not in seen
    # Records of a TLS handshake; even the certificates, with the names in them, TLS 1.3 encrypts.
    assert seen[:2] == b"\x16\x03"
    relay.close()


def test_told_to_end_it_finishes_and_sends_the_answer_under_way(grid: LinkGrid, keys: Authority, tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", keys, port_of(grid))
    running = Running(site)
    until(lambda: grid.connected)
    message_id = ask(grid, "a", b"slowly")
    until(lambda: calls(site) == 1)
    running.stop()
    assert carry.unpack(pull(grid, message_id).content) == b"slowly"


def test_past_its_grace_it_gives_up(grid: LinkGrid, keys: Authority, tmp_path: Path) -> None:
    site = make_site(tmp_path / "a", keys, port_of(grid), grace_seconds=0.2)
    running = Running(site)
    until(lambda: grid.connected)
    ask(grid, "a", b"sleep")
    until(lambda: calls(site) == 1)
    running.stop()


def test_what_is_no_question_to_this_site_is_an_error_in_fixed_words(tmp_path: Path) -> None:
    flower_messages.identify(1, 1)
    message = Message(carry.pack(b"hello"), 5, "query.agree")
    flower_messages.name_by_content(message)
    good = asking(message)
    error = flower_messages.encode(Message(Error(2, "an error"), reply_to=message))
    bad = [replace(good, node=6), replace(good, id=bytes(32)), replace(good, data=b"garbage"), replace(good, data=error)]
    for index, question in enumerate(bad):
        child, path = Child(tmp_path, tmp_path, 2 << 30, APP), tmp_path / f"answer-{index}"
        child.answer(question, path, 20.0)
        child.stop()
        reply = flower_messages.decode(path.read_bytes(), limit=LIMIT)
        assert (reply.error.reason, reply.metadata.reply_to_message_id) == (NO_QUESTION, question.id.hex())
        assert reply.metadata.src_node_id == question.node
    assert not (tmp_path / "calls").exists()


def test_the_daemon_reads_no_question_and_takes_none_that_is_longer_than_a_request_can_be(
    keys: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(make_site(tmp_path / "a", keys, 1), client_app=APP)
    monkeypatch.setattr(flower_messages, "decode", lambda *_, **__: pytest.fail("read in the daemon"))
    daemon.receive(bytes(32), b"garbage")
    assert daemon._todo.qsize() == 1
    assert daemon.wants(Announce(id=bytes(range(32)), total=MAX_QUESTION, sha256=bytes(32)))
    with pytest.raises(WireError, match=f"at most {MAX_QUESTION} bytes"):
        daemon.wants(Announce(id=bytes(range(32)), total=MAX_QUESTION + 1, sha256=bytes(32)))


def test_a_certificate_of_another_site_or_a_second_daemon_is_refused(keys: Authority, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"Expected a certificate of 'a'.*got one of 'b'"):
        Daemon(make_site(tmp_path / "a", keys, 1, certificate="b"), client_app=APP)
    site = make_site(tmp_path / "a", keys, 1)
    running = Running(site)
    until((site.link_state / "daemon.lock").exists)
    with pytest.raises(SettingError, match="no other daemon"):
        asyncio.run(asyncio.wait_for(Daemon(site, client_app=APP).run(), 60))
    running.stop()


def test_a_certificate_that_is_not_valid_by_this_clock_is_refused_naming_the_clock(
    keys: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Behind:
            return cls.fromtimestamp(datetime.now(tz).timestamp() - 3 * 86400, tz)

    site = make_site(tmp_path / "a", keys, 1)
    Daemon(site, client_app=APP)
    monkeypatch.setattr(client_link, "datetime", Behind)
    with pytest.raises(SettingError, match=r"a certificate that is valid now in .*a\.pem.*clock says.*set the clock"):
        Daemon(site, client_app=APP)
    monkeypatch.setattr(server_link, "datetime", Behind)
    with pytest.raises(SettingError, match=r"coordinator\.pem.*set the clock"):
        listen(keys)


def test_where_an_answer_cannot_be_kept_the_question_waits_for_room_and_the_site_stays_up(
    grid: LinkGrid, keys: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(client_link, "ROOM_SECONDS", 0.1)
    site = make_site(tmp_path / "a", keys, port_of(grid))
    running = Running(site)
    until(lambda: grid.connected)
    # No answer can be written beside a file of the same name as their folder's.
    (site.link_state / "answers").rename(site.link_state / "full")
    (site.link_state / "answers").write_bytes(b"")
    message_id = ask(grid, "a", b"hello")
    with caplog.at_level(logging.ERROR, "limbeck.client.link"):
        until(lambda: "No answer can be kept" in caplog.text)
    (site.link_state / "answers").unlink()
    (site.link_state / "full").rename(site.link_state / "answers")
    assert carry.unpack(pull(grid, message_id).content) == b"hello"
    running.stop()
