"""Both ends of the link in one process: a coordinator's grid, a real site's daemon, and a site that does what a test wants."""

from __future__ import annotations

import asyncio
import queue
import threading
from pathlib import Path

import grpc
import pytest
from flwr.app import Message

from limbeck.client.link import Daemon
from limbeck.client.site import Site
from limbeck.experiments.faults.linked import HANG_SECONDS, until
from limbeck.experiments.faults.throwaway_keys import SERVER, Authority
from limbeck.protos import carry, flower_messages, link, link_codec
from limbeck.protos.link import Ack, Announce, Chunk, Frame, Hello, Transfer
from limbeck.server.link import Access, Keys, LinkGrid

SITES = ["a", "b"]
LIMIT = 1 << 25
# What a daemon answers with: helpers/answering.py.
APP = "helpers.answering:app"


def listen(keys: Authority, revoked: Path | None = None, **options: int) -> LinkGrid:
    own = Keys(ca=keys.folder / "ca.pem", certificate=keys.folder / f"{SERVER}.pem", key=keys.folder / f"{SERVER}.key")
    return LinkGrid("127.0.0.1:0", own, Access(SITES, revoked), **options)


class RawSite:
    """A site that does what a test wants, frame by frame."""

    def __init__(
        self,
        grid: LinkGrid,
        keys: Authority,
        name: str,
        *,
        ca: str = "ca",
        greet: bool = True,
        understands: str | None = None,
    ) -> None:
        self.channel = self.dial(grid.address, keys, name, ca)
        self.to_send: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        metadata = ((link.UNDERSTANDS, understands),) if understands is not None else ()
        self.call = self.channel.stream_stream(link_codec.CONNECT)(
            iter(self.to_send.get, None), timeout=120, metadata=metadata
        )
        if greet:
            self.send(link.hello())
            assert isinstance(self.next(), Hello)

    @staticmethod
    def dial(address: str, keys: Authority, name: str, ca: str = "ca") -> grpc.Channel:
        pem = [(keys.folder / file).read_bytes() for file in (f"{ca}.pem", f"{name}.key", f"{name}.pem")]
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(*pem), options=options)

    def send(self, frame: Frame | bytes) -> None:
        self.to_send.put(frame if isinstance(frame, bytes) else link_codec.encode_frame(frame))

    def next(self) -> Frame:
        while isinstance(frame := link_codec.decode_frame(next(self.call)), link.Heartbeat):
            pass
        return frame

    def take(self) -> Message:
        """The next question, acknowledged."""
        announce, chunk = self.next(), self.next()
        assert isinstance(announce, Announce)
        assert isinstance(chunk, Chunk)
        self.send(Ack(id=announce.id, received=announce.total))
        return flower_messages.decode(chunk.data, limit=LIMIT)

    def answer(self, message: Message, data: bytes | None = None, *, message_id: str | None = None) -> None:
        """Send an answer, to this question unless told otherwise, and wait until it is acknowledged."""
        if data is None:
            data = flower_messages.encode(Message(carry.pack(b"answer"), reply_to=message))
        own = Transfer(id=bytes.fromhex(message_id or message.metadata.message_id), data=data)
        self.send(own.announcement)
        for offset in range(0, len(data), link.CHUNK):
            self.send(Chunk(id=own.id, offset=offset, data=data[offset : offset + link.CHUNK]))
        while True:
            frame = self.next()
            if isinstance(frame, Ack) and frame.id == own.id and frame.received == len(data):
                return

    def end(self) -> grpc.StatusCode:
        """How the coordinator ends the connection."""
        with pytest.raises(grpc.RpcError) as ended:
            for _ in self.call:
                pass
        self.close()
        return ended.value.code()

    def close(self) -> None:
        self.to_send.put(None)
        self.call.cancel()
        self.channel.close()


def ask(grid: LinkGrid, name: str, content: bytes = b"question", ttl: float = 60.0) -> str:
    (message_id,) = grid.push_messages([Message(carry.pack(content), flower_messages.node_of(name), "query.agree", ttl=ttl)])
    return message_id


def pull(grid: LinkGrid, message_id: str) -> Message:
    return until(lambda: next(iter(grid.pull_messages([message_id])), None))


def make_site(folder: Path, keys: Authority, port: int, *, name: str = "a", certificate: str = "a", **link: object) -> Site:
    folder.mkdir(exist_ok=True)
    table = {"memory_mb": 2048, "grace_seconds": HANG_SECONDS, **link}
    (folder / "site.toml").write_text(
        f'name = "{name}"\ntransfer_sets = "t"\n[link]\naddress = "127.0.0.1:{port}"\nca = "{keys.folder}/ca.pem"\n'
        f'certificate = "{keys.folder}/{certificate}.pem"\nkey = "{keys.folder}/{certificate}.key"\n'
        + "".join(f"{key} = {value}\n" for key, value in table.items())
    )
    return Site(folder)


class Running:
    """A daemon in a thread of this process; its answers come from child processes as always."""

    def __init__(self, site: Site, *, until_finished: bool = False) -> None:
        ready = threading.Event()

        async def main() -> None:
            self.daemon, self.loop = (
                Daemon(site, until_finished=until_finished, client_app=APP),
                asyncio.get_running_loop(),
            )
            ready.set()
            await self.daemon.run()

        self.thread = threading.Thread(target=lambda: asyncio.run(main()))
        self.thread.start()
        assert ready.wait(HANG_SECONDS)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.daemon.stop)
        self.thread.join(HANG_SECONDS)
        assert not self.thread.is_alive()


def port_of(grid: LinkGrid) -> int:
    return int(grid.address.rpartition(":")[2])
