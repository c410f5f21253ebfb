"""Ids and probabilities in few bytes: bit-packed or byte-wide ids, 8-bit logarithmic probabilities.

log8: code 0 is exactly zero; codes 1 to 255 are 2^(-20 (255 - c) / 254), so 255 is 1 and neighbours differ by 5.6 %;
rounding is to the nearest code in log space. The loss was measured as 5e-5 nats, three orders of magnitude below the
disagreement of two clients [D].

Shape legend: N samples, K classes, k kept entries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BITS_BELOW_ONE = 20
LEVELS = 254
# Ids of at most this many bits are packed by words, eight at a time.
WORD_BITS = 8

# The sum of a row's decoded entries lies in this range. Scaled to a mass of 1 and encoded again they then give the same
# codes: no entry moves by half a code step, a factor of 2^(10 / 254) = 1.0277, less half the width of the look-up's
# keys, 2^-10.
MASS = (0.9745, 1.0262)
# A row that is moved ends at least this far inside the range, so that rounding does not matter.
ROOM = 1e-5
MOST_MOVES = 16

_DECODE = np.concatenate([[0.0], 2.0 ** (-BITS_BELOW_ONE * (255 - np.arange(1, 256)) / LEVELS)]).astype(np.float32)
# The top 18 bits of a float32 determine its code to within a third of a code step, so encoding is one look-up.
_SHIFT = 14


def _encoding_table() -> NDArray[np.uint8]:
    """Codes, indexed by the top bits of the float32 patterns from 0 to 1."""
    patterns = (np.arange((0x3F800000 >> _SHIFT) + 1, dtype=np.uint32) << _SHIFT) + (1 << (_SHIFT - 1))
    values = patterns.view(np.float32).astype(np.float64)
    with np.errstate(divide="ignore"):
        codes = np.rint(255 + np.log2(values) * LEVELS / BITS_BELOW_ONE)
    # Below half the smallest level a probability becomes zero, above it the smallest code.
    table: NDArray[np.uint8] = np.where(values < _DECODE[1] / 2, 0, np.clip(codes, 1, 255)).astype(np.uint8)
    return table


_ENCODE = _encoding_table()


def encode_probabilities(p: NDArray[np.float32]) -> NDArray[np.uint8]:
    """log8 codes of probabilities in [0, 1], any shape."""
    clipped = np.clip(p, np.float32(0), np.float32(1))
    return _ENCODE.take(np.ascontiguousarray(clipped).view(np.uint32) >> np.uint32(_SHIFT))


def decode_probabilities(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Probabilities of log8 codes, any shape."""
    return _DECODE.take(codes)


def settle(codes_kN: NDArray[np.uint8], tails_N: NDArray[np.uint8]) -> None:
    """Change codes in place, rows by descending probability, so that every row's mass lies within MASS.

    If all entries of a row are rounded the same way, its mass can be half a code step from 1. Then as few entries as
    necessary move by one code at a time: down, beginning with the smallest, or up, beginning with the largest, which
    keeps their order. An entry of zero stays, and so does one whose step would take the mass too far to the other side.
    """
    mass_N = _DECODE.take(codes_kN).sum(0) + _DECODE.take(tails_N)
    odd = np.flatnonzero((mass_N < MASS[0]) | (mass_N > MASS[1]))
    rows, mass_N = np.concatenate([codes_kN[:, odd], tails_N[None, odd]]), mass_N[odd]
    low, high = MASS[0] + ROOM, MASS[1] - ROOM
    for _ in range(MOST_MOVES):
        if ((mass_N >= low) & (mass_N <= high)).all():
            break
        for codes_N in rows[::-1]:
            _move(codes_N, mass_N, (mass_N > high) & (codes_N > 1), -1)
        for codes_N in rows:
            _move(codes_N, mass_N, (mass_N < low) & (codes_N > 0) & (codes_N < 255), 1)
    codes_kN[:, odd], tails_N[odd] = rows[:-1], rows[-1]


