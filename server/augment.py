"""Random affine views of the public inputs, from a seeded generator: costs nothing in privacy, the inputs are public."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

SHIFT, ANGLE, ZOOM = 0.08, math.radians(10), 0.1


def affine(x_N1HW: Tensor, generator: Generator) -> Tensor:
    """Each image shifted by up to 8 % of its side, turned by up to 10 degrees, zoomed by up to 10 %; bilinear, edges repeated.

    The random numbers come from a CPU generator, so views are the same on every device.
    """
    n = len(x_N1HW)
    u = torch.rand(4, n, generator=generator).mul_(2).sub_(1).to(x_N1HW.device)
    angle, zoom = u[0] * ANGLE, 1 + u[1] * ZOOM
    cosine, sine = angle.cos() / zoom, angle.sin() / zoom
    rows = torch.stack([cosine, -sine, u[2] * 2 * SHIFT, sine, cosine, u[3] * 2 * SHIFT], 1).view(n, 2, 3)
    grid = functional.affine_grid(rows, list(x_N1HW.shape), align_corners=False)
    return functional.grid_sample(x_N1HW, grid, padding_mode="border", align_corners=False)
