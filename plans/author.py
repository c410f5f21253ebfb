"""The author of plans: from settings and public inputs to the plan, its noise calibrated to the epsilon that the settings claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import SettingError
from limbeck.plans import accounting, evidence_constants, paths, schema
from limbeck.plans.settings import PlanTables


def make_plan(
    settings: PlanTables,
    *,
    transfer_set: bytes,
    samples: int,
    classes: int | Sequence[str],
    encoding: bytes | None = None,
    inputs: schema.PublicInputs | None = None,
    features: Callable[[], NDArray[np.floating]] | None = None,
    sites: int | None = None,
) -> schema.Plan:
    """The plan of these settings: its noise is calibrated so that the whole of it costs at most `privacy.epsilon`.

    - transfer_set: SHA-256 of the public inputs.
    - samples: how many public inputs there are.
    - classes: their names in the order of the labels, or only their number.
    - encoding: SHA-256 of the public encoding that made the inputs, if one did.
    - inputs: what they are as numbers, `limbeck.plans.public_inputs.declared`.
    - features: computes the teacher's features of the public inputs, (N, D), balanced and of norm 1, where settings are "auto".
    - sites: how many are expected, if `run.expected_clients` does not say it; by default `run.minimum_clients`.

    `limbeck.plans.checks.check_plan` says whether such a plan may be offered. Raises SettingError or DataError.
    """
    stages, release, student, privacy = settings.stages, settings.release, settings.student, settings.privacy
    names = () if isinstance(classes, int) else tuple(classes)
    count = classes if isinstance(classes, int) else len(names)
    if release.truncation == "top-k" and release.k > count:
        raise SettingError(f"release.k = {release.k}: expected at most the {count} classes.")
    weights = settings.teacher.class_weights or ()
    if weights and len(weights) != count:
        raise SettingError(f"teacher.class_weights = {list(weights)}: expected one for each of the {count} classes.")
    wanted_counts = _counts(settings)
    teaching, counts = accounting.calibrate(
        _teaching(settings, samples),
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        label_counts_fraction=privacy.label_counts_fraction if wanted_counts is not None else None,
        counts=wanted_counts,
    )
    path = paths.cubic if stages.path == "cubic" else paths.linear
    temperature = stages.temperature
    left = (settings.teacher.ridge, settings.teacher.noise_to_signal, temperature)
    if isinstance(teaching, schema.EvidenceTeaching) and "auto" in left:
        if features is None:
            raise SettingError(
                "Expected public inputs, from which teacher.ridge, teacher.noise_to_signal and stages.temperature of"
                ' "auto" follow, got none.'
            )
        constants = evidence_constants.of_inputs(
            features(),
            evidence_constants.Expected(
                classes=count,
                inputs=samples,
                sites=settings.run.expected_clients or sites or settings.run.minimum_clients,
                records=teaching.normaliser,
                noise=teaching.noise_multiplier,
            ),
            ridge=None if settings.teacher.ridge == "auto" else settings.teacher.ridge,
            noise_to_signal=None if settings.teacher.noise_to_signal == "auto" else settings.teacher.noise_to_signal,
        )
        teaching = replace(teaching, ridge=constants.filter.ridge, noise_to_signal=constants.filter.noise_to_signal)
        temperature = constants.temperature if temperature == "auto" else temperature
    if temperature == "auto":
        raise SettingError(
            f'Expected stages.temperature as numbers with teacher.kind = {settings.teacher.kind!r}, got "auto".'
        )
    temperatures = temperature if isinstance(temperature, tuple) else (temperature,) * stages.count
    if len(temperatures) != stages.count:
        raise SettingError(f"Expected stages.temperature to be one number or {stages.count}, got {list(temperatures)}.")
    draws = settings.black_box_draws
    return schema.Plan(
        name=settings.name,
        transfer_set=transfer_set,
        samples=samples,
        classes=count,
        class_names=names,
        family=schema.Family(release.softening),
        tsallis_order=release.tsallis_order,
        truncation=schema.TopK(k=release.k) if release.truncation == "top-k" else schema.Sampled(draws=release.draws),
        coding=schema.Coding(release.coding),
        pooling=schema.Pooling(settings.pooling.kind),
        stages=tuple(
            schema.Stage(sparsity=sparsity, temperature=temperature)
            for sparsity, temperature in zip(path(stages.sparsity, stages.count), temperatures, strict=True)
        ),
        teaching=teaching,
        label_counts=counts if isinstance(counts, schema.LabelCounts) else None,
        record_count=counts if isinstance(counts, schema.RecordCount) else None,
        privacy=schema.Privacy(
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            unit=schema.Unit.RECORD,
            adjacency=schema.Adjacency.ADD_REMOVE_ONE,
        ),
        student=schema.Student(
            architecture=student.architecture,
            loss=schema.Loss(student.loss),
            epochs=student.epochs,
            batch=student.batch,
            learning_rate=student.learning_rate,
            weight_decay=student.weight_decay,
            augment=bool(student.augment),
            relabel=student.relabel,
            sharpen=student.sharpen,
            refine="" if student.refine == "none" else student.refine,
            mixup=student.mixup,
            choose_augment=student.augment == "auto",
        ),
        minimum_clients=settings.run.minimum_clients,
        public_seed=settings.run.seed,
        black_box=schema.BlackBoxTeaching(draws=draws) if draws is not None else None,
        encoding=encoding,
        inputs=inputs,
        class_weights=weights,
    )


def _counts(settings: PlanTables) -> schema.Counts | None:
    """What pooling needs to know about the records, with noise to be calibrated."""
    match schema.Pooling(settings.pooling.kind):
        case schema.Pooling.CLASS_COUNTS:
            return schema.LabelCounts(noise_std=1.0, noise=schema.CountNoise(settings.privacy.label_counts_noise))
        case schema.Pooling.RECORD_COUNTS:
            return schema.RecordCount(noise_std=1.0)
        case schema.Pooling.MEAN:
            return None


def _teaching(settings: PlanTables, samples: int) -> schema.Teaching:
    """The schedule with a noise multiplier of 1, to be calibrated, and, where they follow from that, a ridge of 1 alone."""
    teacher = settings.teacher
    if teacher.kind == "evidence":
        return schema.EvidenceTeaching(
            features=teacher.features,
            constant=teacher.constant,
            normaliser=teacher.normaliser,
            ridge=1.0 if teacher.ridge == "auto" else teacher.ridge,
            noise_multiplier=1.0,
            resolution=teacher.resolution,
            noise_to_signal=0.0 if teacher.noise_to_signal == "auto" else teacher.noise_to_signal,
        )
    if teacher.kind == "votes":
        return schema.VotesTeaching(
            teachers=teacher.teachers,
            queries=samples,
            features=teacher.features,
            feature_norm=teacher.feature_norm,
            steps=teacher.steps,
            learning_rate=teacher.learning_rate,
            momentum=teacher.momentum,
            noise_multiplier=1.0,
        )
    if teacher.kind == "linear":
        return schema.LinearTeaching(
            features=teacher.features,
            feature_norm=teacher.feature_norm,
            steps=teacher.steps,
            learning_rate=teacher.learning_rate,
            momentum=teacher.momentum,
            clip=teacher.clip,
            noise_multiplier=1.0,
            normaliser=teacher.normaliser,
            average_last=teacher.average_last,
        )
    return schema.NetTeaching(
        architecture=teacher.kind,
        sampling_rate=teacher.sampling_rate,
        steps=teacher.steps,
        learning_rate=teacher.learning_rate,
        momentum=teacher.momentum,
        clip=teacher.clip,
        noise_multiplier=1.0,
        normaliser=teacher.normaliser,
        physical_batch=teacher.physical_batch,
    )
