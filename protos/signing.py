"""The author of a plan: Ed25519 signatures over its encoding, and key files.

A signature says whose plan it is, not that it is harmless: a site's policy and ledger decide what it may ask. Raw
public keys (32 bytes) identify authors; a policy lists them in hexadecimal.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from limbeck.base.errors import SettingError, WireError
from limbeck.base.files import check_private, create_private

# Signed together with the plan, so that a signature that the same key made for another purpose is not valid for a plan.
DOMAIN = b"limbeck.v1 plan\x00"
KEY_BYTES, SIGNATURE_BYTES = 32, 64
# edwards25519 (RFC 8032): the prime of the field, and the y coordinates of the eight points whose order divides 8 (1
# has order 1, -1 order 2, 0 order 4, the others order 8). Anybody can make a signature by such a "key", for any
# message.
PRIME = 2**255 - 19
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL_ORDER_Y = frozenset({1, PRIME - 1, 0, _Y8, PRIME - _Y8})


def author_of(key: Ed25519PrivateKey) -> bytes:
    """The public key (32 bytes) that identifies the holder of this private key."""
    return key.public_key().public_bytes_raw()


def sign(key: Ed25519PrivateKey, plan: bytes) -> bytes:
    """The signature (64 bytes) of an encoded plan."""
    return key.sign(DOMAIN + plan)


def check_author(author: bytes) -> None:
    """Check that a public key can belong to one person.

    Raises WireError for a wrong length, a key of small order in any of its encodings, or an encoding that is not
    canonical.
    """
    if len(author) != KEY_BYTES:
        raise WireError(f"Expected an author of {KEY_BYTES} bytes, got {len(author)}.")
    # The highest bit is the sign of x.
    y = int.from_bytes(author, "little") & ((1 << 255) - 1)
    if y >= PRIME or y in SMALL_ORDER_Y:
        raise WireError(f"Expected an Ed25519 public key of large order in its canonical encoding, got {author.hex()}.")


def check(author: bytes, signature: bytes, plan: bytes) -> None:
    """Raise WireError unless `signature` is the author's over this encoded plan."""
    if (len(author), len(signature)) != (KEY_BYTES, SIGNATURE_BYTES):
        raise WireError(
            f"Expected an author of {KEY_BYTES} bytes and a signature of {SIGNATURE_BYTES}, got {len(author)} and {len(signature)}."
        )
    check_author(author)
    try:
        Ed25519PublicKey.from_public_bytes(author).verify(signature, DOMAIN + plan)
    except (InvalidSignature, ValueError):
        raise WireError(f"Expected a plan signed by {author.hex()[:16]}, got a signature that does not fit.") from None


def new_key(path: Path) -> Ed25519PrivateKey:
    """A new private key, written to `path` as PEM (PKCS 8) that only its owner can read.

    Raises SettingError if the file exists.
    """
    key = Ed25519PrivateKey.generate()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    create_private(path, key.private_bytes(*form))
    return key


def read_key(path: Path) -> Ed25519PrivateKey:
    """The private key that `new_key` wrote.

    Raises SettingError if there is none, or if anybody but its owner can read the file.
    """
    try:
        check_private(path)
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except SettingError:
        raise
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingError(f"Expected an Ed25519 private key (PEM) in {path}: {error}.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingError(f"Expected an Ed25519 private key in {path}, got {type(key).__name__}.")
    return key
