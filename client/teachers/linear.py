"""A linear head on fixed public features, trained by full-batch DP gradient descent.

Every record takes part in every step, so there is no sampling to trust and each step is exactly a Gaussian mechanism on a
sum of clipped gradients. For softmax regression the gradient of a record is an outer product, (p - y) (x, 1), and its norm
|p - y| sqrt(|x|^2 + 1) [D]: clipping costs nothing. The constant 1 is a last feature here, so the bias is a last column of weights.

Shape legend: N records, D features, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from limbeck.client import features
from limbeck.client.teachers.stored import write
from limbeck.protos.messages import LinearTeaching

if TYPE_CHECKING:
    from limbeck.client.noise import Noise
    from limbeck.client.teachers import Progress


class Linear:
    """softmax(f(x) W + b) with f the named features, balanced by what public inputs say and scaled to a norm."""

    def __init__(self, name: str, norm: float, balance: features.Balance, weight_KD: Tensor, bias_K: Tensor) -> None:
        self.features, self.norm, self.balance, self.weight_KD, self.bias_K = name, norm, balance, weight_KD, bias_K

    def log_probabilities(self, x_N: NDArray[np.generic], *, cache: Path | None = None) -> Tensor:
        """(N, K) float32 log-probabilities."""
        f_ND = features.compute(self.features, x_N, cache=cache)
        f_ND = features.normalise(f_ND, self.norm, self.balance)
        return functional.linear(torch.from_numpy(f_ND), self.weight_KD, self.bias_K).log_softmax(-1)

    def save(self, path: Path) -> None:
        """Write it durably."""
        settings: dict[str, object] = {"features": self.features, "norm": self.norm}
        balance = {"mean": torch.from_numpy(self.balance.mean_D), "balance": torch.from_numpy(self.balance.weight_D)}
        write(path, "linear", settings, balance | {"weight": self.weight_KD, "bias": self.bias_K})

    @classmethod
    def restore(cls, settings: dict[str, object], tensors: dict[str, Tensor]) -> Linear:
        """From what `save` wrote."""
        balance = features.Balance(mean_D=tensors["mean"].numpy(), weight_D=tensors["balance"].numpy())
        return cls(str(settings["features"]), float(str(settings["norm"])), balance, tensors["weight"], tensors["bias"])


def train(
    teaching: LinearTeaching,
    x_N: NDArray[np.generic],
    y_N: NDArray[np.int64],
    *,
    classes: int,
    public_x: NDArray[np.generic],
    noise: Noise,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Linear:
    """Full-batch DP gradient descent with momentum and averaging of the last steps.

    Formal guarantee: `teaching.steps` Gaussian mechanisms with noise multiplier `teaching.noise_multiplier` on a sum of
    sensitivity `teaching.clip` under add/remove of one record. Features of the private records are computed here and not kept.
    """
    balance = features.balance(teaching.features, features.compute(teaching.features, public_x, cache=cache))
    f_ND = features.normalise(features.compute(teaching.features, x_N), teaching.feature_norm, balance)
    x_ND = functional.pad(torch.from_numpy(f_ND), (0, 1), value=1)
    labels_N, norm_N = torch.from_numpy(y_N), x_ND.norm(dim=1)
    weight = torch.zeros(classes, x_ND.shape[1])
    velocity, average = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(teaching.steps):
        gradient = clipped_sum(weight, x_ND, norm_N, labels_N, teaching.clip)
        gradient += noise.gaussian(*gradient.shape, std=teaching.clip * teaching.noise_multiplier)
        velocity = teaching.momentum * velocity + gradient / teaching.normaliser
        weight = weight - teaching.learning_rate * velocity
        if step >= teaching.steps - teaching.average_last:
            average += weight / teaching.average_last
        if progress is not None:
            progress(step + 1, teaching.steps)
    return Linear(
        teaching.features,
        teaching.feature_norm,
        balance,
        average[:, :-1].contiguous(),
        average[:, -1].contiguous(),
    )


def clipped_sum(weight_KD: Tensor, x_ND: Tensor, norm_N: Tensor, y_N: Tensor, clip: float) -> Tensor:
    """The sum over records of cross-entropy gradients, each scaled to at most `clip` in L2 norm: (K, D). norm_N: of the rows of x_ND."""
    error_NK = functional.linear(x_ND, weight_KD).softmax(-1)
    error_NK[torch.arange(len(y_N)), y_N] -= 1
    error_NK *= (clip / (error_NK.norm(dim=1) * norm_N).clamp(min=1e-12)).clamp(max=1)[:, None]
    # As (K, N) times (N, D) the product reads the features row by row: several times faster than its transpose.
    return error_NK.T @ x_ND
