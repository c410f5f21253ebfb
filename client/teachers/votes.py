"""Noisy votes of disjoint sub-teachers: a release for owners whose teacher cannot be trained under DP [F: PATE, arXiv 1802.08908].

Training itself is not private here: each sub-teacher sees only its own shard of the records, and only noisy counts of their votes are
kept: the answers to all public inputs of the plan, noise included. Softening and truncation come afterwards and are free.

Shape legend: N public inputs, K classes, n private records, S sub-teachers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from limbeck.base.errors import DataError
from limbeck.client.teachers.linear import clipped_sum, norms, saturated, weights_of, with_one
from limbeck.client.teachers.stored import write
from limbeck.inputs import features
from limbeck.inputs.transfer_set import digest
from limbeck.plans.schema import VotesTeaching

if TYPE_CHECKING:
    from limbeck.base.progress import Progress
    from limbeck.client.noise import Noise


class Votes:
    """Noisy votes on the public inputs with this digest, and on no others."""

    def __init__(self, inputs: bytes, noise_std: float, votes_NK: Tensor) -> None:
        self.inputs, self.noise_std, self.votes_NK = inputs, noise_std, votes_NK

    def log_probabilities(self, x_N: NDArray[np.generic], *, cache: Path | None = None) -> Tensor:
        """(N, K) float32: the logarithm of max(votes - noise_std, 0) + 1, normalised [D].

        A count within one standard deviation of zero says little, so it counts as zero; the 1 keeps every class possible.

        Raises: DataError for inputs other than those voted on: a further vote would need a further charge.
        """
        if digest(x_N) != self.inputs:
            raise DataError("Expected the public inputs that were voted on, got others.")
        counts_NK = (self.votes_NK - self.noise_std).clamp(min=0) + 1
        return (counts_NK / counts_NK.sum(1, keepdim=True)).log()

    def save(self, path: Path) -> None:
        """Write it durably."""
        settings: dict[str, object] = {"inputs": self.inputs.hex(), "noise_std": self.noise_std}
        write(path, "votes", settings, {"votes": self.votes_NK})

    @classmethod
    def restore(cls, settings: dict[str, object], tensors: dict[str, Tensor]) -> Votes:
        """From what `save` wrote."""
        return cls(bytes.fromhex(str(settings["inputs"])), float(str(settings["noise_std"])), tensors["votes"])


def train(
    teaching: VotesTeaching,
    x_N: NDArray[np.generic],
    y_N: NDArray[np.int64],
    *,
    classes: int,
    public_x: NDArray[np.generic],
    noise: Noise,
    class_weights: Sequence[float] = (),
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Votes:
    """Split the records, train a head per shard, count votes, add noise.

    Formal guarantee: `teaching.queries` Gaussian mechanisms with noise multiplier `teaching.noise_multiplier` under add/remove of one
    record [D]. Each record's shard is drawn independently, so with the draws of all others fixed one record more or less changes one
    shard; that shard's single vote per input can at most move from one class to another, (-1, +1): L2 sensitivity sqrt(2), and the
    mixture over draws preserves the bound. Dealing records out by position would not work: one record less would shift all after it.
    What a head learns from its shard, weights of classes included, changes nothing of this.
    Under replace-one the old and the new record may be in two shards: sensitivity 2 sqrt(2), which is not offered.
    """
    public_ND = features.compute(teaching.features, public_x, cache=cache)
    balance = features.balance(teaching.features, public_ND)
    public = with_one(features.normalise(public_ND, teaching.feature_norm, balance))
    x_nD = with_one(features.normalise(features.compute_each(teaching.features, x_N), teaching.feature_norm, balance))
    shard_n = shards(noise, len(y_N), teaching.teachers)
    y_n = torch.from_numpy(y_N)
    weight_K = weights_of(class_weights)
    votes_NK = torch.zeros(len(public_x), classes, dtype=torch.float64)
    for shard in range(teaching.teachers):
        rows = torch.from_numpy(np.flatnonzero(shard_n == shard))
        votes_NK += vote(teaching, x_nD[rows], y_n[rows], public, classes, weight_K)
        if progress is not None:
            progress(shard + 1, teaching.teachers)
    noise_std = math.sqrt(2) * teaching.noise_multiplier
    votes_NK += noise.gaussian(*votes_NK.shape, std=noise_std)
    return Votes(digest(public_x), noise_std, votes_NK.float())


def shards(noise: Noise, records: int, teachers: int) -> NDArray[np.int64]:
    """(n,) the shard of each record, drawn uniformly and independently of all other records."""
    return (noise.uniform(records) * teachers).astype(np.int64)


def vote(
    teaching: VotesTeaching,
    x_nD: Tensor,
    y_n: Tensor,
    public_ND: Tensor,
    classes: int,
    class_weight_K: Tensor | None = None,
) -> Tensor:
    """(N, K) one vote per public input by a head trained on one shard, a function of that shard alone; an empty shard votes for class 0."""
    weight = torch.zeros(classes, x_nD.shape[1], dtype=torch.float64)
    velocity, norm_n = torch.zeros_like(weight), norms(x_nD)
    for _ in range(teaching.steps if len(y_n) else 0):
        gradient = clipped_sum(weight, x_nD, norm_n, y_n, math.inf, class_weight_K) / len(y_n)
        velocity = saturated(teaching.momentum * velocity + gradient)
        weight = saturated(weight - teaching.learning_rate * velocity)
    return functional.one_hot(functional.linear(public_ND, weight.float()).argmax(1), classes).float()
