"""Encoded messages into Flower's RecordDict and out of it.

Small messages travel as config bytes; larger ones as one opaque array, the only kind of record that Flower sends in
chunks.
"""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from limbeck.base.errors import WireError

KEY, FIELD, STYPE = "limbeck", "pb", "limbeck.v1"
CONFIG_LIMIT = 1_000_000


def pack(data: bytes) -> RecordDict:
    """A RecordDict that contains `data` and nothing else."""
    if len(data) <= CONFIG_LIMIT:
        return RecordDict({KEY: ConfigRecord({FIELD: data})})
    return RecordDict({KEY: ArrayRecord({FIELD: Array("bytes", (len(data),), STYPE, data)})})


def unpack(record: RecordDict) -> bytes:
    """The bytes that `pack` put in. Raises WireError for anything else."""
    if set(record) != {KEY}:
        raise WireError(f"Expected one record {KEY!r}, got {sorted(record)}.")
    value = record[KEY]
    if not isinstance(value, ConfigRecord | ArrayRecord) or set(value) != {FIELD}:
        raise WireError(f"Expected a record with one field {FIELD!r}, got {type(value).__name__} with {sorted(value)}.")
    content = value[FIELD]
    if isinstance(content, Array):
        if (content.dtype, content.stype) != ("bytes", STYPE):
            raise WireError(f"Expected an array of bytes in {STYPE}, got {content.dtype} in {content.stype}.")
        content = content.data
    if not isinstance(content, bytes) or not content:
        raise WireError(f"Expected bytes, got {type(content).__name__}.")
    return content
