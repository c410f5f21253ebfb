"""The link between a site and the coordinator: its frames, and what both ends do alike. The codec is link_codec.py.

Either end sends transfers, one at a time: a request is one, and the answer to it is another under the request's id. A
transfer is announced with its length and hash; the other end acknowledges how much of it there is already, which after a
break is where the sender goes on. No more than WINDOW bytes are under way without acknowledgement, so a slow reader slows
its sender and nothing piles up in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Protocol

from limbeck.base.errors import WireError

log = logging.getLogger(__name__)

VERSION = 1
CHUNK = 1 << 20
WINDOW = 8 * CHUNK
# Of one transfer, unless an end is told otherwise.
MAX_TRANSFER = 1 << 30
HEARTBEAT_SECONDS = 15
# gRPC metadata with which the coordinator tells its clock, in seconds since the epoch, to those that look how far theirs is off. Nothing on
# the link goes by it.
CLOCK = "limbeck-clock"
# Silence of so many heartbeats ends a connection.
SILENCE = 3
# gRPC's own limit on one frame: a chunk, and what surrounds it.
MAX_FRAME = CHUNK + (1 << 12)
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", MAX_FRAME),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first frame of either end. heartbeat_seconds: the coordinator's, 0 in a site's."""

    limbeck: str
    heartbeat_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """A transfer begins or goes on. id: of the request that it is, or answers. total: bytes. sha256: of all of them."""

    id: bytes
    total: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Part of a transfer. offset: of its first byte."""

    id: bytes
    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The first `received` bytes of a transfer are here; all of them, and the hash is right."""

    id: bytes
    received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Still here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why the sender ends the connection, in a sentence that may be public."""

    text: str


Frame = Hello | Announce | Chunk | Ack | Heartbeat | Problem


@dataclass(frozen=True, kw_only=True, eq=False)
class Transfer:
    """What one end has for the other."""

    id: bytes
    data: bytes = field(repr=False)

    @cached_property
    def announcement(self) -> Announce:
        """Hashed once, however often it is sent."""
        return Announce(id=self.id, total=len(self.data), sha256=hashlib.sha256(self.data).digest())


class Assembly:
    """A transfer that is being received. It outlives connections: what came before a break need not come again."""

    def __init__(self, announce: Announce) -> None:
        self.announce = announce
        self._data = bytearray()
        self._hash = hashlib.sha256()

    @property
    def received(self) -> int:
        """Bytes so far."""
        return len(self._data)

    def add(self, chunk: Chunk) -> None:
        """Append a chunk. Raises WireError where it leaves a gap or goes beyond the end; what is here already is passed over."""
        if chunk.offset + len(chunk.data) <= self.received:
            return
        if chunk.offset != self.received or self.received + len(chunk.data) > self.announce.total:
            raise WireError(
                f"Expected a chunk at byte {self.received} of {self.announce.total}, got bytes {chunk.offset} to "
                f"{chunk.offset + len(chunk.data)}."
            )
        self._data += chunk.data
        self._hash.update(chunk.data)

    @property
    def whole(self) -> bool:
        """Whether all of it is here."""
        return self.received == self.announce.total

    def result(self) -> bytes:
        """All of it. Raises WireError where it is not what was announced."""
        if self._hash.digest() != self.announce.sha256:
            raise WireError(f"Expected {self.announce.total} bytes with the SHA-256 that was announced, got others.")
        return bytes(self._data)


class Station(Protocol):
    """An end of the link, beyond the single connection: what it has to send, and what it makes of what comes."""

    limit: int
    assembly: Assembly | None

    async def next_transfer(self) -> Transfer:
        """Wait for the next transfer that the other end has not acknowledged on this connection."""

    def delivered(self, transfer: Transfer) -> None:
        """The other end has all of it."""

    def wants(self, announce: Announce) -> bool:
        """Whether the transfer is new here; False where it is known, done with or no longer of use. Raises WireError to refuse it."""

    def receive(self, transfer_id: bytes, data: bytes) -> None:
        """A whole transfer that was wanted."""


class Disconnected(Exception):
    """The other end has gone, or has to be taken for gone; the text says why."""


def hello(heartbeat_seconds: int = 0) -> Hello:
    """This end's."""
    return Hello(limbeck=version("limbeck"), heartbeat_seconds=heartbeat_seconds)


