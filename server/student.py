"""Student architectures, by name. Weights start from a public seed.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.base.errors import SettingError
from limbeck.inputs import features
from limbeck.plans.checks import check_inputs
from limbeck.plans.schema import STUDENTS, Plan
from limbeck.server import augment, losses, refining
from limbeck.server.adamw import AdamW
from limbeck.server.scattered import OnScattering

Shape = tuple[int, ...]


class Scaled(nn.Module):
    """Takes what a transfer set holds: bytes become [0, 1], grey images get a channel; then a body."""

    def __init__(self, body: nn.Module, *, images: bool) -> None:
        super().__init__()
        self.body, self.images = body, images

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W) images or (N, D) rows in, (N, K) logits out."""
        return self.body(x.unsqueeze(1) if self.images and x.ndim == 3 else x)  # type: ignore[no-any-return]


def _cnn(shape: Shape, classes: int, widths: tuple[int, int], hidden: int) -> nn.Module:
    if len(shape) != 2:
        raise SettingError(f"Expected grey images for a convolutional student, got inputs of shape {shape}.")
    first, second = widths
    flat = second * (shape[0] // 4) * (shape[1] // 4)
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(flat, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def _mlp(shape: Shape, classes: int) -> nn.Module:
    size = 1
    for side in shape:
        size *= side
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, classes)
    )


def _linear_on_scattering(shape: Shape, classes: int) -> nn.Module:
    return OnScattering(shape, lambda width: nn.Linear(width, classes))


def _mlp_on_scattering(shape: Shape, classes: int) -> nn.Module:
    return OnScattering(shape, lambda width: nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, classes)))


ARCHITECTURES: dict[str, Callable[[Shape, int], nn.Module]] = {
    "cnn": lambda shape, classes: _cnn(shape, classes, (32, 64), 128),
    "cnn-small": lambda shape, classes: _cnn(shape, classes, (12, 24), 48),
    "mlp": _mlp,
    "scattering-linear": _linear_on_scattering,
    "scattering-mlp": _mlp_on_scattering,
}


def build(name: str, input_shape: Sequence[int], classes: int, seed: int) -> Scaled:
    """A student for inputs of this shape (without N). Raises SettingError for an unknown name or a shape that does not fit."""
    if name not in ARCHITECTURES:
        raise SettingError(f"Expected student.architecture out of {', '.join(STUDENTS)}, got {name!r}.")
    shape = tuple(input_shape)
    # The only use of torch's global generator: layers draw from it when they are made. It is put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = ARCHITECTURES[name](shape, classes)
    return Scaled(body, images=len(shape) == 2 and not isinstance(body, OnScattering))


def rehearse(plan: Plan, x_N: NDArray[np.generic]) -> None:
    """One batch through all that a stage will do with it, before a plan is offered: what fails here would fail when all sites have paid.

    x_N: the plan's public inputs. Raises SettingError, naming the field where one is to blame.
    """
    check_inputs(plan, x_N)
    settings = plan.student
    try:
        model = build(settings.architecture, x_N.shape[1:], plan.classes, plan.public_seed)
        optimiser = AdamW(model.parameters(), learning_rate=settings.learning_rate, weight_decay=settings.weight_decay)
        batch = prepare(torch.from_numpy(np.array(x_N[: settings.batch])))
        if settings.refine:
            width = features.compute(settings.refine, x_N[:2]).shape[1]
            refining.check(f"student.refine = {settings.refine!r}", width, plan.samples, plan.classes)
        if isinstance(model.body, OnScattering):
            field = f"student.architecture = {settings.architecture!r}"
            refining.check(field, len(model.body.balanced.mean_D), plan.samples, plan.classes)
        if settings.augment and batch.ndim == 3:
            batch = augment.affine(batch.unsqueeze(1), torch.Generator().manual_seed(plan.public_seed))
        target_NK = torch.full((len(batch), plan.classes), 1 / plan.classes)
        loss = losses.by_name(settings.loss, target_NK, model(batch), max(stage.temperature for stage in plan.stages))
        loss.backward()
        optimiser.step()
    except (RuntimeError, ValueError, MemoryError) as error:
        raise SettingError(
            f"Expected a student ({settings.architecture!r}, {settings.loss.value!r}) for the public inputs: {error}."
        ) from error
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise SettingError(
            f"Expected student.loss = {settings.loss.value!r} to leave finite weights after a step, got others."
        )


def prepare(x_N: Tensor) -> Tensor:
    """Inputs as the student takes them: bytes become float32 in [0, 1], floats stay."""
    return x_N.float() / 255 if x_N.dtype == torch.uint8 else x_N.float()
