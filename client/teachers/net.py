"""A net trained by DP-SGD: limbeck's own (mlp, cnn, resnet-gn) or the site's ("custom").

Sampler, noise, number of steps and normaliser are public and ours; `gradients` gives sums of clipped per-record gradients, and nothing
else about a record reaches the weights.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.base.errors import DataError
from limbeck.client.noise import poisson_sample
from limbeck.client.settings import Gradients
from limbeck.client.teachers import architectures
from limbeck.client.teachers.architectures import Factory, Shape
from limbeck.client.teachers.gradients import Engine, engine
from limbeck.client.teachers.linear import saturated, weights_of
from limbeck.client.teachers.stored import write
from limbeck.inputs.tensors import tensors
from limbeck.plans.schema import CUSTOM, NetTeaching

if TYPE_CHECKING:
    from limbeck.base.progress import Progress
    from limbeck.client.noise import Noise

log = logging.getLogger(__name__)

PREDICT_BATCH = 512


class Net:
    """A trained net, no layer of which mixes records. shape: of one input, as `inputs.tensors.tensors` returns it."""

    def __init__(self, architecture: str, shape: Shape, classes: int, net: nn.Module) -> None:
        self.architecture, self.shape, self.classes, self.net = architecture, shape, classes, net

    def log_probabilities(self, x_N: NDArray[np.generic], *, cache: Path | None = None) -> Tensor:
        """(N, K) float32 log-probabilities, uniform if the net's output is not finite; there is nothing to cache."""
        inputs = _fitting(x_N, self.shape)
        self.net.eval()
        with torch.no_grad():
            parts = [self.net(part) for part in inputs.split(PREDICT_BATCH)] if len(inputs) else []
        if not parts:
            return torch.zeros(0, self.classes)
        log_p_NK = torch.cat(parts).float().log_softmax(-1)
        finite_N = log_p_NK.isfinite().all(1, keepdim=True)
        if not bool(finite_N.all()):
            log.error("The teacher has diverged: %d of %d answers are uniform.", int((~finite_N).sum()), len(finite_N))
        return torch.where(finite_N, log_p_NK, -math.log(self.classes))

    def save(self, path: Path) -> None:
        """Write it durably."""
        settings: dict[str, object] = {
            "architecture": self.architecture,
            "shape": list(self.shape),
            "classes": self.classes,
        }
        write(path, "net", settings, dict(self.net.state_dict()))

    @classmethod
    def restore(cls, settings: dict[str, object], tensors: dict[str, Tensor], factory: Factory | None = None) -> Net:
        """From what `save` wrote. factory: makes the site's own net, if it is custom. Raises DataError for another net's weights."""
        name, shape, classes = str(settings["architecture"]), settings["shape"], int(str(settings["classes"]))
        if not isinstance(shape, list):
            raise DataError(f"Expected the shape of a teacher's inputs, got {shape!r}.")
        sides = tuple(int(side) for side in shape)
        net = architectures.build(name, sides, classes, factory)
        try:
            net.load_state_dict(tensors)
        except RuntimeError as error:
            raise DataError(f"Expected the weights of the net {name!r}, got others: {error}.") from error
        return cls(name, sides, classes, net)


def train(
    teaching: NetTeaching,
    x_N: NDArray[np.generic],
    y_N: NDArray[np.int64],
    *,
    classes: int,
    public_x: NDArray[np.generic],
    noise: Noise,
    class_weights: Sequence[float] = (),
    factory: Factory | None = None,
    gradients_by: Gradients = "opacus",
    progress: Progress | None = None,
) -> Net:
    """DP-SGD with momentum.

    Formal guarantee: `teaching.steps` Gaussian mechanisms with noise multiplier `teaching.noise_multiplier`, each on a Poisson sample
    at `teaching.sampling_rate`, with sensitivity `teaching.clip` under add/remove of one record. An empty sample is a step like any
    other; a gradient that is not finite counts as zero. A record's class weight, a public constant, multiplies its loss, and so its
    gradient before it is clipped: the sensitivity is the clip with and without them [D].

    public_x: determines the shape of the net's inputs, so that no record does.
    factory: makes the site's own net.
    gradients_by: whose per-record gradients.
    """
    shape = tuple(tensors(public_x[:1]).shape[1:])
    inputs, labels = _fitting(x_N, shape), torch.from_numpy(y_N)
    net = architectures.build(teaching.architecture, shape, classes, factory)
    if teaching.architecture == CUSTOM:
        from limbeck.client.teachers import kit

        kit.require_sound(net, shape, classes)
    net.train()
    gradients = engine(
        net, trusted=teaching.architecture != CUSTOM, by=gradients_by, class_weight_K=weights_of(class_weights)
    )
    _descend(teaching, gradients, inputs, labels, noise, progress)
    return Net(teaching.architecture, shape, classes, net.eval())


def _descend(
    teaching: NetTeaching, gradients: Engine, inputs: Tensor, labels: Tensor, noise: Noise, progress: Progress | None
) -> None:
    velocity = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in gradients.parameters]
    for step in range(teaching.steps):
        chosen = torch.from_numpy(poisson_sample(noise, len(labels), teaching.sampling_rate))
        sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in gradients.parameters]
        for rows in chosen.split(teaching.physical_batch) if len(chosen) else ():
            for total, part in zip(sums, gradients.clipped_sums(inputs[rows], labels[rows], teaching.clip), strict=True):
                total.add_(part)
        with torch.no_grad():
            for parameter, total, moving in zip(gradients.parameters, sums, velocity, strict=True):
                total.add_(noise.gaussian(*total.shape, std=teaching.clip * teaching.noise_multiplier))
                moving.copy_(saturated(teaching.momentum * moving + total / teaching.normaliser))
                parameter.copy_(saturated(parameter - teaching.learning_rate * moving))
        if progress is not None:
            progress(step + 1, teaching.steps)


def _fitting(x_N: NDArray[np.generic], shape: Shape) -> Tensor:
    inputs = tensors(x_N)
    if tuple(inputs.shape[1:]) != shape:
        raise DataError(f"Expected inputs of shape {shape} like the transfer set, got {tuple(inputs.shape[1:])}.")
    return inputs
