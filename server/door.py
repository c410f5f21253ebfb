"""What listens: TCP connections are taken here, counted, and handed on to gRPC, which would take any number from anybody.

Whoever connects is a guest until TLS and the link have said which site it is (`admit`); then it is that site's connection. Guests are
bounded, in all and per address, and each has GUEST_SECONDS; where there are too many, the one that has waited longest at the address with
the most of them has to go, so that a site that shakes hands, which takes milliseconds, gets in past any number that only wait. A guest
costs one descriptor until it has said something, and three from then on; a reserve of descriptors is never given away, and
whoever has to go is cut off whether it reads or not.

gRPC listens behind on a socket in a folder of this user's alone, and knows a connection by the name of the socket that leads to it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import resource
import secrets
import shutil
import socket
import tempfile
from collections import Counter
from pathlib import Path

from limbeck.base.errors import SettingError

log = logging.getLogger(__name__)

# Descriptors that connections never take, since a run needs files; and the most that this process asks for.
RESERVE, ENOUGH = 128, 1 << 16
PER_CONNECTION = 3
# The most guests at once, besides one for each site. At most half of them may come from one address.
GUESTS = 256
GUEST_SECONDS = 30.0
# A connection that is to end has so long for what was still said to it.
LINGER_SECONDS = 2.0
# How long no connection is accepted where there is no descriptor for it.
PAUSE_SECONDS = 0.2
BACKLOG = 1024
BUFFER = 1 << 18
# Bits of an IPv6 address that are a subscriber's; the other 64 the subscriber can choose.
SUBSCRIBER = 64
PREFIX = "limbeck-"


def raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as it may, and return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return ENOUGH if soft == resource.RLIM_INFINITY else min(soft, ENOUGH)


class Door:
    """Listens at `listen`, HOST:PORT, for a server at `behind`, until `close`. sites: how many there may be.

    Raises OSError where it cannot listen, SettingError where this process may not have enough descriptors. It belongs to the loop in
    which `open` was called.
    """

    def __init__(self, listen: str, sites: int) -> None:
        room = (raise_descriptor_limit() - RESERVE) // PER_CONNECTION
        self.most_guests = min(room - sites, GUESTS + sites)
        if self.most_guests < 1:
            raise SettingError(
                f"Expected at least {RESERVE + PER_CONNECTION * (sites + 1)} descriptors for {sites} sites, got "
                f"{RESERVE + PER_CONNECTION * room}: raise the limit (ulimit -n, or LimitNOFILE in the unit)."
            )
        self.most_per_address = max(1, self.most_guests // 2)
        self._guests: dict[str, _Connection] = {}
        self._admitted: dict[str, _Connection] = {}
        # How many guests there are from each group of addresses.
        self._crowd: Counter[str] = Counter()
        self._full = False
        self._listeners = _listen(listen)
        self.port = self._listeners[0].getsockname()[1]
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=None if len(tempfile.gettempdir()) < 60 else "/tmp"))
        self.behind = f"unix:{self._folder}/link"

    def open(self) -> None:
        """Take connections from now on. The server listens behind."""
        self._loop = asyncio.get_running_loop()
        for listener in self._listeners:
            self._loop.add_reader(listener, self._accept, listener)
        self._sweeper = asyncio.ensure_future(self._sweep())

    def close(self) -> None:
        """Take no more connections, and end all."""
        if hasattr(self, "_sweeper"):
            self._sweeper.cancel()
        for listener in self._listeners:
            if hasattr(self, "_loop"):
                self._loop.remove_reader(listener)
            listener.close()
        for connection in [*self._guests.values(), *self._admitted.values()]:
            connection.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    # About the connection that gRPC calls `peer`

    def address_of(self, peer: str) -> str:
        """Where it comes from, for the log."""
        connection = self._of(peer)
        return connection.address if connection is not None else "a connection that has ended"

    def admit(self, peer: str) -> None:
        """It belongs to a site, and stays until it ends or is dismissed."""
        connection = self._guests.get(_name(peer))
        if connection is not None:
            self.gone(connection)
            self._admitted[connection.name] = connection

    def dismiss(self, peer: str) -> None:
        """It ends as soon as what was said last may have arrived, whether the other end reads or not."""
        connection = self._of(peer)
        if connection is not None:
            self._loop.call_later(LINGER_SECONDS, connection.end)

    def _of(self, peer: str) -> _Connection | None:
        name = _name(peer)
        return self._guests.get(name) or self._admitted.get(name)

    # Guests

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                accepted, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._pause(listener, error)
                    return
                continue  # the other end has gone meanwhile
            accepted.setblocking(False)
            connection = _Connection(self, accepted, address)
            self._guests[connection.name] = connection
            self._crowd[connection.group] += 1
            if len(self._guests) > self.most_guests:
                self._send_away(self._crowd.most_common(1)[0][0])
            elif self._crowd[connection.group] > self.most_per_address:
                self._send_away(connection.group)
            elif len(self._guests) <= self.most_per_address // 2:
                self._full = False

    def _send_away(self, group: str) -> None:
        """The one from there that has waited longest: guests are in the order in which they came."""
        if not self._full:
            self._full = True
            log.warning("Too many connections that do not say who they are, most from %s: the oldest are ended.", group)
        next(guest for guest in self._guests.values() if guest.group == group).end()

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """Something else has all descriptors, of this process or of the machine. A guest less is one more for it."""
        log.error("No connection can be taken: %s.", error)
        if self._guests:
            self._send_away(self._crowd.most_common(1)[0][0])
        self._loop.remove_reader(listener)
        self._loop.call_later(PAUSE_SECONDS, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, self._accept, listener)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            now = self._loop.time()
            for guest in list(self._guests.values()):
                if now - guest.since > GUEST_SECONDS:
                    guest.end()

    def gone(self, connection: _Connection) -> None:
        """It is no guest, or no site's connection, any more."""
        if self._guests.pop(connection.name, None) is not None:
            self._crowd[connection.group] -= 1
            if not self._crowd[connection.group]:
                del self._crowd[connection.group]
        self._admitted.pop(connection.name, None)


