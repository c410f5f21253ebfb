"""The type of a data set that is split into private records, public inputs and a test set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.client.records import RecordSettings
from limbeck.inputs.encodings import Encoding
from limbeck.inputs.tables import Table

Inputs = NDArray[np.generic]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSet:
    """Private records, public inputs and a test set that never overlap.

    - private_x: as public_x, or a table with its labels, which sites encode themselves.
    - public_x, test_x: uint8 grey images (N, H, W) or float32 rows (N, D).
    - public_y: known to the simulation only, for metrics.
    - groups: the natural site of each private record; None if there are no natural sites.
    - group_names: names of those sites.
    - test_groups: the natural site of each test input, in the same numbers; None if that is not known.
    - encoding: makes rows of a table; fitted on public data.
    - records: how a site reads its table.
    """

    name: str
    private_x: Inputs | Table
    private_y: Labels
    public_x: Inputs
    public_y: Labels
    test_x: Inputs
    test_y: Labels
    class_names: tuple[str, ...]
    groups: Labels | None = None
    group_names: tuple[str, ...] | None = None
    test_groups: Labels | None = None
    encoding: Encoding | None = None
    records: RecordSettings | None = None
    licence: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is known about a data set before it is read. private, public, test: default sizes."""

    private: int
    public: int
    test: int
    class_names: tuple[str, ...]
    licence: str
    source: str
