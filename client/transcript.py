"""Every byte that left a site, as it left, with the ledger entry that allowed it: written before it is sent.

One JSON object per line. A line torn by a crash is of something that was not sent; it is dropped at the next write.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One message. time: UTC, ISO 8601. entry: the ledger entry that allowed it. data: the bytes."""

    time: str
    what: str
    plan_hash: bytes
    entry: int
    data: bytes


class Transcript:
    """The transcript in a file; made at the first write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, what: str, plan_hash: bytes, entry: int, data: bytes) -> None:
        """Write durably; only after that may `data` be sent."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "what": what,
            "plan": plan_hash.hex(),
            "entry": entry,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "data": base64.b64encode(data).decode(),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            _drop_torn_line(file.fileno())
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def __iter__(self) -> Iterator[Sent]:
        """What was sent, in order."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    own = json.loads(line)
                    yield Sent(
                        time=own["time"],
                        what=own["what"],
                        plan_hash=bytes.fromhex(own["plan"]),
                        entry=own["entry"],
                        data=base64.b64decode(own["data"]),
                    )


def _drop_torn_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    end = size
    while end and os.pread(descriptor, 1, end - 1) != b"\n":
        block = os.pread(descriptor, min(end, 1 << 16), max(0, end - (1 << 16)))
        newline = block.rfind(b"\n")
        end = max(0, end - (1 << 16)) + newline + 1 if newline >= 0 else max(0, end - (1 << 16))
    if end < size:
        os.ftruncate(descriptor, end)
