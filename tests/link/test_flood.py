"""Connections that say nothing, more than there are descriptors: a coordinator keeps its sites, takes new ones, and goes on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from helpers import coordinating
from helpers.links import RawSite
from limbeck.base.errors import SettingError
from limbeck.base.files import write_durably
from limbeck.experiments.faults.linked import until
from limbeck.experiments.faults.throwaway_keys import Authority
from limbeck.protos import carry, flower_messages, link
from limbeck.protos.link import Ack, Announce, Chunk
from limbeck.server import door
from limbeck.server.door import Door
from limbeck.server.events import Events, Started

LONG = 40.0
DESCRIPTORS, FLOOD = 200, 400


class Answering(RawSite):
    """A site that answers whatever it is asked, until its connection ends."""

    def __init__(self, address: str, keys: Authority, name: str) -> None:
        found = type("Address", (), {"address": address})
        super().__init__(found, keys, name)  # type: ignore[arg-type]
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        with contextlib.suppress(Exception):
            while True:
                match self.next():
                    case Announce(id=message_id, total=total):
                        self.send(Ack(id=message_id, received=total))
                    case Chunk(data=data):
                        message = flower_messages.decode(data, limit=1000)
                        reply = flower_messages.encode(Message(carry.pack(b"answer"), reply_to=message))
                        transfer = link.Transfer(id=bytes.fromhex(message.metadata.message_id), data=reply)
                        self.send(transfer.announcement)
                        self.send(Chunk(id=transfer.id, offset=0, data=reply))
                        self.send(link.Heartbeat())
                    case _:
                        self.send(link.Heartbeat())


class Coordinator:
    """The process of coordinating.py."""

    def __init__(self, keys: Path, folder: Path, descriptors: int = DESCRIPTORS) -> None:
        self._events = folder / "events.jsonl"
        command = [sys.executable, coordinating.__file__, str(keys), str(self._events), str(descriptors)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.address = f"127.0.0.1:{self.port}"

    def answered(self) -> int:
        events = [json.loads(line) for line in self._events.read_text().splitlines()[-5:] if line.endswith("}")]
        return max((event["done"] for event in events), default=0)

    def goes_on(self) -> bool:
        """Whether it is answered, from now on, and more than once."""
        before = until(self.answered, LONG)
        return until(lambda: self.answered() > before + 3, LONG)

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@pytest.fixture(scope="module")
def coordinator(keys: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    found = Coordinator(keys.folder, tmp_path_factory.mktemp("coordinator"))
    yield found
    found.process.communicate("", timeout=LONG)
    assert found.process.returncode == 0


def flood(port: int, count: int, source: str) -> list[socket.socket]:
    """So many bare connections from one address."""
    connections = []
    for _ in range(count):
        own = socket.socket()
        own.bind((source, 0))
        own.settimeout(LONG)
        own.connect(("127.0.0.1", port))
        connections.append(own)
    return connections


def test_more_bare_connections_than_descriptors_neither_end_a_coordinator_nor_keep_its_sites_out(
    coordinator: Coordinator, keys: Authority
) -> None:
    first = Answering(coordinator.address, keys, "a")
    assert coordinator.goes_on()
    before = coordinator.descriptors()
    for source in ("127.0.0.1", "127.0.0.2"):
        bare = flood(coordinator.port, FLOOD, source)
        # Who is there goes on, and who comes while they hold on is taken: also a site at their own address.
        assert coordinator.goes_on()
        assert coordinator.descriptors() < DESCRIPTORS - 64
        first.close()
        first = Answering(coordinator.address, keys, "a")
        assert coordinator.goes_on()
        for own in bare:
            own.close()
    until(lambda: coordinator.descriptors() <= before + 3, LONG)
    assert coordinator.goes_on()
    first.close()


def test_half_a_greeting_or_none_holds_no_place(coordinator: Coordinator, keys: Authority) -> None:
    """Connections that begin to speak, and stop: TLS that goes no further, bytes that are no TLS at all."""
    speaking = flood(coordinator.port, 100, "127.0.0.3")
    for index, own in enumerate(speaking):
        with contextlib.suppress(OSError):
            own.sendall(b"\x16\x03\x01\x02\x00\x01" if index % 2 else b"GET / HTTP/1.1\r\n\r\n")
    site = Answering(coordinator.address, keys, "a")
    assert coordinator.goes_on()
    assert coordinator.descriptors() < DESCRIPTORS - 64
    for own in speaking:
        own.close()
    site.close()


def test_a_full_table_delays_what_is_written_and_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every descriptor is taken, until the writer is seen to wait."""
    caplog.set_level(logging.ERROR, "limbeck")
    events, soft = Events(tmp_path / "events.jsonl"), resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def write() -> None:
        events(Started(plan="first", stages=1))
        # A descriptor that another thread gives back meanwhile lets one file through; the next one waits.
        while not waiting():
            write_durably(tmp_path / "checkpoint", b"whole")
        write_durably(tmp_path / "checkpoint", b"whole")

    def waiting() -> bool:
        return "Waiting for a descriptor" in caplog.text

    def fill() -> bool:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        return waiting()

    writer = threading.Thread(target=write, daemon=True)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, soft[1]))
        fill()
        writer.start()
        until(fill, LONG)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, soft)
        for descriptor in taken:
            os.close(descriptor)
    writer.join(LONG)
    assert '"first"' in (tmp_path / "events.jsonl").read_text()
    assert (tmp_path / "checkpoint").read_bytes() == b"whole"


