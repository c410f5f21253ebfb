"""What the link costs: `python -m limbeck.experiments.benchmarks.link [OUT.json]`. Loopback, mutual TLS 1.3, sites in other processes.

Measured are round trips of a small question, each answered in a process of its own; a message of 300 MB; idle connections of 1,000 sites;
and 200 sites that answer a stage at once with prepared shares, which are decoded and pooled. `roundtrip` compares with Flower's SuperNodes.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import limbeck.protos.tls  # noqa: F401 - before gRPC is loaded

# isort: split

import grpc
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from limbeck.client.link import Daemon
from limbeck.client.site import Site
from limbeck.experiments import memory
from limbeck.experiments.benchmarks import runner
from limbeck.experiments.benchmarks.wire import share_plan
from limbeck.experiments.faults.linked import until
from limbeck.experiments.faults.throwaway_keys import SERVER, Authority
from limbeck.operators import TopK
from limbeck.protos import carry, codec, flower_messages, link, link_codec
from limbeck.protos.link import Ack, Announce, Chunk, Frame, Heartbeat, Transfer
from limbeck.protos.messages import Ask, Share
from limbeck.server.link import Access, Keys, LinkGrid
from limbeck.server.pooling import Pool

ROUNDS, PAUSE_SECONDS = 60, 0.3
BIG = 300_000_000
IDLE, ANSWERING = 1000, 200
SAMPLES, CLASSES, KEPT = 10_000, 10, 3
APP = "limbeck.experiments.benchmarks.link:app"

app = ClientApp()


@app.query("agree")
def answer(message: Message, context: Context) -> Message:
    """As many bytes as the question says."""
    return Message(carry.pack(bytes(int(carry.unpack(message.content)))), reply_to=message)


def listen(folder: Path, sites: list[str]) -> LinkGrid:
    """A coordinator for these sites, with fresh keys in `folder`."""
    authority = Authority(folder)
    authority.server()
    for name in sites:
        authority.site(name)
    keys = Keys(ca=folder / "ca.pem", certificate=folder / f"{SERVER}.pem", key=folder / f"{SERVER}.key")
    return LinkGrid("127.0.0.1:0", keys, Access(sites))


@contextmanager
def child(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """This module in another process, until the context ends."""
    command = [sys.executable, "-m", "limbeck.experiments.benchmarks.link", *map(str, arguments)]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.terminate()


def one_site(folder: Path) -> dict[str, object]:
    """Round trips, then one big answer, with one real site's daemon."""
    grid = listen(folder / "keys", ["site"])
    (folder / "site").mkdir()
    (folder / "site" / "site.toml").write_text(
        f'name = "site"\ntransfer_sets = "t"\n[link]\naddress = "{grid.address}"\nca = "../keys/ca.pem"\n'
        'certificate = "../keys/site.pem"\nkey = "../keys/site.key"\n'
    )
    with child("--site", folder / "site") as process:
        (node,) = until(lambda: list(grid.get_node_ids()))

        def ask(size: int) -> float:
            started = time.perf_counter()
            question = Message(carry.pack(str(size).encode()), node, "query.agree")
            (reply,) = grid.send_and_receive([question], timeout=300)
            seconds = time.perf_counter() - started
            if len(carry.unpack(reply.content)) != size:
                raise RuntimeError(f"Expected an answer of {size} bytes, got another.")
            return seconds

        for _ in range(3):
            ask(10)
        times = []
        for _ in range(ROUNDS):
            time.sleep(PAUSE_SECONDS)
            times.append(1000 * ask(10))
        started = time.perf_counter()
        for _ in range(ROUNDS):
            ask(10)
        back_to_back = 1000 * (time.perf_counter() - started) / ROUNDS
        before = memory.used("VmRSS")
        big = ask(BIG)
        result: dict[str, object] = {
            "round_trip_ms": {
                "median": round(statistics.median(times), 1),
                "min": round(min(times), 1),
                "p90": round(sorted(times)[int(0.9 * ROUNDS)], 1),
                "back_to_back_mean": round(back_to_back, 1),
            },
            "answer_of_300_MB": {
                "seconds": round(big, 1),
                "coordinator_peak_GB_above_before": round((memory.used("VmHWM") - before) / 1e9, 2),
                "site_daemon_peak_GB": round(memory.used("VmHWM", process.pid) / 1e9, 2),
            },
        }
    grid.close()
    return result


