"""Flower messages as bytes and back, for every carrier of ours: a process boundary, or the link between sites and coordinator.

Flower keeps the identity that a Message needs in a private class: `identify` is the one place that touches it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from typing import Protocol, cast

from flwr.app import Error, Message, MessageType
from flwr.app.constants import DEFAULT_TTL
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
from flwr.common.serde_utils import error_from_proto, metadata_from_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import ConfigRecord as ProtoConfigRecord
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from limbeck.base import bounds
from limbeck.base.errors import WireError
from limbeck.protos import carry
from limbeck.protos import link_pb2 as pb

SERVER_NODE = 1
CLIENT_RAISED, CLIENT_CRASHED = 2, 8  # Flower's codes for an app that raised and an app whose process died
# Bytes that surround content: a message with its metadata and its two records, and every chunk.
AROUND_MESSAGE, AROUND_CHUNK = 1 << 13, 1 << 8
# Of the reason of an error, in characters.
REASON_LENGTH = 300
# Seconds; anything beyond is no time.
LONGEST_TIME = 1e12
# A parcel's fields as protobuf writes them, and the field of a ConfigRecord.
ID_BYTES = 32
OBJECT_ID_TAG, CONTENT_TAG, ITEM_TAG = b"\x0a\x20", 0x12, 0x0A
MAX_VARINT = 6
# Of an object, up to its body: its kind, one id, a length. An array has one id per chunk there, of which it has few.
LONGEST_HEAD = 1 << 18
_ARRAY = re.compile(
    rb'\{"dtype": "bytes", "shape": \[([0-9]{1,13})\], "stype": "%s", "arraychunk_ids": \[([0-9]{1,6}(?:, [0-9]{1,6})*)\]\}'
    % re.escape(carry.STYPE).encode()
)

Wire = tuple[str, dict[str, bytes]]


def identify(node_id: int, run_id: int) -> None:
    """Tell Flower which node this process speaks for; without it no Message can be made."""
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id


def node_of(site: str) -> int:
    """The node id of a site of this name: the same in every run, and at both ends."""
    # Flower's ids are 64 bits; the lowest ones mean others, such as SERVER_NODE.
    return int.from_bytes(hashlib.sha256(site.encode()).digest()[:8]) >> 1 | 1 << 62


def name_by_content(message: Message) -> str:
    """Give a message its id, the hash of what is in it, and return that."""
    with no_object_id_recompute():
        message_id = message.object_id
    message.metadata.__dict__["_message_id"] = message_id
    return message_id


def deflate(message: Message) -> Wire:
    """A message as bytes: its object id, and the content of every nested object by id."""
    # Otherwise Flower hashes what is nested anew for every question about it, a score of times a message.
    with no_object_id_recompute():
        objects = get_all_nested_objects(cast(InflatableObject, message))
        return message.object_id, {object_id: item.deflate() for object_id, item in objects.items()}


def inflate(wire: Wire) -> Message:
    """The message that `deflate` made bytes of, under its own id: in another process of this machine's own user, not from a peer."""
    object_id, contents = wire
    message = cast(Message, inflate_object_from_contents(object_id, dict(contents)))
    message.metadata.__dict__["_message_id"] = object_id
    return message


def encode(message: Message) -> bytes:
    """A message as one string of bytes, for `decode`."""
    object_id, contents = deflate(message)
    parcel = pb.Parcel(object_id=bytes.fromhex(object_id), contents=contents.values())
    return parcel.SerializeToString(deterministic=True)


def error_reply(question: bytes, node: int, code: int, reason: str) -> Message:
    """A reply that no answer will come, and why in public words. question: id of the message that it answers, which need not be read for
    that. node: whose reply it is."""
    metadata = Metadata(
        run_id=0,
        message_id="",
        src_node_id=node,
        dst_node_id=SERVER_NODE,
        reply_to_message_id=question.hex(),
        group_id="",
        created_at=time.time(),
        ttl=DEFAULT_TTL,
        message_type=MessageType.QUERY,
    )
    return make_message(metadata, error=Error(code, reason))


def encoded_at_most(content: int) -> int:
    """Bytes that a message of this much content takes at most when it is encoded."""
    return content + AROUND_MESSAGE + AROUND_CHUNK * _chunks(content)


def decode(data: bytes, *, limit: int) -> Message:
    """The message in bytes of a peer, with at most `limit` bytes of content. Raises WireError on anything that `encode` cannot have made.

    Flower's own parsers trust what they read: an array may name one chunk a million times. So they get nothing of a peer's to read. What
    limbeck sends has one shape, an error or one record with one field (carry.py), and its objects come in one order, each after those
    that it is made of. Content is cut out of that shape, with every length known before anything is copied; then the message is
    made anew, and has to consist of the very same objects, by their hashes.
    """
    if len(data) > encoded_at_most(limit):
        raise WireError(f"Expected a message of at most {encoded_at_most(limit)} bytes, got {len(data)}.")
    object_id, objects = _split(data, 4 + _chunks(limit))
    metadata, error = _head(objects[-1])
    content = None if len(objects) == 1 else _content(objects[:-1], limit)
    if (content is None) != (error is not None):
        raise WireError("Expected a message with content or an error, got both or neither.")
    message = make_message(metadata, carry.pack(content) if content is not None else None, error)
    with no_object_id_recompute():
        expected = list(get_all_nested_objects(cast(InflatableObject, message)))
    if [hashlib.sha256(piece).hexdigest() for piece in objects] != expected or object_id.hex() != expected[-1]:
        raise WireError("Expected the canonical encoding of a Flower message, got another.")
    message.metadata.__dict__["_message_id"] = expected[-1]
    return message


