"""Flower messages as bytes and back, for every carrier of ours: a process boundary, or the link between sites and coordinator.

Flower keeps the identity that a Message needs in a private class: `identify` is the one place that touches it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Protocol, cast

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from limbeck.operators.errors import WireError
from limbeck.protos import checks
from limbeck.protos import link_pb2 as pb

SERVER_NODE = 1
CLIENT_RAISED, CLIENT_CRASHED = 2, 8  # Flower's codes for an app that raised and an app whose process died
# Of a message, its content included.
MAX_OBJECTS = 1 << 16

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
    """The message that `deflate` made bytes of, under its own id."""
    object_id, contents = wire
    message = cast(Message, inflate_object_from_contents(object_id, dict(contents)))
    message.metadata.__dict__["_message_id"] = object_id
    return message


def encode(message: Message) -> bytes:
    """A message as one string of bytes, for `decode`."""
    object_id, contents = deflate(message)
    parcel = pb.Parcel(object_id=bytes.fromhex(object_id), contents=contents.values())
    return parcel.SerializeToString(deterministic=True)


def decode(data: bytes) -> Message:
    """The message in bytes of a peer. Raises WireError on anything that `encode` cannot have made.

    Contents are named by their own hashes here, so none can pass for another.
    """
    parcel = pb.Parcel()
    try:
        parcel.ParseFromString(data)
    except DecodeError as error:
        raise WireError(f"Expected a Flower message: {error}.") from error
    checks.no_unknown_fields(parcel)
    checks.whole("the number of objects in a message", len(parcel.contents), 1, MAX_OBJECTS)
    contents = {hashlib.sha256(content).hexdigest(): content for content in parcel.contents}
    if len(contents) != len(parcel.contents):
        raise WireError("Expected distinct objects in a message, got one twice.")
    object_id = parcel.object_id.hex()
    if object_id not in contents:
        raise WireError(f"Expected the object {object_id[:80]!r} among those of its message, found none.")
    try:
        found = inflate_object_from_contents(object_id, contents)
    except Exception as error:  # Flower's parsers raise whatever they meet
        raise WireError(f"Expected a Flower message, got what cannot be read as one ({type(error).__name__}).") from error
    if contents:
        raise WireError(f"Expected a message of the objects that it needs, got {len(contents)} more.")
    if not isinstance(found, Message):
        raise WireError(f"Expected a Flower message, got a {type(found).__name__}.")
    found.metadata.__dict__["_message_id"] = object_id
    return found


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
