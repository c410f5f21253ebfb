"""Votes: PATE, and sites that abstain.

Shape legend: N public inputs, K classes, C sites.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.client.noise import Noise
from limbeck.client.teachers.votes import shards
from limbeck.experiments.baselines import charges, heads
from limbeck.experiments.baselines.answers import DECAY
from limbeck.experiments.baselines.averaging import heads_of, together
from limbeck.experiments.baselines.contract import ANSWER, FEATURE_NORM, Guarantee, Labels, Reached, Rows, Setting

# Regularisation of a sub-teacher's ridge regression on its shard, per record.
SHARD_RIDGE = 0.1


def pate(setting: Setting, *, teachers: int, queries: int) -> Reached:
    """PATE with GNMax: noisy votes of teachers on disjoint shards of all sites' records label public inputs for a student.

    [F: arXiv 1802.08908, section 4.1.] Every query is charged at its data-independent bound; the bound that depends on the votes is itself
    private. The noise is added once to the sum of all sites' votes: that takes an aggregator whom all trust, or a secure sum. A record's
    shard is drawn by itself, so that one record more changes one shard and moves at most one vote: L2 sensitivity sqrt(2).

    queries: public inputs that are labelled; the student knows the labels alone.
    """
    queries = min(queries, len(setting.public_ND))
    charged = charges.queries(setting, queries)
    order = np.random.default_rng(setting.seed).permutation(len(setting.public_ND))[:queries]
    public_ND = setting.public_ND[order]
    votes_NK = votes(setting, public_ND, teachers)
    if charged.multiplier:
        votes_NK = votes_NK + setting.noise.gaussian(*votes_NK.shape, std=math.sqrt(2) * charged.multiplier)
    labels_N = votes_NK.argmax(1).numpy()
    student = heads.fit(public_ND, heads.one_hot(labels_N, setting.classes), decay=DECAY)
    return Reached(
        predicted=(heads.predict(student, setting.test_ND),),
        # Counts of votes of a site's teachers, one byte each.
        bytes_up=queries * setting.classes,
        bytes_down=0,
        guarantee=charged.guarantee,
        notes="the noise is added once, by an aggregator whom all trust",
    )


def votes(setting: Setting, public_ND: Rows, teachers: int) -> Tensor:
    """(N, K) float64 votes of `teachers` sub-teachers, each a ridge regression on its shard; an empty shard votes for class 0."""
    records = together(setting)
    shard_n = shards(setting.noise, len(records), teachers)
    counts_NK = torch.zeros(len(public_ND), setting.classes, dtype=torch.float64)
    public = torch.from_numpy(np.ascontiguousarray(public_ND))
    for shard in range(teachers):
        rows = np.flatnonzero(shard_n == shard)
        x_nD = torch.from_numpy(records.x_ND[rows])
        # In the dual: a shard has fewer records than features.
        kernel = x_nD @ x_nD.T + 1 + SHARD_RIDGE * FEATURE_NORM**2 * torch.eye(len(rows))
        alpha_nK = torch.linalg.solve(kernel, heads.one_hot(records.y_N[rows], setting.classes))
        scores_NK = (public @ x_nD.T + 1) @ alpha_nK
        counts_NK[torch.arange(len(public)), scores_NK.argmax(1)] += 1
    return counts_NK


def abstaining(setting: Setting, *, steps: int, rate: float, threshold: float) -> Reached:
    """Abstention-aware voting with record-level privacy: every site's DP head votes for a class where it is sure enough, else abstains.

    [F: arXiv 2406.10563, threshold-based abstention and majority voting on an unlabelled public set.] The votes are post-processing of DP
    heads. Inputs on which all abstain are left out. As it was published, privacy is that of one answer: see `aafv`.
    """
    charged = charges.steps(setting, steps)
    p_CNK = torch.stack(
        [heads.logits(each, setting.public_ND).softmax(1) for each in heads_of(setting, charged, steps, rate)]
    )
    return _student(setting, p_CNK, threshold, charged.guarantee, "")


def aafv(setting: Setting, *, threshold: float) -> Reached:
    """AAFV as it was published: heads without noise, and the setting's epsilon for every single answer, by the piecewise mechanism.

    [F: arXiv 2406.10563; the mechanism, arXiv 1907.00782, algorithm 2.] Each site perturbs each of its probabilities, then abstains or
    votes. The unit is one answer: a record that is in the training set moves all N answers of K numbers, so by simple composition this
    costs a record N times the epsilon.
    """
    p_CNK = _without_noise(setting)
    if setting.epsilon is None:
        return _student(setting, p_CNK, threshold, charges.without(setting), "")
    # K numbers make an answer, and share its epsilon.
    noisy = piecewise(2 * p_CNK.double() - 1, setting.epsilon / setting.classes, setting.noise)
    guarantee = Guarantee(
        epsilon=setting.epsilon,
        delta=setting.delta,
        unit=ANSWER,
        adjacency="any other answer",
        composed=f"{setting.classes} perturbed probabilities of one answer; not composed over the {len(setting.public_ND)} answers",
    )
    note = f"another unit: for a record, {len(setting.public_ND)} answers come to epsilon = {len(setting.public_ND) * setting.epsilon:,.0f}"
    return _student(setting, (noisy.float() + 1) / 2, threshold, guarantee, note)


# The points of a grid come one after the other, and their heads are the same.
@lru_cache(maxsize=1)
def _without_noise(setting: Setting) -> Tensor:
    """(C, N, K) what the sites' heads say, trained without noise."""
    plain = charges.steps(replace(setting, epsilon=None), 100)
    return torch.stack([heads.logits(each, setting.public_ND).softmax(1) for each in heads_of(setting, plain, 100, 4.0)])


