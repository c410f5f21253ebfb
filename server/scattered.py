"""Scattering and its balance as layers of a student: fixed, public, and of operations that every runtime of ONNX has.

The same features as `limbeck.inputs.scattering` and `limbeck.inputs.features.balance`, to float32's precision. There, transforms are fast
Fourier transforms; here they are products with small constant matrices, on a CPU as on a GPU, and `limbeck.server.graph` writes the same
products as nodes. So a student on features is one file that takes images, and whoever uses it needs neither torch nor limbeck.

Three facts make the program short. A wavelet's filter is real in the frequency domain. Folding a spectrum and transforming it back is
taking every 2^j-th pixel: some rows of the inverse transform. And the low-pass filter, a Gaussian, is a product of one over rows and one
over columns, so that blurring and cropping is a matrix on either side.

Shape legend: N images, H x W their size, P x P the padded size, B bands (angles of one scale), D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from limbeck.inputs import features, scattering

T = TypeVar("T")

ANGLES = 8
# The L2 norm of a row of features: large enough for AdamW to move logits within a few epochs.
NORM = 20.0
LEAST_NORM = 1e-12
# Images whose features are computed at once.
IMAGES = 64


def scales_of(height: int) -> int:
    """As `limbeck.inputs.features` has them."""
    return 1 if height <= features.SMALL else 2


class Operations(Protocol[T]):
    """What the program is made of: carried out by torch here, written as nodes of a graph in `limbeck.server.graph`."""

    def constant(self, name: str) -> T:
        """A buffer of the layer."""

    def product(self, a: T, b: T) -> T:
        """The matrix product over the last two axes."""

    def plus(self, a: T, b: T) -> T:
        """a + b."""

    def minus(self, a: T, b: T) -> T:
        """a - b."""

    def times(self, a: T, b: T) -> T:
        """a b, number by number."""

    def root(self, a: T) -> T:
        """The square root."""

    def wider(self, a: T, axis: int) -> T:
        """With one more axis, of size 1, at this place."""

    def joined(self, parts: list[T]) -> T:
        """Everything of an image in one row."""


def program(do: Operations[T], x: T, scales: int) -> T:
    """Scattering coefficients of images x in the operations of `do`, in the order of `limbeck.inputs.scattering.scatter`.

    scales: 1 or 2. Second-order paths go from the first scale, whose moduli are on the whole grid, to the second.
    """
    zeroth = _blurred(do, x, "image")
    re, im = _sandwich(do, x, None, "forward")
    re, im = do.wider(re, 1), do.wider(im, 1)
    first, second = [], []
    for scale in range(scales):
        modulus = _modulus(do, re, im, scale)
        first.append(_blurred(do, modulus, f"low{scale}"))
        if scale + 1 < scales:
            again_re, again_im = _sandwich(do, modulus, None, "again")
            again_re, again_im = do.wider(again_re, 2), do.wider(again_im, 2)
            second.append(_blurred(do, _modulus(do, again_re, again_im, scale + 1), f"low{scale + 1}"))
    return do.joined([zeroth, *first, *second])


def _blurred(do: Operations[T], a: T, name: str) -> T:
    """The low-pass filter, on the coarse grid, cropped to the image."""
    return do.product(do.product(do.constant(f"{name}_0"), a), do.constant(f"{name}_1_T"))


def _modulus(do: Operations[T], re: T, im: T, scale: int) -> T:
    """|x * wavelet| of all angles of a scale, on the grid coarser by 2^scale."""
    bands = do.constant(f"band{scale}")
    re, im = _sandwich(do, do.times(re, bands), do.times(im, bands), f"back{scale}")
    return do.root(do.plus(do.times(re, re), do.times(im, im)))


def _sandwich(do: Operations[T], re: T, im: T | None, name: str) -> tuple[T, T]:
    """M z M' for the complex matrices of rows and of columns with this name. im: None of a real z."""
    left_re, left_im = do.product(do.constant(f"{name}_0_re"), re), do.product(do.constant(f"{name}_0_im"), re)
    if im is not None:
        left_re = do.minus(left_re, do.product(do.constant(f"{name}_0_im"), im))
        left_im = do.plus(left_im, do.product(do.constant(f"{name}_0_re"), im))
    right_re, right_im = do.constant(f"{name}_1_re_T"), do.constant(f"{name}_1_im_T")
    return (
        do.minus(do.product(left_re, right_re), do.product(left_im, right_im)),
        do.plus(do.product(left_re, right_im), do.product(left_im, right_re)),
    )


