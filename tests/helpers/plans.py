"""A small plan that is valid, from which tests make others."""

from __future__ import annotations

from limbeck.plans.schema import (
    Adjacency,
    Coding,
    Family,
    LabelCounts,
    LinearTeaching,
    Loss,
    NetTeaching,
    Plan,
    Pooling,
    Privacy,
    Stage,
    Student,
    TopK,
    Unit,
)

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
NET = NetTeaching(
    architecture="cnn",
    sampling_rate=0.1,
    steps=20,
    learning_rate=1.0,
    momentum=0.0,
    clip=1.0,
    noise_multiplier=1.2,
    normaliser=64.0,
    physical_batch=64,
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
