"""A signature is by one person: keys of small order, for which anybody can sign, are refused wherever a key is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from helpers import sites
from limbeck.base.errors import SettingError, WireError
from limbeck.client import policy
from limbeck.protos import codec, signing
from limbeck.protos import limbeck_pb2 as pb

# An oracle of its own: edwards25519 by its definition (RFC 8032, section 5.1), in Python's integers.
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]
IDENTITY: Point = (0, 1)


def add(a: Point, b: Point) -> Point:
    (x1, y1), (x2, y2) = a, b
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    return x, (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P


def times(n: int, point: Point) -> Point:
    total = IDENTITY
    for bit in bin(n)[2:]:
        total = add(total, total)
        total = add(total, point) if bit == "1" else total
    return total


def decoded(key: bytes) -> Point | None:
    """The point of an encoding, canonical or not; None where there is none."""
    number = int.from_bytes(key, "little")
    sign, y = number >> 255, (number & ((1 << 255) - 1)) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    return (x if x & 1 == sign or x == 0 else P - x), y


# Encodings of the eight points of small order, with y below and above the prime, as in the blocklists of other libraries.
SMALL = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
# Each with both signs of x.
KEYS = [bytes.fromhex(encoded[:-2]) + bytes([int(encoded[-2:], 16) | sign]) for encoded in SMALL for sign in (0, 0x80)]


def test_the_vectors_are_all_encodings_of_the_points_whose_order_divides_8() -> None:
    points = {decoded(key) for key in KEYS}
    assert None not in points
    assert len(points) == 8
    assert all(times(8, point) == IDENTITY for point in points if point is not None)


@pytest.mark.parametrize("key", KEYS, ids=bytes.hex)
def test_a_key_of_small_order_is_refused_in_offers_and_in_policies(key: bytes, tmp_path: Path) -> None:
    with pytest.raises(WireError, match="Ed25519 public key of large order"):
        signing.check_author(key)
    message = pb.Request.FromString(codec.encode_request(sites.offer()))
    message.offer.author = key
    with pytest.raises(WireError, match="Ed25519 public key of large order"):
        codec.decode_request(message.SerializeToString(deterministic=True))
    (tmp_path / "policy.toml").write_text(tomli_w.dumps(sites.rules(plans__authors=[key.hex()])))
    with pytest.raises(SettingError, match="an Ed25519 public key of large order"):
        policy.read(tmp_path / "policy.toml")


def test_what_anybody_can_sign_for_a_key_of_small_order_is_no_signature() -> None:
    """The identity as key and as R, and S = 0: R + h A = S B for every message, and the library lets it through."""
    key = bytes.fromhex(SMALL[1])
    signature = key + bytes(32)
    offer = sites.offer()
    with pytest.raises(WireError, match="large order"):
        codec.encode_request(replace(offer, author=key, signature=signature))


@pytest.mark.parametrize("y", [P + offset for offset in range(19)])
def test_a_second_encoding_of_a_key_is_refused(y: int) -> None:
    with pytest.raises(WireError, match="canonical"):
        signing.check_author(y.to_bytes(32, "little"))


def test_keys_that_somebody_holds_are_accepted() -> None:
    for seed in range(20):
        key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        signing.check_author(signing.author_of(key))
        signing.check(signing.author_of(key), signing.sign(key, b"a plan"), b"a plan")


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), b"\x02" + bytes(31)])
def test_a_key_that_is_no_point_or_has_another_length_is_refused(key: bytes) -> None:
    with pytest.raises(WireError, match="Expected"):
        signing.check(key, bytes(64), b"a plan")