# The door alone


class Guests:
    """A door with nothing behind it but what takes connections and keeps them, in a loop of its own."""

    def __init__(self, sites: int = 2) -> None:
        self.door, self.loop = Door("127.0.0.1:0", sites), asyncio.new_event_loop()
        self.behind = socket.socket(socket.AF_UNIX)
        self.behind.bind(self.door.behind.removeprefix("unix:"))
        self.behind.listen(100)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.clients: list[socket.socket] = []

    def _run(self) -> None:
        self.loop.call_soon(self.door.open)
        self.loop.run_forever()

    def do(self, work: Callable[[], Any]) -> Any:
        async def work_there() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(work_there(), self.loop).result(LONG)

    def come(self, source: str = "127.0.0.1", says: bytes = b"") -> socket.socket:
        (client,) = flood(self.door.port, 1, source)
        self.clients.append(client)
        if says:
            client.sendall(says)
        return client

    def relayed(self) -> tuple[socket.socket, str]:
        """The next connection that arrives behind, and how gRPC names it."""
        self.behind.settimeout(LONG)
        own, address = self.behind.accept()
        own.settimeout(LONG)
        self.clients.append(own)
        return own, "unix-abstract:" + address.lstrip(b"\0").decode()

    def close(self) -> None:
        self.do(self.door.close)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LONG)
        self.loop.close()
        for own in (self.behind, *self.clients):
            own.close()


@pytest.fixture
def guests() -> Iterator[Guests]:
    found = Guests()
    yield found
    found.close()


