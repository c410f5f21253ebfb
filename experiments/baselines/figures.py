"""What a benchmark comes to: means and spreads of every method in every cell, what costs what, and where limbeck is behind."""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

from limbeck.experiments.baselines import limbeck_runs
from limbeck.experiments.baselines.contract import Guarantee, Outcome
from limbeck.experiments.baselines.methods import Method
from limbeck.experiments.baselines.run import Reported
from limbeck.experiments.baselines.suites import Cell
from limbeck.simulations.sweep.rows import Spread, spread, with_spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One method in one cell, over its seeds. Accuracies in per cent, bytes of an average site in all."""

    cell: Cell
    method: Method
    outcomes: Mapping[int, Outcome]
    accuracy: Spread
    best: Spread
    bytes_up: float
    bytes_down: float
    seconds: float
    command: str

    @property
    def first(self) -> Outcome:
        """Of the first seed."""
        return next(iter(self.outcomes.values()))

    @property
    def guarantee(self) -> Guarantee:
        """That of the seed with the largest epsilon."""
        return max((each.guarantee for each in self.outcomes.values()), key=lambda each: each.epsilon or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """A method that is more accurate than limbeck's student in a cell, on the same seeds. by: percentage points."""

    cell: Cell
    method: Method
    by: Spread
    needs: str


def command(reported: Reported, cell: Cell, method: Method) -> str:
    """What makes one cell of a table anew."""
    seeds = ",".join(map(str, reported.suite.seeds))
    listed = f"--seeds {seeds if len(reported.suite.seeds) > 1 else seeds + ','}"
    if reported.suite.seeds == tuple(range(1, len(reported.suite.seeds) + 1)):
        listed = f"--seeds {len(reported.suite.seeds)}"
    return f"limbeck benchmark {reported.suite.name} --cell {shlex.quote(cell.name)} --method {method.name} {listed}"


def summary(reported: Reported, cell: Cell, method: Method) -> Summary | None:
    """None where a method has no outcome in a cell."""
    outcomes = reported.outcomes.get((cell.name, method.name))
    if not outcomes:
        return None

    def over(value: Callable[[Outcome], float]) -> Spread:
        found = spread(map(value, outcomes.values()))
        # There is at least one outcome, and its figures are finite.
        assert found is not None
        return found

    return Summary(
        cell=cell,
        method=method,
        outcomes=outcomes,
        accuracy=over(lambda each: 100 * each.accuracy),
        best=over(lambda each: 100 * each.best),
        bytes_up=over(lambda each: each.bytes_up).mean,
        bytes_down=over(lambda each: each.bytes_down).mean,
        seconds=over(lambda each: each.seconds).mean,
        command=command(reported, cell, method),
    )


def summaries(reported: Reported) -> list[Summary]:
    """All there are, cell by cell."""
    return [
        found
        for cell in reported.suite.cells
        for method in reported.suite.methods
        if (found := summary(reported, cell, method)) is not None
    ]


def accuracy(reported: Reported, cell: Cell, method: Method) -> str:
    """Such as "80.1 ± 0.4"; a dash where there is none."""
    found = summary(reported, cell, method)
    return "–" if found is None else with_spread(found.accuracy, "accuracy")


def behind(reported: Reported) -> list[Behind]:
    """Where limbeck's student is less accurate than another method, the largest difference first."""
    found = []
    for cell in reported.suite.cells:
        students = reported.outcomes.get((cell.name, limbeck_runs.STUDENT), {})
        for method in reported.suite.methods:
            others = reported.outcomes.get((cell.name, method.name), {})
            by = spread(100 * (others[seed].accuracy - students[seed].accuracy) for seed in students if seed in others)
            if method.name != limbeck_runs.STUDENT and by is not None and by.mean > 0:
                found.append(Behind(cell=cell, method=method, by=by, needs=needs(method)))
    return sorted(found, key=lambda each: -each.by.mean)


def needs(method: Method) -> str:
    """What a method takes that limbeck's student does without."""
    if method.name in {limbeck_runs.POOL, limbeck_runs.POOL_WITH_EVIDENCE, limbeck_runs.POOL_WITH_HEADS}:
        return "no model: the sites' teachers themselves"
    trust = {"records": "somebody who sees every record", "votes": "somebody who sees every vote before the noise"}
    privacy = "" if method.private else "no ε, or one for another unit"
    return "; ".join(filter(None, (trust.get(method.shares, ""), privacy))) or "nothing else: pick it"


def encode(reported: Reported) -> bytes:
    """All figures as JSON, with the command of every cell."""
    rows = [
        {
            "cell": each.cell.name,
            "method": each.method.name,
            "command": each.command,
            "accuracy_percent": _rounded(each.accuracy),
            "best_percent": _rounded(each.best),
            "seeds": {str(seed): round(100 * outcome.accuracy, 3) for seed, outcome in each.outcomes.items()},
            "bytes_up_per_site": round(each.bytes_up),
            "bytes_down_per_site": round(each.bytes_down),
            "seconds": round(each.seconds, 2),
            "guarantee": each.guarantee.model_dump(mode="json"),
            "settings": each.first.settings,
            "notes": each.first.notes,
        }
        for each in summaries(reported)
    ]
    whole = {
        "suite": reported.suite.name,
        "description": reported.suite.description,
        "command": f"limbeck benchmark {reported.suite.name}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, CPU only, beside other work",
        "limbeck": version("limbeck"),
        "cells": {cell.name: {"scenario": cell.scenario, "set": list(cell.settings)} for cell in reported.suite.cells},
        "rows": rows,
        "behind": [
            {"cell": each.cell.name, "method": each.method.name, "points": _rounded(each.by), "needs": each.needs}
            for each in behind(reported)
        ],
    }
    return (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode()


def _rounded(over: Spread) -> dict[str, float | int | None]:
    return {"mean": round(over.mean, 3), "std": None if over.std is None else round(over.std, 3), "n": over.n}
