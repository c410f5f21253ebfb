"""How a connection to a coordinator's port ended: a closed list, so that nobody has to read it out of a sentence."""

from __future__ import annotations

from enum import Enum


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
