"""One stage of distillation: prune towards the stage's sparsity while training on the pooled answers.

All randomness comes from generators seeded by (public seed, stage), so a stage depends on nothing but the plan, the pool and the student it
starts from: a resumed run equals an uninterrupted one.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.base.errors import RunError
from limbeck.operators import Anchoring
from limbeck.plans.schema import Student
from limbeck.server import augment, losses
from limbeck.server.adamw import AdamW
from limbeck.server.pruning import Masks
from limbeck.server.scattered import OnScattering
from limbeck.server.student import Scaled, prepare

PREDICT_BATCH = 1024
PRUNING_SHARE = 0.5
PRUNINGS = 8
WARM_UP_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """losses: mean per epoch, nats. sparsity: reached. seconds: wall clock."""

    losses: tuple[float, ...]
    sparsity: float
    seconds: float


def distil_stage(
    model: nn.Module,
    masks: Masks,
    x_N: Tensor,
    targets_NK: Tensor,
    *,
    stage: int,
    sparsity: float,
    temperature: float,
    student: Student,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> StageResult:
    """Train `model` in place and close `masks` up to `sparsity`, over the first half of the stage's steps.

    A student on features takes their balance from the inputs of the first stage.

    x_N: transfer inputs. targets_NK: what is to be learnt of them, `limbeck.server.lessons`. student.relabel: from the second stage on,
    targets are anchored with alpha = 1 - relabel: mixed with the student's own prediction at the start of the stage. student.mixup: each
    batch is mixed with itself in another order, inputs and targets alike [F: arXiv 1710.09412]. progress: epochs done, epochs in all.

    Raises RunError as soon as a loss or, at the end, a weight is not finite: a student that is NaN learns nothing more.
    """
    started = time.perf_counter()
    x_N = prepare(x_N).to(device)
    targets_NK = targets_NK.to(device)
    on_features = model.body if isinstance(model, Scaled) and isinstance(model.body, OnScattering) else None
    if stage == 0 and on_features is not None:
        on_features.fit(x_N)
    if stage > 0 and student.relabel > 0:
        targets_NK = Anchoring(1 - student.relabel)(targets_NK, predict(model, x_N))
    learner = model
    if on_features is not None and not student.augment:
        # What is fixed is computed once: the head alone learns.
        learner, x_N = on_features.head, on_features.of(x_N)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + stage)
    shares = np.random.default_rng((seed, stage))
    model.train()
    optimiser = AdamW(model.parameters(), learning_rate=student.learning_rate, weight_decay=student.weight_decay)
    per_epoch = math.ceil(len(x_N) / student.batch)
    steps = per_epoch * student.epochs
    prune_at = {round((i + 1) * PRUNING_SHARE * steps / PRUNINGS): i + 1 for i in range(PRUNINGS)}
    start_sparsity = masks.sparsity
    means: list[float] = []
    step = 0
    for epoch in range(student.epochs):
        total = 0.0
        for rows in torch.randperm(len(x_N), generator=generator).split(student.batch):
            if step in prune_at:
                done = prune_at[step] / PRUNINGS
                masks.prune(model, start_sparsity + (sparsity - start_sparsity) * (1 - (1 - done) ** 3))
            optimiser.learning_rate = student.learning_rate * _schedule(step / steps)
            batch, target_nK = x_N[rows], targets_NK[rows]
            if student.augment and batch.ndim == 3:
                batch = augment.affine(batch.unsqueeze(1), generator)
            if student.mixup > 0:
                share = float(shares.beta(student.mixup, student.mixup))
                other = torch.randperm(len(rows), generator=generator)
                batch, target_nK = (share * each + (1 - share) * each[other] for each in (batch, target_nK))
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = learner(batch)
            loss = losses.by_name(student.loss, target_nK, logits.float(), temperature)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise RunError(
                    f"Expected a finite loss in stage {stage + 1}, epoch {epoch + 1}, got {value}: the run has stopped, and what was"
                    " finished before is kept. Make a plan with a smaller student.learning_rate, or another student.loss."
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            masks.apply(model)
            total += value * len(rows)
            step += 1
        means.append(total / len(x_N))
        if progress is not None:
            progress(epoch + 1, student.epochs)
    masks.prune(model, sparsity)
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise RunError(
            f"Expected finite weights of the student after stage {stage + 1}, got others: the run has stopped, and what was finished before"
            " is kept. Make a plan with a smaller student.learning_rate."
        )
    model.eval()
    return StageResult(losses=tuple(means), sparsity=masks.sparsity, seconds=time.perf_counter() - started)


@torch.no_grad()
def predict(model: nn.Module, x_N: Tensor) -> Tensor:
    """(N, K) probabilities of a student on its inputs, as bytes or prepared."""
    model.eval()
    device = next(model.parameters()).device
    parts = [model(prepare(part.to(device))).float().softmax(-1) for part in x_N.split(PREDICT_BATCH)]
    return torch.cat(parts)


def _schedule(t: float) -> float:
    """Learning rate over a stage: a short linear rise, then half a cosine down to zero."""
    rise = min(1.0, (t + 1e-3) / WARM_UP_SHARE)
    return rise * (1 + math.cos(math.pi * t)) / 2
