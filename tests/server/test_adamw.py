"""The student's optimiser is torch's AdamW, bit for bit."""

import torch

from limbeck.server.adamw import AdamW


def test_steps_are_those_of_torchs_own_class() -> None:
    generator = torch.Generator().manual_seed(0)
    first = [torch.randn(shape, generator=generator) for shape in ((3, 4), (4,), (2,))]
    ours, theirs = ([each.clone().requires_grad_() for each in first] for _ in range(2))
    own = AdamW(ours, learning_rate=0.1, weight_decay=0.05)
    reference = torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.05)
    for step in range(12):
        own.learning_rate = reference.param_groups[0]["lr"] = 0.1 / (step + 1)
        own.zero_grad()
        reference.zero_grad()
        # The last parameter has a gradient in every third step only, the second one is given none at first.
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            if (index == 2 and step % 3) or (index == 1 and step < 2):
                continue
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        own.step()
        reference.step()
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
