"""The codec of the link's frames: bytes in, a checked frame out, or a WireError.

Only it touches their generated code.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from limbeck.base import bounds
from limbeck.base.errors import WireError
from limbeck.base.printable import printable
from limbeck.protos import checks
from limbeck.protos import link_pb2 as pb
from limbeck.protos.link import CHUNK, MAX_FRAME, VERSION, Ack, Announce, Chunk, Finished, Frame, Heartbeat, Hello, Problem

SERVICE = pb.DESCRIPTOR.services_by_name["Link"].full_name
CONNECT = f"/{SERVICE}/Connect"

HASH_BYTES = 32
# Larger than any end allows; each end has its own, lower limit.
MAX_TOTAL = 1 << 40
MAX_HEARTBEAT = 3600
TEXT_LENGTH = 300


def encode_frame(frame: Frame) -> bytes:
    """The bytes of a frame."""
    match frame:
        case Hello():
            message = pb.Frame(
                hello=pb.Hello(version=VERSION, limbeck=frame.limbeck, heartbeat_seconds=frame.heartbeat_seconds)
            )
        case Announce():
            message = pb.Frame(announce=pb.Announce(id=frame.id, total=frame.total, sha256=frame.sha256))
        case Chunk():
            message = pb.Frame(chunk=pb.Chunk(id=frame.id, offset=frame.offset, data=frame.data))
        case Ack():
            message = pb.Frame(ack=pb.Ack(id=frame.id, received=frame.received))
        case Heartbeat():
            message = pb.Frame(heartbeat=pb.Heartbeat())
        case Problem():
            message = pb.Frame(problem=pb.Problem(text=printable(frame.text, TEXT_LENGTH) or "no reason given"))
        case Finished():
            message = pb.Frame(finished=pb.Finished(plan=frame.plan))
    return message.SerializeToString(deterministic=True)


def decode_frame(data: bytes) -> Frame:
    """The frame in `data`. Raises WireError for anything that `encode_frame` would not make."""
    if not 0 < len(data) <= MAX_FRAME:
        raise WireError(f"Expected a frame of 1 to {MAX_FRAME} bytes, got {len(data)}.")
    message = pb.Frame()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"Expected a frame: {error}.") from error
    checks.no_unknown_fields(message)
    frame = _from_pb(message)
    if encode_frame(frame) != data:
        raise WireError("Expected a frame in its canonical encoding, got another.")
    return frame


def _from_pb(message: pb.Frame) -> Frame:
    match message.WhichOneof("kind"):
        case "hello":
            hello = message.hello
            if hello.version != VERSION:
                raise WireError(f"Expected version {VERSION} of the link, got {hello.version}: install the same limbeck.")
            bounds.text("a release", hello.limbeck, 64)
            bounds.whole("heartbeat_seconds", hello.heartbeat_seconds, 0, MAX_HEARTBEAT)
            return Hello(limbeck=hello.limbeck, heartbeat_seconds=hello.heartbeat_seconds)
        case "announce":
            announce = message.announce
            bounds.whole("the length of a hash", len(announce.sha256), HASH_BYTES, HASH_BYTES)
            bounds.whole("the length of a message", announce.total, 1, MAX_TOTAL)
            return Announce(id=_id(announce.id), total=announce.total, sha256=announce.sha256)
        case "chunk":
            chunk = message.chunk
            bounds.whole("the length of a chunk", len(chunk.data), 1, CHUNK)
            bounds.whole("a chunk's offset", chunk.offset, 0, MAX_TOTAL)
            return Chunk(id=_id(chunk.id), offset=chunk.offset, data=chunk.data)
        case "ack":
            bounds.whole("bytes received", message.ack.received, 0, MAX_TOTAL)
            return Ack(id=_id(message.ack.id), received=message.ack.received)
        case "heartbeat":
            return Heartbeat()
        case "problem":
            bounds.text("a problem", message.problem.text, TEXT_LENGTH)
            return Problem(text=message.problem.text)
        case "finished":
            bounds.whole("the length of a plan's hash", len(message.finished.plan), HASH_BYTES, HASH_BYTES)
            return Finished(plan=message.finished.plan)
        case _:
            raise WireError("Expected a frame of some kind, got none.")


def _id(data: bytes) -> bytes:
    bounds.whole("the length of a message id", len(data), HASH_BYTES, HASH_BYTES)
    return data
