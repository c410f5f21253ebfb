"""Flower messages to bytes and back, for a process boundary and for the link between sites and coordinator.

Flower keeps the identity that a Message needs in a private class; only `identify` touches it.
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
# Bytes around content: of a message with its metadata and its two records, and of every chunk.
AROUND_MESSAGE, AROUND_CHUNK = 1 << 13, 1 << 8
# The longest reason of an error, in characters.
REASON_LENGTH = 300
# In seconds; a larger number is not a time.
LONGEST_TIME = 1e12
# A parcel's fields as protobuf writes them, and the field of a ConfigRecord.
ID_BYTES = 32
OBJECT_ID_TAG, CONTENT_TAG, ITEM_TAG = b"\x0a\x20", 0x12, 0x0A
MAX_VARINT = 6
# The longest head of an object: its kind, one id, a length. An array has one id per chunk there, and few chunks.
LONGEST_HEAD = 1 << 18
_ARRAY = re.compile(
    rb'\{"dtype": "bytes", "shape": \[([0-9]{1,13})\], "stype": "%s", "arraychunk_ids": \[([0-9]{1,6}(?:, [0-9]{1,6})*)\]\}'
    % re.escape(carry.STYPE).encode()
)

Wire = tuple[str, dict[str, bytes]]


def identify(node_id: int, run_id: int) -> None:
    """Tell Flower which node this process acts for; without it no Message can be made."""
    TaskIdentity.task_id = 1
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id


def node_of(site: str) -> int:
    """The node id of the site of this name: the same in every run and at both ends."""
    # Flower's ids have 64 bits; the lowest are reserved, such as SERVER_NODE.
    return int.from_bytes(hashlib.sha256(site.encode()).digest()[:8]) >> 1 | 1 << 62


def name_by_content(message: Message) -> str:
    """Give a message its id, the hash of its content, and return it."""
    with no_object_id_recompute():
        message_id = message.object_id
    message.metadata.__dict__["_message_id"] = message_id
    return message_id


def deflate(message: Message) -> Wire:
    """A message as bytes: its object id, and the content of every nested object by id."""
    # Otherwise Flower would hash nested objects again at every access, about twenty times per message.
    with no_object_id_recompute():
        objects = get_all_nested_objects(cast(InflatableObject, message))
        return message.object_id, {object_id: item.deflate() for object_id, item in objects.items()}


def inflate(wire: Wire) -> Message:
    """The message that `deflate` turned into bytes, under its own id.

    Only for bytes from another process of the same user, never from a peer.
    """
    object_id, contents = wire
    message = cast(Message, inflate_object_from_contents(object_id, dict(contents)))
    message.metadata.__dict__["_message_id"] = object_id
    return message


def encode(message: Message) -> bytes:
    """A message as one byte string, for `decode`."""
    object_id, contents = deflate(message)
    parcel = pb.Parcel(object_id=bytes.fromhex(object_id), contents=contents.values())
    return parcel.SerializeToString(deterministic=True)


def error_reply(question: bytes, node: int, code: int, reason: str) -> Message:
    """A reply which says that no answer will come, and why, in public words.

    - question: the id of the message that it answers, which need not be decoded for that.
    - node: the node whose reply it is.
    - code: one of Flower's error codes.
    """
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
    """The largest number of bytes of an encoded message with this much content."""
    return content + AROUND_MESSAGE + AROUND_CHUNK * _chunks(content)


def decode(data: bytes, *, limit: int) -> Message:
    """The message in a peer's bytes, with at most `limit` bytes of content.

    Flower's own parsers trust what they read: an array may name one chunk a million times. So they never read a peer's
    bytes. What limbeck sends has one shape, an error or one record with one field (carry.py), and its objects come in
    one order, each after those that it is made of. Content is cut out of that shape, with every length known before
    anything is copied; then the message is built again, and has to consist of exactly the same objects, by their
    hashes.

    Raises WireError for anything that `encode` cannot have made.
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
    """The id of a parcel's message and the contents of its objects, 1 to `most`, without a copy.

    protobuf's parser is not used: an empty object takes two bytes here, but many times that in a parser.
    """
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
    """A length, and the position after it."""
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
    """The body of an object of this kind, at most `most` bytes."""
    end = bytes(piece[:LONGEST_HEAD]).find(HEAD_BODY_DIVIDER)
    if end < 0 or not bytes(piece[:end]).startswith(kind.encode() + b" "):
        raise WireError(f"Expected an object of kind {kind}, got another.")
    body = piece[end + 1 :]
    if len(body) > most:
        raise WireError(f"Expected at most {most} bytes in an object of kind {kind}, got {len(body)}.")
    return body


