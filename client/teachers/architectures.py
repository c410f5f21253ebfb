"""Nets that a plan can name, and the site's own by `module:factory`.

No layer may mix records or keep a state about them, so there is no batch normalisation: GroupNorm stands where a residual net
usually has it. Initial weights come from a fixed public seed: they are constants of the plan, the same at every site.

Shape legend: N samples, C channels, H and W height and width, D features, K classes.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.operators.errors import DataError, SettingError
from limbeck.protos.messages import ARCHITECTURES, CUSTOM

Shape = tuple[int, ...]
# (shape of one input as `tensors` gives it, number of classes) -> net.
Factory = Callable[[Shape, int], nn.Module]

INITIAL_SEED = 0
SMALL = 16


def tensors(x_N: NDArray[np.generic]) -> Tensor:
    """Inputs as nets take them: bytes become [0, 1], floats stay; grey images get a channel, colour images channels first.

    (N, D) rows stay; (N, H, W) becomes (N, 1, H, W), (N, H, W, C) becomes (N, C, H, W). Raises DataError for another shape.
    """
    if x_N.ndim not in {2, 3, 4}:
        raise DataError(f"Expected rows (N, D) or images (N, H, W) or (N, H, W, C), got shape {x_N.shape}.")
    scale = 255 if x_N.dtype == np.uint8 else 1
    # A number too large for float32 becomes infinite, and the gradient of its record zero.
    with np.errstate(over="ignore"):
        found = torch.from_numpy(x_N.astype(np.float32) / np.float32(scale))
    if x_N.ndim == 3:
        return found.unsqueeze(1)
    return found.permute(0, 3, 1, 2).contiguous() if x_N.ndim == 4 else found


def build(name: str, shape: Shape, classes: int, factory: Factory | None = None) -> nn.Module:
    """The net of this name for inputs of this shape (without N), on weights from the public seed.

    factory: makes the net where `name` is "custom". Raises SettingError for an unknown name, a net that does not fit the shape or a
    factory that is missing or makes no net.
    """
    if name not in ARCHITECTURES:
        raise SettingError(f"Expected an architecture out of {', '.join(ARCHITECTURES)}, got {name!r}.")
    # Layers draw from torch's global generator when they are made. It is put back as it was.
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
    """What a site's settings name as "module:factory": a module file in `folder`, or else an installed module.

    Raises SettingError where there is none. Only ever called with the site's own settings: a plan cannot name code.
    """
    module_name, colon, name = reference.partition(":")
    if not (colon and module_name and name.isidentifier()):
        raise SettingError(f"Expected a factory as 'module:factory', got {reference!r}.")
    file = folder / f"{module_name}.py" if folder is not None else None
    try:
        if file is not None and file.exists():
            spec = importlib.util.spec_from_file_location(module_name, file)
            if spec is None or spec.loader is None:
                raise ImportError(f"{file} is no module")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        factory = getattr(module, name)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise SettingError(f"Expected a factory at {reference!r}: {type(error).__name__}: {error}.") from error
    if not callable(factory):
        raise SettingError(f"Expected {reference!r} to be a function (shape, classes) -> net, got {type(factory).__name__}.")
    return factory  # type: ignore[no-any-return]


def _mlp(shape: Shape, classes: int) -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 64), nn.Tanh(), nn.Linear(64, classes))
    return _initialised(net)


def _cnn(shape: Shape, classes: int) -> nn.Module:
    """About 26,000 parameters on 28 x 28 grey images: the usual net of DP-SGD on MNIST [F: arXiv 2007.14191]."""
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
    """x + f(x) with GroupNorm in f; the shortcut is pooled and padded with zero channels, so it has no weights of its own."""

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
