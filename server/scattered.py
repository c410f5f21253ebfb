"""A student on features: scattering and its balance as fixed, public layers below the part that is trained.

The layers are those of `limbeck.inputs.scattering` and `limbeck.inputs.features.balance`, and of operations that every runtime of ONNX has.

Shape legend: N images, D features, K classes.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from limbeck.inputs import features
from limbeck.inputs.scattering import IMAGES, Scattering

# The L2 norm of a row of features: large enough for AdamW to move logits within a few epochs.
NORM = 20.0
LEAST_NORM = 1e-12
# Images whose coefficients are kept together; as many as `limbeck.server.distil` predicts at once.
TOGETHER = 1024
# Fewer are a batch of random views, which do not come again.
LEAST_KEPT = 256
MOST_KEPT = 1 << 29


class Balanced(nn.Module):
    """Features centred, weighted and scaled to norm `NORM`, as `limbeck.inputs.features.normalise` does; of public inputs alone.

    mean_D, weight_D: stored with the weights.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean_D: Tensor
        self.weight_D: Tensor
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("weight_D", torch.ones(width))

    def forward(self, f_ND: Tensor) -> Tensor:
        """(N, D) in, (N, D) out."""
        balanced_ND = (f_ND - self.mean_D) * self.weight_D
        return balanced_ND * (NORM / balanced_ND.square().sum(1, keepdim=True).sqrt().clamp(min=LEAST_NORM))


class Coefficients:
    """Scattering coefficients of images that come again: public inputs and test sets, at every stage and for every student of a run.

    They are the costliest part of such a student and depend on the images alone. Those used last are kept, by the images' content.

    most: bytes that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    @torch.no_grad()
    def of(self, layer: Scattering, x_N: Tensor) -> Tensor:
        """(N, D) coefficients of (N, H, W) images in [0, 1], on their device."""
        return torch.cat([self._of(layer, part) for part in x_N.split(TOGETHER)])

    def _of(self, layer: Scattering, x_n: Tensor) -> Tensor:
        key = None
        if len(x_n) >= LEAST_KEPT:
            content = hashlib.sha256(f"{x_n.device} {tuple(x_n.shape)} {x_n.dtype} {layer.scales}".encode())
            content.update(x_n.cpu().contiguous().numpy().data)
            key = content.digest()
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        at_once = IMAGES if x_n.device.type == "cpu" else len(x_n)
        out_nD = torch.cat([layer(part) for part in x_n.split(at_once)])
        if key is not None:
            self._kept[key] = out_nD
            self._bytes += out_nD.numel() * out_nD.element_size()
            while self._bytes > self._most:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.numel() * oldest.element_size()
        return out_nD


_COEFFICIENTS = Coefficients(MOST_KEPT)


class OnScattering(nn.Module):
    """A student on features: scattering, balance, and a head that alone is trained and pruned.

    shape: of an image. head: makes the trained part for so many features.
    """

    def __init__(self, shape: tuple[int, ...], head: Callable[[int], nn.Module]) -> None:
        super().__init__()
        height, width = shape
        self.scattering = Scattering(height, width, features.scales_of(height))
        with torch.no_grad():
            coefficients = self.scattering(torch.zeros(1, *shape)).shape[1]
        self.balanced = Balanced(coefficients)
        self.head = head(coefficients)

    def forward(self, x_N: Tensor) -> Tensor:
        """(N, H, W) images in [0, 1], with or without a channel, in; (N, K) logits out."""
        return self.head(self.of(x_N))  # type: ignore[no-any-return]

    @torch.no_grad()
    def of(self, x_N: Tensor) -> Tensor:
        """(N, D) features of images."""
        x_N = x_N.squeeze(1) if x_N.ndim == 4 else x_N
        return torch.cat([self.balanced(part) for part in _COEFFICIENTS.of(self.scattering, x_N).split(TOGETHER)])

    @torch.no_grad()
    def fit(self, x_N: Tensor) -> None:
        """Take the balance from these public images."""
        balance = features.balance("scattering", _COEFFICIENTS.of(self.scattering, x_N).cpu().numpy())
        self.balanced.mean_D.copy_(torch.from_numpy(balance.mean_D))
        self.balanced.weight_D.copy_(torch.from_numpy(balance.weight_D))
