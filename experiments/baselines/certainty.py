"""FedAUXfdp's idea: public features, heads made private by one release, and answers weighted by how certain a site is of its own domain.

Shape legend: N public inputs, n records, D features, K classes, C sites.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from limbeck.base.errors import RunError
from limbeck.experiments.baselines import charges, heads
from limbeck.experiments.baselines.answers import DECAY
from limbeck.experiments.baselines.contract import FEATURE_NORM, Reached, Records, Setting

# Of the squared mu: what the certainty scores may cost. The paper gives them 0.1 and the heads 0.5 of epsilon.
CERTAINTY_SHARE = 0.04
# How near to a minimum a regression comes, as the norm of its gradient: a part of one record's.
TOLERANCE = 0.01
MOST_STEPS = 400


def fedauxfdp(setting: Setting, *, regularisation: float, certainty: float) -> Reached:
    """Heads and certainty models by output perturbation, then one distillation from the weighted mean of answers.

    [F: arXiv 2205.14960, algorithm 1; the certainty scores, arXiv 2102.02514.] A head minimises the sum of its records' losses plus
    regularisation / 2 times its squared norm; a certainty model tells records (1) from public inputs (0) in the same way. By strong
    convexity one record moves the minimum by at most the loss's Lipschitz constant over the regularisation: sqrt(2) for the softmax
    regression of unit rows, 1 for the logistic one [D, add/remove; the paper bounds the replacement of one]. Two Gaussian mechanisms.

    - regularisation: of the heads and of the certainty models, in records.
    - certainty: the power to which a site's score weighs its answers; 0 weighs all alike.
    """
    (head, score), guarantee = charges.shares(
        setting,
        (1 - CERTAINTY_SHARE, CERTAINTY_SHARE),
        ("one perturbed regression", "one perturbed certainty model"),
    )
    public = torch.from_numpy(setting.public_ND).double() / FEATURE_NORM
    answers, weights = [], []
    for records in setting.sites:
        weight = perturbed_head(records, setting, regularisation, head)
        answers.append((public @ weight.T).softmax(1))
        weights.append(certainties(records, setting, public, regularisation, score) ** certainty)
    weight_CN = torch.stack(weights)
    target_NK = (torch.stack(answers) * weight_CN[:, :, None]).sum(0) / weight_CN.sum(0)[:, None]
    student = heads.fit(setting.public_ND, target_NK.float(), decay=DECAY)
    return Reached(
        predicted=(heads.predict(student, setting.test_ND),),
        bytes_up=setting.model_bytes + setting.model_bytes / setting.classes,
        bytes_down=0,
        guarantee=guarantee,
    )


def perturbed_head(records: Records, setting: Setting, regularisation: float, multiplier: float) -> Tensor:
    """(K, D) float64 softmax regression of unit rows, with noise."""
    x_nD = torch.from_numpy(records.x_ND).double() / FEATURE_NORM
    y_n = torch.from_numpy(records.y_N)

    def loss(weight: Tensor) -> Tensor:
        return functional.cross_entropy(x_nD @ weight.T, y_n, reduction="sum") + regularisation / 2 * (weight**2).sum()

    found = minimum(loss, torch.zeros(setting.classes, x_nD.shape[1], dtype=torch.float64))
    sensitivity = (math.sqrt(2) + 2 * TOLERANCE) / regularisation
    return found + setting.noise.gaussian(*found.shape, std=sensitivity * multiplier) if multiplier else found


def certainties(records: Records, setting: Setting, public: Tensor, regularisation: float, multiplier: float) -> Tensor:
    """(N,) the probability that a public input is one of the site's records, above 0."""
    x_nD = torch.from_numpy(records.x_ND).double() / FEATURE_NORM

    def loss(weight: Tensor) -> Tensor:
        of_records = functional.softplus(-(x_nD @ weight)).sum()
        # Public inputs count as much as a site of nominal size: a public constant, so that theirs is no release.
        of_public = functional.softplus(public @ weight).mean() * setting.records_per_site
        return of_records + of_public + regularisation / 2 * (weight**2).sum()

    found = minimum(loss, torch.zeros(x_nD.shape[1], dtype=torch.float64))
    if multiplier:
        sensitivity = (1 + 2 * TOLERANCE) / regularisation
        found = found + setting.noise.gaussian(*found.shape, std=sensitivity * multiplier)
    return (public @ found).sigmoid().clamp(min=1e-6)


def minimum(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The minimum of a strongly convex function, so near that the gradient's norm is at most TOLERANCE.

    Raises: RunError if it is not reached: the sensitivity rests on it.
    """
    weight = start.clone().requires_grad_()
    # L-BFGS looks at the largest entry of the gradient.
    largest = TOLERANCE / math.sqrt(weight.numel())
    solver = torch.optim.LBFGS(
        [weight], max_iter=MOST_STEPS, tolerance_grad=largest, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        found = loss(weight)
        found.backward()
        return found.detach()

    solver.step(closure)
    closure()
    assert weight.grad is not None
    norm = float(weight.grad.norm())
    if not norm <= TOLERANCE:
        raise RunError(f"Expected a regression whose gradient has a norm of at most {TOLERANCE}, got {norm:.3g}.")
    return weight.detach()
