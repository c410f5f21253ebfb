"""Inputs as the nets of torch take them.

Shape legend: N samples, C channels, H and W height and width, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.base.errors import DataError
from limbeck.inputs.arrays import unit_scale


def tensors(x_N: NDArray[np.generic]) -> Tensor:
    """Inputs as nets take them: bytes become [0, 1], floats stay; grey images get a channel, colour images channels first.

    (N, D) rows stay; (N, H, W) becomes (N, 1, H, W), (N, H, W, C) becomes (N, C, H, W).

    Raises: DataError for any other shape.
    """
    if x_N.ndim not in {2, 3, 4}:
        raise DataError(f"Expected rows (N, D) or images (N, H, W) or (N, H, W, C), got shape {x_N.shape}.")
    # A number too large for float32 becomes infinite, and the gradient of its record zero.
    values = torch.from_numpy(unit_scale(x_N))
    if x_N.ndim == 3:
        return values.unsqueeze(1)
    return values.permute(0, 3, 1, 2).contiguous() if x_N.ndim == 4 else values
