"""Answers to public inputs shared round by round: FedMD, DS-FL, CFD, and FedDF, which shares heads and distils them.

In each round every site makes some DP steps on its records (charged; all rounds are composed), answers the public inputs, and digests what
the coordinator makes of all answers: that costs nothing. None of these papers has a privacy guarantee; what is added here is noise in the
steps. Public inputs have no labels, so nobody is pre-trained on them as FedMD's participants are.

Shape legend: N public inputs, D features, K classes, C sites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from limbeck.experiments.baselines import charges, heads
from limbeck.experiments.baselines.charges import Charged
from limbeck.experiments.baselines.contract import Labels, Reached, Setting
from limbeck.experiments.baselines.heads import Descent

# Of a regression on public inputs; L-BFGS steps with which a site digests the pooled answers.
DECAY = 1e-4
DIGEST_STEPS = 20
# DS-FL's temperature of entropy reduction [F: arXiv 2008.06180, section 4].
SHARPENING = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rounds:
    """What rounds left. targets_NK: of the last one; weights: of every site after its last digestion."""

    targets_NK: Tensor
    weights: list[Tensor]
    charged: Charged


def fedmd(setting: Setting, *, rounds: int, local: int, rate: float) -> Reached:
    """FedMD: the mean of all sites' class scores is what every site learns from [F: arXiv 1910.03581, algorithm 1].

    There is no common model: the accuracy is the mean over sites, as in the paper.
    """
    done = _rounds(setting, rounds, local, rate, lambda scores_CNK: scores_CNK.mean(0).softmax(1))
    return Reached(
        predicted=tuple(heads.predict(each, setting.test_ND) for each in done.weights),
        bytes_up=rounds * setting.answers_bytes,
        bytes_down=rounds * setting.answers_bytes,
        guarantee=done.charged.guarantee,
        notes="mean over sites, which end with a model each",
    )


def ds_fl(setting: Setting, *, rounds: int, local: int, rate: float, temperature: float = SHARPENING) -> Reached:
    """DS-FL: the mean of probabilities, sharpened by entropy reduction, for sites and coordinator [F: arXiv 2008.06180, eqs. 9 and 14]."""
    done = _rounds(setting, rounds, local, rate, lambda scores_CNK: sharpened(scores_CNK.softmax(2).mean(0), temperature))
    return _student(setting, done, rounds * setting.answers_bytes, rounds * setting.answers_bytes)


def sharpened(p_NK: Tensor, temperature: float) -> Tensor:
    """Entropy reduction aggregation: softmax(p / T) of mean probabilities, with a small T."""
    return (p_NK / temperature).softmax(1)


def cfd(setting: Setting, *, rounds: int, local: int, rate: float, bits: int) -> Reached:
    """CFD: answers are quantised, and only what changed since the last round is coded, both ways [F: arXiv 2012.00632].

    bits: of every probability; 1 leaves the most likely class alone. Bytes are those of an ideal entropy coder, in favour of the method.
    """
    sent: list[Labels] = []
    pooled: list[Labels] = []

    def pool(scores_CNK: Tensor) -> Tensor:
        up_CNK = quantised(scores_CNK.softmax(2), bits)
        down_NK = quantised(up_CNK.mean(0), bits)
        sent.append(levels(up_CNK, bits))
        pooled.append(levels(down_NK, bits))
        return down_NK

    done = _rounds(setting, rounds, local, rate, pool)
    # What a site would send is coded by itself.
    up = sum(coded_bits(sent, lambda each, site=site: each[site]) for site in range(len(setting.sites)))  # type: ignore[misc]
    down = coded_bits(pooled, lambda each: each)
    return _student(setting, done, up / 8 / len(setting.sites), down / 8)


def quantised(p: Tensor, bits: int) -> Tensor:
    """Probabilities over the last axis on 2^bits - 1 equal steps, the largest taking what rounding leaves; one bit is a class alone."""
    if bits == 1:
        alone: Tensor = functional.one_hot(p.argmax(-1), p.shape[-1]).to(p.dtype)
        return alone
    steps = 2**bits - 1
    floor = (p * steps).floor() / steps
    rest = 1 - floor.sum(-1, keepdim=True)
    whole: Tensor = floor.scatter_add(-1, p.argmax(-1, keepdim=True), rest)
    return whole


def levels(p: Tensor, bits: int) -> Labels:
    """The symbols to code: classes for one bit, else the step of every probability."""
    if bits == 1:
        classes: Labels = p.argmax(-1).numpy()
        return classes
    steps: Labels = (p * (2**bits - 1)).round().long().numpy()
    return steps


def coded_bits(rounds: list[Labels], part: Callable[[Labels], Labels]) -> float:
    """Of all rounds: symbols of the first, differences to the round before after it."""
    total, before = 0.0, np.zeros_like(part(rounds[0]))
    for each in rounds:
        now = part(each)
        total += heads.bits_of((now - before).ravel())
        before = now
    return total


def feddf(setting: Setting, *, rounds: int, local: int, rate: float) -> Reached:
    """FedDF: heads are averaged, and the average is distilled from the mean of all heads' scores on public inputs.

    [F: arXiv 2006.07242, algorithm 1.] Heads count alike: sizes would be a release of their own.
    """
    charged = charges.steps(setting, rounds * local)
    descent = _local(setting, local, rate, charged)
    shared = heads.zeros(setting)
    for _ in range(rounds):
        weights = [heads.descend(shared, each, descent, setting.noise) for each in setting.sites]
        scores_NK = torch.stack([heads.logits(each, setting.public_ND) for each in weights]).mean(0)
        start = torch.stack(weights).mean(0)
        shared = heads.fit(setting.public_ND, scores_NK.softmax(1), decay=0.0, start_KD=start, steps=DIGEST_STEPS)
    return Reached(
        predicted=(heads.predict(shared, setting.test_ND),),
        bytes_up=rounds * setting.model_bytes,
        bytes_down=rounds * setting.model_bytes,
        guarantee=charged.guarantee,
    )


def _rounds(setting: Setting, rounds: int, local: int, rate: float, pool: Callable[[Tensor], Tensor]) -> _Rounds:
    """pool: from the scores (C, N, K) of all sites to targets (N, K)."""
    charged = charges.steps(setting, rounds * local)
    descent = _local(setting, local, rate, charged)
    weights = [heads.zeros(setting) for _ in setting.sites]
    targets = torch.empty(0)
    for _ in range(rounds):
        weights = [
            heads.descend(weight, each, descent, setting.noise) for weight, each in zip(weights, setting.sites, strict=True)
        ]
        targets = pool(torch.stack([heads.logits(each, setting.public_ND) for each in weights]))
        digested = heads.fit_each(setting.public_ND, targets, torch.stack(weights), decay=DECAY, steps=DIGEST_STEPS)
        weights = list(digested.unbind())
    return _Rounds(targets_NK=targets, weights=weights, charged=charged)


def _local(setting: Setting, local: int, rate: float, charged: Charged) -> Descent:
    return Descent(steps=local, rate=rate, multiplier=charged.multiplier, normaliser=setting.records_per_site)


def _student(setting: Setting, done: _Rounds, bytes_up: float, bytes_down: float) -> Reached:
    """The coordinator's own model, from the last round's targets."""
    student = heads.fit(setting.public_ND, done.targets_NK, decay=DECAY)
    return Reached(
        predicted=(heads.predict(student, setting.test_ND),),
        bytes_up=bytes_up,
        bytes_down=bytes_down,
        guarantee=done.charged.guarantee,
    )