class _Connection:
    """One connection, from its acceptance to its end: silent at first, then relayed both ways."""

    def __init__(self, door: Door, accepted: socket.socket, address: tuple[str, int]) -> None:
        self._door, self._loop = door, asyncio.get_running_loop()
        self.address, self.group = f"{address[0]}:{address[1]}", _group(address[0])
        self.since = self._loop.time()
        # Nobody else on this machine can guess the name and take it first.
        self.name = PREFIX + secrets.token_hex(16)
        self._front, self._back = _End(self, accepted), _End(self, None)
        self._front.other, self._back.other = self._back, self._front
        self._ended = False
        self._task: asyncio.Task[None] | None = None
        self._loop.add_reader(accepted, self._speaks, accepted)

    def _speaks(self, accepted: socket.socket) -> None:
        self._loop.remove_reader(accepted)
        self._task = asyncio.ensure_future(self._relay(accepted))

    async def _relay(self, accepted: socket.socket) -> None:
        try:
            self._back.socket = back = socket.socket(socket.AF_UNIX)
            back.setblocking(False)
            back.bind("\0" + self.name)
            await self._loop.sock_connect(back, self._door.behind.removeprefix("unix:"))
            # Small frames are not to wait for others.
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(lambda: self._back, back)
            await self._loop.connect_accepted_socket(lambda: self._front, accepted)
        except OSError as error:
            log.error("A connection from %s cannot be handed on: %s.", self.address, error)
            self.end()

    def closed(self) -> None:
        """One end has closed: the other has a moment for what is still to be sent to it."""
        if self._front.lost and self._back.lost:
            self.end()
            return
        for end in (self._front, self._back):
            end.finish()
        self._loop.call_later(LINGER_SECONDS, self.end)

    def end(self) -> None:
        """End the connection at once."""
        if self._ended:
            return
        self._ended = True
        self._door.gone(self)
        if self._task is not None:
            self._task.cancel()
        for end in (self._front, self._back):
            end.abort()


class _End(asyncio.Protocol):
    """One of the two sockets of a connection; what it reads goes to the other, no faster than that takes it."""

    other: _End

    def __init__(self, connection: _Connection, end: socket.socket | None) -> None:
        self._connection, self.socket = connection, end
        self._transport: asyncio.Transport | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=BUFFER)

    def data_received(self, data: bytes) -> None:
        # The one behind is there first, and says nothing before it has been spoken to.
        if self.other._transport is not None:
            self.other._transport.write(data)

    def pause_writing(self) -> None:
        if self.other._transport is not None:
            self.other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other._transport is not None:
            self.other._transport.resume_reading()

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = True
        self._connection.closed()

    def finish(self) -> None:
        """Close once everything is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._transport is not None:
            self._transport.abort()
        elif self.socket is not None:
            asyncio.get_running_loop().remove_reader(self.socket)
            self.socket.close()


def _listen(listen: str) -> list[socket.socket]:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    addresses = dict.fromkeys(
        (family, address)
        for family, _, _, _, address in socket.getaddrinfo(
            host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    )
    listeners: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in addresses:
            both = host == "::" and socket.has_dualstack_ipv6()
            # A name may stand for several addresses, which then share the port that the first one got.
            where = (address[0], listeners[0].getsockname()[1] if listeners else int(port), *address[2:])
            try:
                listeners.append(socket.create_server(where, family=family, backlog=BACKLOG, dualstack_ipv6=both))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error  # such as IPv6, where there is none
            else:
                listeners[-1].setblocking(False)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    if missing is not None and not listeners:
        raise missing
    return listeners


def _group(host: str) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.ip_network((address, SUBSCRIBER), strict=False))
    return host


def _name(peer: str) -> str:
    return peer.rpartition(":")[2]