def _chunks(content: int) -> int:
    return -(-content // FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE)


def _split(data: bytes, most: int) -> tuple[bytes, list[memoryview]]:
    """The id of a parcel's message and the contents of its objects, 1 to `most`, without a copy: an empty object takes two bytes here, and
    many times that in a parser."""
    if data[:2] != OBJECT_ID_TAG or len(data) < 2 + ID_BYTES:
        raise WireError("Expected a parcel that begins with the id of its message, got another.")
    objects: list[memoryview] = []
    view, position = memoryview(data), 2 + ID_BYTES
    while position < len(data):
        if data[position] != CONTENT_TAG or len(objects) == most:
            raise WireError(f"Expected a parcel of at most {most} objects, got more, or another field.")
        size, position = _varint(view, position + 1)
        if position + size > len(data):
            raise WireError(f"Expected {size} bytes of an object, got {len(data) - position}.")
        objects.append(view[position : position + size])
        position += size
    if not objects:
        raise WireError("Expected a parcel of at least one object, got none.")
    return data[2 : 2 + ID_BYTES], objects


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """A length, and the position behind it."""
    value = 0
    for index in range(MAX_VARINT):
        if position + index >= len(view):
            break
        byte = view[position + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, position + index + 1
    raise WireError(f"Expected a length of at most {MAX_VARINT} bytes, got one without an end.")


def _body(piece: memoryview, kind: str, most: int) -> memoryview:
    """What an object of this kind holds, at most so many bytes, behind its head."""
    end = bytes(piece[:LONGEST_HEAD]).find(HEAD_BODY_DIVIDER)
    if end < 0 or not bytes(piece[:end]).startswith(kind.encode() + b" "):
        raise WireError(f"Expected an object of kind {kind}, got another.")
    body = piece[end + 1 :]
    if len(body) > most:
        raise WireError(f"Expected at most {most} bytes in an object of kind {kind}, got {len(body)}.")
    return body


def _head(piece: memoryview) -> tuple[Metadata, Error | None]:
    """What a message says of itself, and the error that it may be."""
    try:
        found = ProtoMessage.FromString(bytes(_body(piece, "Message", AROUND_MESSAGE // 2)))
        metadata = metadata_from_proto(found.metadata)
    except (DecodeError, ValueError) as error:
        raise WireError(f"Expected a Flower message's metadata, got others ({type(error).__name__}).") from error
    for name in ("created_at", "ttl"):
        bounds.real(f"a message's {name}", getattr(metadata, name), -LONGEST_TIME, LONGEST_TIME)
    if not found.HasField("error"):
        return metadata, None
    if found.error.reason:
        bounds.text("the reason of an error", found.error.reason, REASON_LENGTH)
    return metadata, error_from_proto(found.error)


def _content(objects: list[memoryview], limit: int) -> bytes:
    """The bytes that `carry.pack` put into these objects, which stand before their message."""
    if len(objects) == 2:
        return _from_config(objects[0], limit)
    if len(objects) < 4:
        raise WireError(f"Expected a message of one record, got {len(objects)} objects in it.")
    *chunks, array, _, _ = objects
    found = _ARRAY.fullmatch(bytes(_body(array, "Array", AROUND_MESSAGE // 2 + AROUND_CHUNK * _chunks(limit))))
    if found is None:
        raise WireError(f"Expected an array of bytes in {carry.STYPE}, got another.")
    size, order = int(found[1]), [int(index) for index in found[2].split(b", ")]
    bounds.whole("the length of content", size, 1, limit)
    bounds.whole("the number of chunks", len(order), _chunks(size), _chunks(size))
    bounds.whole("a chunk's index", max(order), 0, len(chunks) - 1)
    parts = [_body(chunks[index], "ArrayChunk", FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE) for index in order]
    if sum(map(len, parts)) != size:
        raise WireError(f"Expected chunks of {size} bytes in all, got {sum(map(len, parts))}.")
    return b"".join(parts)


def _from_config(piece: memoryview, limit: int) -> bytes:
    body = _body(piece, "ConfigRecord", min(limit, carry.CONFIG_LIMIT) + AROUND_CHUNK)
    # One item and nothing behind it, before it is parsed: two bytes make an empty one.
    if len(body) < 2 or body[0] != ITEM_TAG or sum(_varint(body, 1)) != len(body):
        raise WireError("Expected a record of one field, got another.")
    try:
        content = ProtoConfigRecord.FromString(bytes(body)).items[0].value.bytes
    except (DecodeError, ValueError) as error:
        raise WireError("Expected a record of one field, got what cannot be read as one.") from error
    bounds.whole("the length of content", len(content), 1, min(limit, carry.CONFIG_LIMIT))
    return content


class Waiting(Protocol):
    """A Grid that can be waited on."""

    def wait(self, seconds: float) -> None:
        """Sleep until a reply comes, at most this long."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that have come to these messages."""


def collect(grid: Waiting, message_ids: Iterable[str], timeout: float | None) -> tuple[list[Message], set[str]]:
    """Replies until all are there or `timeout` seconds have passed, and the messages that have none then."""
    missing = set(message_ids)
    deadline = None if timeout is None else time.monotonic() + timeout
    replies: list[Message] = []
    while missing and (deadline is None or time.monotonic() < deadline):
        grid.wait(0.5 if deadline is None else max(0.0, min(0.5, deadline - time.monotonic())))
        for reply in grid.pull_messages(missing):
            missing.discard(reply.metadata.reply_to_message_id)
            replies.append(reply)
    return replies, missing
