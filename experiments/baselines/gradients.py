"""Noisy gradients and noisy local steps, round by round.

Shape legend: D features, K classes, C sites.
"""

from __future__ import annotations

import torch

from limbeck.experiments.baselines import charges, heads
from limbeck.experiments.baselines.contract import Reached, Setting
from limbeck.experiments.baselines.heads import MOMENTUM, Descent


def dp_fedsgd(setting: Setting, *, rounds: int, rate: float, sampling_rate: float) -> Reached:
    """DP-FedSGD, record level: each round every site sends one noisy sum of clipped gradients, and the coordinator makes one step.

    [F: FedSGD, arXiv 1602.05629, section 2; clipping and noise, arXiv 1607.00133, algorithm 1.] All rounds are composed; sampling, where
    there is any, is the Poisson sampling that is accounted. The noise of C sites adds up: with no trusted party each adds all of its own.
    """
    charged = charges.steps(setting, rounds, sampling_rate=sampling_rate)
    padded = [heads.with_one(each.x_ND) for each in setting.sites]
    data = [(x_ND, torch.from_numpy(each.y_N), x_ND.norm(dim=1)) for x_ND, each in zip(padded, setting.sites, strict=True)]
    weight = heads.zeros(setting)
    velocity, average = torch.zeros_like(weight), torch.zeros_like(weight)
    last = max(1, rounds // 3)
    for step in range(rounds):
        total = torch.zeros_like(weight)
        for x_ND, y_N, norm_N in data:
            total += heads.noisy_sum(
                weight, x_ND, y_N, setting.noise, charged.multiplier, sampling_rate=sampling_rate, norm_N=norm_N
            )
        velocity = MOMENTUM * velocity + total / (setting.records_per_site * len(data) * sampling_rate)
        weight = weight - rate * velocity
        if step >= rounds - last:
            average += weight / last
    return Reached(
        predicted=(heads.predict(average, setting.test_ND),),
        bytes_up=rounds * setting.model_bytes,
        bytes_down=rounds * setting.model_bytes,
        guarantee=charged.guarantee,
    )


def dp_fedavg(setting: Setting, *, rounds: int, local: int, rate: float) -> Reached:
    """DP-FedAvg, record level: each round every site makes `local` noisy full-batch steps, and the heads are averaged.

    [F: FedAvg, arXiv 1602.05629, algorithm 1; local DP-SGD within it, as Opacus and FLamby do, arXiv 2210.04620.] All rounds x local steps
    are composed. Heads count alike: sizes would be a release of their own.
    """
    charged = charges.steps(setting, rounds * local)
    descent = Descent(
        steps=local, rate=rate, multiplier=charged.multiplier, normaliser=setting.records_per_site, momentum=0.0
    )
    weight = heads.zeros(setting)
    average, last = torch.zeros_like(weight), max(1, rounds // 3)
    for step in range(rounds):
        weight = torch.stack([heads.descend(weight, each, descent, setting.noise) for each in setting.sites]).mean(0)
        if step >= rounds - last:
            average += weight / last
    return Reached(
        predicted=(heads.predict(average, setting.test_ND),),
        bytes_up=rounds * setting.model_bytes,
        bytes_down=rounds * setting.model_bytes,
        guarantee=charged.guarantee,
    )
