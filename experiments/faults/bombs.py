"""Messages that are small on the wire, and large, deep or slow for a reader that trusts them: one of each kind, by name.

They attack Flower messages as the link carries them (protos/flower_messages.py), at the site and at the coordinator alike. `fuzz`
sends them, and the tests measure what they cost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

from flwr.proto.error_pb2 import Error as ProtoError
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.recorddict_pb2 import ConfigRecord as ProtoConfigRecord
from flwr.proto.recorddict_pb2 import ConfigRecordValue as ProtoValue

from limbeck.protos import carry

SIZE = 1_100_000
# Of a record that has to be small enough for content without chunks.
RECORD = 990_000


def flower_messages() -> Iterator[tuple[str, bytes]]:
    """Bombs of about a megabyte, by name."""
    yield "one chunk named 300,000 times", _array([b"x" * 15_000], SIZE, [0] * 300_000)
    yield "one chunk named as often as an array of its length would", _array([b"x" * 15_000], 1 << 30, [0] * 205)
    yield "an array that says that it is a terabyte", _array([b"x" * SIZE], 1 << 40, [0])
    yield "an array that is shorter than it says", _array([b"x" * SIZE], 2 * SIZE, [0])
    yield "an array of a megabyte of dimensions", _array([b"x" * SIZE], SIZE, [0], shape=[1] * 300_000)
    yield "an array of a megabyte of digits", _array([b"x"], 1, [0], raw=b'{"shape": [' + b"9" * SIZE + b"]}")
    yield "an array of a megabyte of brackets", _array([b"x"], 1, [0], raw=b"[" * SIZE)
    yield "a chunk index beyond all", _array([b"x" * SIZE], SIZE, [999_999])
    yield "half a million empty objects", bytes(_parcel_head(bytes(32))) + b"\x12\x00" * (SIZE // 2)
    yield "an object of 2^63 bytes", bytes(_parcel_head(bytes(32))) + b"\x12" + b"\xff" * 8 + b"\x7f"
    yield "a length without an end", bytes(_parcel_head(bytes(32))) + b"\x12" + b"\xff" * SIZE
    yield "half a million empty fields in a record", _config(b"\x0a\x00" * (RECORD // 2))
    yield "one field of half a million repeated values", _config(_field(b"\x12\x02\x12\x00" * (RECORD // 4)))
    yield "a field of a million numbers", _config(_numbers())
    yield "a field of half a million empty texts", _config(_texts())
    yield "records in records, ten thousand deep", _nested(10_000)
    yield "one record under twenty thousand names", _names(12_000)
    yield "a record that names its message", _cycle()
    yield "a message with a megabyte of metadata", parcel([_object("Message", [], _metadata(group_id="g" * SIZE))])
    yield "an error of a megabyte", parcel([_object("Message", [], _metadata(error=ProtoError(code=8, reason="r" * SIZE)))])
    yield "a head of a megabyte", parcel([b"Message " + b"a" * SIZE + b" 0\0"])
    yield "a head without an end", parcel([b"Message " + b"," * SIZE])


def _object(kind: str, children: Sequence[str], body: bytes) -> bytes:
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


def _id(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parcel_head(object_id: bytes) -> bytes:
    return b"\x0a\x20" + object_id


def parcel(objects: Sequence[bytes]) -> bytes:
    """Objects as the link carries them, the last of which is the message."""
    return _parcel_head(hashlib.sha256(objects[-1]).digest()) + b"".join(_bytes_field(0x12, item) for item in objects)


def _metadata(error: ProtoError | None = None, **fields: str) -> bytes:
    metadata = ProtoMetadata(
        run_id=1,
        src_node_id=1,
        dst_node_id=2,
        ttl=60.0,
        created_at=1.0,
        message_type="query.share",
        src_task_id=1,
        **fields,  # type: ignore[arg-type]
    )
    return ProtoMessage(metadata=metadata, error=error).SerializeToString(deterministic=True)


def _message(objects: list[bytes]) -> bytes:
    """A message around these objects, of which the last is its record."""
    records = _object("RecordDict", [_id(objects[-1])], json.dumps({carry.KEY: _id(objects[-1])}).encode())
    return parcel([*objects, records, _object("Message", [_id(records)], _metadata())])


def _array(
    chunks: list[bytes], size: int, order: list[int], *, shape: list[int] | None = None, raw: bytes | None = None
) -> bytes:
    pieces = [_object("ArrayChunk", [], chunk) for chunk in chunks]
    body = {"dtype": "bytes", "shape": shape or [size], "stype": carry.STYPE, "arraychunk_ids": order}
    array = _object("Array", [_id(piece) for piece in pieces], raw or json.dumps(body).encode())
    record = _object("ArrayRecord", [_id(array)], json.dumps({carry.FIELD: _id(array)}).encode())
    return _message([*pieces, array, record])


def _config(body: bytes) -> bytes:
    return _message([_object("ConfigRecord", [], body)])


def _field(body: bytes) -> bytes:
    """One item of a ConfigRecord around these bytes."""
    return _bytes_field(0x0A, body)


def _bytes_field(tag: int, body: bytes) -> bytes:
    """As protobuf writes it."""
    size, length = len(body), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([tag, *length, size]) + body


def _numbers() -> bytes:
    value = ProtoValue()
    value.sint_list.vals.extend([0] * (RECORD - 100))
    return _record(value)


def _texts() -> bytes:
    value = ProtoValue()
    value.string_list.vals.extend([""] * (RECORD // 2 - 100))
    return _record(value)


def _record(value: ProtoValue) -> bytes:
    return ProtoConfigRecord(items=[ProtoConfigRecord.Item(key=carry.FIELD, value=value)]).SerializeToString()


def _nested(depth: int) -> bytes:
    objects = [_object("ConfigRecord", [], b"")]
    for _ in range(depth):
        objects.append(_object("RecordDict", [_id(objects[-1])], json.dumps({carry.KEY: _id(objects[-1])}).encode()))
    return parcel([*objects, _object("Message", [_id(objects[-1])], _metadata())])


def _names(count: int) -> bytes:
    record = _object("ConfigRecord", [], b"")
    body = json.dumps({str(index): _id(record) for index in range(count)}).encode()
    records = _object("RecordDict", [_id(record)], body)
    return parcel([record, records, _object("Message", [_id(records)], _metadata())])


def _cycle() -> bytes:
    """As near as hashes allow: a record that names, as its own part, the message around it."""
    message_id = bytes(32)
    records = _object("RecordDict", [message_id.hex()], json.dumps({carry.KEY: message_id.hex()}).encode())
    message = _object("Message", [_id(records)], _metadata())
    return _parcel_head(message_id) + _bytes_field(0x12, records) + _bytes_field(0x12, message)
