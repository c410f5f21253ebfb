"""What is compared in one command: a scenario, what is varied in it, and which methods run on every cell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field

from limbeck.base.errors import SettingError
from limbeck.base.settings import Strict, read_toml, validate
from limbeck.experiments.baselines import methods
from limbeck.experiments.baselines.limbeck_runs import EVIDENCE, Teachers
from limbeck.experiments.baselines.methods import Method
from limbeck.simulations.scenario import Scenario, load

SUITES = Path(__file__).with_name("suites.toml")
EVERYTHING, QUICK = "full", "quick"
# Settings are chosen on seeds that are never reported.
FIRST_CHOICE_SEED = 101

T = TypeVar("T")


class CellSettings(Strict):
    """One cell: what people call it, where it stands on the axis if the axis has numbers, and what it sets in the scenario."""

    name: str
    at: float | None = None
    set: tuple[str, ...] = ()


class SuiteSettings(Strict):
    """A suite.

    - scenario: a shipped scenario.
    - axis: what varies from cell to cell, in words.
    - set: for all cells.
    - linear: what puts linear heads in the place of a scenario's evidence; without it, the methods that have them are left out.
    - cells: in order.
    - methods: names; all by default.
    - seeds: how many, from 1 on.
    - choice_seeds: on how many other seeds settings are chosen.
    """

    description: str
    scenario: str
    axis: str
    set: tuple[str, ...] = ()
    linear: tuple[str, ...] = ()
    cells: Annotated[tuple[CellSettings, ...], Field(min_length=1)]
    methods: tuple[str, ...] = tuple(methods.ALL)
    seeds: Annotated[int, Field(ge=1)] = 5
    choice_seeds: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One column of a suite. settings: overrides of the scenario; linear: further ones, by which its teachers become linear heads."""

    name: str
    at: float | None
    scenario: str
    settings: tuple[str, ...]
    linear: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Its name for every file system."""
        return re.sub(r"[^A-Za-z0-9._=-]+", "-", self.name.replace("ε", "epsilon"))

    def taught_by(self, teachers: Teachers | None) -> Cell:
        """The same with other teachers, under another name; itself with None, which are its own."""
        if teachers is None:
            return self
        settings = {"evidence": EVIDENCE, "linear": self.linear}[teachers]
        return replace(self, name=f"{self.name}, {teachers}", settings=(*self.settings, *settings))

    def loaded(self, seed: int) -> Scenario:
        """The scenario of one seed. Raises SettingError if the cell is none."""
        return load(self.scenario, [*self.settings, f"run.seed={seed}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What one command compares."""

    name: str
    description: str
    axis: str
    cells: tuple[Cell, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    choice_seeds: tuple[int, ...]

    def only(self, *, cells: Sequence[str] = (), methods: Sequence[str] = (), seeds: Sequence[int] | None = None) -> Suite:
        """A part of it. Raises SettingError for a name that it does not have."""
        return replace(
            self,
            cells=_named({cell.name: cell for cell in self.cells}, cells, f"a cell of {self.name}"),
            methods=_named({each.name: each for each in self.methods}, methods, f"a method of {self.name}"),
            seeds=self.seeds if seeds is None else tuple(seeds),
        )


def shipped() -> dict[str, str]:
    """Names and descriptions of all suites."""
    return {name: settings.description for name, settings in _read().items()}


def suite(name: str) -> Suite:
    """The suite of this name. Raises SettingError."""
    known = _read()
    if name not in known:
        raise SettingError(f"Expected a suite out of {', '.join((*known, EVERYTHING))}, got {name!r}.")
    found = known[name]
    first = load(found.scenario, [*found.set, *found.cells[0].set])
    # A scenario needs no second run with teachers of the kind that it has, and only the suite knows a schedule of linear heads.
    taught: set[Teachers | None] = {None}
    if first.teacher.kind != "evidence":
        taught.add("evidence")
    if found.linear:
        taught.add("linear")
    return Suite(
        name=name,
        description=found.description,
        axis=found.axis,
        cells=tuple(
            Cell(name=cell.name, at=cell.at, scenario=found.scenario, settings=(*found.set, *cell.set), linear=found.linear)
            for cell in found.cells
        ),
        methods=tuple(each for each in map(methods.method, found.methods) if each.teachers in taught),
        seeds=tuple(range(1, found.seeds + 1)),
        choice_seeds=tuple(range(FIRST_CHOICE_SEED, FIRST_CHOICE_SEED + found.choice_seeds)),
    )


def _read() -> dict[str, SuiteSettings]:
    return {name: validate(SuiteSettings, _tuples(table)) for name, table in read_toml(SUITES).items()}


def _tuples(table: dict[str, object]) -> dict[str, object]:
    """TOML has arrays where settings have tuples."""
    return {
        key: tuple(_tuples(each) if isinstance(each, dict) else each for each in value) if isinstance(value, list) else value
        for key, value in table.items()
    }


def _named(known: dict[str, T], wanted: Sequence[str], what: str) -> tuple[T, ...]:
    for name in wanted:
        if name not in known:
            raise SettingError(f"Expected {what} out of {', '.join(known)}, got {name!r}.")
    return tuple(known[name] for name in wanted) if wanted else tuple(known.values())
