"""The test kit for a site's own net: what would break its privacy or its training, in words, before any record is read.

A net passes where each record's gradient is its own: no layer mixes records, nothing is remembered between forward passes but weights, and
per-record gradients agree with a loop over records one at a time.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from limbeck.client.teachers.architectures import Shape
from limbeck.client.teachers.gradients import Functional
from limbeck.operators.errors import SettingError

RECORDS = 5
TOLERANCE = 1e-3

TEMPLATE = '''"""A net for limbeck. In site.toml:  teacher = "{module}:build". To try it:  limbeck teacher check {module}:build

No layer may mix records: use GroupNorm or LayerNorm, never BatchNorm. Tanh often trains better than ReLU under clipping.
"""

from torch import nn


def build(shape: tuple[int, ...], classes: int) -> nn.Module:
    """shape: of one input, (channels, height, width) for images in [0, 1], (features,) for rows. Gives `classes` logits per record."""
    if len(shape) == 1:
        return nn.Sequential(nn.Linear(shape[0], 32), nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, classes))
    return nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, stride=2, padding=1),
        nn.GroupNorm(4, 16),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16 * 16, classes),
    )
'''


def examine(net: nn.Module, shape: Shape, classes: int) -> list[str]:
    """All that is wrong with a net, one sentence each; empty where it can be trained.

    Inputs are random numbers in [0, 1) from a seed of their own; torch's generator and the net's weights are left as they were.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        inputs = torch.rand(RECORDS, *shape, generator=torch.Generator().manual_seed(1))
        labels = torch.arange(RECORDS) % classes
        # The first complaint about layers explains what follows from it, so each group of checks ends the examination.
        for check in (_layers, _outputs, _independence, _gradients):
            problems = check(copy.deepcopy(net).train(), inputs, labels, classes)
            if problems:
                return problems
    return []


def require_sound(net: nn.Module, shape: Shape, classes: int) -> None:
    """Raise SettingError, with everything that `examine` finds."""
    problems = examine(net, shape, classes)
    if problems:
        raise SettingError("Expected a net that can be trained under differential privacy: " + " ".join(problems))


_Check = Callable[[nn.Module, Tensor, Tensor, int], list[str]]


def _layers(net: nn.Module, inputs: Tensor, labels: Tensor, classes: int) -> list[str]:
    problems = []
    for name, layer in net.named_modules():
        what = f"Layer {name!r} is {type(layer).__name__}"
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            features = layer.num_features
            groups = next(groups for groups in (32, 16, 8, 4, 2, 1) if features % groups == 0)
            problems.append(f"{what}, which mixes records; put nn.GroupNorm({groups}, {features}) in its place.")
        elif isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats:
            problems.append(f"{what} with running statistics, which remember records; set track_running_stats=False.")
        elif isinstance(layer, nn.RNNBase):
            problems.append(
                f"{what}, whose gradients cannot be had record by record; use opacus.layers.Dp{type(layer).__name__}."
            )
    if not any(parameter.requires_grad for parameter in net.parameters()):
        problems.append("It has no weight that can be trained.")
    for name, parameter in net.named_parameters():
        if parameter.dtype != torch.float32:
            problems.append(f"Weight {name!r} is {parameter.dtype}; float32 is wanted.")
    return problems


def _outputs(net: nn.Module, inputs: Tensor, labels: Tensor, classes: int) -> list[str]:
    before = {name: value.clone() for name, value in net.named_buffers()}
    weights = {name: value.detach().clone() for name, value in net.named_parameters()}
    for n in (RECORDS, 1):
        try:
            logits = net(inputs[:n])
        except Exception as error:
            return [f"A forward pass over {n} records of shape {tuple(inputs.shape[1:])} fails: {_short(error)}."]
        if not isinstance(logits, Tensor):
            return [f"A forward pass gives {type(logits).__name__}; a tensor of logits is wanted."]
        if tuple(logits.shape) != (n, classes):
            return [f"{n} records give an output of shape {tuple(logits.shape)}; ({n}, {classes}) logits are wanted."]
        if not bool(logits.isfinite().all()):
            return ["Its output on numbers in [0, 1) is not finite."]
    changed = [name for name, value in net.named_buffers() if not torch.equal(value, before[name])]
    problems = [f"Buffer {name!r} changes in a forward pass: it remembers records without any clipping." for name in changed]
    moved = [name for name, value in net.named_parameters() if not torch.equal(value, weights[name])]
    return problems + [f"Weight {name!r} changes in a forward pass." for name in moved]


def _independence(net: nn.Module, inputs: Tensor, labels: Tensor, classes: int) -> list[str]:
    """In place of one record another: the outputs of the others must not move."""
    _without_dropout(net)
    other = inputs.clone()
    other[0] = 1 - other[0]
    one, again, two = net(inputs), net(inputs), net(other)
    if not torch.allclose(one, again, atol=1e-6, rtol=1e-5):
        return ["Two forward passes over the same records differ, dropout apart; draw no random numbers in it."]
    if not torch.allclose(one[1:], two[1:], atol=1e-5, rtol=1e-4):
        return ["A record's output depends on the other records in its batch; no layer may mix records."]
    return []


def _gradients(net: nn.Module, inputs: Tensor, labels: Tensor, classes: int) -> list[str]:
    _without_dropout(net)
    engine = Functional(net)
    try:
        found = engine.gradients(inputs, labels)
    except Exception as error:
        return [
            f"Gradients cannot be had record by record: {_short(error)}. Avoid in-place operations, .item() and branches on values."
        ]
    problems = []
    for row in range(RECORDS):
        loss = functional.cross_entropy(net(inputs[row : row + 1]), labels[row : row + 1])
        expected = torch.autograd.grad(loss, engine.parameters, allow_unused=True, materialize_grads=True)
        for name, gradient, own in zip(engine.names, found, expected, strict=True):
            if not torch.allclose(gradient[row], own, atol=TOLERANCE * (1 + float(own.abs().max()))):
                problems.append(f"The gradient of {name!r} for one record differs from the one computed alone.")
    unused = [name for name, gradient in zip(engine.names, found, strict=True) if not bool(gradient.any())]
    problems += [f"Weight {name!r} gets no gradient; remove it or set requires_grad = False." for name in unused]
    return list(dict.fromkeys(problems))


def _without_dropout(net: nn.Module) -> None:
    """Dropout is allowed: it draws for every record on its own. It is switched off only to compare numbers."""
    for layer in net.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.0


def _short(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else 'no message'}".rstrip(
            "."
        )
    )
