"""Scattering transform of images: fixed wavelets, moduli, low-pass; public features without training.

Second-order scattering with Morlet wavelets [F: arXiv 1203.1513], the features with which DP learning of small
images works best [F: arXiv 2011.11660]. A small implementation of our own: the known library is barely maintained.

Small images make fast Fourier transforms slow: here all transforms are products with small constant matrices, four times as fast on a CPU.
The same program, written as nodes of a graph (`limbeck.server.graph`), makes a student on features one file that takes images, and
whoever uses it needs neither torch nor limbeck.

Three facts make the program short. A wavelet's filter is real in the frequency domain. Folding a spectrum and transforming it back is
taking every 2^j-th pixel: some rows of the inverse transform. And the low-pass filter, a Gaussian, is a product of one over rows and one
over columns, so that blurring and cropping is a matrix on either side.

Shape legend: N images, H x W their size, padded where a filter is meant, B bands (angles of one scale), P paths, h x w the size of the
output of a path, D = P h w coefficients.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.base import check

T = TypeVar("T")

ANGLES, MOST_SCALES = 8, 2
# Width of the low-pass filter in pixels of the grid coarser by 2^(scales - 1).
LOW_PASS = 0.8
# Images whose coefficients are computed at once: more do not stay in the cache of a core.
IMAGES = 32


def scatter(x_NHW: NDArray[np.float32], *, scales: int = 2) -> NDArray[np.float32]:
    """Scattering coefficients up to second order, (N, P, h, w) with h = H / 2^scales, rounded down.

    P = 1 + 8 scales + 64 (scales - 1): 81 for 2 scales. Guarantees: the energy of the output is at most that of the input; shifts well
    below 2^scales pixels hardly change it.

    - x_NHW: images in [0, 1]; zero-padded to a multiple of 2^scales with room for the widest filter.
    - scales: 1 or 2.
    """
    layer = _layer(*x_NHW.shape[1:], scales)
    paths = 1 + ANGLES * scales + ANGLES * ANGLES * (scales - 1)
    out_ND = np.empty((len(x_NHW), paths * math.prod(layer.grid)), np.float32)
    with torch.no_grad():
        for first in range(0, len(x_NHW), IMAGES):
            part = np.ascontiguousarray(x_NHW[first : first + IMAGES], dtype=np.float32)
            out_ND[first : first + IMAGES] = layer(torch.from_numpy(part)).numpy()
    return out_ND.reshape(-1, paths, *layer.grid)


@lru_cache(maxsize=8)
def _layer(height: int, width: int, scales: int) -> Scattering:
    return Scattering(height, width, scales)


class Operations(Protocol[T]):
    """What the program is made of: carried out by torch here, written as nodes of an ONNX graph for a student."""

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
    """Scattering coefficients of images x in the operations of `do`: of zeroth, first and second order, path by path.

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

    height, width: of the images. scales: 1 or 2.
    """

    def __init__(self, height: int, width: int, scales: int) -> None:
        super().__init__()
        check.within(1, MOST_SCALES, scales=scales)
        self.scales = scales
        step = 1 << scales
        sides = (height, width)
        padded_sides = _padded(height, step), _padded(width, step)
        starts = tuple((padded - side) // 2 // step * step for side, padded in zip(sides, padded_sides, strict=True))
        kept_sides = [slice(first // step, (first + side) // step) for side, first in zip(sides, starts, strict=True)]
        # Of one path's coefficients.
        self.grid = tuple(kept.stop - kept.start for kept in kept_sides)
        for axis, (side, padded, first, kept) in enumerate(zip(sides, padded_sides, starts, kept_sides, strict=True)):
            image = slice(first, first + side)
            whole = _fourier(padded)
            # Zeros beyond the image meet the columns that are left out.
            self._keep_complex(f"forward_{axis}", whole[:, image])
            self._keep_complex(f"again_{axis}", whole)
            for scale in range(self.scales):
                self._keep_complex(f"back{scale}_{axis}", (whole.conj() / padded)[:: 1 << scale])
                self._keep(f"low{scale}_{axis}", _low_pass(padded, self.scales, scale)[kept])
            self._keep(f"image_{axis}", _low_pass(padded, self.scales, 0)[kept, image])
        bands = wavelets(*padded_sides, scales)
        for scale in range(self.scales):
            self._keep(f"band{scale}", torch.stack([band for own, band in bands if own == scale]))

    def _keep_complex(self, name: str, matrix: Tensor) -> None:
        self._keep(f"{name}_re", matrix.real)
        self._keep(f"{name}_im", matrix.imag)

    def _keep(self, name: str, value: Tensor) -> None:
        # What is multiplied from the right is a matrix of columns, and kept transposed.
        columns = "_1" in name
        value = value.float().T if columns else value.float()
        self.register_buffer(f"{name}_T" if columns else name, value.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The coefficients in one row each."""
        return program(_Eager(self), x, self.scales)


