"""Scattering by its definition: filters applied to the whole image in the frequency domain, and pixels left out afterwards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.inputs import scattering


def scatter(image_HW: NDArray[np.floating], scales: int) -> NDArray[np.float64]:
    """(P, h, w) coefficients of one image, path by path, in float64."""
    step = 1 << scales
    sides = np.array(image_HW.shape)
    padded = -(-sides // step) * step + step
    first = (padded - sides) // 2 // step * step
    whole = np.zeros(padded)
    whole[tuple(slice(at, at + side) for at, side in zip(first, sides, strict=True))] = image_HW
    kept = tuple(slice(at // step, (at + side) // step) for at, side in zip(first, sides, strict=True))
    height, width = padded
    low = scattering.gaussian(height, width, scattering.LOW_PASS * 2 ** (scales - 1)).double().numpy()
    bands = [(scale, band.double().numpy()) for scale, band in scattering.wavelets(height, width, scales)]

    def filtered(signal: NDArray[np.float64], response: NDArray[np.float64], at: int) -> NDArray[np.complex128]:
        """at: the signal's grid is coarser by 2^at, where frequencies that it cannot tell apart add up."""
        folded = response.reshape(1 << at, height >> at, 1 << at, width >> at).sum((0, 2))
        return np.fft.ifft2(np.fft.fft2(signal) * folded)

    def blurred(signal: NDArray[np.float64], at: int) -> NDArray[np.float64]:
        every = 1 << (scales - at)
        return filtered(signal, low, at).real[::every, ::every][kept]

    first_order, second_order = [], []
    for scale, band in bands:
        modulus = np.abs(filtered(whole, band, 0))[:: 1 << scale, :: 1 << scale]
        first_order.append(blurred(modulus, scale))
        for other, other_band in bands:
            if other > scale:
                every = 1 << (other - scale)
                second_order.append(blurred(np.abs(filtered(modulus, other_band, scale))[::every, ::every], other))
    return np.stack([blurred(whole, 0), *first_order, *second_order])
