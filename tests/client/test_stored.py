"""A stored teacher is read whole or refused with an error of limbeck's own, whatever the bytes of its file are."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from helpers.odd_images import mutated
from limbeck.base.errors import DataError, LimbeckError
from limbeck.client import teachers
from limbeck.client.teachers import architectures
from limbeck.client.teachers.evidence import Evidence
from limbeck.client.teachers.linear import Linear
from limbeck.client.teachers.net import Net
from limbeck.client.teachers.votes import Votes
from limbeck.inputs import features

MUTATIONS = 150
BALANCE = features.Balance(mean_D=np.zeros(4, np.float32), weight_D=np.ones(4, np.float32))
TEACHERS: dict[str, teachers.Teacher] = {
    "linear": Linear("rows", 1.0, BALANCE, torch.zeros(2, 4), torch.zeros(2)),
    "net": Net("mlp", (4,), 2, architectures.build("mlp", (4,), 2)),
    "votes": Votes(bytes(32), 1.0, torch.zeros(3, 2)),
    "evidence": Evidence("rows", BALANCE, 0.3, torch.zeros(2, 5, dtype=torch.float64)),
}


@pytest.mark.parametrize("kind", TEACHERS)
def test_a_mutated_teacher_is_read_or_refused_and_never_anything_else(kind: str, tmp_path: Path) -> None:
    path, draw, refused = tmp_path / "teacher.safetensors", random.Random(kind), 0
    TEACHERS[kind].save(path)
    whole = path.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    assert isinstance(teachers.load(path), type(TEACHERS[kind]))
    for turn in range(MUTATIONS):
        # The header decides most, and is a small part of the file.
        cut = head if turn % 2 else len(whole)
        path.write_bytes(mutated(whole[:cut], draw) + whole[cut:])
        try:
            teachers.load(path)
        except LimbeckError:
            refused += 1
    assert refused > MUTATIONS // 4


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("linear", "{}"),
        ("linear", "[]"),
        ("linear", "null"),
        ("linear", "[" * 100_000),
        ("linear", json.dumps({"features": "rows", "norm": "large"})),
        ("net", "{}"),
        ("net", json.dumps({"architecture": "mlp", "shape": 4, "classes": 2})),
        ("net", json.dumps({"architecture": "mlp", "shape": ["x"], "classes": 2})),
        ("net", json.dumps({"architecture": "mlp", "shape": [-4], "classes": 2})),
        ("net", json.dumps({"architecture": "mlp", "shape": [4], "classes": "two"})),
        ("net", json.dumps({"architecture": "other", "shape": [4], "classes": 2})),
        ("net", json.dumps({"architecture": "custom", "shape": [4], "classes": 2})),
        ("evidence", "{}"),
        ("evidence", json.dumps({"features": "rows", "constant": "large"})),
        ("votes", json.dumps({"inputs": "xyz", "noise_std": 1})),
        ("votes", json.dumps({"inputs": "00", "noise_std": None})),
        ("tree", "{}"),
    ],
)
def test_settings_and_tensors_that_do_not_fit_are_refused(kind: str, settings: str, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(save({"weight": torch.zeros(2, 4)}, metadata={"kind": kind, "settings": settings}))
    with pytest.raises(LimbeckError, match="Expected"):
        teachers.load(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none", tmp_path / "folder", Path("/dev/null")):
        with pytest.raises(DataError, match="Expected a teacher in"):
            teachers.load(path)
