"""A linear head on fixed public features, trained by full-batch DP gradient descent.

Every record takes part in every step, so there is no sampling to trust and each step is exactly a Gaussian mechanism on a
sum of clipped gradients. For softmax regression the gradient of a record is an outer product, (p - y) (x, 1), with norm
|p - y| sqrt(|x|^2 + 1) [D]: clipping costs nothing. The constant 1 is the last feature here, so the bias is the last column of weights.
Features are float32; weights, errors and sums are float64 during training, so that an additional record changes the shares of others in no
significant digit.

Shape legend: N records, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from limbeck.client.teachers.gradients import scales
from limbeck.client.teachers.stored import write
from limbeck.inputs import features
from limbeck.plans.schema import LinearTeaching

if TYPE_CHECKING:
    from limbeck.base.progress import Progress
    from limbeck.client.noise import Noise

# Records that are converted to float64 at a time.
CHUNK = 64
# The bound at which weights saturate: far above any meaningful weight, far below what would overflow an answer.
LARGEST = 1e9


class Linear:
    """softmax(f(x) W + b) with f the named features, balanced by public statistics and scaled to a norm."""

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
    class_weights: Sequence[float] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Linear:
    """Full-batch DP gradient descent with momentum and averaging of the last steps.

    Formal guarantee: `teaching.steps` Gaussian mechanisms with noise multiplier `teaching.noise_multiplier` on a sum of
    sensitivity `teaching.clip` under add/remove of one record, whatever the weights have become: a record whose error is not finite
    counts as zero. A record's class weight, a public constant, multiplies its gradient before it is clipped, so the sensitivity is the
    clip with and without them [D]. Features of the private records are computed here and not kept.
    """
    balance = features.balance(teaching.features, features.compute(teaching.features, public_x, cache=cache))
    f_ND = features.normalise(features.compute_each(teaching.features, x_N), teaching.feature_norm, balance)
    x_ND = with_one(f_ND)
    labels_N, norm_N = torch.from_numpy(y_N), norms(x_ND)
    weight_K = weights_of(class_weights)
    weight = torch.zeros(classes, x_ND.shape[1], dtype=torch.float64)
    velocity, average = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(teaching.steps):
        gradient = clipped_sum(weight, x_ND, norm_N, labels_N, teaching.clip, weight_K)
        gradient += noise.gaussian(*gradient.shape, std=teaching.clip * teaching.noise_multiplier)
        velocity = saturated(teaching.momentum * velocity + gradient / teaching.normaliser)
        weight = saturated(weight - teaching.learning_rate * velocity)
        if step >= teaching.steps - teaching.average_last:
            average += weight / teaching.average_last
        if progress is not None:
            progress(step + 1, teaching.steps)
    return Linear(
        teaching.features,
        teaching.feature_norm,
        balance,
        average[:, :-1].float().contiguous(),
        average[:, -1].float().contiguous(),
    )


def clipped_sum(
    weight_KD: Tensor, x_ND: Tensor, norm_N: Tensor, y_N: Tensor, clip: float, class_weight_K: Tensor | None = None
) -> Tensor:
    """(K, D) the float64 sum over records of cross-entropy gradients, each scaled to an L2 norm of at most `clip`, which may be infinite.

    A record whose features or error are not finite counts as zero.

    weight_KD: float64, of any value.
    norm_N: `norms` of the rows of x_ND.
    class_weight_K: by which the gradient of a record of each class is multiplied before it is clipped.
    """
    total, room = torch.zeros_like(weight_KD), torch.empty(CHUNK, x_ND.shape[1], dtype=torch.float64)
    for part_nD, norm_n, y_n in zip(x_ND.split(CHUNK), norm_N.split(CHUNK), y_N.split(CHUNK), strict=True):
        x_nD = room[: len(part_nD)].copy_(part_nD)
        error_nK = functional.linear(x_nD, weight_KD).softmax(-1)
        error_nK[torch.arange(len(y_n)), y_n] -= 1
        if class_weight_K is not None:
            error_nK *= class_weight_K[y_n, None]
        length_n = error_nK.norm(dim=1) * norm_n
        error_nK *= scales(length_n, clip)[:, None]
        good_n = length_n.isfinite()
        if not bool(good_n.all()):
            # Zero times a value that is not finite is not zero.
            error_nK, x_nD = (torch.where(good_n[:, None], value, 0) for value in (error_nK, x_nD))
        total += error_nK.T @ x_nD
    return total


def norms(x_ND: Tensor) -> Tensor:
    """(N,) float64 norms of rows, including the constant 1 for the bias."""
    return torch.cat([x_nD.double().norm(dim=1) for x_nD in x_ND.split(CHUNK)])


def with_one(f_ND: NDArray[np.float32]) -> Tensor:
    """Features with a last constant 1, for the bias."""
    return functional.pad(torch.from_numpy(f_ND), (0, 1), value=1)


def weights_of(class_weights: Sequence[float]) -> Tensor | None:
    """(K,) float64 weights per class, or None where a plan has none and every record counts alike."""
    return torch.tensor(class_weights, dtype=torch.float64) if class_weights else None


def saturated(values: Tensor) -> Tensor:
    """Post-processing of noisy sums: NaN becomes 0, and values are clamped to [-LARGEST, LARGEST]."""
    return values.nan_to_num(0, LARGEST, -LARGEST).clamp(-LARGEST, LARGEST)
