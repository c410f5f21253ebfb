"""A coordinator as a process of its own, which asks the site "a" the same again and again and notes each answer, until told to end."""

from __future__ import annotations

import resource
import sys
import threading
import time
from pathlib import Path

from limbeck.protos import tls  # noqa: F401 - before grpc

# isort: split
from flwr.app import Message

from limbeck.protos import carry
from limbeck.protos.flower_messages import node_of
from limbeck.server.events import Events, Progress
from limbeck.server.link import Access, Keys, LinkGrid
from limbeck.server.states import AGREE


def main(keys: Path, events: Path, descriptors: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    own = Keys(ca=keys / "ca.pem", certificate=keys / "coordinator.pem", key=keys / "coordinator.key")
    grid = LinkGrid("0.0.0.0:0", own, Access(["a", "b"]), heartbeat=1)
    print(grid.address.rpartition(":")[2], flush=True)
    note = Events(events)
    told = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        told.set()

    threading.Thread(target=wait, daemon=True).start()
    count = 0
    while not told.is_set():
        note(Progress(phase=AGREE, done=count, total=count))
        if "a" not in grid.connected:
            time.sleep(0.02)
            continue
        question = Message(carry.pack(b"%d" % count), node_of("a"), "query.agree")
        for _ in grid.send_and_receive([question], timeout=1.0):
            count += 1
            note(Progress(phase=AGREE, done=count, total=count))
    grid.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
