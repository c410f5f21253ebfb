"""HTTP/2 by hand, for what no gRPC client would do: to keep the other end from sending anything, and stay."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from pathlib import Path

from limbeck.experiments.faults.linked import until
from limbeck.protos import link, link_codec
from limbeck.protos.link import Frame

DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_HEADERS, ACK = 4, 1
INITIAL_WINDOW_SIZE = 4


class Stubborn:
    """A site on the link that gives the coordinator `window` bytes to send on its stream, for ever, and says what it is told to.

    beats: whether it is heard all the time. received: bytes that came on the stream. ended: set when the connection is over.
    """

    def __init__(self, address: str, keys: Path, name: str, *, window: int = 0, beats: float | None = None) -> None:
        context = ssl.create_default_context(cafile=str(keys / "ca.pem"))
        context.load_cert_chain(keys / f"{name}.pem", keys / f"{name}.key")
        context.set_alpn_protocols(["h2"])
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=600)
        # One thread reads while another writes: OpenSSL wants them one at a time, so sockets are kept apart from it.
        self._in, self._out, self._lock = ssl.MemoryBIO(), ssl.MemoryBIO(), threading.Lock()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="localhost")
        while not self._shaken():
            self._in.write(self._socket.recv(1 << 16))
        self.received = 0
        self.ended = threading.Event()
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
        self._send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(SETTINGS, 0, 0, settings))
        self._send(_frame(HEADERS, END_HEADERS, 1, _request()))
        threading.Thread(target=self._read, daemon=True).start()
        self.say(link.hello())
        if beats is not None:
            threading.Thread(target=self._beat, args=(beats,), daemon=True).start()

    def say(self, frame: Frame) -> None:
        """A frame of the link."""
        data = link_codec.encode_frame(frame)
        self._send(_frame(DATA, 0, 1, struct.pack(">BI", 0, len(data)) + data))

    def wait_for(self, size: int) -> None:
        """Until so many bytes have come on the stream."""
        until(lambda: self.received == size or None)

    def close(self) -> None:
        """End."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _shaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._socket.sendall(self._out.read())
        return True

    def _send(self, data: bytes) -> None:
        with self._lock:
            self._tls.write(data)
            self._socket.sendall(self._out.read())

    def _beat(self, seconds: float) -> None:
        with contextlib.suppress(OSError):
            while not self.ended.wait(seconds):
                self.say(link.Heartbeat())

    def _read(self) -> None:
        """What HTTP/2 asks of everybody, and no more: windows stay as they are."""
        with contextlib.suppress(OSError):
            while head := self._exactly(9):
                size, kind, flags, stream = int.from_bytes(head[:3]), head[3], head[4], int.from_bytes(head[5:])
                body = self._exactly(size)
                if kind in (SETTINGS, PING) and not flags & ACK:
                    self._send(_frame(kind, ACK, 0, body if kind == PING else b""))
                if kind == DATA and stream == 1:
                    self.received += size
        self.ended.set()
        self._socket.close()

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            try:
                with self._lock:
                    found += self._tls.read(size - len(found))
                    self._socket.sendall(self._out.read())
            except ssl.SSLWantReadError:
                if not (more := self._socket.recv(1 << 16)):
                    return b""
                with self._lock:
                    self._in.write(more)
        return found


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + body


def _request() -> bytes:
    headers = {
        ":method": "POST",
        ":scheme": "https",
        ":path": link_codec.CONNECT,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    # Literal fields, without an index and without Huffman's code.
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode() for name, value in headers.items()
    )
