"""The test kit for a site's own net: what would break its privacy or its training, in sentences, before any record is read.

A net passes if each record's gradient depends on that record alone: no layer mixes records, no random number is drawn, nothing but weights
is remembered between forward passes, and per-record gradients agree with a loop over records one at a time.

Why no random numbers: torch, numpy and Python draw those of all records from one generator, by position in the batch. One additional
record would change the masks of all others, and with them the sum of gradients by far more than one record's clip.
"""

from __future__ import annotations

import copy
import itertools
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.base.errors import SettingError
from limbeck.client.teachers.architectures import Shape
from limbeck.client.teachers.gradients import mapped_kind

# A module that replaces layers of another's nets.
FIXED = '''"""{factory} with the layers replaced that Opacus's ModuleValidator replaces. In site.toml:  teacher = "{stem}:build"

{replaced}
"""

from pathlib import Path

from torch import nn

from limbeck.base.references import load_function
from limbeck.client.teachers.kit import proposal

original = load_function("{factory}", Path(__file__).parent, expected="a function (shape, classes) -> net")


def build(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The net of {factory}, with its layers replaced."""
    fixed, _ = proposal(original(shape, classes))
    return fixed
'''

RECORDS = 5
TOLERANCE = 1e-3
# Forward passes over the same records.
PASSES = 4
# How deep a layer's attributes are searched for what it remembers.
DEPTH = 4

