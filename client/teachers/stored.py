"""Teachers on disk: tensors and a few settings in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from limbeck.base.errors import DataError
from limbeck.base.files import write_durably


def write(path: Path, kind: str, settings: dict[str, object], tensors: dict[str, Tensor]) -> None:
    """Write durably."""
    named = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    write_durably(path, save(named, metadata={"kind": kind, "settings": json.dumps(settings)}))


def read(path: Path) -> tuple[str, dict[str, object], dict[str, Tensor]]:
    """Kind, settings and tensors. Raises DataError, and nothing else, if `path` holds no teacher."""
    try:
        if not path.is_file():
            raise FileNotFoundError("no such file")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        settings = json.loads(metadata["settings"])
        if not isinstance(settings, dict):
            raise ValueError(f"expected a table of settings, got {type(settings).__name__}")
        return metadata["kind"], settings, tensors
    except Exception as error:  # safetensors, JSON and torch raise errors of many kinds on broken bytes
        raise DataError(f"Expected a teacher in {path}: {type(error).__name__}: {error}.") from error
