"""Teachers that no site could train: of all sites' records together, to compare a federation with.

One has the plan's schedule and noise, so the same epsilon for every record; the other has no noise. Neither is part of the protocol: only a
simulation can bring the records together, nothing trained here leaves its folder, and so no ledger is charged. The plan's normaliser is a
nominal number of records of one site, so that of all sites together is as many times larger: a public constant too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.base.errors import LimbeckError
from limbeck.base.progress import Progress
from limbeck.client import teachers
from limbeck.client.noise import Noise, SystemEntropy, UnsafeSeeded
from limbeck.client.site import Site
from limbeck.client.teachers import Teacher
from limbeck.inputs.transfer_set import read_arrays
from limbeck.plans.schema import Plan, Teaching, VotesTeaching
from limbeck.simulations.scenario import Scenario

Kind = Literal["private", "without-noise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Central:
    """A teacher of all records, or why there is none."""

    teacher: Teacher | None
    why: str = ""


class NoNoise(SystemEntropy):
    """Zeros in place of noise; sampling is unchanged. For baselines only: nothing trained with it is private."""

    label = "none"

    def gaussian(self, *shape: int, std: float) -> Tensor:
        """Zeros."""
        return torch.zeros(shape, dtype=torch.float64)

    def discrete_gaussian(self, *shape: int, variance: Fraction) -> NDArray[np.int64]:
        """Zeros."""
        return np.zeros(shape, np.int64)


def wanted(scenario: Scenario) -> tuple[Kind, ...]:
    """Which of them a scenario asks for."""
    asked: Mapping[Kind, bool] = {"private": scenario.compare.central, "without-noise": scenario.without_privacy}
    return tuple(kind for kind, yes in asked.items() if yes)


def of_all_sites(teaching: Teaching, sites: int) -> Teaching:
    """The schedule of one site for the records of so many: the same mechanisms, so the same epsilon, at another normaliser."""
    if isinstance(teaching, VotesTeaching):
        return teaching
    return replace(teaching, normaliser=teaching.normaliser * sites)


def train(
    kind: Kind, folder: Path, scenario: Scenario, plan: Plan, sites: Path, *, progress: Progress | None = None
) -> Central:
    """The teacher of all records of the sites' folders in `sites`.

    Kept in RUN/central/, so that a run that is measured again does not train it again. Records that cannot be read, as a site's own are
    not, are the reason for having none.

    - folder: of the run.
    - progress: steps, steps in all.
    """
    path = folder / "central" / f"{kind}.safetensors"
    (public_x,) = read_arrays(folder / "transfer" / f"{plan.transfer_set.hex()}.npz", "x")
    try:
        members = [Site(settings.parent) for settings in sorted(sites.glob("*/site.toml"))]
        factory = next((own for site in members if (own := site.factory) is not None), None)
        if path.exists():
            return Central(teacher=teachers.load(path, factory=factory))
        found = [site.records.find(plan.classes, public_x) for site in members]
        records = [(each.x_N, each.y_N) for each in found]
        teacher = teachers.train(
            of_all_sites(plan.teaching, len(members)),
            np.concatenate([x_N for x_N, _ in records]),
            np.concatenate([y_N for _, y_N in records]),
            classes=plan.classes,
            public_x=public_x,
            noise=NoNoise() if kind == "without-noise" else noise_of("central", scenario),
            class_weights=plan.class_weights,
            cache=folder / "cache",
            factory=factory,
            progress=progress,
        )
    except LimbeckError as error:
        return Central(teacher=None, why=str(error))
    teacher.save(path)
    return Central(teacher=teacher)


def noise_of(what: str, scenario: Scenario) -> Noise:
    """A source of noise for something that a simulation does besides the protocol: seeded in a run whose noise is seeded."""
    if scenario.privacy.noise == "UnsafeSeeded":
        return UnsafeSeeded(int.from_bytes(hashlib.sha256(f"{scenario.run.seed} {what}".encode()).digest()[:6]))
    return SystemEntropy()
