"""The messages between a site and a black-box teacher, as checked frozen values.

`teacher_codec` turns them into bytes and back; past it nobody checks again. The inputs are public. The answers have no
guarantee for the records that the teacher was made from; they stay at the site.

Shape legend: N inputs in a batch, K classes, k kept entries per input, M draws per input.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from limbeck.operators import Truncated


class Inputs(Enum):
    """The inputs of a teacher: float rows (N, D), byte images (N, H, W) or (N, H, W, C), or texts (N,)."""

    ROWS = "rows"
    IMAGES = "images"
    TEXTS = "texts"


class Kind(Enum):
    """The answers of a teacher: the probabilities of its top classes and the mass of the rest, or labels only."""

    PROBABILITIES = "probabilities"
    LABELS = "labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A teacher's description of itself.

    - model: a name that changes with the model.
    - labels: the names of the K classes; a class's id is its index here.
    - inputs, answers: their kinds.
    - top_k: the largest number of probabilities per input; 0 for labels.
    - tempered: labels are drawn at the requested temperature.
    - max_batch: the largest number of inputs in a batch.
    """

    model: str
    labels: tuple[str, ...]
    inputs: Inputs
    answers: Kind
    top_k: int
    tempered: bool
    max_batch: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Inputs first .. first + N - 1 of the transfer set.

    draws, temperature: for a teacher that gives labels only, M answers to each input at T; 0 and 0.0 for probabilities.
    """

    first: int
    x_N: NDArray[np.generic]
    draws: int
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """Answers to a batch: N truncated distributions, or (N, M) int64 ids of the labels."""

    first: int
    answers: Truncated | Tensor


def kind_of(x_N: NDArray[np.generic]) -> Inputs | None:
    """The kind of these inputs, or None if no teacher takes them."""
    if x_N.dtype == np.uint8 and x_N.ndim in {3, 4}:
        return Inputs.IMAGES
    if x_N.dtype.kind in "fiu" and x_N.ndim == 2:
        return Inputs.ROWS
    return Inputs.TEXTS if x_N.dtype.kind == "U" and x_N.ndim == 1 else None
