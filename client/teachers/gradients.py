"""Sums of clipped per-record gradients: the one place where a net meets private records.

Five engines with one contract. Opacus's are the default, ours the alternative (`gradients = "book-keeping"` in a site's settings):

- `FastClipping`, for nets that limbeck builds of linear layers alone: Opacus's fast gradient clipping, in float64. Norms come from ghost
  clipping, without per-record gradients, and the sum from a second backward pass over scaled losses.
- `Hooks`, for other nets that limbeck builds: the hooks of Opacus's GradSampleModule give each record's gradient.
- `Functorch`, for a site's own net: Opacus's functorch mode, applied to net and loss as one layer, so that whatever the forward pass does
  with its weights is differentiated for one record at a time. Correct by construction, or an error.
- `BookKeeping`, for nets that limbeck builds: one forward pass and one backward pass that stops at the outputs of layers; a record's
  gradient for a layer follows from the layer's input and the gradient of its output [F: arXiv 2210.00038; linear layers need no gradient at
  all, only its norm |a| |g|].
- `Functional`, for any net: vmap over the gradient of one record's loss. It also serves where Opacus's functorch mode cannot: it refuses
  layers with buffers, and it moves a copy of the net to another device, after which a weight with two names is two weights.

Whichever it is, what enters a sum is a record's whole gradient as the engine computed it, scaled by its own norm: a net that uses a weight
in a way that an engine did not see trains on a wrong gradient, and still no record counts for more than the clip. The exception is
`FastClipping`, whose norms and sums come from two passes; it takes only nets in which both see the same.

Gradients are float32 (`FastClipping`: float64); their norms, the scales and the sums are float64, so that no norm overflows or underflows
and rounding cannot make a record's share of a sum larger than the clip. Opacus itself would sum in float32 and divide by norm + 1e-6.

Shape legend: N records, O and I outputs and inputs of a layer, L positions, G all gradients of a layer's weights, flattened.
"""

from __future__ import annotations

import copy
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from limbeck.base.errors import SettingError
from limbeck.client.settings import Gradients

log = logging.getLogger(__name__)

# Numbers that are converted to float64 at a time: 1 MB.
CACHED = 1 << 17


class Engine(Protocol):
    """Per-record gradients of a net."""

    parameters: list[nn.Parameter]

    def clipped_sums(self, x_N: Tensor, y_N: Tensor, clip: float) -> list[Tensor]:
        """Per parameter, the float64 sum over records of clipped cross-entropy gradients, each multiplied by its class's weight before.

        Each record's gradient is scaled to an L2 norm of at most `clip` over all parameters together. One that is not finite counts as
        zero.
        """


def scales(norm_N: Tensor, clip: float) -> Tensor:
    """(N,) factors that scale gradients with these norms (float64) down to `clip`, which may be infinite; zero if a norm is not finite."""
    return torch.where(norm_N.isfinite(), torch.where(norm_N > clip, clip / norm_N, 1), 0)


def engine(net: nn.Module, *, trusted: bool, by: Gradients = "opacus", class_weight_K: Tensor | None = None) -> Engine:
    """The engine for a net.

    trusted: limbeck built the net, so each weight is used once, by its own layer, and nowhere else. Other nets are always mapped over
        records: the hooks of a layer would miss what happens to its weight elsewhere.
    by: whose per-record gradients: Opacus's, or limbeck's own.
    class_weight_K: by which the loss of a record of each class is multiplied, and so its gradient, before it is clipped.
    """
    return kind(net, trusted=trusted, by=by)(net, class_weight_K.float() if class_weight_K is not None else None)


def kind(net: nn.Module, *, trusted: bool, by: Gradients = "opacus") -> Kind:
    """Which engine serves a net; parameters as of `engine`."""
    if not trusted:
        return mapped_kind(net, by)
    if by == "book-keeping":
        return BookKeeping
    return FastClipping if all(isinstance(layer, nn.Linear) for layer in _with_weights(net)) else Hooks


