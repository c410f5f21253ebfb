"""A small convolutional teacher trained by DP-SGD, with Opacus computing per-sample gradients.

Opacus is the gradient engine only. The sampler, the noise, the number of steps and the normaliser are ours and public: Opacus would
derive them from the private number of records and draw noise from torch's global generator.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.client.noise import poisson_sample
from limbeck.client.teachers.stored import write
from limbeck.operators.errors import DataError
from limbeck.protos.messages import CnnTeaching

if TYPE_CHECKING:
    from limbeck.client.noise import Noise
    from limbeck.client.teachers import Progress

PREDICT_BATCH = 512
INITIAL_SEED = 0
SMALL = 16


class Cnn:
    """A tanh convolutional net on grey images. No layer mixes records."""

    def __init__(self, height: int, width: int, classes: int, net: nn.Module | None = None) -> None:
        self.height, self.width, self.classes = height, width, classes
        self.net = net if net is not None else build(height, width, classes)

    def log_probabilities(self, x_N: NDArray[np.generic], *, cache: Path | None = None) -> Tensor:
        """(N, K) float32 log-probabilities; there is nothing to cache."""
        images = _images(x_N)
        with torch.no_grad():
            parts = [self.net(images[start : start + PREDICT_BATCH]) for start in range(0, len(images), PREDICT_BATCH)]
        return torch.cat(parts).log_softmax(-1) if parts else torch.zeros(0, self.classes)

    def save(self, path: Path) -> None:
        """Write it durably."""
        settings: dict[str, object] = {"height": self.height, "width": self.width, "classes": self.classes}
        write(path, "cnn", settings, dict(self.net.state_dict()))

    @classmethod
    def restore(cls, settings: dict[str, object], tensors: dict[str, Tensor]) -> Cnn:
        """From what `save` wrote."""
        height, width, classes = (int(str(settings[name])) for name in ("height", "width", "classes"))
        found = cls(height, width, classes)
        found.net.load_state_dict(tensors)
        return found


def build(height: int, width: int, classes: int) -> nn.Module:
    """The net: about 26,000 parameters at 28 x 28, the usual one of DP-SGD on MNIST; initial weights from a fixed public seed."""
    if min(height, width) > SMALL:
        layers = [nn.Conv2d(1, 16, 8, 2, padding=3), nn.Tanh(), nn.MaxPool2d(2, 1)]
        layers += [nn.Conv2d(16, 32, 4, 2), nn.Tanh(), nn.MaxPool2d(2, 1)]
    else:
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.Tanh()]
    with torch.no_grad():
        flat = nn.Sequential(*layers)(torch.zeros(1, 1, height, width)).numel()
    layers += [nn.Flatten(), nn.Linear(flat, 32), nn.Tanh(), nn.Linear(32, classes)]
    net = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(INITIAL_SEED)
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return net


def train(
    teaching: CnnTeaching,
    x_N: NDArray[np.generic],
    y_N: NDArray[np.int64],
    *,
    classes: int,
    noise: Noise,
    progress: Progress | None = None,
) -> Cnn:
    """DP-SGD with momentum.

    Formal guarantee: `teaching.steps` Gaussian mechanisms with noise multiplier `teaching.noise_multiplier`, each on a Poisson sample
    at `teaching.sampling_rate`, sensitivity `teaching.clip` under add/remove of one record. An empty sample is a step like any
    other; a gradient that is not finite counts as zero.
    """
    images = _images(x_N)
    labels = torch.from_numpy(y_N)
    teacher = Cnn(images.shape[2], images.shape[3], classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus import GradSampleModule

        net = GradSampleModule(teacher.net, loss_reduction="sum")
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=teaching.learning_rate, momentum=teaching.momentum)
    for step in range(teaching.steps):
        chosen = torch.from_numpy(poisson_sample(noise, len(labels), teaching.sampling_rate))
        sums = clipped_sums(net, parameters, images[chosen], labels[chosen], teaching)
        for parameter, total in zip(parameters, sums, strict=True):
            noisy = total + noise.gaussian(*total.shape, std=teaching.clip * teaching.noise_multiplier)
            parameter.grad = noisy / teaching.normaliser
        optimiser.step()
        if progress is not None:
            progress(step + 1, teaching.steps)
    net.to_standard_module() if hasattr(net, "to_standard_module") else net._close()
    return teacher


def clipped_sums(
    net: nn.Module, parameters: list[nn.Parameter], images: Tensor, labels: Tensor, teaching: CnnTeaching
) -> list[Tensor]:
    """Per parameter, the sum over records of cross-entropy gradients, each record's scaled to at most `clip` over all parameters."""
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for start in range(0, len(labels), teaching.physical_batch):
        rows = slice(start, start + teaching.physical_batch)
        loss = nn.functional.cross_entropy(net(images[rows]), labels[rows], reduction="sum")
        loss.backward()
        gradients = [parameter.grad_sample.flatten(1) for parameter in parameters]  # type: ignore[attr-defined]
        finite = torch.stack([gradient.isfinite().all(1) for gradient in gradients]).all(0)
        gradients = [torch.where(finite[:, None], gradient, 0) for gradient in gradients]
        norm = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)
        scale = (teaching.clip / norm.clamp(min=1e-12)).clamp(max=1)
        for total, gradient in zip(sums, gradients, strict=True):
            total.add_((scale @ gradient).view_as(total))
        net.zero_grad(set_to_none=True)
        for parameter in parameters:
            parameter.grad_sample = None  # type: ignore[attr-defined]
    return sums


def _images(x_N: NDArray[np.generic]) -> Tensor:
    """Grey images as (N, 1, H, W) in [0, 1]."""
    if x_N.ndim != 3:
        raise DataError(f"Expected grey images of shape (N, H, W), got {x_N.shape}.")
    scale = 255 if x_N.dtype == np.uint8 else 1
    return torch.from_numpy(x_N.astype(np.float32) / scale).unsqueeze(1)
