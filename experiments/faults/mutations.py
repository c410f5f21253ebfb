"""Turns messages that a peer sends into messages that it might send: flips, splices, wrong lengths, fields moved about."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence

from limbeck.experiments.faults import bombs

# Numbers at which codecs tend to be off by one, and numbers that no field should contain.
NUMBERS = (
    0,
    1,
    2,
    31,
    32,
    33,
    127,
    128,
    255,
    256,
    65535,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 63,
    (1 << 64) - 1,
)
FLOATS = (
    b"\0\0\xc0\x7f",
    b"\0\0\x80\x7f",
    b"\0\0\0\0\0\0\xf8\x7f",
    b"\0\0\0\0\0\0\xf0\xff",
    b"\1" + bytes(7),
    b"\xff" * 8,
    b"\0\0\0\x80",
)
VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5
LONGEST = 1 << 16


class Mutator:
    """Draws mutations, the same ones from the same seed. others: messages to splice with."""

    def __init__(self, seed: str, others: Sequence[bytes]) -> None:
        self.random, self._others = random.Random(seed), others

    def mutate(self, data: bytes) -> bytes:
        """One to four changes, of which those inside protobuf's own structure reach deepest."""
        for _ in range(self.random.choice((1, 1, 1, 2, 2, 3, 4))):
            data = self.random.choice(self._WAYS)(self, data)
        return data[: max(LONGEST, 2 * len(self._others[0]))]

    def _position(self, data: bytes) -> int:
        return self.random.randrange(len(data) + 1)

    def _flip(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.random.choice((1, 1, 2, 8)) if changed else 0):
            changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
        return bytes(changed)

    def _replace(self, data: bytes) -> bytes:
        at = self._position(data)
        new = self.random.choice(
            (self.random.randbytes(self.random.randrange(1, 9)), _varint(self.random.choice(NUMBERS)), *FLOATS)
        )
        return data[:at] + new + data[at + (len(new) if self.random.random() < 0.7 else 0) :]

    def _cut(self, data: bytes) -> bytes:
        start, stop = sorted((self._position(data), self._position(data)))
        return self.random.choice((data[:start], data[:start] + data[stop:], data[start:]))

    def _repeat(self, data: bytes) -> bytes:
        start, stop = sorted((self._position(data), self._position(data)))
        return data[:stop] + data[start:stop] * self.random.choice((1, 2, 7)) + data[stop:]

    def _splice(self, data: bytes) -> bytes:
        other = self.random.choice(self._others)
        start, stop = sorted((self._position(other), self._position(other)))
        at = self._position(data)
        return self.random.choice((data[:at] + other[stop:], data[:at] + other[start:stop] + data[at:], data + other))

    def _lie(self, data: bytes) -> bytes:
        """Change a byte, often a length, by a little or to something far too large."""
        if not data:
            return data
        at = self.random.randrange(min(len(data), 64) if self.random.random() < 0.5 else len(data))
        value = (data[at] + self.random.choice((-1, 1, 2, 64))) % 256
        return data[:at] + self.random.choice((bytes([value]), _varint(self.random.choice(NUMBERS)))) + data[at + 1 :]

    def _restructure(self, data: bytes) -> bytes:
        """Fields dropped, doubled, swapped or given another value, with all lengths around them right."""
        fields = _fields(data)
        if not fields:
            return self._flip(data)
        at = self.random.randrange(len(fields))
        number, kind, value = fields[at]
        match self.random.randrange(8):
            case 0:
                del fields[at]
            case 1:
                fields.insert(self._other_place(fields), fields[at])
            case 2:
                other = self.random.randrange(len(fields))
                fields[at], fields[other] = fields[other], fields[at]
            case 3:
                fields[at] = (self.random.choice((number + 1, number - 1, 15, 1 << 20)) % (1 << 29) or 1, kind, value)
            case 4:
                fields.insert(at, (self.random.randrange(1, 32), VARINT, _varint(self.random.choice(NUMBERS))))
            case _:
                fields[at] = (number, kind, self._other_value(kind, value))
        return b"".join(map(_field, fields))

    def _other_place(self, fields: Sequence[object]) -> int:
        return self.random.randrange(len(fields) + 1)

    def _other_value(self, kind: int, value: bytes) -> bytes:
        if kind == VARINT:
            return _varint(self.random.choice(NUMBERS))
        if kind in (DOUBLE, FLOAT):
            size = 8 if kind == DOUBLE else 4
            return self.random.choice((*(value for value in FLOATS if len(value) == size), self.random.randbytes(size)))
        # Any bytes may be a message.
        return self.random.choice(
            (self._restructure, self._restructure, self._flip, self._cut, self._repeat, self._replace)
        )(value)

    _WAYS: tuple[Callable[[Mutator, bytes], bytes], ...] = (
        _flip,
        _replace,
        _cut,
        _repeat,
        _splice,
        _lie,
        _restructure,
        _restructure,
        _restructure,
    )


def parcel(mutator: Mutator, data: bytes) -> bytes:
    """A mutated Flower message whose hashes are right again, so that what lies behind them is reached: one object is changed, and every
    object that names it names the changed one."""
    fields = _fields(data)
    if not fields or len(fields) < 2:
        return mutator.mutate(data)
    objects = [value for _, _, value in fields[1:]]
    at = mutator.random.randrange(len(objects))
    head, divider, body = objects[at].partition(b"\0")
    changed = mutator.mutate(body) if mutator.random.random() < 0.6 else body
    if changed is body:
        head = mutator.mutate(head)
    elif mutator.random.random() < 0.8:
        head = head.rpartition(b" ")[0] + b" %d" % len(changed)
    replaced = {objects[at]: head + divider + changed}
    for index in range(at, len(objects)):
        old, new = objects[index], replaced.get(objects[index], objects[index])
        for before, after in list(replaced.items()):
            new = new.replace(hashlib.sha256(before).hexdigest().encode(), hashlib.sha256(after).hexdigest().encode())
        replaced[old] = objects[index] = new
    if mutator.random.random() < 0.1:
        mutator.random.shuffle(objects)
    return bombs.parcel(objects)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """Number, wire type and value of each field, the value without its length; empty where these bytes are no message."""
    fields: list[tuple[int, int, bytes]] = []
    at = 0
    try:
        while at < len(data):
            tag, at = _read_varint(data, at)
            start, kind = at, tag & 7
            if kind == VARINT:
                _, at = _read_varint(data, at)
            elif kind == BYTES:
                size, start = _read_varint(data, at)
                at = start + size
            elif kind in (DOUBLE, FLOAT):
                at += 8 if kind == DOUBLE else 4
            else:
                return []
            if at > len(data):
                return []
            fields.append((tag >> 3, kind, data[start:at]))
    except IndexError:
        return []
    return fields


def _field(field: tuple[int, int, bytes]) -> bytes:
    number, kind, value = field
    return _varint(number << 3 | kind) + (_varint(len(value)) if kind == BYTES else b"") + value
