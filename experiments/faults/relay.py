"""A relay on loopback between a site and the coordinator: it records, cuts and slows down. It sees what anyone on the path would see."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Relay:
    """Carries bytes between whoever dials `port` and 127.0.0.1:`target`.

    - port: 0 for a free one.
    - rate: bytes a second at most, 0 for no limit.
    - record: whether `seen` keeps all bytes that passed, both ways.
    """

    def __init__(self, target: int, *, port: int = 0, rate: float = 0.0, record: bool = True) -> None:
        self.target, self.rate, self._record = target, rate, record
        self.seen = bytearray()
        self.passed = self.cuts = self.dials = 0
        self._cut_after: int | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    def cut(self) -> None:
        """End all connections now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self.cuts += bool(pairs)
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def cut_after(self, count: int) -> None:
        """End all connections once `count` more bytes have passed."""
        self._cut_after = self.passed + count

    def close(self) -> None:
        """End all connections and stop listening."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _listen(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.dials += 1
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._pairs.append((near, far))
            threading.Thread(target=self._join, args=(near, far), daemon=True).start()

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        """Carry both ways until both have ended."""
        with near, far:
            back = threading.Thread(target=self._carry, args=(far, near), daemon=True)
            back.start()
            self._carry(near, far)
            back.join()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    self.passed += len(data)
                    if self._record:
                        self.seen += data
                if self._cut_after is not None and self.passed >= self._cut_after:
                    self._cut_after = None
                    self.cut()
                    return
                if self.rate:
                    time.sleep(len(data) / self.rate)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
