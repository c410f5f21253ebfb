"""What a sweep runs: every point of a grid of settings, each for the same seeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from limbeck.base.errors import SettingError
from limbeck.simulations.scenario import Scenario, load

EPSILON = "privacy.epsilon"
# The value of EPSILON that stands for a run without privacy.
NO_PRIVACY = "none"
SEED = "run.seed"
# A sweep measures the student. A control beside every one would take as long as the student itself; who wants it overrides this.
WITHOUT_CONTROL = "student.dense_control=false"
MOST_SEEDS = 1000


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting, and the values that it takes, as they were written."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One point of the grid: the value of each swept setting, as it was written."""

    settings: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Such as "privacy.epsilon=1, partition.clients=4"."""
        return ", ".join(f"{key}={value}" for key, value in self.settings) or "as it is"

    @property
    def without_privacy(self) -> bool:
        """Whether this is a baseline, computed outside the protocol."""
        return (EPSILON, NO_PRIVACY) in self.settings

    @property
    def folder(self) -> str:
        """A name for its folder, for every file system: the name itself if that is plain, else with a part of its hash."""
        plain = re.sub(r"[^A-Za-z0-9._=-]+", "-", self.name.replace(", ", "+"))[:100]
        return plain if plain == self.name else f"{plain}-{sha256(self.name.encode()).hexdigest()[:6]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One run that a sweep consists of. scenario: all its settings; a baseline keeps the epsilon of the scenario, which it ignores."""

    cell: Cell
    seed: int
    scenario: Scenario

    @property
    def name(self) -> str:
        """Such as "privacy.epsilon=1, seed 2"."""
        return f"{self.cell.name}, seed {self.seed}"

    def folder(self, sweep: Path) -> Path:
        """Its folder within that of the sweep."""
        return sweep / "runs" / self.cell.folder / f"seed-{self.seed}"


def axis(text: str) -> Axis:
    """An axis from "privacy.epsilon=1,3,8". Raises SettingError."""
    key, equals, values = (part.strip() for part in text.partition("="))
    found = tuple(value.strip() for value in _split(values))
    if not equals or not key or not found or not all(found):
        raise SettingError(f"Expected a setting and its values such as privacy.epsilon=1,3,8, got {text!r}.")
    if key == SEED:
        raise SettingError(f"Expected the seeds in --seeds, which all cells share, got --over {text}.")
    if NO_PRIVACY in found and key != EPSILON:
        raise SettingError(f"Expected the value {NO_PRIVACY!r} for {EPSILON} only, got {text!r}.")
    if len(set(found)) != len(found):
        raise SettingError(f"Expected different values of {key}, got {values}.")
    return Axis(key, found)


def _split(text: str) -> Iterator[str]:
    """The parts between commas, but for commas within brackets or quotes."""
    part, depth, quote = "", 0, ""
    for character in text:
        if character == "," and not depth and not quote:
            yield part
            part = ""
            continue
        part += character
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        else:
            depth += (character == "[") - (character == "]")
    yield part


def seeds(text: str) -> tuple[int, ...]:
    """Seeds from "5", which is 1 to 5, or from a list such as "3,8,13". Raises SettingError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise SettingError(f"Expected a number of seeds, or seeds separated by commas, got {text!r}.")
    numbers = [int(part) for part in parts]
    found = tuple(range(1, min(numbers[0], MOST_SEEDS + 1) + 1)) if len(numbers) == 1 else tuple(numbers)
    if not found or len(found) > MOST_SEEDS or len(set(found)) != len(found):
        raise SettingError(f"Expected 1 to {MOST_SEEDS} different seeds, got {text!r}.")
    return found


def grid(axes: Sequence[Axis]) -> tuple[Cell, ...]:
    """Every point, the last axis turning fastest. Raises SettingError if a setting is swept twice."""
    keys = [axis.key for axis in axes]
    if len(set(keys)) != len(keys):
        raise SettingError(f"Expected each setting once, got {', '.join(keys)}; one --over takes several values.")
    return tuple(
        Cell(tuple(zip(keys, values, strict=True))) for values in itertools.product(*(axis.values for axis in axes))
    )


def plan(which: str, set_: Sequence[str], axes: Sequence[Axis], seeds: Sequence[int]) -> tuple[Planned, ...]:
    """All runs of a sweep, the first seed of every cell first, so that a sweep that is stopped early has seen the whole grid.

    - which: a scenario's name, or the path of a TOML file.
    - set_: overrides for all runs.

    Raises: SettingError, before anything runs, if a point of the grid is no scenario, or if two are the same.
    """
    cells = grid(axes)
    planned = tuple(
        Planned(cell=cell, seed=seed, scenario=_scenario(which, set_, cell, seed)) for seed in seeds for cell in cells
    )
    known: dict[tuple[bool, str], str] = {}
    for each in planned:
        same = known.setdefault((each.cell.without_privacy, each.scenario.model_dump_json()), each.name)
        if same != each.name:
            raise SettingError(f"Expected cells that differ, got {same!r} and {each.name!r}, which are the same run.")
        if each.cell.without_privacy and (each.scenario.black_box.sites or each.scenario.teacher.kind == "votes"):
            raise SettingError(
                f"{EPSILON}={NO_PRIVACY}: expected teachers that limbeck trains at every site, got"
                f" black_box.sites = {each.scenario.black_box.sites} and teacher.kind = {each.scenario.teacher.kind!r}."
            )
    return planned


def _scenario(which: str, set_: Sequence[str], cell: Cell, seed: int) -> Scenario:
    swept = [f"{key}={value}" for key, value in cell.settings if (key, value) != (EPSILON, NO_PRIVACY)]
    try:
        return load(which, [WITHOUT_CONTROL, *set_, *swept, f"{SEED}={seed}"])
    except SettingError as error:
        raise SettingError(f"{cell.name}: {error}" if cell.settings else str(error)) from None