def _move(codes_N: NDArray[np.uint8], mass_N: NDArray[np.float32], which_N: NDArray[np.bool_], by: int) -> None:
    """Move codes by one, and their rows' mass with them, in place, unless that takes the mass past the other bound."""
    moved_N = np.where(which_N, codes_N.astype(np.int16) + by, codes_N).astype(np.uint8)
    mass_after_N = mass_N + _DECODE.take(moved_N) - _DECODE.take(codes_N)
    good_N = mass_after_N >= MASS[0] + ROOM if by < 0 else mass_after_N <= MASS[1] - ROOM
    codes_N[good_N], mass_N[good_N] = moved_N[good_N], mass_after_N[good_N]


def id_bits(classes: int) -> int:
    """Bits of one packed id."""
    return max(1, (classes - 1).bit_length())


def id_bytes(classes: int) -> int:
    """Bytes of one id that is not packed: 1, 2 or 4."""
    return 1 if classes <= 1 << 8 else 2 if classes <= 1 << 16 else 4


def pack_ids(ids: NDArray[np.integer], classes: int) -> bytes:
    """A flat array of ids in [0, classes) as a bit stream, least significant bit first, padded to a whole byte."""
    flat, bits = ids.reshape(-1), id_bits(classes)
    if bits > WORD_BITS:
        stream = np.empty((len(flat), bits), np.uint8)
        for bit in range(bits):
            stream[:, bit] = (flat >> bit) & 1
        return np.packbits(stream, bitorder="little").tobytes()
    # Eight ids fill `bits` whole bytes, which one 64-bit word holds.
    groups = np.zeros((-(-len(flat) // 8), 8), np.uint8)
    groups.reshape(-1)[: len(flat)] = flat
    words = groups[:, 0].astype("<u8")
    for place in range(1, 8):
        words |= groups[:, place].astype("<u8") << np.uint64(bits * place)
    stream = words.view(np.uint8).reshape(-1, 8)[:, :bits]
    return stream.tobytes()[: packed_size(len(flat), classes)]


def unpack_ids(data: bytes, count: int, classes: int) -> NDArray[np.unsignedinteger]:
    """`count` ids from a bit stream. Raises ValueError for a wrong length or padding that is not zero."""
    bits = id_bits(classes)
    if len(data) != packed_size(count, classes):
        raise ValueError(f"Expected {packed_size(count, classes)} bytes of packed ids, got {len(data)}.")
    if bits > WORD_BITS:
        stream = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")
        padding = stream[count * bits :]
        entries = stream[: count * bits].reshape(count, bits)
        ids = np.zeros(count, f"<u{id_bytes(classes)}")
        for bit in range(bits):
            ids |= entries[:, bit].astype(ids.dtype) << ids.dtype.type(bit)
    else:
        packed = np.zeros((-(-count // 8), 8), np.uint8)
        packed[:, :bits] = np.frombuffer(data.ljust(len(packed) * bits, b"\0"), np.uint8).reshape(-1, bits)
        words = packed.view("<u8")[:, 0]
        groups = np.empty((len(words), 8), np.uint8)
        for place in range(8):
            groups[:, place] = (words >> np.uint64(bits * place)) & np.uint64((1 << bits) - 1)
        ids, padding = groups.reshape(-1)[:count], groups.reshape(-1)[count:]
    if padding.any():
        raise ValueError("Expected zero bits after the last packed id.")
    return ids


def packed_size(count: int, classes: int) -> int:
    """Bytes of `count` packed ids."""
    return (count * id_bits(classes) + 7) // 8


def narrow_ids(data: bytes, count: int, classes: int) -> NDArray[np.unsignedinteger]:
    """`count` ids from little-endian unsigned integers. Raises ValueError for a wrong length."""
    width = id_bytes(classes)
    if len(data) != count * width:
        raise ValueError(f"Expected {count * width} bytes of ids, got {len(data)}.")
    return np.frombuffer(data, dtype=f"<u{width}")
