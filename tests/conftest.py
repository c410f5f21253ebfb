"""What many tests need: a small plan, one torch thread, no noise on the console."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, settings

import limbeck.protos.tls  # noqa: F401 - before gRPC is loaded, as the command does
from limbeck.plans.schema import (
    Adjacency,
    Coding,
    Family,
    LabelCounts,
    LinearTeaching,
    Loss,
    Plan,
    Pooling,
    Privacy,
    Stage,
    Student,
    TopK,
    Unit,
)

torch.set_num_threads(1)
logging.getLogger("limbeck").setLevel(logging.ERROR)
# How long an example takes says how busy the machine is.
TIMELESS = [HealthCheck.too_slow]
settings.register_profile("limbeck", deadline=None, max_examples=50, derandomize=True, suppress_health_check=TIMELESS)
settings.load_profile("limbeck")

LINEAR = LinearTeaching(
    features="pixels",
    feature_norm=4.0,
    steps=30,
    learning_rate=4.0,
    momentum=0.9,
    clip=1.0,
    noise_multiplier=11.06,
    normaliser=300.0,
    average_last=10,
)
PLAN = Plan(
    name="a test",
    transfer_set=bytes(range(32)),
    samples=20,
    classes=10,
    family=Family.POWER,
    truncation=TopK(k=3),
    coding=Coding.PACKED,
    pooling=Pooling.MEAN,
    stages=(Stage(sparsity=0.5, temperature=2.0), Stage(sparsity=0.9, temperature=2.0)),
    teaching=LINEAR,
    label_counts=LabelCounts(noise_std=6.2),
    privacy=Privacy(epsilon=3.0, delta=1e-5, unit=Unit.RECORD, adjacency=Adjacency.ADD_REMOVE_ONE),
    student=Student(
        architecture="mlp",
        loss=Loss.TTM,
        epochs=2,
        batch=16,
        learning_rate=1e-3,
        weight_decay=0.0,
        augment=False,
        relabel=0.0,
    ),
    minimum_clients=2,
    public_seed=1,
)


@pytest.fixture
def plan() -> Plan:
    """A valid plan of 20 samples and 10 classes."""
    return PLAN


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    """The same with some fields changed."""
    return lambda **changes: replace(PLAN, **changes)


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without the student's ONNX file, which takes longer than all the rest of a small one: test_stages looks at it."""
    from limbeck.server import export

    monkeypatch.setattr(export, "_to_onnx", lambda *_: b"none")
    monkeypatch.setattr(export, "_compare", lambda *_: 0.0)
