"""Checks of parameters: an invalid one raises a SettingError that names it, its value and what was expected."""

from __future__ import annotations

import math

from limbeck.base.errors import SettingError


def positive(**values: float) -> None:
    """Every value is finite and > 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise SettingError(f"Expected {name} > 0, got {value!r}.")


def at_least(bound: float, **values: float) -> None:
    """Every value is finite and >= bound."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= bound):
            raise SettingError(f"Expected {name} >= {bound:g}, got {value!r}.")


def share(**values: float) -> None:
    """Every value is in (0, 1]."""
    for name, value in values.items():
        if not 0 < value <= 1:
            raise SettingError(f"Expected {name} in (0, 1], got {value!r}.")


def within(low: int, high: int, **values: int) -> None:
    """Every value is an integer in [low, high]."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise SettingError(f"Expected {name} in [{low}, {high}], got {value!r}.")


def fraction(**values: float) -> None:
    """Every value is in [0, 1]."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise SettingError(f"Expected {name} in [0, 1], got {value!r}.")
