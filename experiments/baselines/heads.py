"""Linear heads on public features: softmax regression by gradient descent on private records, and fitted to targets on public inputs.

Every method learns with these, so that what is compared is what sites share, and not what they train. Single precision and one
matrix product per step: a benchmark trains thousands of heads. What a real site must do besides, limbeck.client.teachers does.

Shape legend: N inputs, D features, K classes, C models. Weights are (K, D + 1), the bias last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from limbeck.client.noise import Noise, poisson_sample
from limbeck.experiments.baselines.contract import FEATURE_NORM, Labels, Records, Rows, Setting

CLIP = 1.0
MOMENTUM = 0.9
# Of the regression that a coordinator fits to pooled answers.
FIT_STEPS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """A schedule of gradient descent on the records of one site.

    - steps, rate, momentum: each step moves by `rate` times the momentum of the gradient's sum over `normaliser`.
    - multiplier: standard deviation of the noise divided by the clip; 0 for none.
    - normaliser: records, a public constant.
    - average_last: the result is the mean of so many last steps; 0 for the last one alone.
    - sampling_rate: in (0, 1]; 1 takes every record in every step, less draws each on its own (Poisson).
    - proximal: the weight of the squared distance from the start, FedProx's mu.
    """

    steps: int
    rate: float
    multiplier: float
    normaliser: float
    momentum: float = MOMENTUM
    average_last: int = 0
    sampling_rate: float = 1.0
    proximal: float = 0.0


def with_one(x_ND: Rows) -> Tensor:
    """Features with a last constant 1, for the bias."""
    padded: Tensor = functional.pad(torch.from_numpy(np.ascontiguousarray(x_ND)), (0, 1), value=1)
    return padded


def zeros(setting: Setting) -> Tensor:
    """The head that all start from."""
    return torch.zeros(setting.classes, setting.public_ND.shape[1] + 1)


def noisy_sum(
    weight_KD: Tensor,
    x_ND: Tensor,
    y_N: Tensor,
    noise: Noise,
    multiplier: float,
    *,
    sampling_rate: float = 1.0,
    norm_N: Tensor | None = None,
) -> Tensor:
    """(K, D + 1) the sum of the records' cross-entropy gradients, each clipped to CLIP, and Gaussian noise.

    Guarantee: one Gaussian mechanism of this multiplier under add/remove of one record, on records of which each was drawn with probability
    `sampling_rate`. The gradient of a record is an outer product, so its norm is known without forming it [D].

    norm_N: of the rows of x_ND, if they are known: they are the same in every step.
    """
    norm_N = x_ND.norm(dim=1) if norm_N is None else norm_N
    if sampling_rate < 1:
        rows = torch.from_numpy(poisson_sample(noise, len(y_N), sampling_rate))
        x_ND, y_N, norm_N = x_ND[rows], y_N[rows], norm_N[rows]
    error_NK = (x_ND @ weight_KD.T).softmax(1)
    error_NK[torch.arange(len(y_N)), y_N] -= 1
    length_N = error_NK.norm(dim=1) * norm_N
    total: Tensor = (error_NK * (CLIP / length_N.clamp(min=CLIP))[:, None]).T @ x_ND
    if multiplier:
        total += noise.gaussian(*total.shape, std=CLIP * multiplier).float()
    return total


def descend(start_KD: Tensor, records: Records, descent: Descent, noise: Noise) -> Tensor:
    """Weights after a descent from `start_KD`: `steps` mechanisms as of `noisy_sum`."""
    x_ND, y_N = with_one(records.x_ND), torch.from_numpy(records.y_N)
    norm_N = x_ND.norm(dim=1)
    weight, velocity, average = start_KD.clone(), torch.zeros_like(start_KD), torch.zeros_like(start_KD)
    for step in range(descent.steps):
        gradient = noisy_sum(
            weight, x_ND, y_N, noise, descent.multiplier, sampling_rate=descent.sampling_rate, norm_N=norm_N
        )
        gradient = gradient / (descent.normaliser * descent.sampling_rate) + descent.proximal * (weight - start_KD)
        velocity = descent.momentum * velocity + gradient
        weight = weight - descent.rate * velocity
        if step >= descent.steps - descent.average_last:
            average += weight / descent.average_last
    return average if descent.average_last else weight


def fit(
    x_ND: Rows,
    target_NK: Tensor,
    *,
    decay: float,
    start_KD: Tensor | None = None,
    steps: int = FIT_STEPS,
    weight_N: Tensor | None = None,
) -> Tensor:
    """Softmax regression on public inputs: the weights of the least cross-entropy to targets, by L-BFGS.

    - target_NK: distributions.
    - decay: of the weights' squared norm, so that rows without a target of their own change little.
    - weight_N: of each input; all count alike without.
    """
    start = torch.zeros(target_NK.shape[1], x_ND.shape[1] + 1) if start_KD is None else start_KD
    found: Tensor = fit_each(x_ND, target_NK, start[None], decay=decay, steps=steps, weight_N=weight_N)[0]
    return found


def fit_each(
    x_ND: Rows, target_NK: Tensor, start_CKD: Tensor, *, decay: float, steps: int = FIT_STEPS, weight_N: Tensor | None = None
) -> Tensor:
    """(C, K, D + 1) as `fit` from each of several starts, to the same targets: L-BFGS on the sum of their losses.

    Their Hessians hardly differ, so that one step length does for all; and the inputs, which are large, are read once for all of them.
    """
    inputs, shape = with_one(x_ND), start_CKD.shape
    weight = start_CKD.reshape(-1, shape[-1]).clone().requires_grad_()
    each_N = torch.full((len(inputs),), 1 / len(inputs)) if weight_N is None else weight_N / weight_N.sum()
    share_NK = (each_N[:, None] * target_NK)[:, None]
    solver = torch.optim.LBFGS([weight], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        log_p_NCK = (inputs @ weight.T).unflatten(1, shape[:2]).log_softmax(2)
        found: Tensor = -(share_NK * log_p_NCK).sum()
        found = found + decay / 2 * (weight**2).sum()
        found.backward()
        return found.detach()

    solver.step(loss)
    found: Tensor = weight.detach().reshape(shape)
    return found


def logits(weight_KD: Tensor, x_ND: Rows) -> Tensor:
    """(N, K) scores."""
    return with_one(x_ND) @ weight_KD.T


def predict(weight_KD: Tensor, x_ND: Rows) -> Labels:
    """(N,) the class of the largest score."""
    found: Labels = logits(weight_KD, x_ND).argmax(1).numpy()
    return found


def ridge_solve(public_ND: Rows, columns_DN: Tensor, ridge: float) -> Tensor:
    """(D, N) float64 the solutions of (G + ridge I) z = column, with G the covariance of unit public rows.

    Through the public rows where there are fewer of them than features [D: the matrix inversion lemma].
    """
    public = torch.from_numpy(public_ND).double() / FEATURE_NORM
    samples, width = public.shape
    if samples >= width:
        gram = public.T @ public / samples + ridge * torch.eye(width, dtype=torch.float64)
        return torch.cholesky_solve(columns_DN, torch.linalg.cholesky(gram))
    gram = public @ public.T + samples * ridge * torch.eye(samples, dtype=torch.float64)
    inner = torch.cholesky_solve(public @ columns_DN, torch.linalg.cholesky(gram))
    return (columns_DN - public.T @ inner) / ridge


def one_hot(y_N: Labels, classes: int) -> Tensor:
    """(N, K) float32."""
    return functional.one_hot(torch.from_numpy(y_N), classes).float()


def entropy(counts: Tensor) -> float:
    """Bits per symbol of symbols that occur so often: what an ideal coder needs."""
    shares = counts[counts > 0].double() / counts.sum()
    return float(-(shares * shares.log2()).sum()) if len(shares) > 1 else 0.0


def bits_of(symbols_N: Labels) -> float:
    """Bits that an ideal coder needs for these symbols, its table apart."""
    _, counts = np.unique(symbols_N, return_counts=True)
    return len(symbols_N) * entropy(torch.from_numpy(counts)) if math.prod(symbols_N.shape) else 0.0
