"""Which point of its grid a method is given in a cell: the best on labelled public inputs that are held out for it, never on test data.

Every method may try its whole grid on the same held-out inputs and the same seeds, which are none of those reported. What was chosen for
the shipped suites lies in choices/, with the accuracy of every point.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from limbeck.base.errors import RunError
from limbeck.base.settings import Strict
from limbeck.experiments.baselines import settings
from limbeck.experiments.baselines.contract import Reached, Setting
from limbeck.experiments.baselines.methods import Method, Settings
from limbeck.experiments.baselines.suites import Cell

SHIPPED = Path(__file__).with_name("choices")


class Tried(Strict):
    """One point of a grid, and its accuracy on held-out public inputs, in [0, 1], the mean over seeds."""

    settings: dict[str, float | int | str]
    accuracy: Annotated[float, Field(ge=0, le=1)]


class Choice(Strict):
    """What a method was given in a cell, and everything that was tried."""

    settings: dict[str, float | int | str]
    tried: tuple[Tried, ...]


# By cell, then by method.
Choices = dict[str, dict[str, Choice]]
ADAPTER = TypeAdapter(Choices)


def choose(method: Method, cell: Cell, seeds: tuple[int, ...], folder: Path) -> Choice:
    """Try every point of a method's grid. folder: of the benchmark."""
    grid = method.grid
    if len(grid) == 1:
        return Choice(settings=grid[0], tried=())
    accuracies: list[list[float]] = [[] for _ in grid]
    for seed in seeds:
        setting = settings.for_choice(cell, seed, folder)
        for found, point in zip(accuracies, grid, strict=True):
            found.append(reach(method, setting, point).accuracy(setting))
    return best(
        [Tried(settings=point, accuracy=statistics.fmean(each)) for point, each in zip(grid, accuracies, strict=True)]
    )


def best(tried: list[Tried]) -> Choice:
    """Of equally accurate points, the first."""
    first = max(tried, key=lambda each: each.accuracy)
    return Choice(settings=first.settings, tried=tuple(tried))


def reach(method: Method, setting: Setting, point: Settings) -> Reached:
    """Run a method. Raises: RunError for limbeck's own, which is no function of a setting."""
    if method.run is None:
        raise RunError(f"Expected a method with a function, got {method.name}.")
    return method.run(setting, **point)


def committed(suite: str) -> Choices:
    """What was chosen for a shipped suite; empty if nothing was."""
    path = SHIPPED / f"{suite}.json"
    return ADAPTER.validate_json(path.read_bytes()) if path.exists() else {}


def encode(choices: Choices) -> bytes:
    """As a file."""
    return (json.dumps(ADAPTER.dump_python(choices, mode="json"), indent=1) + "\n").encode()