TEMPLATE = '''"""A net for limbeck. In site.toml:  teacher = "{module}:build". To try it:  limbeck teacher check {module}:build

No layer may mix records: use GroupNorm or LayerNorm, never BatchNorm. No dropout, nothing random: the noise of training is enough
regularisation. Tanh often trains better than ReLU under clipping.
"""

from torch import nn


def build(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A net that returns `classes` logits per record. shape: of one input, (channels, height, width) for images in [0, 1], (features,)
    for rows."""
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
    """Everything that is wrong with a net, one sentence each; empty if it can be trained.

    Inputs are random numbers in [0, 1) with a separate seed; global generators and the net's weights are left unchanged.
    """
    with _generators_kept(), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        inputs = torch.rand(RECORDS, *shape, generator=torch.Generator().manual_seed(1))
        labels = torch.arange(RECORDS) % classes
        # A problem with layers explains those that follow from it, so the examination ends with the first group that finds one.
        for check in (_layers, _outputs, _randomness, _memory, _independence, _gradients):
            try:
                problems = check(copy.deepcopy(net).train(), inputs, labels, classes)
            except Exception as error:  # whatever a site's own net raises
                return [f"It cannot be examined: {_short(error)}."]
            if problems:
                return problems
    return []


def require_sound(net: nn.Module, shape: Shape, classes: int) -> None:
    """Raise SettingError, with everything that `examine` finds."""
    problems = examine(net, shape, classes)
    if problems:
        raise SettingError("Expected a net that can be trained under differential privacy: " + " ".join(problems))


@dataclass(frozen=True, slots=True)
class Replaced:
    """A layer that Opacus's fixer would replace. old, new: as torch prints them."""

    name: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"Layer {self.name!r}: {self.old} -> {self.new}"


def validator_says(net: nn.Module) -> list[str]:
    """What Opacus's ModuleValidator objects to, layer by layer, in its own first sentence.

    It knows layers by their class and finds less than `examine`: no dropout, nothing that a forward pass does or remembers.
    """
    with _generators_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.utils.module_utils import trainable_modules
        from opacus.validators import ModuleValidator

        return [
            f"Layer {name!r} is {type(layer).__name__}: {str(error).partition('. ')[0].strip().rstrip('.')}."
            for name, layer in trainable_modules(copy.deepcopy(net).train())
            for error in ModuleValidator.validate(layer)
        ]


def proposal(net: nn.Module) -> tuple[nn.Module, list[Replaced]]:
    """The net with the layers that Opacus's fixer replaces, and which they were. The net that is given stays as it is.

    Layer by layer: the fixer copies what it is given by pickling it, which a site's own class need not allow.
    """
    replaced, fixed = [], copy.deepcopy(net).train()
    with _generators_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.utils.module_utils import trainable_modules
        from opacus.validators import ModuleValidator

        for name, layer in list(trainable_modules(fixed)):
            if not ModuleValidator.validate(layer):
                continue
            new: nn.Module = ModuleValidator.fix(layer)
            if not name:
                return new, [Replaced(name, _line(layer), _line(new))]
            fixed.set_submodule(name, new)
            replaced.append(Replaced(name, _line(layer), _line(new)))
    return fixed, replaced


def _line(layer: nn.Module) -> str:
    return " ".join(repr(layer).split())


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
                f"{what}, whose gradients are not available per record; use opacus.layers.Dp{type(layer).__name__}."
            )
        elif random_by := _random_by(layer):
            problems.append(
                f"{what} with {random_by}: it draws for all records from one generator, so that one additional record would change"
                " everybody's gradient. Leave it out: the noise of training is enough regularisation."
            )
    if not any(parameter.requires_grad for parameter in net.parameters()):
        problems.append("It has no trainable weight.")
    for name, parameter in net.named_parameters():
        if parameter.dtype != torch.float32:
            problems.append(f"Weight {name!r} is {parameter.dtype}; float32 is required.")
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
            return [f"A forward pass returns {type(logits).__name__}; a tensor of logits is required."]
        if tuple(logits.shape) != (n, classes):
            return [f"{n} records give an output of shape {tuple(logits.shape)}; ({n}, {classes}) logits are required."]
        if not bool(logits.isfinite().all()):
            return ["Its output on numbers in [0, 1) is not finite."]
    changed = [name for name, value in net.named_buffers() if not torch.equal(value, before[name])]
    problems = [f"Buffer {name!r} changes in a forward pass: it remembers records without any clipping." for name in changed]
    moved = [name for name, value in net.named_parameters() if not torch.equal(value, weights[name])]
    return problems + [f"Weight {name!r} changes in a forward pass." for name in moved]


def _randomness(net: nn.Module, inputs: Tensor, labels: Tensor, classes: int) -> list[str]:
    """Nothing may be drawn at random, in training mode or evaluation mode."""
    problems = []
    for mode in (True, False):
        net.train(mode)
        before = _generators()
        with _Draws() as draws:
            first = net(inputs)
        problems += [f"A forward pass draws random numbers ({name})." for name in sorted(draws.names)]
        after = _generators()
        problems += [
            f"A forward pass draws from {name}'s global generator." for name in after if after[name] != before[name]
        ]
        if not problems and not all(torch.equal(first, net(inputs)) for _ in range(PASSES)):
            problems.append("Two forward passes over the same records differ.")
    if problems:
        problems.append(
            "One additional record changes what is random for all others: make the net a function of its input alone."
        )
    return list(dict.fromkeys(problems))


def _memory(net: nn.Module, inputs: Tensor, labels: Tensor, classes: int) -> list[str]:
    """No attribute of a layer, and nothing that its forward function holds on to, may change from pass to pass or with the records."""

    def passed(copied: nn.Module, x_N: Tensor) -> dict[str, object]:
        for n in (RECORDS, 1):
            copied(x_N[:n])
        return _remembered(copied)

    one, other = copy.deepcopy(net), copy.deepcopy(net)
    first, again, others = passed(one, inputs), passed(one, inputs), passed(other, inputs.square())
    return [
        f"{name} changes in a forward pass, so that it remembers records, or how many there were."
        for name in {**first, **again, **others}
        if not first.get(name) == again.get(name) == others.get(name)
    ]


def _independence(net: nn.Module, inputs: Tensor, labels: Tensor, classes: int) -> list[str]:
    """If one record is replaced by another, the outputs of the rest must not change."""
    other = inputs.clone()
    other[0] = other[0].square()
    if not torch.allclose(net(inputs)[1:], net(other)[1:], atol=1e-5, rtol=1e-4):
        return ["A record's output depends on the other records in its batch; no layer may mix records."]
    return []


def _gradients(net: nn.Module, inputs: Tensor, labels: Tensor, classes: int) -> list[str]:
    engine = mapped_kind(net)(net)
    try:
        gradients = engine.gradients(inputs, labels)
    except Exception as error:
        return [
            f"Gradients are not available per record: {_short(error)}. Avoid in-place operations, .item() and branches on values."
        ]
    problems = []
    for row in range(RECORDS):
        loss = functional.cross_entropy(net(inputs[row : row + 1]), labels[row : row + 1])
        expected = torch.autograd.grad(loss, engine.parameters, allow_unused=True, materialize_grads=True)
        for name, gradient, alone in zip(engine.names, gradients, expected, strict=True):
            if not torch.allclose(gradient[row], alone, atol=TOLERANCE * (1 + float(alone.abs().max()))):
                problems.append(
                    f"The gradient of {name!r} for one record differs from the one computed for that record alone."
                )
    unused = [name for name, gradient in zip(engine.names, gradients, strict=True) if not bool(gradient.any())]
    problems += [f"Weight {name!r} gets no gradient; remove it or set requires_grad = False." for name in unused]
    return list(dict.fromkeys(problems))


def _random_by(layer: nn.Module) -> str:
    """What makes a torch layer random during training, or an empty text."""
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return f"p = {layer.p}" if layer.p > 0 else ""
    if isinstance(layer, nn.MultiheadAttention):
        return f"dropout = {layer.dropout}" if layer.dropout > 0 else ""
    if isinstance(layer, nn.RReLU):
        return "a random slope" if layer.lower != layer.upper else ""
    return "random regions" if isinstance(layer, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d) else ""


class _Draws(TorchDispatchMode):
    """Records every torch operation that draws from a generator, global or not."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in function.tags:
            # Attention may draw: its dropout says whether it does.
            names = [argument.name for argument in function._schema.arguments]
            given = dict(zip(names, args, strict=False)) | kwargs
            if "dropout_p" not in names or given.get("dropout_p"):
                self.names.add(str(function))
        return function(*args, **kwargs)


def _generators() -> dict[str, object]:
    """The states of the global generators."""
    numpy_state = np.random.get_state(legacy=False)
    return {"torch": torch.get_rng_state().numpy().tobytes(), "numpy": repr(numpy_state), "Python": random.getstate()}


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Restore the global generators at the end."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _remembered(net: nn.Module) -> dict[str, object]:
    """By name: everything that layers hold besides weights and buffers, and what the functions of their classes hold on to."""
    remembered: dict[str, object] = {}
    for name, layer in net.named_modules():
        for key, value in vars(layer).items():
            if key not in {"_parameters", "_buffers", "_modules"}:
                remembered[f"Attribute {key!r} of layer {name!r}"] = _plain(value)
        for kind in type(layer).__mro__:
            if kind.__module__.partition(".")[0] not in {"torch", "builtins"}:
                for key, value in vars(kind).items():
                    remembered[f"What {kind.__name__}.{key} holds on to"] = _plain(value)
    return remembered


def _held(function: FunctionType, depth: int) -> object:
    """The values in a function's closure, and of the global names that it uses."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    names = {name: function.__globals__[name] for name in function.__code__.co_names if name in function.__globals__}
    held = {name: cell.cell_contents for name, cell in cells if name != "__class__"} | names
    return {name: _plain(value, depth - 1) for name, value in held.items()}


def _plain(value: object, depth: int = DEPTH) -> object:
    """A comparable copy of a value; None for what cannot be inspected."""
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes() | np.generic():
            return repr(value)
        case Tensor():
            return tuple(value.shape), value.detach().flatten().view(torch.uint8).numpy().tobytes()
        case np.ndarray():
            return value.shape, value.tobytes()
        case torch.Generator():
            return value.get_state().numpy().tobytes()
        case np.random.Generator():
            return repr(value.bit_generator.state)
        case random.Random():
            return value.getstate()
        case itertools.count():
            return repr(value)
    if depth <= 0 or isinstance(value, type | ModuleType | nn.Module):
        return None
    match value:
        case list() | tuple():
            return [_plain(one, depth - 1) for one in value]
        case set() | frozenset():
            return sorted(repr(one) for one in value)
        case dict():
            return {repr(key): _plain(one, depth - 1) for key, one in value.items()}
        case FunctionType():
            return _held(value, depth)
    return _plain(getattr(value, "__dict__", None), depth - 1)


def _short(error: Exception) -> str:
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else 'no message'}".rstrip(
            "."
        )
    )
