"""What every method gets and what it leaves: one contract, so that figures differ by method and by nothing else.

Shape legend: N inputs, n records of a site, D features, K classes, C sites.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from limbeck.base.settings import Strict
from limbeck.client.noise import Noise

Rows = NDArray[np.float32]
Labels = NDArray[np.int64]
# The L2 norm of every row of features, as of limbeck's linear teachers by default.
FEATURE_NORM = 4.0
FLOAT_BYTES = 4
RECORD, CLIENT, ANSWER = "record", "client", "one answer"
ADD_REMOVE = "add-remove-one"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Records:
    """Of one site. x_ND: public features, every row of norm FEATURE_NORM, or zero where an input was not finite."""

    x_ND: Rows
    y_N: Labels

    def __len__(self) -> int:
        return len(self.y_N)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setting:
    """What a method is given. All of it but the records is public.

    - sites: the records of each.
    - records_per_site: a public nominal number, as a plan's normaliser; methods divide by it, never by a site's own number.
    - public_ND: public inputs, without labels.
    - test_ND, test_N: what the method is measured on; no method looks at the labels.
    - classes: K.
    - epsilon, delta: what a method may cost one record of a site, add or remove one; None without privacy.
    - seed: of public randomness.
    - noise: of all that is private.
    - folder: of the prepared run of limbeck on these very records; None while settings are chosen.
    """

    sites: tuple[Records, ...]
    records_per_site: float
    public_ND: Rows
    test_ND: Rows
    test_N: Labels
    classes: int
    epsilon: float | None
    delta: float
    seed: int
    noise: Noise
    folder: Path | None = None

    @property
    def model_bytes(self) -> int:
        """Of one linear head with its bias, as float32."""
        return FLOAT_BYTES * self.classes * (int(self.public_ND.shape[1]) + 1)

    @property
    def answers_bytes(self) -> int:
        """Of dense float32 answers to all public inputs."""
        return FLOAT_BYTES * self.classes * len(self.public_ND)


class Guarantee(Strict):
    """What was claimed of a method's privacy."""

    epsilon: Annotated[float, Field(ge=0)] | None
    """None where no epsilon holds."""
    delta: float
    unit: str
    adjacency: str
    composed: str
    """How, in words."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reached:
    """What a method leaves.

    - predicted: the classes of the test inputs, by each model that it ends with: one, or one of each site.
    - bytes_up, bytes_down: of an average site in all, as the values themselves would be packed, without any framing.
    - notes: what a reader should know of this result.
    """

    predicted: tuple[Labels, ...]
    bytes_up: float
    bytes_down: float
    guarantee: Guarantee
    notes: str = ""

    def accuracy(self, setting: Setting) -> float:
        """In [0, 1], the mean over models."""
        return float(np.mean([np.mean(each == setting.test_N) for each in self.predicted]))


class Outcome(Strict):
    """What one method reached in one cell for one seed."""

    method: str
    settings: dict[str, float | int | str]
    """What the method was given out of its grid."""
    accuracy: Annotated[float, Field(ge=0, le=1)]
    """On the test set, the mean over models."""
    best: Annotated[float, Field(ge=0, le=1)]
    """Of the best model."""
    models: Annotated[int, Field(ge=1)]
    bytes_up: Annotated[float, Field(ge=0)]
    """Of an average site in all."""
    bytes_down: Annotated[float, Field(ge=0)]
    seconds: Annotated[float, Field(ge=0)]
    guarantee: Guarantee
    notes: str = ""
