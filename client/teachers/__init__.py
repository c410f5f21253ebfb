"""Teachers: trained on private records under a plan's public schedule. What is kept of them is DP: weights, or noisy votes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from limbeck.client.noise import Noise
from limbeck.operators.errors import DataError
from limbeck.protos.messages import CnnTeaching, LinearTeaching, Teaching, VotesTeaching

Progress = Callable[[int, int], None]


class Teacher(Protocol):
    """A trained teacher."""

    def log_probabilities(self, x_N: NDArray[np.generic], *, cache: Path | None = None) -> Tensor:
        """(N, K) float32 log-probabilities; cache: a folder for features of public inputs."""

    def save(self, path: Path) -> None:
        """Write it durably."""


def train(
    teaching: Teaching,
    x_N: NDArray[np.generic],
    y_N: NDArray[np.int64],
    *,
    classes: int,
    public_x: NDArray[np.generic],
    noise: Noise,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Teacher:
    """Train under a schedule; (epsilon, delta)-DP in the records as `limbeck.protos.accounting` counts it.

    x_N, y_N: private records and labels in [0, classes). public_x: public inputs, for public statistics. cache: for features of
    public inputs. Raises DataError where records cannot be used.
    """
    from limbeck.client.teachers import cnn, linear, votes

    match teaching:
        case LinearTeaching():
            return linear.train(
                teaching, x_N, y_N, classes=classes, public_x=public_x, noise=noise, cache=cache, progress=progress
            )
        case CnnTeaching():
            return cnn.train(teaching, x_N, y_N, classes=classes, noise=noise, progress=progress)
        case VotesTeaching():
            return votes.train(
                teaching, x_N, y_N, classes=classes, public_x=public_x, noise=noise, cache=cache, progress=progress
            )


def load(path: Path) -> Teacher:
    """The teacher that `save` wrote. Raises DataError where there is none."""
    from limbeck.client.teachers import cnn, linear, votes
    from limbeck.client.teachers.stored import read

    kind, settings, tensors = read(path)
    match kind:
        case "linear":
            return linear.Linear.restore(settings, tensors)
        case "cnn":
            return cnn.Cnn.restore(settings, tensors)
        case "votes":
            return votes.Votes.restore(settings, tensors)
        case _:
            raise DataError(f"Expected a teacher of a kind this version knows in {path}, got {kind!r}.")
