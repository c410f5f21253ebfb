"""Scattering transform of images: fixed wavelets, moduli, low-pass; public features without training.

Second-order scattering with Morlet wavelets [F: arXiv 1203.1513], the features with which DP learning of small
images works best [F: arXiv 2011.11660]. A small implementation of our own: the known library is barely maintained.

Shape legend: N images, H and W their padded height and width, P paths, h and w output height and width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.base import check

BATCH = 64
# Width of the low-pass filter in pixels of the grid coarser by 2^(scales - 1).
LOW_PASS = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """Filters in the frequency domain. low_HW: the low-pass. bands: for each scale j and angle, the scale and an (H, W) wavelet."""

    low_HW: Tensor
    bands: tuple[tuple[int, Tensor], ...]


def scatter(x_NHW: NDArray[np.float32], *, scales: int = 2, angles: int = 8) -> NDArray[np.float32]:
    """Scattering coefficients up to second order, (N, P, h, w) with h = H / 2^scales of the padded image.

    P = 1 + scales * angles + angles^2 * scales * (scales - 1) / 2: 81 for 2 scales and 8 angles. Guarantees: the energy of the output is at
    most that of the input; shifts well below 2^scales pixels hardly change it.

    x_NHW: images in [0, 1]; zero-padded to a multiple of 2^scales with room for the widest filter.
    """
    check.within(1, 5, scales=scales)
    height, width = x_NHW.shape[1:]
    step = 1 << scales
    padded_height, padded_width = (_padded(size, step) for size in (height, width))
    filters = bank(height, width, scales, angles)
    top, left = (padded_height - height) // 2 // step * step, (padded_width - width) // 2 // step * step
    rows, columns = slice(top // step, (top + height) // step), slice(left // step, (left + width) // step)
    out = []
    for start in range(0, len(x_NHW), BATCH):
        part = torch.from_numpy(np.ascontiguousarray(x_NHW[start : start + BATCH], dtype=np.float32))
        image = torch.zeros(len(part), padded_height, padded_width)
        image[:, top : top + height, left : left + width] = part
        out.append(_scatter_batch(image, filters, scales)[:, :, rows, columns].contiguous())
    paths = 1 + scales * angles + angles * angles * scales * (scales - 1) // 2
    if not out:
        return np.zeros((0, paths, rows.stop - rows.start, columns.stop - columns.start), np.float32)
    return torch.cat(out).numpy()


def _scatter_batch(image_NHW: Tensor, bank: Bank, scales: int) -> Tensor:
    spectrum = torch.fft.fft2(image_NHW)
    orders = [_low_pass(spectrum, bank.low_HW, scales, 0)]
    second = []
    for scale, band_HW in bank.bands:
        # A wavelet of scale j contains nothing above frequency 2^-j, so its modulus is computed on a grid coarser by 2^j.
        modulus = torch.fft.fft2(torch.fft.ifft2(_fold(spectrum * band_HW, scale)).abs())
        orders.append(_low_pass(modulus, bank.low_HW, scales, scale))
        for other, other_HW in bank.bands:
            if other > scale:
                again = torch.fft.ifft2(_fold(modulus * _periodised(other_HW, scale), other - scale)).abs()
                second.append(_low_pass(torch.fft.fft2(again), bank.low_HW, scales, other))
    return torch.stack(orders + second, 1)


def _low_pass(spectrum: Tensor, low_HW: Tensor, scales: int, at: int) -> Tensor:
    """Blur a signal whose grid is 2^at coarser than the image's, on the grid 2^scales coarser."""
    blurred: Tensor = torch.fft.ifft2(_fold(spectrum * _periodised(low_HW, at), scales - at)).real
    return blurred


def _fold(spectrum: Tensor, levels: int) -> Tensor:
    """Take every 2^levels-th sample, in the frequency domain: the mean of the aliases."""
    for _ in range(levels):
        height, width = spectrum.shape[-2:]
        halves = spectrum.unflatten(-1, (2, width // 2)).unflatten(-3, (2, height // 2))
        spectrum = halves.mean((-4, -2))
    return spectrum


def _periodised(filter_HW: Tensor, levels: int) -> Tensor:
    """A filter for a grid 2^levels coarser: the sum of its aliases."""
    return _fold(filter_HW, levels) * 4**levels if levels else filter_HW


def bank(height: int, width: int, scales: int, angles: int) -> Bank:
    """The filters for images of this size, on the grid of the padded image."""
    step = 1 << scales
    return _bank(_padded(height, step), _padded(width, step), scales, angles)


def _padded(size: int, step: int) -> int:
    return math.ceil(size / step) * step + step


@lru_cache(maxsize=8)
def _bank(height: int, width: int, scales: int, angles: int) -> Bank:
    low = _gaussian(height, width, LOW_PASS * 2 ** (scales - 1))
    bands = [
        (scale, _morlet(height, width, scale, math.pi * angle / angles, angles))
        for scale in range(scales)
        for angle in range(angles)
    ]
    # Scale the wavelets so that all filters together pass no frequency more than once: energy cannot grow then.
    energy = torch.stack([band.abs() ** 2 for _, band in bands]).sum(0)
    mirrored = torch.flip(torch.roll(energy, (-1, -1), (0, 1)), (0, 1))
    both = (energy + mirrored) / 2
    room = (1 - low.abs() ** 2).clamp(min=0)
    peak = torch.where(both > 1e-3, both / room.clamp(min=1e-3), torch.zeros(())).max()
    gain = 1 / math.sqrt(float(peak))
    return Bank(low_HW=low, bands=tuple((scale, band * gain) for scale, band in bands))


def _frequencies(height: int, width: int) -> tuple[Tensor, Tensor]:
    v, u = torch.meshgrid(2 * math.pi * torch.fft.fftfreq(height), 2 * math.pi * torch.fft.fftfreq(width), indexing="ij")
    return v, u


def _gaussian(height: int, width: int, sigma: float) -> Tensor:
    v, u = _frequencies(height, width)
    return torch.exp(-(sigma**2) * (u**2 + v**2) / 2)


def _morlet(height: int, width: int, scale: int, theta: float, angles: int) -> Tensor:
    """A Morlet wavelet with zero mean: a Gaussian bump at frequency 3 pi / 4 / 2^scale in direction theta, minus one at zero."""
    sigma, centre, slant = 0.8 * 2**scale, 3 * math.pi / 4 / 2**scale, 4 / angles
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
