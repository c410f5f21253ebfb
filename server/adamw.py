"""AdamW [F: arXiv 1711.05101], as `torch.optim.AdamW` computes it, by torch's functional form.

The classes of torch.optim import torch's compiler as soon as one is made: a second or more at the start of every process that trains a
student, or only tries one, which none of them uses.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BETAS, EPSILON = (0.9, 0.999), 1e-8


class AdamW:
    """Steps on parameters by their gradients, with torch's own constants."""

    def __init__(self, parameters: Iterable[Tensor], *, learning_rate: float, weight_decay: float) -> None:
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self._parameters = list(parameters)
        self._means = [torch.zeros_like(each) for each in self._parameters]
        self._squares = [torch.zeros_like(each) for each in self._parameters]
        # On the processor, wherever the parameters are: it is read in every step.
        self._steps = [torch.tensor(0.0) for _ in self._parameters]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step of all parameters that have a gradient."""
        used = [
            (parameter, parameter.grad, *state)
            for parameter, *state in zip(self._parameters, self._means, self._squares, self._steps, strict=True)
            if parameter.grad is not None
        ]
        adamw(
            params=[each[0] for each in used],
            grads=[each[1] for each in used],
            exp_avgs=[each[2] for each in used],
            exp_avg_sqs=[each[3] for each in used],
            max_exp_avg_sqs=[],
            state_steps=[each[4] for each in used],
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )
