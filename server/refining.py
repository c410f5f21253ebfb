"""What a student learns in a stage: the pool, sharpened, and refined on public features, where the plan says so.

A pool holds every site's noise. A linear model on public features that is fitted to it, with a little regularisation, keeps what the
features explain and drops what they do not; on inputs that no site was asked about it is better than any small student that is fitted to
the pool itself (docs/students.md). So the student learns the model's answers. All of it is a function of the pool, the plan and the public
inputs, and costs no privacy.

Shape legend: N samples, D features, K classes.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.inputs import features
from limbeck.operators import Sharpen
from limbeck.plans.schema import Student

log = logging.getLogger(__name__)

# The norm of a row of features, and the weight of half the squared norm of all weights beside the mean cross-entropy. Chosen for pools of
# evidence on Fashion-MNIST, by labels of public inputs that no figure uses; from 3e-5 to 3e-4 it makes no difference.
NORM = 4.0
RIDGE = 1e-4
# Of L-BFGS; it ends earlier where the gradient vanishes.
STEPS, HISTORY, LEAST_GRADIENT = 100, 10, 1e-6
# Rows at once, so that logits take little memory.
ROWS = 4096
# The most numbers of 4 bytes that the features of all inputs, and the weights of the model with L-BFGS' history of them, may take: 4 GiB
# each. The history has numbers of 8 bytes.
CELLS = 1 << 30
# Where features of the public inputs are kept, in the run's folder.
CACHE = "features"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearModel:
    """Logits of a linear model on balanced features of norm `NORM`. weight_DK, bias_K: float32, on one device."""

    weight_DK: Tensor
    bias_K: Tensor

    def __call__(self, f_ND: Tensor) -> Tensor:
        """(N, K) logits."""
        return f_ND @ self.weight_DK + self.bias_K


def targets(
    student: Student, pool_NK: Tensor, x_N: NDArray[np.generic], *, cache: Path | None, device: torch.device
) -> Tensor:
    """(N, K) float32 probabilities that the student is fitted to in a stage.

    - pool_NK: the pooled answers.
    - x_N: the public inputs.
    - cache: a folder for their features; None keeps none.
    """
    sharpen = Sharpen(spread=student.sharpen) if student.sharpen else None
    target_NK = sharpen(pool_NK) if sharpen is not None else pool_NK
    if not student.refine:
        return target_NK
    f_ND = prepared(student.refine, x_N, cache=cache)
    model = fit(f_ND, target_NK, device=device)
    logits_NK = torch.cat([model(part.to(device)).cpu() for part in f_ND.split(ROWS)])
    changed = float((logits_NK.argmax(1) != pool_NK.argmax(1)).float().mean())
    log.info(
        "The model on features (%s) decides otherwise than the pool on %.1f %% of the inputs.", student.refine, 100 * changed
    )
    return (sharpen.of_logits(logits_NK) if sharpen is not None else logits_NK.softmax(-1)).float()


def prepared(name: str, x_N: NDArray[np.generic], *, cache: Path | None) -> Tensor:
    """(N, D) float32 features of the public inputs, balanced, of norm `NORM`."""
    raw_ND = features.compute(name, x_N, cache=cache)
    balance = features.balance(name, raw_ND)
    out_ND = np.empty(raw_ND.shape, np.float32)
    for first in range(0, len(raw_ND), ROWS):
        out_ND[first : first + ROWS] = features.normalise(raw_ND[first : first + ROWS], NORM, balance)
    return torch.from_numpy(out_ND)


def check(field: str, width: int, samples: int, classes: int) -> None:
    """Raise SettingError, which names the field, unless so many features of all inputs, and a linear model on them, fit into memory."""
    for what, numbers in (
        ("samples x features", samples * width),
        ("features x classes", 2 * (2 * HISTORY + 5) * width * classes),
    ):
        if numbers > CELLS:
            raise SettingError(
                f"Expected {field} with at most {CELLS} numbers for {what}, got {numbers}: choose other features, or none."
            )


def fit(f_ND: Tensor, target_NK: Tensor, *, device: torch.device, ridge: float = RIDGE) -> LinearModel:
    """The linear model with the least mean cross-entropy to the targets, plus ridge / 2 times the squared norm of its weights.

    The gradient is that of all inputs, in closed form, summed over rows in order: nothing is random.
    """
    # torch's own L-BFGS would load its compiler: seconds, for one that is never used.
    from scipy.optimize import minimize

    n, classes = target_NK.shape
    width = f_ND.shape[1]

    def model_of(flat: NDArray[np.float64]) -> LinearModel:
        weight_DK, bias_K = torch.from_numpy(flat).float().to(device).split((width * classes, classes))
        return LinearModel(weight_DK=weight_DK.view(width, classes), bias_K=bias_K)

    @torch.no_grad()
    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        model = model_of(flat)
        total = torch.zeros((), dtype=torch.float64, device=device)
        gradient_DK, gradient_K = ridge * model.weight_DK, torch.zeros_like(model.bias_K)
        for rows in range(0, n, ROWS):
            f_nD, target_nK = f_ND[rows : rows + ROWS].to(device), target_NK[rows : rows + ROWS].to(device).float()
            log_p_nK = model(f_nD).log_softmax(-1)
            total -= (target_nK * log_p_nK).sum(dtype=torch.float64)
            error_nK = (log_p_nK.exp() - target_nK) / n
            gradient_DK += f_nD.T @ error_nK
            gradient_K += error_nK.sum(0)
        value = total / n + ridge / 2 * model.weight_DK.double().square().sum()
        return float(value), torch.cat([gradient_DK.flatten(), gradient_K]).cpu().double().numpy()

    start = np.zeros((width + 1) * classes)
    options = {"maxiter": STEPS, "maxcor": HISTORY, "gtol": LEAST_GRADIENT, "ftol": 0.0}
    result = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    model = model_of(result.x)
    # Where no step is finite, it stays where it started.
    if not math.isfinite(result.fun) or not math.isfinite(float(model.weight_DK.abs().max())):
        raise SettingError(
            "Expected a model on features with finite weights, got others: refine on other features, or on none."
        )
    return model
