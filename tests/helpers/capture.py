"""What anyone on the wire sees: a capture of loopback by dumpcap, read by tshark's dissectors, which know nothing of limbeck."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from limbeck.experiments.faults.linked import until

SECONDS = 600.0
TLS_13 = "0x0304"


def why_not() -> str | None:
    """Why nothing can be captured here; None where it can."""
    missing = [name for name in ("dumpcap", "tshark") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed (Debian's package tshark)"
    found = subprocess.run(
        ["dumpcap", "-i", "lo", "-a", "duration:0", "-w", "/dev/null"], capture_output=True, text=True, check=False
    )
    return f"dumpcap may not capture on lo: {found.stderr.strip()}" if found.returncode else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """file: packets of TCP connections to or from these ports of loopback."""

    file: Path
    ports: tuple[int, ...]

    def streams(self) -> dict[int, bytes]:
        """By TCP connection, its bytes: those of one direction, then those of the other, in the order of their numbers."""
        parts: dict[tuple[int, str], dict[int, bytes]] = defaultdict(dict)
        for stream, source, number, payload in self._fields(
            "tcp.len > 0", "tcp.stream", "tcp.srcport", "tcp.seq", "tcp.payload"
        ):
            parts[int(stream), source][int(number)] = bytes.fromhex(payload)
        found: dict[int, bytes] = defaultdict(bytes)
        for (connection, _), segments in sorted(parts.items()):
            found[connection] += b"".join(_without_gaps(segments))
        return dict(found)

    def tls_versions(self) -> dict[int, set[str]]:
        """By TCP connection, the versions that the end that listens chose in its hello, as tshark prints them."""
        found: dict[int, set[str]] = defaultdict(set)
        wanted = "tls.handshake.extensions.supported_version"
        for stream, version in self._fields("tls.handshake.type == 2", "tcp.stream", wanted):
            found[int(stream)].add(version)
        return dict(found)

    def _fields(self, which: str, *fields: str) -> list[list[str]]:
        """One row of fields per packet of a kind."""
        protocols = [part for port in self.ports for part in ("-d", f"tcp.port=={port},tls")]
        wanted = [part for field in fields for part in ("-e", field)]
        command = ["tshark", "-n", "-r", str(self.file), *protocols, "-Y", which, "-T", "fields", *wanted]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return [line.split("\t") for line in told.splitlines()]


def _without_gaps(segments: dict[int, bytes]) -> Iterator[bytes]:
    """Segments by their number, those sent again once; a byte that was not captured would hide what this looks for."""
    at = 1
    for number in sorted(segments):
        data = segments[number]
        assert number <= at, f"bytes {at} to {number} of a connection are not in the capture"
        yield data[at - number :]
        at = max(at, number + len(data))


@contextmanager
def on_loopback(file: Path, *ports: int) -> Iterator[Capture]:
    """Capture while the block runs. What dumpcap lost would be a hole to hide in: nothing may be."""
    wanted = " or ".join(f"port {port}" for port in ports)
    command = ["dumpcap", "-i", "lo", "-B", "64", "-s", "0", "-f", wanted, "-w", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _mark(file, ports[0])
        yield Capture(file=file, ports=ports)
        _mark(file, ports[0])
    finally:
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=SECONDS)
    assert "/0 (" in told.partition("received/dropped")[2], told


def _mark(file: Path, port: int) -> None:
    """Send datagrams of our own until they are in the file: so is, before and after, all that passed in between."""
    mark = secrets.token_bytes(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:

        def sent() -> bool:
            with contextlib.suppress(ConnectionRefusedError):
                own.sendto(mark, ("127.0.0.1", port))
            return file.exists() and mark in file.read_bytes()

        until(lambda: sent() or None, SECONDS)


def seen(words: Iterable[bytes], streams: dict[int, bytes]) -> set[bytes]:
    """Those of the words that stand in one of the connections."""
    return {word for word in words if any(word in own for own in streams.values())}
