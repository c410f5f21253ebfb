"""Teachers on disk: tensors and a few settings in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from limbeck.operators.errors import DataError
from limbeck.protos.files import write_durably


def write(path: Path, kind: str, settings: dict[str, object], tensors: dict[str, Tensor]) -> None:
    """Write durably."""
    named = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_durably(path, save(named, metadata={"kind": kind, "settings": json.dumps(settings)}))


def read(path: Path) -> tuple[str, dict[str, object], dict[str, Tensor]]:
    """Kind, settings and tensors. Raises DataError where `path` holds no teacher."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return metadata["kind"], json.loads(metadata["settings"]), tensors
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(f"Expected a teacher in {path}: {error}.") from error