def _fourier(size: int) -> Tensor:
    """(size, size) complex128: the discrete Fourier transform."""
    matrix: Tensor = torch.fft.fft(torch.eye(size, dtype=torch.complex128), dim=0)
    return matrix


def _low_pass(padded: int, scales: int, at: int) -> Tensor:
    """(padded / 2^scales, padded / 2^at): blur a signal on the grid coarser by 2^at, and take it on the grid coarser by 2^scales."""
    size = padded >> at
    frequency = 2 * torch.pi * torch.fft.fftfreq(padded, dtype=torch.float64)
    response = torch.exp(-((LOW_PASS * 2 ** (scales - 1)) ** 2) * frequency**2 / 2)
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


def _padded(size: int, step: int) -> int:
    return math.ceil(size / step) * step + step


def wavelets(height: int, width: int, scales: int) -> list[tuple[int, Tensor]]:
    """For each scale and angle, the scale and the (H, W) wavelet in the frequency domain, H x W being a padded size."""
    low = gaussian(height, width, LOW_PASS * 2 ** (scales - 1))
    bands = [
        (scale, _morlet(height, width, scale, math.pi * angle / ANGLES))
        for scale in range(scales)
        for angle in range(ANGLES)
    ]
    # Scale the wavelets so that all filters together pass no frequency more than once: energy cannot grow then.
    energy = torch.stack([band.abs() ** 2 for _, band in bands]).sum(0)
    mirrored = torch.flip(torch.roll(energy, (-1, -1), (0, 1)), (0, 1))
    both = (energy + mirrored) / 2
    room = (1 - low.abs() ** 2).clamp(min=0)
    peak = torch.where(both > 1e-3, both / room.clamp(min=1e-3), torch.zeros(())).max()
    gain = 1 / math.sqrt(float(peak))
    return [(scale, band * gain) for scale, band in bands]


def _frequencies(height: int, width: int) -> tuple[Tensor, Tensor]:
    v, u = torch.meshgrid(2 * math.pi * torch.fft.fftfreq(height), 2 * math.pi * torch.fft.fftfreq(width), indexing="ij")
    return v, u


def gaussian(height: int, width: int, sigma: float) -> Tensor:
    """(H, W) the low-pass filter of this width in pixels, in the frequency domain."""
    v, u = _frequencies(height, width)
    return torch.exp(-(sigma**2) * (u**2 + v**2) / 2)


def _morlet(height: int, width: int, scale: int, theta: float) -> Tensor:
    """A Morlet wavelet with zero mean: a Gaussian bump at frequency 3 pi / 4 / 2^scale in direction theta, minus one at zero."""
    sigma, centre, slant = 0.8 * 2**scale, 3 * math.pi / 4 / 2**scale, 4 / ANGLES
    bump = torch.zeros(height, width)
    base = torch.zeros(height, width)
    v0, u0 = _frequencies(height, width)
    # The spectrum of a sampled filter is periodic, so neighbouring periods add up.
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            v, u = v0 + 2 * math.pi * i, u0 + 2 * math.pi * j
            along = u * math.cos(theta) + v * math.sin(theta)
            across = (-u * math.sin(theta) + v * math.cos(theta)) / slant
            bump += torch.exp(-(sigma**2) * ((along - centre) ** 2 + across**2) / 2)
            base += torch.exp(-(sigma**2) * (along**2 + across**2) / 2)
    return bump - base * (bump[0, 0] / base[0, 0])
