"""Teachers: trained on private records under a plan's public schedule. What is kept of one is DP: weights, or noisy votes.

References in this package: [P] the founding paper (arXiv 2601.03195), [F] another paper, named; [D] derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from limbeck.base.errors import DataError, LimbeckError
from limbeck.base.progress import Progress
from limbeck.client.noise import Noise
from limbeck.client.settings import Gradients
from limbeck.client.teachers.architectures import Factory
from limbeck.inputs.tensors import tensors
from limbeck.plans.schema import CUSTOM, EvidenceTeaching, LinearTeaching, NetTeaching, Teaching, VotesTeaching


class Teacher(Protocol):
    """A trained teacher."""

    def log_probabilities(self, x_N: NDArray[np.generic], *, cache: Path | None = None) -> Tensor:
        """(N, K) float32 log-probabilities; cache: a folder for features of public inputs."""

    def save(self, path: Path) -> None:
        """Write it durably."""


class Backend(Protocol):
    """How a site trains a teacher and loads a stored one. This package is the default; a benchmark puts a timed one in its place."""

    @property
    def train(self) -> Callable[..., Teacher]:
        """As `train` below."""

    @property
    def load(self) -> Callable[..., Teacher]:
        """As `load` below."""


def check(teaching: Teaching, public_x: NDArray[np.generic], *, classes: int, factory: Factory | None = None) -> None:
    """Raise SettingError or DataError if no teacher of this kind can be trained for such inputs; needs no record.

    A site asks before it is charged.

    factory: makes the site's own net, for "custom"; the net is examined as `limbeck teacher check` does.
    """
    match teaching:
        case LinearTeaching() | VotesTeaching() | EvidenceTeaching():
            from limbeck.inputs import features

            features.compute(teaching.features, public_x[:1])
        case NetTeaching():
            from limbeck.client.teachers import architectures, kit

            shape = tuple(tensors(public_x[:1]).shape[1:])
            net = architectures.build(teaching.architecture, shape, classes, factory)
            if teaching.architecture == CUSTOM:
                kit.require_sound(net, shape, classes)


def train(
    teaching: Teaching,
    x_N: NDArray[np.generic],
    y_N: NDArray[np.int64],
    *,
    classes: int,
    public_x: NDArray[np.generic],
    noise: Noise,
    class_weights: Sequence[float] = (),
    cache: Path | None = None,
    factory: Factory | None = None,
    gradients_by: Gradients = "opacus",
    progress: Progress | None = None,
) -> Teacher:
    """Train under a schedule; (epsilon, delta)-DP in the records as `limbeck.plans.accounting` counts it.

    x_N, y_N: private records and labels in [0, classes).
    public_x: public inputs, for public statistics and the shape of inputs.
    class_weights: of the plan: by which a record of each class counts, before its gradient is clipped; none: all alike.
    cache: a folder for features of public inputs.
    factory: makes the site's own net.
    gradients_by: whose per-record gradients train a net.

    Raises: DataError if the records cannot be used.
    """
    from limbeck.client.teachers import evidence, linear, net, votes

    if x_N.shape[1:] != public_x.shape[1:]:
        raise DataError(f"Expected records of shape {public_x.shape[1:]} like the transfer set, got {x_N.shape[1:]}.")
    match teaching:
        case LinearTeaching():
            return linear.train(
                teaching,
                x_N,
                y_N,
                classes=classes,
                public_x=public_x,
                noise=noise,
                class_weights=class_weights,
                cache=cache,
                progress=progress,
            )
        case NetTeaching():
            return net.train(
                teaching,
                x_N,
                y_N,
                classes=classes,
                public_x=public_x,
                noise=noise,
                class_weights=class_weights,
                factory=factory,
                gradients_by=gradients_by,
                progress=progress,
            )
        case VotesTeaching():
            return votes.train(
                teaching,
                x_N,
                y_N,
                classes=classes,
                public_x=public_x,
                noise=noise,
                class_weights=class_weights,
                cache=cache,
                progress=progress,
            )
        case EvidenceTeaching():
            return evidence.train(
                teaching,
                x_N,
                y_N,
                classes=classes,
                public_x=public_x,
                noise=noise,
                class_weights=class_weights,
                cache=cache,
                progress=progress,
            )


def load(path: Path, *, factory: Factory | None = None) -> Teacher:
    """The teacher that `save` wrote. factory: makes the site's own net, if it is custom. Raises DataError if there is no teacher."""
    from limbeck.client.teachers import evidence, linear, net, votes
    from limbeck.client.teachers.stored import read

    kind, settings, tensors = read(path)
    try:
        match kind:
            case "linear":
                return linear.Linear.restore(settings, tensors)
            case "net":
                return net.Net.restore(settings, tensors, factory)
            case "votes":
                return votes.Votes.restore(settings, tensors)
            case "evidence":
                return evidence.Evidence.restore(settings, tensors)
    except LimbeckError:
        raise
    except Exception as error:  # whatever settings and tensors raise that do not fit each other
        raise DataError(f"Expected a {kind} teacher in {path}: {type(error).__name__}: {error}.") from error
    raise DataError(f"Expected a teacher of a kind that this version knows in {path}, got {kind!r}.")
