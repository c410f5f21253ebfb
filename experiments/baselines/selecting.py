"""Selective-FD: sites do not answer inputs that are unlike their records, and the coordinator drops what they do not agree on.

Shape legend: N public inputs, D features, K classes, C sites.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.experiments.baselines import charges, heads
from limbeck.experiments.baselines.answers import DECAY
from limbeck.experiments.baselines.averaging import descent_of
from limbeck.experiments.baselines.contract import FEATURE_NORM, Reached, Records, Setting

# Of the squared mu: what the selector may cost; the head has the rest.
SELECTOR_SHARE = 0.1
# Of the least-squares density ratio.
RIDGE = 0.01
# DP steps of a head.
STEPS = 30


def selective_fd(setting: Setting, *, rate: float, answered: float, kept: float) -> Reached:
    """Selective-FD in one round: selectors at both ends, hard labels, a student on what is left [F: arXiv 2304.01783].

    A site's selector is the paper's least-squares density ratio of its records to the public inputs (KuLSIF), here with a linear kernel, in
    which the site's part is one noisy mean of unit rows: charged, since which inputs a site answers depends on its records. The coordinator
    drops inputs whose mean answer is too uncertain.

    - answered: the share of public inputs that every site answers: those with the largest ratio.
    - kept: the share of the inputs answered at all that is kept: the most certain.
    """
    parts = ((1 - SELECTOR_SHARE) / STEPS,) * STEPS + (SELECTOR_SHARE,)
    multipliers, guarantee = charges.shares(setting, parts, (f"{STEPS} Gaussian steps", "one noisy mean for the selector"))
    descent = descent_of(setting, multipliers[0], STEPS, rate, sites=1)
    means = [noisy_mean(records, setting, multipliers[-1]) for records in setting.sites]
    answers, chosen = [], []
    most = max(1, round(answered * len(setting.public_ND)))
    for records, ratio_N in zip(setting.sites, ratios(setting, torch.stack(means)), strict=True):
        weight = heads.descend(heads.zeros(setting), records, descent, setting.noise)
        answers.append(heads.one_hot(heads.predict(weight, setting.public_ND), setting.classes))
        selected_N = torch.zeros(len(ratio_N))
        selected_N[ratio_N.topk(most).indices] = 1
        chosen.append(selected_N)
    selected_CN = torch.stack(chosen)
    target_NK = (torch.stack(answers) * selected_CN[:, :, None]).sum(0) / selected_CN.sum(0).clamp(min=1)[:, None]
    rows = certain(target_NK, selected_CN.sum(0) > 0, kept)
    student = heads.fit(setting.public_ND[rows], target_NK[torch.from_numpy(rows)], decay=DECAY)
    return Reached(
        predicted=(heads.predict(student, setting.test_ND),),
        # A bit for every input says whether it is answered; a class takes one byte.
        bytes_up=len(setting.public_ND) / 8 + most,
        bytes_down=0,
        guarantee=guarantee,
        notes=f"the coordinator keeps {len(rows)} of {len(setting.public_ND)} inputs",
    )


def ratios(setting: Setting, mean_CD: Tensor) -> Tensor:
    """(C, N) the density ratio at every public input that each site's mean row gives: phi (G + RIDGE I)^-1 mean."""
    solved_DC = heads.ridge_solve(setting.public_ND, mean_CD.T, RIDGE)
    return (torch.from_numpy(setting.public_ND).double() / FEATURE_NORM @ solved_DC).T


def noisy_mean(records: Records, setting: Setting, multiplier: float) -> Tensor:
    """(D,) float64, the sum of unit rows with noise over a public number: sensitivity 1. Its length does not matter for a ranking."""
    total = torch.from_numpy(records.x_ND).double().sum(0) / FEATURE_NORM
    if multiplier:
        total = total + setting.noise.gaussian(*total.shape, std=multiplier)
    return total / setting.records_per_site


def certain(target_NK: Tensor, answered_N: Tensor, kept: float) -> NDArray[np.intp]:
    """The rows of the most certain targets among those answered: the nearest to a single class."""
    answered = np.flatnonzero(answered_N.numpy())
    distance = (1 - target_NK.max(1).values).numpy()[answered]
    return np.sort(answered[np.argsort(distance, kind="stable")[: max(1, round(kept * len(answered)))]])
