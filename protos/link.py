"""The link between a site and the coordinator: its frames, and what both ends have in common.

The codec is link_codec.py.

Either end sends transfers, one at a time: a request is a transfer, and its answer is another one under the request's
id. A transfer is announced with its length and hash. The other end acknowledges how much of it has arrived; after a
break the sender continues from there. At most WINDOW bytes are in flight without acknowledgement, so a slow reader
slows its sender down and nothing piles up in between.
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
# The largest transfer in bytes, unless an end is configured otherwise.
MAX_TRANSFER = 1 << 30
HEARTBEAT_SECONDS = 15
# The gRPC metadata in which the coordinator states its clock, in seconds since the epoch, for checks of how far a
# site's clock is off. Nothing on the link depends on it.
CLOCK = "limbeck-clock"
# The gRPC metadata in which a site names the frames beyond those of 0.1 that it understands, separated by spaces. A
# coordinator sends none of these to a site that does not name it, and one of 0.1 ignores the metadata.
UNDERSTANDS, FINISHED = "limbeck-understands", "finished"
# A connection ends after silence for this many heartbeats.
SILENCE = 3
# The limit that gRPC enforces on one frame: a chunk and what surrounds it.
MAX_FRAME = CHUNK + (1 << 12)
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_FRAME),
    ("grpc.max_send_message_length", MAX_FRAME),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first frame of either end. limbeck: its version. heartbeat_seconds: set by the coordinator, 0 from a site."""

    limbeck: str
    heartbeat_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """A transfer begins or continues. id: of the request that it is or answers.

    total: bytes. sha256: of all of them.
    """

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
    """The first `received` bytes of a transfer have arrived. If these are all, its hash is right."""

    id: bytes
    received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The sender is alive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The reason why the sender ends the connection, in a sentence that may be public."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The coordinator's run of a plan is finished. plan: its SHA-256."""

    plan: bytes


Frame = Hello | Announce | Chunk | Ack | Heartbeat | Problem | Finished


@dataclass(frozen=True, kw_only=True, eq=False)
class Transfer:
    """A message from one end to the other. id: of the request that it is or answers."""

    id: bytes
    data: bytes = field(repr=False)

    @cached_property
    def announcement(self) -> Announce:
        """The frame that announces it; hashed once, however often it is sent."""
        return Announce(id=self.id, total=len(self.data), sha256=hashlib.sha256(self.data).digest())


class Assembly:
    """A transfer that is being received. It outlives connections: what arrived before a break is not sent again."""

    def __init__(self, announce: Announce) -> None:
        self.announce = announce
        self._data = bytearray()
        self._hash = hashlib.sha256()

    @property
    def received(self) -> int:
        """Bytes so far."""
        return len(self._data)

    def add(self, chunk: Chunk) -> None:
        """Append a chunk; one that has already arrived is ignored.

        Raises WireError if it leaves a gap or goes beyond the end.
        """
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
        """Whether all of it has arrived."""
        return self.received == self.announce.total

    def result(self) -> bytes:
        """The whole message. Raises WireError if it is not what was announced."""
        if self._hash.digest() != self.announce.sha256:
            raise WireError(f"Expected {self.announce.total} bytes with the announced SHA-256, got different ones.")
        return bytes(self._data)


class Station(Protocol):
    """An end of the link beyond a single connection: what it has to send, and what it does with what arrives.

    limit: the largest transfer that it accepts, in bytes. assembly: the transfer that is being received, or None.
    """

    limit: int
    assembly: Assembly | None

    async def next_transfer(self) -> Transfer:
        """Wait for the next transfer that the other end has not acknowledged on this connection."""

    def delivered(self, transfer: Transfer) -> None:
        """Called when the other end has all of a transfer."""

    def wants(self, announce: Announce) -> bool:
        """Whether the transfer is new; False if it is known, finished or no longer of use.

        Raises WireError to refuse it.
        """

    def receive(self, transfer_id: bytes, data: bytes) -> None:
        """Called with a whole transfer that was wanted."""

    def finished(self, plan: bytes) -> None:
        """Called when the other end says that the run of a plan is finished; the connection then ends.

        Raises WireError where the other end cannot say so.
        """


class Disconnected(Exception):
    """The other end is gone, or has to be considered gone; the text says why."""


class RunFinished(Disconnected):
    """The connection ends because the run of a plan is finished."""


def hello(heartbeat_seconds: int = 0) -> Hello:
    """This end's first frame."""
    return Hello(limbeck=version("limbeck"), heartbeat_seconds=heartbeat_seconds)


class Connection:
    """One connection of a station, after the hellos, until it ends.

    - read: returns the next frame, or None at the end of the stream.
    - write: sends a frame.
    - heartbeat: in seconds.

    Errors of `read` and `write` end it.
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
        # Whether anything was heard since `_watch` last looked, and how many frames were written.
        self._heard, self._written = True, 0
        self._sending: Transfer | None = None
        self._acknowledged = 0
        self._progress = asyncio.Event()

    async def run(self) -> None:
        """Run until the connection ends.

        Raises Disconnected when it does, WireError if the other end breaks the protocol.
        """
        tasks = [asyncio.ensure_future(part()) for part in (self._receive, self._send, self._beat, self._watch)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [error for error in outcomes if isinstance(error, Exception)]
        raise next((error for error in errors if isinstance(error, WireError)), None) or errors[0]

    async def say_finished(self, plan: bytes) -> None:
        """Tell the other end that the run of a plan is finished, between two other frames."""
        await self._write(Finished(plan=plan))

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
                case Finished():
                    self.station.finished(frame.plan)
                    raise RunFinished(f"the run of plan {frame.plan.hex()[:16]} is finished")
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
        # One at a time: another one that was interrupted starts again, so at most one is ever held in part.
        if self.station.assembly is None or self.station.assembly.announce != announce:
            self.station.assembly = Assembly(announce)
        await self._write(Ack(id=announce.id, received=self.station.assembly.received))

    async def _chunk(self, chunk: Chunk) -> None:
        assembly = self.station.assembly
        if assembly is None or assembly.announce.id != chunk.id:
            # The first chunk travels with its announcement, even if the transfer turns out to be known.
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
        # A transfer that is no longer being sent was acknowledged in full.
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
                # Sending the only chunk at once costs less than waiting for the answer to the announcement.
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
        """End the connection after SILENCE intervals without hearing anything, or with one frame that could not be sent.

        Neither read nor write may be waited for: the other end may keep sending and read nothing, or block a frame here
        for ever. Only intervals in which this process was awake count.
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
