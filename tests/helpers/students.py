"""Students of runs, compared to the last bit."""

from __future__ import annotations

from pathlib import Path

import torch

from limbeck.server import checkpoint

# Of a run of digits-tiny that takes seconds and gives the same student each time.
QUICK = (
    "data.private=300",
    "data.public=80",
    "student.epochs=2",
    "student.dense_control=false",
    "privacy.noise=UnsafeSeeded",
)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the last checkpoint in a run's folder."""
    found = checkpoint.load_last(folder / "server" / "checkpoints")
    assert found is not None
    return found.weights


def exported(folder: Path) -> bytes:
    """The bytes of a run's exported student."""
    return (folder / "server" / "student" / "student.safetensors").read_bytes()


def same_student(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same weights."""
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
