"""Reaching a coordinator as a site's daemon would, step by step, and saying at which step it ended."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from grpc_health.v1 import health_pb2, health_pb2_grpc

from limbeck.base.errors import CertificateError, SettingError
from limbeck.base.findings import Finding, Outcome
from limbeck.client import proxy
from limbeck.client.proxy import Route
from limbeck.client.settings import LinkSettings
from limbeck.protos import link

# The first bytes of HTTP/2, on which gRPC runs: its preface and empty settings. A server that accepts our certificate answers with its own.
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


class Reach(Enum):
    """How far an attempt to connect to a port and to shake hands got, from the farthest to the nearest end."""

    ANSWERED = "it answers as the expected end, and speaks gRPC"
    ANOTHER_CERTIFICATE = "it shows another certificate than the one in the folder"
    NOT_GRPC = "it answers, but not as gRPC does"
    CLOSED_AFTER_HANDSHAKE = "it closed the connection after the handshake"
    NOT_TRUSTED = "its certificate is not valid for the name that was dialled"
    HANDSHAKE_REFUSED = "it ended the handshake"
    SILENT = "it accepted the connection and said nothing in time"
    BROKEN = "it broke the connection in the handshake"
    NOTHING_LISTENS = "the connection was refused"
    NO_PROXY_LISTENS = "the connection to the proxy was refused"
    PROXY_REFUSED = "the proxy opened no connection"
    TIMED_OUT = "no connection came about in time"
    UNRESOLVED = "its name, or the proxy's, cannot be resolved"
    UNREACHABLE = "there is no way to it"


OUTCOMES = {Reach.ANSWERED: Outcome.OK, Reach.ANOTHER_CERTIFICATE: Outcome.WARN, Reach.NOT_GRPC: Outcome.WARN}
_PROXY_ADVICE = 'Correct the proxy, or let the site dial directly (link.proxy = "none") where a firewall allows that.'
ADVICE = {
    Reach.UNRESOLVED: "Correct the address in [link], or that of the proxy, or the DNS.",
    Reach.UNREACHABLE: "Is there a route to that host?",
    Reach.TIMED_OUT: "Does a firewall let this machine out to that port?",
    Reach.NOTHING_LISTENS: "Is the coordinator started, and is this its port?",
    Reach.NO_PROXY_LISTENS: _PROXY_ADVICE,
    Reach.PROXY_REFUSED: _PROXY_ADVICE,
    Reach.NOT_TRUSTED: "Compare ca.pem and the names in the coordinator's certificate.",
    Reach.HANDSHAKE_REFUSED: "Is this certificate of the coordinator's authority, valid and not revoked? Does the port speak TLS 1.3?",
    Reach.SILENT: "Is that the coordinator?",
    Reach.BROKEN: "Is that the coordinator? See its log.",
    Reach.CLOSED_AFTER_HANDSHAKE: "See the coordinator's log.",
    Reach.ANOTHER_CERTIFICATE: "Start the coordinator again: it reads its certificate when it starts.",
    Reach.NOT_GRPC: "Is that its port?",
    Reach.ANSWERED: "",
}
_OTHER_AUTHORITY = "The coordinator is of another authority: both sides must hold the same ca.pem."
# By OpenSSL's number of what is wrong with a certificate; more exact than ADVICE[NOT_TRUSTED].
_VERIFY_ADVICE = {
    9: "The coordinator's certificate is not valid yet: set the clocks.",
    10: "The coordinator's certificate has expired: limbeck keys rotate, at the authority.",
    18: _OTHER_AUTHORITY,
    19: _OTHER_AUTHORITY,
    20: _OTHER_AUTHORITY,
    62: "Dial it by a name in its certificate, set link.server_name, or make a certificate for this name.",
    64: "Dial it by an address in its certificate, set link.server_name, or make a certificate for this address.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """The result of one attempt. found, advice: as in a Finding."""

    reach: Reach
    found: str
    advice: str

    @property
    def finding(self) -> Finding:
        """The same as a line of the diagnosis."""
        outcome = OUTCOMES.get(self.reach, Outcome.FAIL)
        return Finding(outcome=outcome, found=self.found, advice=self.advice)


def _greeting(reach: Reach, found: str, advice: str | None = None) -> Greeting:
    return Greeting(reach=reach, found=found, advice=ADVICE[reach] if advice is None else advice)


class _Ended(Exception):
    """The attempt is over before it got an answer."""

    def __init__(self, reach: Reach, found: str, advice: str | None = None) -> None:
        super().__init__(found)
        self.greeting = _greeting(reach, found, advice)


def context(ca: Path) -> ssl.SSLContext:
    """TLS 1.3 as the link speaks it, trusting one authority only. Raises CertificateError if its certificate cannot be read."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.set_alpn_protocols(["h2"])
    try:
        made.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"Expected the authority's certificate (PEM) in {ca}: {error}.") from error
    return made