def _head(piece: memoryview) -> tuple[Metadata, Error | None]:
    """A message's metadata, and its error if it is one."""
    try:
        message = ProtoMessage.FromString(bytes(_body(piece, "Message", AROUND_MESSAGE // 2)))
        metadata = metadata_from_proto(message.metadata)
    except (DecodeError, ValueError) as error:
        raise WireError(f"Expected a Flower message's metadata, got something else ({type(error).__name__}).") from error
    for name in ("created_at", "ttl"):
        bounds.real(f"a message's {name}", getattr(metadata, name), -LONGEST_TIME, LONGEST_TIME)
    if not message.HasField("error"):
        return metadata, None
    if message.error.reason:
        bounds.text("the reason of an error", message.error.reason, REASON_LENGTH)
    return metadata, error_from_proto(message.error)


def _content(objects: list[memoryview], limit: int) -> bytes:
    """The bytes that `carry.pack` put into these objects, which come before their message."""
    if len(objects) == 2:
        return _from_config(objects[0], limit)
    if len(objects) < 4:
        raise WireError(f"Expected a message of one record, got {len(objects)} objects in it.")
    *chunks, array, _, _ = objects
    head = _ARRAY.fullmatch(bytes(_body(array, "Array", AROUND_MESSAGE // 2 + AROUND_CHUNK * _chunks(limit))))
    if head is None:
        raise WireError(f"Expected an array of bytes in {carry.STYPE}, got another.")
    size, order = int(head[1]), [int(index) for index in head[2].split(b", ")]
    bounds.whole("the length of content", size, 1, limit)
    bounds.whole("the number of chunks", len(order), _chunks(size), _chunks(size))
    bounds.whole("a chunk's index", max(order), 0, len(chunks) - 1)
    parts = [_body(chunks[index], "ArrayChunk", FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE) for index in order]
    if sum(map(len, parts)) != size:
        raise WireError(f"Expected chunks of {size} bytes in all, got {sum(map(len, parts))}.")
    return b"".join(parts)


def _from_config(piece: memoryview, limit: int) -> bytes:
    body = _body(piece, "ConfigRecord", min(limit, carry.CONFIG_LIMIT) + AROUND_CHUNK)
    # Checked before it is parsed: one item and nothing after it, since an empty item takes only two bytes.
    if len(body) < 2 or body[0] != ITEM_TAG or sum(_varint(body, 1)) != len(body):
        raise WireError("Expected a record of one field, got another.")
    try:
        content = ProtoConfigRecord.FromString(bytes(body)).items[0].value.bytes
    except (DecodeError, ValueError) as error:
        raise WireError("Expected a record of one field, got something that cannot be parsed.") from error
    bounds.whole("the length of content", len(content), 1, min(limit, carry.CONFIG_LIMIT))
    return content


class Waiting(Protocol):
    """A Grid that can wait for replies."""

    def wait(self, seconds: float) -> None:
        """Wait until a reply arrives, at most this long."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages that have arrived."""


def collect(grid: Waiting, message_ids: Iterable[str], timeout: float | None) -> tuple[list[Message], set[str]]:
    """Replies, until all have arrived or `timeout` seconds have passed, and the ids of the messages without a reply."""
    missing = set(message_ids)
    deadline = None if timeout is None else time.monotonic() + timeout
    replies: list[Message] = []
    while missing and (deadline is None or time.monotonic() < deadline):
        grid.wait(0.5 if deadline is None else max(0.0, min(0.5, deadline - time.monotonic())))
        for reply in grid.pull_messages(missing):
            missing.discard(reply.metadata.reply_to_message_id)
            replies.append(reply)
    return replies, missing
