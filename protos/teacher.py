"""What crosses between a site and a teacher that is not limbeck's own, as checked frozen values.

`teacher_codec` turns these into bytes and back; past it nobody checks again. The inputs are public; the answers are the teacher's, without
any guarantee for the records it was made from, and stay at the site.

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
    """What a teacher takes: float rows (N, D), byte images (N, H, W) or (N, H, W, C), or texts (N,)."""

    ROWS = "rows"
    IMAGES = "images"
    TEXTS = "texts"


class Kind(Enum):
    """What a teacher gives: the probabilities of its top classes and the mass of the rest, or labels only."""

    PROBABILITIES = "probabilities"
    LABELS = "labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a teacher says of itself.

    model: a name that changes with the model. labels: K names of classes; a class's id is its place in here. top_k: the most
    probabilities per input, 0 for labels. tempered: labels are drawn at the temperature asked for. max_batch: inputs.
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

    draws, temperature: of a teacher that gives labels only, M answers to each input at T; 0 and 0.0 where probabilities are asked for.
    """

    first: int
    x_N: NDArray[np.generic]
    draws: int
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """Answers to a batch: N truncated distributions, or (N, M) int64 ids of the labels given."""

    first: int
    answers: Truncated | Tensor


def kind_of(x_N: NDArray[np.generic]) -> Inputs | None:
    """What kind of inputs these are for a teacher; None where no teacher could take them."""
    if x_N.dtype == np.uint8 and x_N.ndim in {3, 4}:
        return Inputs.IMAGES
    if x_N.dtype.kind in "fiu" and x_N.ndim == 2:
        return Inputs.ROWS
    return Inputs.TEXTS if x_N.dtype.kind == "U" and x_N.ndim == 1 else None
