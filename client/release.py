"""What leaves a site, and by which mechanism: softened and truncated answers of a teacher, and noisy counts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.client import discrete
from limbeck.client.noise import Noise
from limbeck.operators import Sampled as SampledTruncation
from limbeck.operators import SoftenThenTruncate, TopK, Truncated
from limbeck.plans import schema
from limbeck.plans.schema import EvidenceTeaching, LabelCounts, Plan, RecordCount, VotesTeaching
from limbeck.protos import floor

# Answers that are looked at together.
ROWS = 1024


def answers(log_p_NK: Tensor, plan: Plan, temperature: float, noise: Noise) -> Truncated:
    """Soften over all classes, then truncate: the plan's chain of operators at the temperature of one stage.

    log_p_NK: (N, K) log-probabilities of a DP-trained teacher on public inputs; the result is post-processing of it. Those of a
        black-box teacher have no guarantee before, and none after.
    noise: draws the samples if the plan truncates by sampling.
    """
    softening = plan.family.at(temperature, order=plan.tsallis_order)
    match plan.truncation:
        case schema.TopK(k=k):
            return SoftenThenTruncate(softening=softening, truncation=TopK(k=k)).from_log(log_p_NK)
        case schema.Sampled(draws=draws):
            uniforms = torch.from_numpy(noise.uniform(len(log_p_NK) * draws)).view(-1, draws)
            return SampledTruncation(draws=draws)(softening.from_log(log_p_NK).exp(), uniforms)


def at_floor(answers: Truncated, plan: Plan) -> tuple[float, ...]:
    """(K,) the share of these answers in which each class lies on the wire's floor; empty under a plan whose answers have none.

    `limbeck.protos.floor.warning` makes a sentence of it.
    """
    if not floor.applies(plan) or not len(answers):
        return ()
    counts_K = torch.zeros(answers.classes, dtype=torch.int64)
    for start in range(0, len(answers), ROWS):
        counts_K += floor.count(answers.rows(slice(start, start + ROWS)).dense())
    return tuple((counts_K / len(answers)).tolist())


def label_counts(y_N: NDArray[np.int64], classes: int, mechanism: LabelCounts, noise: Noise) -> tuple[int, ...]:
    """K noisy counts: the discrete Gaussian mechanism on the label histogram, with L2 sensitivity 1 under add/remove of one record."""
    counts_K = np.bincount(y_N, minlength=classes)
    return tuple(count + discrete.gaussian(noise.below, mechanism.noise_std) for count in counts_K.tolist())


def record_count(y_N: NDArray[np.int64], mechanism: RecordCount, noise: Noise) -> int:
    """A noisy number of records: the discrete Gaussian mechanism, with sensitivity 1 under add/remove of one record."""
    return len(y_N) + discrete.gaussian(noise.below, mechanism.noise_std)


def why_free(plan: Plan) -> str:
    """The reason, for the ledger, why an answer costs nothing beyond what was charged for teaching."""
    if isinstance(plan.teaching, VotesTeaching):
        return "post-processing of noisy votes on public inputs, which were paid for at teaching"
    if isinstance(plan.teaching, EvidenceTeaching):
        return "post-processing of noisy class sums, which were paid for at teaching"
    return "post-processing of a DP-trained teacher on public inputs"
