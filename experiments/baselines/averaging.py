"""Alone, together, and heads that are averaged once.

Shape legend: N inputs, D features, K classes, C sites.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from limbeck.experiments.baselines import charges, heads
from limbeck.experiments.baselines.charges import Charged
from limbeck.experiments.baselines.contract import FLOAT_BYTES, Reached, Records, Setting
from limbeck.experiments.baselines.heads import Descent


def alone(setting: Setting, *, steps: int, rate: float) -> Reached:
    """Every site for itself: a head trained by full-batch DP gradient descent on the site's own records, shared with nobody.

    What a site could do with the same epsilon without a federation [D].
    """
    charged = charges.steps(setting, steps)
    trained = heads_of(setting, charged, steps, rate)
    return Reached(
        predicted=tuple(heads.predict(each, setting.test_ND) for each in trained),
        bytes_up=0,
        bytes_down=0,
        guarantee=charged.guarantee,
        notes="mean over sites; best is that of the best site",
    )


def central(setting: Setting, *, steps: int, rate: float) -> Reached:
    """Central DP: one head of all sites' records, with the noise of one site. What no federation without trust can do [D].

    Full-batch DP gradient descent as of [F: arXiv 2011.11660] on public features, without sampling.
    """
    charged = charges.steps(setting, steps)
    records = together(setting)
    descent = descent_of(setting, charged.multiplier, steps, rate, sites=len(setting.sites))
    weight = heads.descend(heads.zeros(setting), records, descent, setting.noise)
    return Reached(
        predicted=(heads.predict(weight, setting.test_ND),),
        bytes_up=float(np.mean([FLOAT_BYTES * records.x_ND.shape[1] * len(each) for each in setting.sites])),
        bytes_down=0,
        guarantee=charged.guarantee,
        notes="every record leaves its site, to somebody whom all trust",
    )


def without_privacy(setting: Setting, *, steps: int, rate: float) -> Reached:
    """One head of all sites' records without noise: the most that these features and this head give [D]."""
    descent = descent_of(setting, 0.0, steps, rate, sites=len(setting.sites))
    weight = heads.descend(heads.zeros(setting), together(setting), descent, setting.noise)
    return Reached(
        predicted=(heads.predict(weight, setting.test_ND),),
        bytes_up=float(np.mean([FLOAT_BYTES * setting.public_ND.shape[1] * len(each) for each in setting.sites])),
        bytes_down=0,
        guarantee=charges.without(setting),
        notes="every record leaves its site",
    )


def by_size(setting: Setting, *, steps: int, rate: float) -> Reached:
    """One-shot averaging of DP heads, each weighted by its site's number of records, which is released with noise and charged.

    [F: one-shot averaging, arXiv 1902.11175; the weights are those of FedAvg, arXiv 1602.05629.]
    """
    charged = charges.steps(setting, steps, counts="records")
    trained = torch.stack(heads_of(setting, charged, steps, rate))
    counts = [charges.noisy_counts((len(each),), charged.counts_std, setting.noise)[0] for each in setting.sites]
    weight_C = torch.tensor(counts).clamp(min=1)
    average = (trained * weight_C[:, None, None]).sum(0) / weight_C.sum()
    return _one(setting, charged, average, counts=1)


def by_class_counts(setting: Setting, *, steps: int, rate: float) -> Reached:
    """One-shot averaging of DP heads in which a class's row is weighted by how many records of it each site has.

    The counts are released with discrete Gaussian noise and charged. A site without records of a class knows only what that class is not
    [D]; limbeck's own pooling by class counts weighs answers in the same way.
    """
    charged = charges.steps(setting, steps, counts="labels")
    trained = torch.stack(heads_of(setting, charged, steps, rate))
    counts_CK = torch.tensor(
        [
            charges.noisy_counts(
                tuple(np.bincount(each.y_N, minlength=setting.classes).tolist()), charged.counts_std, setting.noise
            )
            for each in setting.sites
        ]
    )
    share_CK = counts_CK / counts_CK.sum(0).clamp(min=1)
    return _one(setting, charged, (trained * share_CK[:, :, None]).sum(0), counts=setting.classes)


def heads_of(setting: Setting, charged: Charged, steps: int, rate: float) -> list[Tensor]:
    """The DP head of every site."""
    descent = descent_of(setting, charged.multiplier, steps, rate, sites=1)
    return [heads.descend(heads.zeros(setting), each, descent, setting.noise) for each in setting.sites]


def together(setting: Setting) -> Records:
    """All sites' records."""
    return Records(
        x_ND=np.concatenate([each.x_ND for each in setting.sites]), y_N=np.concatenate([each.y_N for each in setting.sites])
    )


def descent_of(setting: Setting, multiplier: float, steps: int, rate: float, *, sites: int) -> Descent:
    """The mean of the last third is what is kept, as limbeck's linear teachers do."""
    return Descent(
        steps=steps,
        rate=rate,
        multiplier=multiplier,
        normaliser=setting.records_per_site * sites,
        average_last=max(1, steps // 3),
    )


def _one(setting: Setting, charged: Charged, weight: Tensor, *, counts: int) -> Reached:
    return Reached(
        predicted=(heads.predict(weight, setting.test_ND),),
        bytes_up=setting.model_bytes + FLOAT_BYTES * counts,
        bytes_down=0,
        guarantee=charged.guarantee,
    )
