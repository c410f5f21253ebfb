"""A plan's file: the offer that `limbeck plan make` wrote."""

from __future__ import annotations

from pathlib import Path

from limbeck.base.errors import DataError, WireError
from limbeck.protos import codec
from limbeck.protos.messages import Offer


def read(path: Path) -> Offer:
    """The offer in the file at `path`. Raises DataError where it cannot be read or is no plan; the message names the file."""
    try:
        return codec.decode_offer(path.read_bytes())
    except OSError as error:
        raise DataError(f"Expected a plan at {path}: {error.strerror or error}.") from error
    except WireError as error:
        raise DataError(f"Expected a plan in {path}: {error}") from error
