"""Whether a site dials its coordinator through a proxy, and through which: one answer, for the daemon and the doctor alike.

gRPC reads `https_proxy` and others by itself, and a plain socket does not: the two would take different routes. So the route is decided
here, gRPC is told which it is, and nothing else in the environment has a say. TLS is end to end either way: a proxy sees which address a
site dials, when, and how much is sent, but neither messages nor names.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from limbeck.base.errors import SettingError
from limbeck.base.printable import printable

NONE, ENVIRONMENT = "none", "environment"
# The first that is set decides. HTTP_PROXY is not among them: in a server's environment a peer can set it.
PROXIES = ("grpc_proxy", "https_proxy", "HTTPS_PROXY", "http_proxy")
EXCEPTIONS = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
PROXY_PORT = 80
# The length of a proxy's answer to CONNECT at most, header included.
ANSWER_BYTES = 8192
# A name that no coordinator has: with it as the exception, gRPC looks for no others.
_NOBODY = "limbeck.invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The route to an address.

    address: HOST:PORT.
    proxy: host and port of the proxy, or None.
    credentials: "user:password" for the proxy, or None.
    why: what decided on this route, for people.
    """

    address: str
    proxy: tuple[str, int] | None = None
    credentials: str | None = field(default=None, repr=False)
    why: str = ""

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why else ""
        return f"{self.address} {f'through the proxy {self.proxy_address}' if self.proxy else 'directly'}{why}"

    @property
    def proxy_address(self) -> str:
        """HOST:PORT of the proxy, without the password."""
        host, port = self.proxy or ("", 0)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def options(self) -> list[tuple[str, str | int]]:
        """gRPC's options for a channel by this route; see `undisturbed`."""
        if self.proxy is None:
            return [("grpc.enable_http_proxy", 0)]
        user = f"{self.credentials}@" if self.credentials else ""
        return [("grpc.enable_http_proxy", 1), ("grpc.http_proxy", f"http://{user}{self.proxy_address}")]

    def connect(self, seconds: float) -> socket.socket:
        """A connection by this route.

        seconds: the limit for each step.

        Raises: OSError if there is no connection, SettingError if a proxy refuses.
        """
        host, _, port = self.address.rpartition(":")
        if self.proxy is None:
            return socket.create_connection((host.strip("[]"), int(port)), timeout=seconds)
        connection = socket.create_connection(self.proxy, timeout=seconds)
        try:
            lines = [f"CONNECT {self.address} HTTP/1.1", f"Host: {self.address}"]
            if self.credentials:
                lines.append(f"Proxy-Authorization: Basic {base64.b64encode(unquote(self.credentials).encode()).decode()}")
            connection.sendall("\r\n".join([*lines, "", ""]).encode())
            self._check(_head(connection, time.monotonic() + seconds))
            connection.settimeout(seconds)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, answer: bytes) -> None:
        first = answer.partition(b"\r\n")[0].decode("latin-1")
        if not re.match(r"HTTP/1\.[01] 2[0-9][0-9]( |\Z)", first):
            raise SettingError(
                f"Expected the proxy {self.proxy_address} to connect to {self.address}, got {printable(first or 'nothing', 80)!r}."
            )


def route(address: str, setting: str, environment: Mapping[str, str] = os.environ) -> Route:
    """The route to an address.

    address: HOST:PORT.
    setting: link.proxy, which is "none", "environment" or "http://HOST:PORT".
    environment: variables that name a proxy, and exceptions from it.

    Raises: SettingError if the proxy is not one of http://HOST:PORT.
    """
    name = next((name for name in PROXIES if environment.get(name)), None)
    if setting not in {NONE, ENVIRONMENT}:
        return _through(address, setting, "link.proxy")
    if name is None:
        return Route(address=address)
    if setting == NONE:
        return Route(address=address, why=f'{name} is ignored, as link.proxy = "{NONE}" says')
    if is_loopback(address):
        return Route(address=address, why=f"{name} is not for this machine itself")
    exceptions = next((name for name in EXCEPTIONS if name in environment), None)
    if exceptions is not None and _excepted(address, environment[exceptions]):
        return Route(address=address, why=f"{exceptions} excepts it from {name}")
    return _through(address, environment[name], name)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep gRPC, while it makes a channel, from reading exceptions from the environment by rules of its own: `route` decides on them."""
    before = os.environ.get(EXCEPTIONS[0])
    os.environ[EXCEPTIONS[0]] = _NOBODY
    try:
        yield
    finally:
        if before is None:
            del os.environ[EXCEPTIONS[0]]
        else:
            os.environ[EXCEPTIONS[0]] = before


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT stays on this machine."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _through(address: str, text: str, source: str) -> Route:
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PROXY_PORT
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    # No character may end a line of the header, and no password may get into a log.
    if parts.scheme != "http" or not host or not url.isprintable() or " " in url:
        shown = re.sub(r"//.*@", "//", printable(text, 80))
        raise SettingError(f"Expected a proxy as http://HOST:PORT in {source}, got {shown!r}.")
    user = parts.netloc.rpartition("@")[0]
    return Route(address=address, proxy=(host, port), credentials=user or None, why=f"of {source}")


def _excepted(address: str, text: str) -> bool:
    """Whether a list of exceptions contains this address: names and their sub-domains, addresses, networks, "*"; with a port or without."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]").lower()
    return any(_matches(host, port, entry.strip().lower()) for entry in text.split(","))


def _matches(host: str, port: str, entry: str) -> bool:
    with contextlib.suppress(ValueError):
        network = ipaddress.ip_network(entry.strip("[]"), strict=False)
        try:
            host_address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return host_address.version == network.version and host_address in network
    name, colon, entry_port = entry.rpartition(":")
    if colon:
        if entry_port != port:
            return False
        entry = name.strip("[]")
    name = entry.removeprefix("*").lstrip(".")
    return entry == "*" or (bool(name) and (host == name or host.endswith(f".{name}")))


def _head(connection: socket.socket, until: float) -> bytes:
    """The answer to CONNECT up to its empty line, and not a byte more: the rest is sent by the coordinator. until: monotonic time."""
    answer = bytearray()
    while not answer.endswith(b"\r\n\r\n") and len(answer) < ANSWER_BYTES:
        if (left := until - time.monotonic()) <= 0:
            raise TimeoutError("the proxy did not answer in time")
        connection.settimeout(left)
        if not (byte := connection.recv(1)):
            break
        answer += byte
    return bytes(answer)
