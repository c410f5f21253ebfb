"""Nets that a plan can name, and the site's own by `module:factory`.

No layer may mix records or keep state about them, so there is no batch normalisation: GroupNorm replaces it in the residual net.
Initial weights come from a fixed public seed: they are constants of the plan, the same at every site.

Shape legend: N samples, C channels, H and W height and width, D features, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from limbeck.base.errors import SettingError
from limbeck.base.references import load_function
from limbeck.plans.schema import ARCHITECTURES, CUSTOM

Shape = tuple[int, ...]
# (shape of one input as `tensors` gives it, number of classes) -> net.
Factory = Callable[[Shape, int], nn.Module]

INITIAL_SEED = 0
SMALL = 16


def build(name: str, shape: Shape, classes: int, factory: Factory | None = None) -> nn.Module:
    """The net with this name for inputs of this shape (without N), with weights from the public seed.

    factory: makes the net if `name` is "custom".

    Raises: SettingError for an unknown name, a net that does not fit the shape, or a factory that is missing or returns no net.
    """
    if name not in ARCHITECTURES:
        raise SettingError(f"Expected an architecture out of {', '.join(ARCHITECTURES)}, got {name!r}.")
    # Layers draw from torch's global generator when they are made; its state is restored afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(INITIAL_SEED)
        if name == CUSTOM:
            if factory is None:
                raise SettingError(
                    "Expected the site's settings to name a net of its own (teacher = 'module:factory'), got none."
                )
            try:
                net = factory(shape, classes)
            except Exception as error:  # whatever a site's own function raises
                raise SettingError(
                    f"Expected the site's factory to make a net for inputs of shape {shape} and {classes} classes:"
                    f" {type(error).__name__}: {error}."
                ) from error
            if not isinstance(net, nn.Module):
                raise SettingError(f"Expected the factory to return a torch.nn.Module, got {type(net).__name__}.")
            return net
        return {"mlp": _mlp, "cnn": _cnn, "resnet-gn": _resnet}[name](shape, classes)


def load_factory(reference: str, folder: Path | None = None) -> Factory:
    """The net's factory that a site's settings name. Raises SettingError if there is none."""
    return load_function(reference, folder, expected="a function (shape, classes) -> net")


def _mlp(shape: Shape, classes: int) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 64), nn.Tanh(), nn.Linear(64, classes))
    return _initialised(net)


def _cnn(shape: Shape, classes: int) -> nn.Module:
    """About 26,000 parameters on 28 x 28 grey images: the usual net for DP-SGD on MNIST [F: arXiv 2007.14191]."""
    channels, height, width = _image(shape)
    if min(height, width) > SMALL:
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 8, 2, padding=3), nn.Tanh(), nn.MaxPool2d(2, 1)]
        layers += [nn.Conv2d(16, 32, 4, 2), nn.Tanh(), nn.MaxPool2d(2, 1)]
    else:
        layers = [nn.Conv2d(channels, 16, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(16, 32, 3, padding=1), nn.Tanh()]
    flat = _size(nn.Sequential(*layers), shape)
    layers += [nn.Flatten(), nn.Linear(flat, 32), nn.Tanh(), nn.Linear(32, classes)]
    return _initialised(nn.Sequential(*layers))


class _Residual(nn.Module):
    """x + f(x) with GroupNorm in f; the shortcut is pooled and padded with zero channels, so it has no weights."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.stride, self.more = stride, outside - inside
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False),
            nn.GroupNorm(min(8, outside), outside),
            nn.Tanh(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.GroupNorm(min(8, outside), outside),
        )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        short = nn.functional.avg_pool2d(x_NCHW, self.stride, ceil_mode=True) if self.stride > 1 else x_NCHW
        short = nn.functional.pad(short, (0, 0, 0, 0, 0, self.more))
        return torch.tanh(self.body(x_NCHW) + short)


def _resnet(shape: Shape, classes: int) -> nn.Module:
    """A residual net of 7 convolutions with GroupNorm, about 45,000 parameters."""
    channels, _, _ = _image(shape)
    return _initialised(
        nn.Sequential(
            nn.Conv2d(channels, 16, 3, 2 if min(shape[1:]) > SMALL else 1, padding=1, bias=False),
            nn.GroupNorm(8, 16),
            nn.Tanh(),
            _Residual(16, 16, 1),
            _Residual(16, 32, 2),
            _Residual(32, 32, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, classes),
        )
    )


def _image(shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise SettingError(f"Expected images of at least 4 x 4 for a convolutional net, got inputs of shape {shape}.")
    return shape[0], shape[1], shape[2]


def _size(net: nn.Module, shape: Shape) -> int:
    with torch.no_grad():
        return int(net(torch.zeros(1, *shape)).numel())


def _initialised(net: nn.Module) -> nn.Module:
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net
