"""Whether random views of the public inputs help a student, decided without labels.

A shift or a turn makes another digit of no digit, but may make a dress of a shirt. Which it is shows on inputs that a student has not seen:
two are trained for one stage on four fifths of the inputs, one with views and one without, and the one whose answers on the last fifth
agree more often with what all are to learn decides. Both start from the same weights, and nothing is pruned.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from limbeck.plans.schema import Plan
from limbeck.server import distil, student
from limbeck.server.pruning import Masks

log = logging.getLogger(__name__)

HELD_OUT = 5
# Fewer inputs held out than this could not tell the two apart.
LEAST_HELD_OUT = 20


def augmentation_helps(plan: Plan, x_N: Tensor, targets_NK: Tensor, temperature: float, device: torch.device) -> bool:
    """Whether a student agrees more often with the targets of held-out inputs if it is trained on random views of the others.

    x_N: the public inputs. targets_NK, temperature: what a student is to learn of them.
    """
    order = torch.randperm(len(x_N), generator=torch.Generator().manual_seed(plan.public_seed))
    held, rest = order[: len(x_N) // HELD_OUT], order[len(x_N) // HELD_OUT :]
    if len(held) < LEAST_HELD_OUT or x_N.ndim != 3:
        return False
    agreeing = {}
    for augment in (False, True):
        model = student.build(plan.student.architecture, x_N.shape[1:], plan.classes, plan.public_seed).to(device)
        distil.distil_stage(
            model,
            Masks.ones(model),
            x_N[rest],
            targets_NK[rest],
            stage=0,
            sparsity=0.0,
            temperature=temperature,
            student=replace(plan.student, augment=augment),
            seed=plan.public_seed,
            device=device,
        )
        answers_nK = distil.predict(model, x_N[held]).cpu()
        agreeing[augment] = int((answers_nK.argmax(1) == targets_NK[held].argmax(1)).sum())
    log.info(
        "Random views of the public inputs: a student agrees with %d of %d held-out targets with them, and with %d without.",
        agreeing[True],
        len(held),
        agreeing[False],
    )
    return agreeing[True] > agreeing[False]