class Connection:
    """One connection of a station, after the hellos, until it ends.

    read: the next frame, None at the stream's end. write: a frame. heartbeat: seconds. Errors of `read` and `write` end it.
    """

    def __init__(
        self,
        station: Station,
        read: Callable[[], Awaitable[Frame | None]],
        write: Callable[[Frame], Awaitable[None]],
        *,
        heartbeat: float,
    ) -> None:
        self.station, self._read, self._heartbeat = station, read, heartbeat
        self._write_frame, self._writing = write, asyncio.Lock()
        # Whether anything was heard since the watch looked last, and how many frames were written.
        self._heard, self._written = True, 0
        self._sending: Transfer | None = None
        self._acknowledged = 0
        self._progress = asyncio.Event()

    async def run(self) -> None:
        """Speak until the connection ends. Raises Disconnected when it does, WireError where the other end breaks the protocol."""
        tasks = [asyncio.ensure_future(part()) for part in (self._receive, self._send, self._beat, self._watch)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [error for error in found if isinstance(error, Exception)]
        raise next((error for error in errors if isinstance(error, WireError)), None) or errors[0]

    async def _write(self, frame: Frame) -> None:
        async with self._writing:
            await self._write_frame(frame)
            self._written += 1

    async def _receive(self) -> None:
        while (frame := await self._read()) is not None:
            self._heard = True
            match frame:
                case Announce():
                    await self._announced(frame)
                case Chunk():
                    await self._chunk(frame)
                case Ack():
                    self._acked(frame)
                case Heartbeat():
                    pass
                case Problem():
                    raise Disconnected(f"the other end says: {frame.text}")
                case Hello():
                    raise WireError("Expected one hello of a connection, got a second.")
        raise Disconnected("the stream has ended")

    async def _announced(self, announce: Announce) -> None:
        if announce.total > self.station.limit:
            raise WireError(f"Expected a message of at most {self.station.limit} bytes, got one of {announce.total}.")
        if not self.station.wants(announce):
            await self._write(Ack(id=announce.id, received=announce.total))
            return
        # One at a time: another one that was broken off begins anew, so no more than one is ever held in part.
        if self.station.assembly is None or self.station.assembly.announce != announce:
            self.station.assembly = Assembly(announce)
        await self._write(Ack(id=announce.id, received=self.station.assembly.received))

    async def _chunk(self, chunk: Chunk) -> None:
        assembly = self.station.assembly
        if assembly is None or assembly.announce.id != chunk.id:
            # The first chunk travels with its announcement, also where the transfer turns out to be known.
            if chunk.offset == 0:
                return
            raise WireError("Expected a chunk of the transfer that was announced last, got one of another.")
        assembly.add(chunk)
        if assembly.whole:
            self.station.assembly = None
            self.station.receive(chunk.id, assembly.result())
        await self._write(Ack(id=chunk.id, received=assembly.received))

    def _acked(self, ack: Ack) -> None:
        sending = self._sending
        # What is no longer being sent was acknowledged in full before.
        if sending is None or ack.id != sending.id:
            return
        if ack.received > len(sending.data):
            raise WireError(f"Expected an acknowledgement of at most {len(sending.data)} bytes, got one of {ack.received}.")
        self._acknowledged = max(self._acknowledged, ack.received)
        self._progress.set()

    async def _send(self) -> None:
        while True:
            transfer = await self.station.next_transfer()
            self._sending, self._acknowledged = transfer, -1
            await self._write(transfer.announcement)
            total, offset = len(transfer.data), 0
            if total <= CHUNK:
                # A second message costs less than a wait for the answer to the first.
                await self._write(Chunk(id=transfer.id, offset=0, data=transfer.data))
                offset = total
            while self._acknowledged < total:
                if offset == total or self._acknowledged < 0 or offset - self._acknowledged >= WINDOW:
                    self._progress.clear()
                    await self._progress.wait()
                    offset = max(offset, self._acknowledged)
                    continue
                await self._write(Chunk(id=transfer.id, offset=offset, data=transfer.data[offset : offset + CHUNK]))
                offset = min(offset + CHUNK, total)
            self._sending = None
            self.station.delivered(transfer)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            await self._write(Heartbeat())

    async def _watch(self) -> None:
        """End the connection after so many intervals in which nothing was heard, or in which one frame could not be written.

        It waits for neither: the other end may send on and read nothing, or keep a frame from leaving here for ever. What is counted are
        intervals in which this process was awake.
        """
        silent = stuck = 0
        while True:
            self._heard, written = False, self._written
            await asyncio.sleep(self._heartbeat)
            silent = 0 if self._heard else silent + 1
            stuck = stuck + 1 if self._writing.locked() and self._written == written else 0
            if silent >= SILENCE:
                raise Disconnected(f"nothing was heard for {silent * self._heartbeat:g} s")
            if stuck >= SILENCE:
                raise Disconnected(f"nothing could be sent for {stuck * self._heartbeat:g} s")


async def say_why(write: Callable[[Frame], Awaitable[None]], error: Exception) -> None:
    """Tell the other end why this one ends the connection, if it still listens."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(write(Problem(text=str(error)[:300])), 5)
