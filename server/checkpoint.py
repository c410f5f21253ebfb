"""Checkpoints: one file per finished stage, whole or absent, checked when read.

checkpoints/stage-003.safetensors    weights, masks, the pooled targets; metadata: stage, SHA-256 of the tensors, whose answers were pooled
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from limbeck.base.files import write_durably
from limbeck.server.pruning import Masks

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """A finished stage. targets_NK: the pool it was distilled from. clients: the sites in it, in order; none in a file that does not say.
    asked_in: the stage in which they were asked."""

    stage: int
    weights: dict[str, Tensor]
    masks: dict[str, Tensor]
    targets_NK: Tensor
    clients: tuple[str, ...] = ()
    asked_in: int = 0


def save_stage(
    folder: Path,
    stage: int,
    model: nn.Module,
    masks: Masks,
    targets_NK: Tensor,
    *,
    clients: Sequence[str] = (),
    asked_in: int | None = None,
) -> Path:
    """Write a stage durably. asked_in: the stage in which the targets were asked for, by default this one."""
    tensors = {f"weight/{name}": tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors |= {f"mask/{name}": mask.cpu().contiguous() for name, mask in masks.kept.items()}
    tensors["targets"] = targets_NK.cpu().contiguous()
    path = path_of(folder, stage)
    metadata = {
        "stage": str(stage),
        "sha256": _digest(tensors),
        "clients": json.dumps(list(clients)),
        "asked_in": str(stage if asked_in is None else asked_in),
    }
    write_durably(path, save(tensors, metadata=metadata))
    return path


def path_of(folder: Path, stage: int) -> Path:
    """Where a stage's checkpoint is."""
    return folder / f"stage-{stage:03}.safetensors"


def load_last(folder: Path) -> Checkpoint | None:
    """The last stage that can be read. A broken file is skipped with a warning, and the one before it taken."""
    for path in sorted(folder.glob("stage-*.safetensors"), reverse=True):
        checkpoint = load(path)
        if checkpoint is not None:
            return checkpoint
    return None


def load(path: Path) -> Checkpoint | None:
    """One checkpoint, or None with a warning if it is broken."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if _digest(tensors) != metadata["sha256"]:
            raise ValueError("its tensors have another SHA-256")
        return Checkpoint(
            stage=int(metadata["stage"]),
            weights={name.removeprefix("weight/"): tensor for name, tensor in tensors.items() if name.startswith("weight/")},
            masks={name.removeprefix("mask/"): tensor for name, tensor in tensors.items() if name.startswith("mask/")},
            targets_NK=tensors["targets"],
            clients=tuple(map(str, json.loads(metadata.get("clients", "[]")))),
            asked_in=int(metadata.get("asked_in", metadata["stage"])),
        )
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        log.warning("Skipped the checkpoint %s: %s.", path, error)
        return None


def restore(checkpoint: Checkpoint, model: nn.Module, masks: Masks) -> None:
    """Put weights and masks back."""
    model.load_state_dict(checkpoint.weights)
    device = next(model.parameters()).device
    masks.kept = {name: mask.to(device) for name, mask in checkpoint.masks.items()}


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
