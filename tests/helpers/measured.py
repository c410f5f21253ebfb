"""What it costs in memory to decode each bomb, as lines of JSON: run as a process of its own, which forks one for each."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

from flwr.app import Message

from limbeck.base.errors import WireError
from limbeck.experiments.faults import bombs
from limbeck.protos import carry, flower_messages

ZEROS = 64 << 20


def memory(what: str) -> int:
    """Bytes that this process has now (VmRSS), or at most had (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))


def peak(data: bytes, limit: int, warm: bytes) -> tuple[str, int]:
    """How decoding ends in a fork, and by how many bytes its memory grows at most beyond what it needs for a small message."""
    gc.collect()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        outcome = "died"
        try:
            flower_messages.decode(warm, limit=limit)
            before = memory("VmRSS")
            try:
                kept = flower_messages.decode(data, limit=limit)
                outcome = "decoded" if kept.has_content() else "an error"
            except WireError:
                outcome = "refused"
            os.write(writer, json.dumps([outcome, memory("VmHWM") - before]).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        outcome, grown = json.loads(pipe.read() or '["died", 0]')
    return outcome, grown


def main() -> None:
    flower_messages.identify(1, 2)
    zeros = flower_messages.encode(Message(carry.pack(bytes(ZEROS)), 5, "query.share"))
    warm = flower_messages.encode(Message(carry.pack(b"warm"), 5, "query.share"))
    messages = [*bombs.flower_messages(), ("zeros", zeros)]
    for limit in map(int, sys.argv[1:]):
        for name, data in messages:
            outcome, grown = peak(data, limit, warm)
            print(
                json.dumps({"name": name, "limit": limit, "size": len(data), "outcome": outcome, "grown": grown}), flush=True
            )


if __name__ == "__main__":
    main()