def greet(
    tls: ssl.SSLContext,
    route: Route,
    name: str,
    seconds: float,
    *,
    certified: bool,
    expected: x509.Certificate | None = None,
) -> Greeting:
    """Connect by the route that the link takes and shake hands, in bounded time.

    In TLS 1.3 a client's certificate is refused only after the client's handshake is over: so the first bytes of HTTP/2 are exchanged too.

    tls: from `context`; with this end's certificate if `certified`.
    name: the name or address that the other end's certificate must bear.
    seconds: the limit for each step.
    certified: whether this end has a certificate, so that it matters whether it is accepted.
    expected: the certificate that the other end should present, if it is known.
    """
    try:
        with _connected(route, seconds) as plain:
            presented, protocol, version = _shake_hands(plain, tls, route.address, name, seconds, certified=certified)
    except _Ended as ended:
        return ended.greeting
    where = route.address
    if expected is not None and presented is not None and presented != expected.public_bytes(Encoding.DER):
        return _greeting(Reach.ANOTHER_CERTIFICATE, f"{where} shows another certificate than the one in this folder.")
    if protocol != "h2":
        return _greeting(Reach.NOT_GRPC, f"{where} answers, but not as gRPC does.")
    accepted = ", and takes this certificate" if certified else ""
    return _greeting(Reach.ANSWERED, f"{where} answers as {name!r} by {version}{_by(route)}{accepted}")


def _by(route: Route) -> str:
    if route.proxy:
        return f" through the proxy {route.proxy_address} ({route.why})"
    return f" ({route.why})" if route.why else ""


@contextmanager
def _connected(route: Route, seconds: float) -> Iterator[socket.socket]:
    """A connection to the other end, through the proxy if there is one."""
    try:
        plain = route.connect(seconds)
    except socket.gaierror as error:
        host = route.proxy_address if route.proxy else route.address
        raise _Ended(Reach.UNRESOLVED, f"The name of {host} cannot be resolved: {error.strerror}.") from error
    except TimeoutError as error:
        raise _Ended(Reach.TIMED_OUT, f"No connection to {route.address} within {seconds:g} s{_by(route)}.") from error
    except ConnectionRefusedError as error:
        if route.proxy:
            raise _Ended(Reach.NO_PROXY_LISTENS, f"No proxy listens at {route.proxy_address} ({route.why}).") from error
        raise _Ended(Reach.NOTHING_LISTENS, f"Nothing listens at {route.address}{_by(route)}.") from error
    except SettingError as error:
        raise _Ended(Reach.PROXY_REFUSED, str(error)) from error
    except OSError as error:
        raise _Ended(Reach.UNREACHABLE, f"No connection to {route.address}: {error}.") from error
    with plain:
        yield plain


def _shake_hands(
    plain: socket.socket, tls: ssl.SSLContext, where: str, name: str, seconds: float, *, certified: bool
) -> tuple[bytes | None, str | None, str | None]:
    """The other end's certificate (DER), and the protocol and TLS version that were agreed on."""
    try:
        with tls.wrap_socket(plain, server_hostname=name) as secure:
            presented = secure.getpeercert(binary_form=True)
            if certified:
                secure.sendall(HTTP2_HELLO)
                if not secure.recv(1):
                    raise _Ended(Reach.CLOSED_AFTER_HANDSHAKE, f"{where} closed the connection after the handshake.")
            return presented, secure.selected_alpn_protocol(), secure.version()
    except ssl.SSLCertVerificationError as error:
        raise _Ended(
            Reach.NOT_TRUSTED,
            f"{where} shows a certificate that is not good for {name!r}: {error.verify_message}.",
            _VERIFY_ADVICE.get(error.verify_code),
        ) from error
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise _Ended(Reach.HANDSHAKE_REFUSED, f"{where} ended the handshake: {reason}.") from error
    except TimeoutError as error:
        raise _Ended(Reach.SILENT, f"{where} took the connection and then said nothing for {seconds:g} s.") from error
    except OSError as error:
        raise _Ended(Reach.BROKEN, f"{where} broke the connection in the handshake: {error}.") from error


def clock_ahead(folder: Path, settings: LinkSettings, route: Route, now: datetime, seconds: float) -> timedelta | None:
    """How far this clock is ahead of the coordinator's, which reports it with its health; None if it does not."""
    pem = [(folder / name).read_bytes() for name in (settings.ca, settings.key, settings.certificate)]
    options = [*route.options, *([("grpc.ssl_target_name_override", settings.server_name)] if settings.server_name else [])]
    with proxy.undisturbed():
        dialled = grpc.secure_channel(settings.address, grpc.ssl_channel_credentials(*pem), options=options)
    with dialled as channel:
        try:
            _, call = health_pb2_grpc.HealthStub(channel).Check.with_call(health_pb2.HealthCheckRequest(), timeout=seconds)
            reported = dict(call.initial_metadata()).get(link.CLOCK, "")
            return now - datetime.fromtimestamp(float(reported), UTC)
        except (grpc.RpcError, ValueError, OverflowError):
            return None
