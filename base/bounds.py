"""Checks of single values in a message: an invalid one raises a WireError that names the field, its value and what was expected."""

from __future__ import annotations

import math
from enum import Enum
from typing import TypeVar

from limbeck.base.errors import WireError

E = TypeVar("E", bound=Enum)


def text(name: str, value: str, limit: int) -> None:
    """1 to `limit` printable characters."""
    if not (0 < len(value) <= limit and value.isprintable()):
        raise WireError(f"Expected {name} of 1 to {limit} printable characters, got {value[:80]!r}.")


def whole(name: str, value: int, low: int, high: int) -> None:
    """An integer in [low, high]."""
    if not low <= value <= high:
        raise WireError(f"Expected {name} in [{low}, {high}], got {value}.")


def real(name: str, value: float, low: float, high: float, *, open_below: bool = False, open_above: bool = False) -> None:
    """A finite number between low and high, and not -0.0, which equals 0.0 and has another encoding, so another hash."""
    inside = (value > low if open_below else value >= low) and (value < high if open_above else value <= high)
    if not (math.isfinite(value) and inside) or (value == 0 and math.copysign(1, value) < 0):
        brackets = "(["[not open_below], ")]"[not open_above]
        raise WireError(f"Expected {name} in {brackets[0]}{low:g}, {high:g}{brackets[1]}, got {value!r}.")


def enum(name: str, kind: type[E], value: str) -> E:
    """The member of `kind` with this value."""
    try:
        return kind(value)
    except ValueError:
        raise WireError(f"Expected {name} out of {', '.join(item.value for item in kind)}, got {value[:80]!r}.") from None


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """One of a closed list of names."""
    if value not in known:
        raise WireError(f"Expected {name} out of {', '.join(known)}, got {value[:80]!r}.")
