"""A wire between this network namespace and another, which delays, loses and withholds packets; a relay of bytes can do none of that.

A link that is down sends nothing, not even a reset, so that neither end knows. It needs a network namespace of its own, as
`unshare --map-root-user --net` creates, iproute2, and /dev/net/tun. Packets go through this process, so the kernel needs no netem.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque

# linux/if_tun.h
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
TUN = "/dev/net/tun"
NEAR, FAR = "10.77.0.1", "10.77.0.2"
PACKET = 1 << 16
TICK_SECONDS = 0.2


def loopback_up() -> None:
    """Bring up loopback, which is down in a new network namespace."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _end(name: str, address: str, peer: str) -> int:
    """One end of a wire in this process's namespace: a device with this address, as a descriptor that reads and writes its packets."""
    descriptor = os.open(TUN, os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "address", "add", address, "peer", peer, "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    return descriptor


class Wire:
    """The near end is NEAR in this namespace, the far one FAR in a new one, which `command` enters.

    delay: seconds, each way. loss: probability that a packet is lost, each way. seed: decides which are. down: nothing passes.
    """

    def __init__(self, *, delay: float = 0.0, loss: float = 0.0, seed: int = 0) -> None:
        self.delay, self.loss, self.down = delay, loss, False
        self.packets = self.lost = 0
        self._random = random.Random(seed)
        self._channel, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "limbeck.experiments.faults.wire", str(theirs.fileno())]
            self._holder = subprocess.Popen(["unshare", "--net", *command], pass_fds=[theirs.fileno()])
        _, descriptors, _, _ = socket.recv_fds(self._channel, 1, 1)
        self._far, self._near = descriptors[0], _end("near", NEAR, FAR)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    @property
    def command(self) -> list[str]:
        """Words to put before a command that is to run at the far end."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--"]

    def close(self) -> None:
        """End; both devices vanish."""
        self._ended.set()
        self._thread.join()
        os.close(self._near)
        os.close(self._far)
        self._channel.close()
        self._holder.wait()

    def _carry(self) -> None:
        under_way: deque[tuple[float, int, bytes]] = deque()
        while not self._ended.is_set():
            wait = min(TICK_SECONDS, max(0.0, under_way[0][0] - time.monotonic())) if under_way else TICK_SECONDS
            for source in select.select([self._near, self._far], [], [], wait)[0]:
                packet = os.read(source, PACKET)
                self.packets += 1
                if self.down or self._random.random() < self.loss:
                    self.lost += 1
                    continue
                under_way.append((time.monotonic() + self.delay, self._far if source == self._near else self._near, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, sink, packet = under_way.popleft()
                os.write(sink, packet)


def main() -> None:
    """The far end: make the device in this namespace, hand it over, keep the namespace until the near end closes the channel."""
    loopback_up()
    descriptor = _end("far", FAR, NEAR)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        socket.send_fds(channel, [b"1"], [descriptor])
        channel.recv(1)


if __name__ == "__main__":
    main()
