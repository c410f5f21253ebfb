"""Students of runs, compared to the last bit."""

from __future__ import annotations

from pathlib import Path

import torch

from limbeck.server import checkpoint


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the last checkpoint in a run's folder."""
    found = checkpoint.load_last(folder / "server" / "checkpoints")
    assert found is not None
    return found.weights


def same_student(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same weights."""
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
