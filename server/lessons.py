"""What a student is taught in a stage, from the stage's pool: the targets, and whether the public inputs are augmented.

Coordinator, dense control and every experiment that trains a student as a coordinator does take it from here, so that all do the same.

Shape legend: N samples, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from limbeck.plans.schema import Plan, Student
from limbeck.server import refining, trial


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """What `limbeck.server.distil.distil_stage` takes.

    targets_NK: what is to be learnt. student: the plan's settings, with what was left to the coordinator decided. temperature: of the
    targets; 1 where they were sharpened, since they are logits of the student's own scale then.
    """

    targets_NK: Tensor
    student: Student
    temperature: float


class Lessons:
    """The lessons of a run. A pool that is that of the lesson before gives the same lesson, without being worked on again.

    - x_N: the (N, ...) public inputs.
    - cache: a folder for their features; None keeps none.
    """

    def __init__(self, plan: Plan, x_N: Tensor, *, cache: Path | None, device: torch.device) -> None:
        self._plan, self._x_N, self._cache, self._device = plan, x_N, cache, device
        self._last: tuple[Tensor, Tensor, bool] | None = None

    def of(self, pool_NK: Tensor, stage: int) -> Lesson:
        """The lesson of a stage with this pool."""
        settings = self._plan.student
        own_scale = settings.sharpen > 0 or settings.refine != ""
        temperature = 1.0 if own_scale else self._plan.stages[stage].temperature
        if self._last is None or not torch.equal(self._last[0], pool_NK):
            targets_NK = refining.targets(settings, pool_NK, self._x_N.numpy(), cache=self._cache, device=self._device)
            augment = settings.augment
            if settings.choose_augment:
                augment = trial.augmentation_helps(self._plan, self._x_N, targets_NK, temperature, self._device)
            self._last = (pool_NK, targets_NK, augment)
        _, targets_NK, augment = self._last
        return Lesson(
            targets_NK=targets_NK,
            student=replace(settings, augment=augment, choose_augment=False),
            temperature=temperature,
        )