def many_sites(folder: Path) -> dict[str, object]:
    """Idle connections, and a stage that many answer at once."""
    names = [f"site-{index:04}" for index in range(IDLE)]
    grid = listen(folder, names)
    before = memory.used("VmRSS")
    started = time.perf_counter()
    with child("--many", folder, grid.address, IDLE) as process:
        until(lambda: len(grid.connected) == IDLE or process.poll(), 300)
        connecting = time.perf_counter() - started
        time.sleep(2)
        per_site = (memory.used("VmRSS") - before) / IDLE
        plan = share_plan(SAMPLES, CLASSES, KEPT, "packed")
        ask = Ask(plan_hash=codec.plan_hash(plan), stage=0, first=0, count=SAMPLES)
        nodes = [flower_messages.node_of(name) for name in names[:ANSWERING]]
        data = codec.encode_request(ask)
        pool, count, size = Pool(samples=SAMPLES, classes=CLASSES), 0, 0
        started = time.perf_counter()
        missing = set(grid.push_messages([Message(carry.pack(data), node, "query.share") for node in nodes]))
        while missing:
            grid.wait(0.5)
            for reply in grid.pull_messages(missing):
                missing.discard(reply.metadata.reply_to_message_id)
                content = carry.unpack(reply.content)
                share = codec.decode_reply(content, plan=plan, expecting=ask)
                if isinstance(share, Share):
                    pool.add(share.answers)
                    count, size = count + 1, size + len(content)
        seconds = time.perf_counter() - started
        pool.result()
    grid.close()
    return {
        "idle": {
            "sites": IDLE,
            "coordinator_kB_per_site": round(per_site / 1000, 1),
            "seconds_to_connect_all": round(connecting, 1),
        },
        "answering_at_once": {
            "sites": count,
            "samples": SAMPLES,
            "bytes_per_share": size // count,
            "seconds_until_all_are_pooled": round(seconds, 2),
        },
    }


async def _answer_all(folder: Path, address: str, count: int) -> None:
    """Minimal sites in one process: they say hello, stay connected, and answer every question with the same share."""
    plan = share_plan(SAMPLES, CLASSES, KEPT, "packed")
    p_NK = torch.randn(SAMPLES, CLASSES, generator=torch.Generator().manual_seed(0)).softmax(-1)
    share = Share(plan_hash=codec.plan_hash(plan), stage=0, first=0, answers=TopK(KEPT)(p_NK))
    canned = codec.encode_reply(share, plan=plan)
    ca = (folder / "ca.pem").read_bytes()

    async def site(index: int) -> None:
        name = f"site-{index:04}"
        pair = [(folder / f"{name}.{end}").read_bytes() for end in ("key", "pem")]
        options = [*link.OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca, *pair), options=options) as channel:
            call = channel.stream_stream(link_codec.CONNECT)()

            async def write(frame: Frame) -> None:
                await call.write(link_codec.encode_frame(frame))

            await write(link.hello())
            while (data := await call.read()) is not grpc.aio.EOF:
                frame = link_codec.decode_frame(data)
                if isinstance(frame, Announce | Heartbeat):
                    await write(Heartbeat() if isinstance(frame, Heartbeat) else Ack(id=frame.id, received=0))
                elif isinstance(frame, Chunk):
                    await write(Ack(id=frame.id, received=len(frame.data)))
                    message = flower_messages.decode(frame.data, limit=codec.MAX_REQUEST)
                    reply = flower_messages.encode(Message(carry.pack(canned), reply_to=message))
                    await write(Transfer(id=frame.id, data=reply).announcement)
                    await write(Chunk(id=frame.id, offset=0, data=reply))

    await asyncio.gather(*(site(index) for index in range(count)))


def _many(folder: str, address: str, count: str) -> None:
    asyncio.run(_answer_all(Path(folder), address, int(count)))


def _site(folder: str) -> None:
    asyncio.run(Daemon(Site(Path(folder)), client_app=APP).run())


def measure() -> dict[str, object]:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder:
        many = many_sites(Path(folder) / "many")
        return {**one_site(Path(folder)), **many}


def machine() -> str:
    """What was measured on, and how busy it was."""
    return f"{os.cpu_count()} cores, {platform.machine()}, shared with other work: load {os.getloadavg()[0]:.1f} at the end"


def main() -> None:
    """The command."""
    runner.main(
        "link", measure, description=__doc__, machine=machine, one_thread=True, children={"--site": _site, "--many": _many}
    )


if __name__ == "__main__":
    main()