def mapped_kind(net: nn.Module, by: Gradients = "opacus") -> type[Mapped]:
    """Which engine serves a net that limbeck did not build."""
    return Functional if by == "book-keeping" or unfit_for_functorch(net) else Functorch


def unfit_for_functorch(net: nn.Module) -> str:
    """Why Opacus's functorch mode cannot serve a net, as the end of a sentence, or an empty text."""
    names = [name for name, _ in net.named_parameters(remove_duplicate=False)]
    once = {name for name, _ in net.named_parameters()}
    if twice := [name for name in names if name not in once]:
        return f"weight {twice[0]!r} has two names, which its copy of a net does not keep together"
    if buffer := next((name for name, _ in net.named_buffers()), None):
        return f"it takes no layer with a buffer, such as {buffer!r}"
    return ""


def _with_weights(net: nn.Module) -> list[nn.Module]:
    """The layers that have weights of their own."""
    return [layer for layer in net.modules() if any(True for _ in layer.parameters(recurse=False))]


@dataclass(slots=True)
class _Pass:
    """The input and the output of a layer in the last forward pass."""

    given: Tensor
    gave: Tensor


class BookKeeping:
    """Linear (on rows), Conv2d (no groups) and GroupNorm, each called once in a forward pass.

    Raises SettingError for a net with weights in any other layer.
    """

    def __init__(self, net: nn.Module, class_weight_K: Tensor | None = None) -> None:
        self.net, self.class_weight_K = net, class_weight_K
        self.layers: list[nn.Module] = []
        self.parameters: list[nn.Parameter] = []
        for name, layer in net.named_modules():
            parameters = list(layer.parameters(recurse=False))
            if not parameters:
                continue
            if not _supported(layer):
                raise SettingError(
                    f"Expected Linear, Conv2d without groups or GroupNorm, got {name}: {type(layer).__name__}."
                )
            self.layers.append(layer)
            self.parameters += parameters

    def clipped_sums(self, x_N: Tensor, y_N: Tensor, clip: float) -> list[Tensor]:
        """See `Engine`."""
        seen: dict[nn.Module, _Pass] = {}

        def remember(layer: nn.Module, given: tuple[Tensor, ...], gave: Tensor) -> None:
            if layer in seen:
                raise SettingError(f"Expected each layer once in a forward pass, got {type(layer).__name__} twice.")
            seen[layer] = _Pass(given[0].detach(), gave)

        hooks = [layer.register_forward_hook(remember) for layer in self.layers]
        try:
            loss = functional.cross_entropy(self.net(x_N), y_N, self.class_weight_K, reduction="sum")
        finally:
            for hook in hooks:
                hook.remove()
        back = torch.autograd.grad(loss, [seen[layer].gave for layer in self.layers])
        parts = [_part(layer, seen[layer].given, g) for layer, g in zip(self.layers, back, strict=True)]
        norm_N = torch.stack([square for square, _ in parts]).sum(0).sqrt()
        scale_N, good_N = scales(norm_N, clip), norm_N.isfinite()
        # Zero times a value that is not finite is not zero, so such records are taken out before the sum.
        rows = None if bool(good_N.all()) else good_N
        return [total for _, sums in parts for total in sums(scale_N, rows)]


class Mapped(ABC):
    """An engine for any net, that maps the gradient of one record's loss over records."""

    def __init__(self, net: nn.Module, class_weight_K: Tensor | None = None) -> None:
        self.class_weight_K = class_weight_K
        named = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
        self.names, self.parameters = list(named), list(named.values())

    @abstractmethod
    def gradients(self, x_N: Tensor, y_N: Tensor) -> list[Tensor]:
        """Per parameter, (N, ...) gradients of each record's cross-entropy."""

    def clipped_sums(self, x_N: Tensor, y_N: Tensor, clip: float) -> list[Tensor]:
        """See `Engine`. A record on which the forward pass fails also counts as zero, and does not affect the others' shares."""
        try:
            gradients = self.gradients(x_N, y_N)
        except Exception as error:  # whatever a site's own net raises
            totals = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in self.parameters]
            if len(x_N) > 1:
                for x, y in zip(x_N.split(1), y_N.split(1), strict=True):
                    for total, part in zip(totals, self.clipped_sums(x, y, clip), strict=True):
                        total.add_(part)
            else:
                log.warning("A record has no gradient and counts as zero: %s: %s", type(error).__name__, error)
            return totals
        return _sums_of(gradients, self.parameters, clip)


