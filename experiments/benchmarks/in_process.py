"""A scenario's records and plan without site folders, for benchmarks that train teachers in their own process.

Shape legend: N inputs, D features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.inputs import features
from limbeck.inputs.tables import Table
from limbeck.plans.author import make_plan
from limbeck.plans.schema import Plan
from limbeck.simulations.data.dataset import DataSet
from limbeck.simulations.scenario import Scenario


def private_inputs(dataset: DataSet) -> NDArray[np.generic]:
    """(N, ...) the records' inputs as teachers take them: those of a table through its public encoding."""
    if isinstance(dataset.private_x, Table):
        assert dataset.encoding is not None
        return dataset.encoding(dataset.private_x)  # type: ignore[operator]
    return dataset.private_x


def plan_of(scenario: Scenario, dataset: DataSet, *, sites: int, cache: Path) -> Plan:
    """The scenario's plan for its public inputs. sites: how many are expected. cache: a folder for features of public inputs."""

    def of_public() -> NDArray[np.floating]:
        raw_ND = features.compute(scenario.teacher.features, dataset.public_x, cache=cache)
        return features.of_evidence(scenario.teacher.features, raw_ND, scenario.teacher.constant)

    return make_plan(
        scenario,
        transfer_set=bytes(32),
        samples=len(dataset.public_x),
        classes=dataset.class_names,
        features=of_public,
        sites=sites,
    )