class Scattering(nn.Module):
    """(N, H, W) images in [0, 1] to (N, D) scattering coefficients; nothing in it is trained, or stored with weights.

    height, width: of the images.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.scales = 1 if height <= features.SMALL else 2
        step = 1 << self.scales
        bank = scattering.bank(height, width, self.scales, ANGLES)
        for axis, (side, padded) in enumerate(zip((height, width), bank.low_HW.shape, strict=True)):
            first = (padded - side) // 2 // step * step
            image, kept = slice(first, first + side), slice(first // step, (first + side) // step)
            whole = _fourier(padded)
            # Zeros beyond the image meet the columns that are left out.
            self._keep_complex(f"forward_{axis}", whole[:, image])
            self._keep_complex(f"again_{axis}", whole)
            for scale in range(self.scales):
                self._keep_complex(f"back{scale}_{axis}", (whole.conj() / padded)[:: 1 << scale])
                self._keep(f"low{scale}_{axis}", _low_pass(padded, self.scales, scale)[kept])
            self._keep(f"image_{axis}", _low_pass(padded, self.scales, 0)[kept, image])
        for scale in range(self.scales):
            self._keep(f"band{scale}", torch.stack([band for own, band in bank.bands if own == scale]))

    def _keep_complex(self, name: str, matrix: Tensor) -> None:
        self._keep(f"{name}_re", matrix.real)
        self._keep(f"{name}_im", matrix.imag)

    def _keep(self, name: str, value: Tensor) -> None:
        # What is multiplied from the right is a matrix of columns, and kept transposed.
        columns = "_1" in name
        value = value.float().T if columns else value.float()
        self.register_buffer(f"{name}_T" if columns else name, value.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The coefficients: of zeroth, first and second order, path by path."""
        return program(_Eager(self), x, self.scales)


def _fourier(size: int) -> Tensor:
    """(size, size) complex128: the discrete Fourier transform."""
    matrix: Tensor = torch.fft.fft(torch.eye(size, dtype=torch.complex128), dim=0)
    return matrix


def _low_pass(padded: int, scales: int, at: int) -> Tensor:
    """(padded / 2^scales, padded / 2^at): blur a signal on the grid coarser by 2^at, and take it on the grid coarser by 2^scales."""
    size = padded >> at
    frequency = 2 * torch.pi * torch.fft.fftfreq(padded, dtype=torch.float64)
    response = torch.exp(-((scattering.LOW_PASS * 2 ** (scales - 1)) ** 2) * frequency**2 / 2)
    # On a coarser grid, frequencies that it cannot tell apart add up.
    response = response.view(1 << at, size).sum(0)
    fourier = _fourier(size)
    blurred: Tensor = ((fourier.conj() / size) @ (response[:, None] * fourier)).real
    return blurred[:: 1 << (scales - at)]


class _Eager:
    """The operations, carried out by torch."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer

    def constant(self, name: str) -> Tensor:
        return self._layer.get_buffer(name)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    def plus(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def minus(self, a: Tensor, b: Tensor) -> Tensor:
        return a - b

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def root(self, a: Tensor) -> Tensor:
        return a.sqrt()

    def wider(self, a: Tensor, axis: int) -> Tensor:
        return a.unsqueeze(axis)

    def joined(self, parts: list[Tensor]) -> Tensor:
        return torch.cat([part.flatten(1) for part in parts], 1)


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


class OnScattering(nn.Module):
    """A student on features: scattering, balance, and a head that alone is trained and pruned.

    shape: of an image. head: makes the trained part for so many features.
    """

    def __init__(self, shape: tuple[int, ...], head: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.scattering = Scattering(*shape)
        with torch.no_grad():
            width = self.scattering(torch.zeros(1, *shape)).shape[1]
        self.balanced = Balanced(width)
        self.head = head(width)

    def forward(self, x_N: Tensor) -> Tensor:
        """(N, H, W) images in [0, 1], with or without a channel, in; (N, K) logits out."""
        return self.head(self.of(x_N))  # type: ignore[no-any-return]

    @torch.no_grad()
    def of(self, x_N: Tensor) -> Tensor:
        """(N, D) features of images."""
        x_N = x_N.squeeze(1) if x_N.ndim == 4 else x_N
        return torch.cat([self.balanced(self.scattering(part)) for part in x_N.split(IMAGES)])

    @torch.no_grad()
    def fit(self, x_N: Tensor) -> None:
        """Take the balance from these public images."""
        raw_ND = torch.cat([self.scattering(part).cpu() for part in x_N.split(IMAGES)])
        balance = features.balance("scattering", raw_ND.numpy())
        self.balanced.mean_D.copy_(torch.from_numpy(balance.mean_D))
        self.balanced.weight_D.copy_(torch.from_numpy(balance.weight_D))