class Functional(Mapped):
    """Any net that torch can map over records.

    A forward pass that draws random numbers is an error: torch would draw those of all records from one generator, by position, and one
    additional record would change everybody's gradient.
    """

    def __init__(self, net: nn.Module, class_weight_K: Tensor | None = None) -> None:
        super().__init__(net, class_weight_K)
        self.fixed: dict[str, Tensor] = dict(net.named_buffers())
        self.fixed |= {name: value for name, value in net.named_parameters() if not value.requires_grad}

        def loss(trained: dict[str, Tensor], fixed: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            logits = functional_call(net, {**trained, **fixed}, (x.unsqueeze(0),))
            # A mean would divide by the weight again.
            return functional.cross_entropy(logits, y.unsqueeze(0), class_weight_K, reduction="sum")

        self._gradients: Callable[..., dict[str, Tensor]] = vmap(grad(loss), in_dims=(None, None, 0, 0), randomness="error")

    def gradients(self, x_N: Tensor, y_N: Tensor) -> list[Tensor]:
        """See `Mapped`."""
        trained = {name: value.detach() for name, value in zip(self.names, self.parameters, strict=True)}
        by_name = self._gradients(trained, {name: value.detach() for name, value in self.fixed.items()}, x_N, y_N)
        return [by_name[name] for name in self.names]


class _Loss(nn.Module):
    """A net and its loss as one layer, from records that carry their label as the last number of a row.

    Opacus's functorch mode maps a layer over one tensor of inputs. With the loss inside, no gradient depends on a pass over a batch.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.shape: tuple[int, ...] = ()

    def forward(self, row_NW: Tensor) -> Tensor:
        """(N,) losses."""
        # Contiguous, or convolutions take half as long again.
        x_N = row_NW[:, :-1].contiguous().view(-1, *self.shape)
        return functional.cross_entropy(self.net(x_N), row_NW[:, -1].long(), reduction="none")


class Functorch(Mapped):
    """Opacus's functorch mode on a whole net, for any net with neither buffers nor weights of two names.

    Random numbers are an error, as in `Functional`. Raises SettingError for a net that it cannot serve.
    """

    def __init__(self, net: nn.Module, class_weight_K: Tensor | None = None) -> None:
        super().__init__(net, class_weight_K)
        if why := unfit_for_functorch(net):
            raise SettingError(f"Expected a net for Opacus's functorch mode, got one that it cannot serve: {why}.")
        with _quiet():
            from opacus.grad_sample import functorch
        self.loss, self._prepare = _Loss(net), functorch.prepare_layer
        self._of = functorch.ft_compute_per_sample_gradient

    def gradients(self, x_N: Tensor, y_N: Tensor) -> list[Tensor]:
        """See `Mapped`."""
        shape = tuple(x_N.shape[1:])
        if self.loss.shape != shape:
            # Opacus takes a copy, so that the shape has to be known before.
            self.loss.shape = shape
            self._prepare(self.loss)
        row_NW = torch.cat([x_N.flatten(1), y_N[:, None].to(x_N.dtype)], 1)
        back_N = torch.ones(len(y_N)) if self.class_weight_K is None else self.class_weight_K[y_N]
        with torch.no_grad():
            by_parameter: dict[nn.Parameter, Tensor] = self._of(self.loss, [row_NW], back_N)
        return [by_parameter[parameter] for parameter in self.parameters]


class Hooks:
    """Per-record gradients from the hooks of Opacus's GradSampleModule, for nets that limbeck builds."""

    def __init__(self, net: nn.Module, class_weight_K: Tensor | None = None) -> None:
        self.net, self.class_weight_K = net, class_weight_K
        self.parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        with _quiet():
            from opacus import GradSampleModule
        self._module = GradSampleModule

    def clipped_sums(self, x_N: Tensor, y_N: Tensor, clip: float) -> list[Tensor]:
        """See `Engine`."""
        with _quiet():
            hooked = self._module(self.net, loss_reduction="sum")
            try:
                functional.cross_entropy(hooked(x_N), y_N, self.class_weight_K, reduction="sum").backward()
                gradients = [parameter.grad_sample for parameter in self.parameters]  # type: ignore[attr-defined]
            finally:
                hooked.cleanup()
                for parameter in self.parameters:
                    parameter.grad = None
        return _sums_of(gradients, self.parameters, clip)


class FastClipping:
    """Opacus's fast gradient clipping in float64, for nets of linear layers that limbeck builds: each weight used once, by its own layer.

    The clip is ours: Opacus would divide by norm + 1e-6 and turn a sum into NaN for one record that is not finite. Raises SettingError for
    a net with weights in any other layer.
    """

    def __init__(self, net: nn.Module, class_weight_K: Tensor | None = None) -> None:
        if other := next((layer for layer in _with_weights(net) if not isinstance(layer, nn.Linear)), None):
            raise SettingError(f"Expected weights in linear layers only, got {type(other).__name__}.")
        with _quiet():
            from opacus.grad_sample import GradSampleModuleFastGradientClipping
        self.parameters = list(net.parameters())
        self.class_weight_K = class_weight_K.double() if class_weight_K is not None else None
        self._twin = copy.deepcopy(net).double()
        self._twins = list(self._twin.parameters())
        self._hooked = GradSampleModuleFastGradientClipping(self._twin, loss_reduction="sum")

    def clipped_sums(self, x_N: Tensor, y_N: Tensor, clip: float) -> list[Tensor]:
        """See `Engine`."""
        if not len(x_N):
            return [torch.zeros_like(twin) for twin in self._twins]
        with torch.no_grad():
            for twin, parameter in zip(self._twins, self.parameters, strict=True):
                twin.copy_(parameter)
                # A norm of an earlier batch must not stand in for one that a hook did not write.
                twin._norm_sample = None  # type: ignore[attr-defined]
        self._hooked.enable_hooks()
        with _quiet():
            loss_N = functional.cross_entropy(self._hooked(x_N.double()), y_N, self.class_weight_K, reduction="none")
            torch.autograd.backward(loss_N.sum(), retain_graph=True)
        norm_N = self._hooked.get_norm_sample()
        self._hooked.disable_hooks()
        for twin in self._twins:
            twin.grad = None
        good_N = norm_N.isfinite()
        if not bool(good_N.all()):
            # Zero times a value that is not finite is not zero, so such records are taken out before the sum.
            return self.clipped_sums(x_N[good_N], y_N[good_N], clip)
        with _quiet():
            return list(torch.autograd.grad((scales(norm_N, clip) * loss_N).sum(), self._twins))


Kind = type[FastClipping] | type[Hooks] | type[Mapped] | type[BookKeeping]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of Opacus's modules and of torch about their hooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _sums_of(gradients: list[Tensor], parameters: list[nn.Parameter], clip: float) -> list[Tensor]:
    """Per parameter, clipped sums of (N, ...) gradients."""
    flat = [gradient.flatten(1) for gradient in gradients]
    norm_N = torch.stack([_squares(gradient) for gradient in flat]).sum(0).sqrt()
    scale_N, good_N = scales(norm_N, clip), norm_N.isfinite()
    if not bool(good_N.all()):
        flat = [torch.where(good_N[:, None], gradient, 0) for gradient in flat]
    return [_weighted(scale_N, gradient).view_as(parameter) for gradient, parameter in zip(flat, parameters, strict=True)]


def _squares(row_NG: Tensor) -> Tensor:
    """(N,) squared norms in float64, in which the square of a float32 neither overflows nor underflows."""
    return torch.cat([row_nG.double().square_().sum(1) for row_nG in row_NG.split(_at_once(row_NG))])


def _weighted(scale_N: Tensor, row_NG: Tensor) -> Tensor:
    """(G,) sum of scaled rows in float64."""
    total = torch.zeros(row_NG.shape[1], dtype=torch.float64)
    size = _at_once(row_NG)
    for scale_n, row_nG in zip(scale_N.split(size), row_NG.split(size), strict=True):
        total.addmv_(row_nG.double().T, scale_n)
    return total


def _at_once(row_NG: Tensor) -> int:
    """How many rows are converted to float64 at a time: as many as stay in a processor's cache."""
    return max(1, CACHED // max(1, row_NG.shape[1]))


def _supported(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear | nn.GroupNorm)


_Sums = Callable[[Tensor, "Tensor | None"], list[Tensor]]


def _part(layer: nn.Module, given: Tensor, back: Tensor) -> tuple[Tensor, _Sums]:
    """For one layer: squared norms (N,) of each record's gradient, and a function from scales to scaled sums per parameter."""
    if isinstance(layer, nn.Linear):
        return _linear(layer, given, back)
    rows: list[Tensor]
    if isinstance(layer, nn.Conv2d):
        rows = [_convolution(layer, given, back)]
        if layer.bias is not None:
            rows.append(back.flatten(2).sum(2))
    else:
        norm: Any = layer
        standard = functional.group_norm(given, norm.num_groups, eps=norm.eps)
        rows = [(back * standard).flatten(2).sum(2), back.flatten(2).sum(2)]
    square_N = torch.stack([_squares(row) for row in rows]).sum(0)

    def sums(scale_N: Tensor, good_N: Tensor | None) -> list[Tensor]:
        kept = rows if good_N is None else [torch.where(good_N[:, None], row, 0) for row in rows]
        parameters = layer.parameters(recurse=False)
        return [_weighted(scale_N, row).view_as(parameter) for row, parameter in zip(kept, parameters, strict=True)]

    return square_N, sums


def _convolution(layer: nn.Conv2d, given: Tensor, back: Tensor) -> Tensor:
    """(N, G) gradients of the weights: the gradient of the output, times the patches of the input."""
    if layer.in_channels > 1:
        patches = functional.unfold(given, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        return torch.bmm(back.flatten(2), patches.transpose(1, 2)).flatten(1)
    # For one channel this is a convolution of each image with its gradient, with stride and dilation swapped: four times faster.
    height, width = (int(side) for side in layer.padding)
    images = functional.pad(given, (width, width, height, height)).transpose(0, 1)
    filters = back.reshape(-1, 1, *back.shape[2:])
    gradients = functional.conv2d(images, filters, stride=layer.dilation, dilation=layer.stride, groups=len(given))
    rows, columns = layer.kernel_size
    return gradients[..., :rows, :columns].reshape(len(given), -1)


def _linear(layer: nn.Linear, given_NI: Tensor, back_NO: Tensor) -> tuple[Tensor, _Sums]:
    """Norms and sums for a linear layer without its gradients, which are outer products of output gradient and input."""
    bias = layer.bias is not None
    given_NI, back_NO = given_NI.double(), back_NO.double()
    square_N = back_NO.square().sum(1) * (given_NI.square().sum(1) + bias)

    def sums(scale_N: Tensor, good_N: Tensor | None) -> list[Tensor]:
        given, back = given_NI, back_NO
        if good_N is not None:
            given, back = (torch.where(good_N[:, None], value, 0) for value in (given, back))
        scaled = back * scale_N[:, None]
        return [scaled.T @ given, scaled.sum(0)] if bias else [scaled.T @ given]

    return square_N, sums