def over(client: socket.socket) -> bool:
    """Wait until the other end closes."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def alive(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        return client.recv(1) != b""
    except TimeoutError:
        return True
    finally:
        client.settimeout(LONG)


def test_the_guest_that_has_waited_longest_where_most_wait_makes_way(guests: Guests) -> None:
    guests.door.most_guests, guests.door.most_per_address = 6, 4
    many = [guests.come("127.0.0.2") for _ in range(4)]
    few = [guests.come("127.0.0.3") for _ in range(2)]
    # The table is full: whoever comes, the oldest of the many goes.
    few.append(guests.come("127.0.0.4"))
    assert over(many[0])
    # One more of the many than an address may have, as soon as there is room in the table.
    few[0].close()
    until(lambda: len(guests.door._guests) == 5, LONG)
    many.append(guests.come("127.0.0.2"))
    many.append(guests.come("127.0.0.2"))
    assert over(many[1])
    assert all(alive(client) for client in (*many[2:], *few[1:]))


def test_no_address_has_more_guests_than_its_share(guests: Guests) -> None:
    guests.door.most_guests, guests.door.most_per_address = 100, 3
    clients = [guests.come() for _ in range(5)]
    assert over(clients[0])
    assert over(clients[1])
    assert all(alive(client) for client in clients[2:])


def test_who_is_admitted_is_no_guest_and_stays(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    guests.door.most_guests, guests.door.most_per_address = 4, 2
    client = guests.come(says=b"hello")
    server, peer = guests.relayed()
    assert server.recv(5) == b"hello"
    assert guests.do(lambda: guests.door.address_of(peer)).startswith("127.0.0.1:")
    guests.do(lambda: guests.door.admit(peer))
    others = [guests.come() for _ in range(5)]
    assert over(others[2])
    server.sendall(b"welcome")
    assert client.recv(7) == b"welcome"
    # Time is up for all guests, and for nobody else.
    monkeypatch.setattr(door, "GUEST_SECONDS", 0.0)
    assert over(others[4])
    client.sendall(b"still here")
    assert server.recv(10) == b"still here"
    guests.do(lambda: guests.door.dismiss(peer))
    assert over(client)
    assert over(server)


def test_a_guest_that_is_never_admitted_has_its_time_and_no_more(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    bare, speaking = guests.come(), guests.come(says=b"x")
    server, _ = guests.relayed()
    assert server.recv(1) == b"x"
    assert alive(bare)
    monkeypatch.setattr(door, "GUEST_SECONDS", 0.0)
    assert over(bare)
    assert over(speaking)
    assert over(server)


def test_what_is_still_to_be_said_arrives_and_a_slow_reader_slows_its_sender(guests: Guests) -> None:
    client = guests.come(says=b"x")
    server, _ = guests.relayed()
    server.recv(1)
    sent = 0
    # Nothing more leaves once all buffers on the way are full, however long one tries.
    server.settimeout(2)
    with contextlib.suppress(TimeoutError):
        while sent < 64 << 20:
            sent += server.send(bytes(1 << 20))
    assert sent < 32 << 20
    server.settimeout(LONG)
    server.close()
    received = 0
    while data := client.recv(1 << 20):
        received += len(data)
    assert received == sent


def test_a_full_table_of_descriptors_costs_a_guest_and_a_moment(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = guests.come()
    until(lambda: guests.door._guests, LONG)
    listener = guests.door._listeners[0]
    failures = iter([OSError(errno.EMFILE, "Too many open files")])

    class Failing:
        def accept(self) -> Any:
            for error in failures:
                raise error
            return listener.accept()

        def fileno(self) -> int:
            return listener.fileno()

    failing: Any = Failing()

    def replace() -> None:
        guests.loop.remove_reader(listener)
        guests.loop.add_reader(listener, lambda: guests.door._accept(failing))

    guests.do(replace)
    late = guests.come(says=b"late")
    assert over(waiting)
    server, _ = guests.relayed()
    assert server.recv(4) == b"late"
    assert alive(late)


def test_addresses_of_one_subscriber_of_ipv6_are_one() -> None:
    assert door._group("2001:db8::1") == door._group("2001:db8::ffff:1")
    assert door._group("2001:db8::1") != door._group("2001:db8:0:1::1")
    assert door._group("::ffff:10.0.0.1") == door._group("10.0.0.1") != door._group("10.0.0.2")


def test_a_process_takes_the_descriptors_that_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(256, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, own: limits.append(own))
    assert door.raise_descriptor_limit() == 4096
    assert limits[-1] == (4096, 4096)
    limits.append((1024, resource.RLIM_INFINITY))
    assert door.raise_descriptor_limit() == door.ENOUGH
    assert limits[-1] == (door.ENOUGH, resource.RLIM_INFINITY)


def test_a_name_of_several_addresses_is_listened_at_on_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{index}", 0)) for index in (2, 3)]
    # An address that this machine does not have, as that of IPv6 may be.
    missing = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [missing, *two])
    own = Door("several:0", 1)
    assert [listener.getsockname() for listener in own._listeners] == [(f"127.0.0.{index}", own.port) for index in (2, 3)]
    taken = [(family, kind, number, name, (host, own.port)) for family, kind, number, name, (host, _) in two]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: taken)
    with pytest.raises(OSError, match="in use"):
        Door(f"several:{own.port}", 1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [missing])
    with pytest.raises(OSError, match="assign"):
        Door("several:0", 1)
    own.close()


def test_too_few_descriptors_for_all_sites_are_said_before_anybody_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "raise_descriptor_limit", lambda: 256)
    Door("127.0.0.1:0", 41).close()
    with pytest.raises(SettingError, match=r"at least 257 descriptors for 42 sites, got 254.*LimitNOFILE"):
        Door("127.0.0.1:0", 42)