def piecewise(values: Tensor, epsilon: float, noise: Noise) -> Tensor:
    """Values in [-1, 1] perturbed with pure local privacy: unbiased, in [-c, c] [F: arXiv 1907.00782, algorithm 2]."""
    half = math.exp(epsilon / 2)
    bound = (half + 1) / (half - 1)
    left = (bound + 1) / 2 * values - (bound - 1) / 2
    width = bound - 1
    uniform = torch.from_numpy(noise.uniform(2 * values.numel()).reshape(2, *values.shape))
    inside = left + width * uniform[1]
    # Outside of [left, left + width], uniform over what is left of [-c, c], whose length is c + 1.
    place = uniform[1] * (bound + 1)
    outside = torch.where(place < left + bound, place - bound, place - bound + width)
    return torch.where(uniform[0] < half / (half + 1), inside, outside)


def majority(p_CNK: Tensor, threshold: float) -> tuple[NDArray[np.intp], Labels]:
    """Inputs that have a vote, and the class with most votes of each, of sites whose largest value is at least the threshold."""
    sure_CN = p_CNK.max(2).values >= threshold
    counts_NK = torch.zeros(p_CNK.shape[1:])
    for p_NK, sure_N in zip(p_CNK, sure_CN, strict=True):
        counts_NK[torch.arange(len(sure_N)), p_NK.argmax(1)] += sure_N.float()
    voted = np.flatnonzero(counts_NK.sum(1).numpy())
    return voted, counts_NK.argmax(1).numpy()[voted]


def _student(setting: Setting, p_CNK: Tensor, threshold: float, guarantee: Guarantee, note: str) -> Reached:
    """A student of the votes."""
    voted, labels_N = majority(p_CNK, threshold)
    if len(voted):
        student = heads.fit(setting.public_ND[voted], heads.one_hot(labels_N, setting.classes), decay=DECAY)
        predicted = heads.predict(student, setting.test_ND)
    else:
        # Nobody was sure of anything: all classes look alike.
        predicted = np.zeros(len(setting.test_ND), np.int64)
    said = f"{len(voted)} of {len(setting.public_ND)} inputs have a vote"
    return Reached(
        predicted=(predicted,),
        # A class or an abstention takes one byte.
        bytes_up=len(setting.public_ND),
        bytes_down=0,
        guarantee=guarantee,
        notes=f"{note}; {said}" if note else said,
    )
