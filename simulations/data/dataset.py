"""The type of a data set that is split into private records, public inputs and a test set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    - test_groups: the natural site of each test input, in the same numbers, -1 if it is of none; None if that is not known.
    - people: the person that each private record is of, numbered; each record of nobody known has a number of its own. None if nothing says
      whose records are.
    - files: of each private image, where it is; empty if images are not in files of their own.
    - encoding: makes rows of a table; fitted on public data.
    - records: how a site reads its records.
    - said: what was made of the user's own files, in sentences.
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
    people: Labels | None = None
    files: tuple[Path, ...] = ()
    encoding: Encoding | None = None
    records: RecordSettings | None = None
    licence: str
    source: str
    said: tuple[str, ...] = ()

    @property
    def records_per_person(self) -> Labels | None:
        """How many private records each person has; None if nothing says whose they are."""
        return None if self.people is None else np.unique(self.people, return_counts=True)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What is known about a data set before it is read. private, public, test: default sizes."""

    private: int
    public: int
    test: int
    class_names: tuple[str, ...]
    licence: str
    source: str
