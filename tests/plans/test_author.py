"""Every setting of a plan's file is in the plan, at its place; what the noise is, accounting decides."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from limbeck.base.errors import SettingError
from limbeck.base.settings import validate
from limbeck.plans import accounting, evidence_constants, schema
from limbeck.plans.author import make_plan
from limbeck.plans.settings import PlanSettings, RunSettings, problems

TEACHER = {
    "normaliser": 123.0,
    "steps": 11,
    "learning_rate": 0.75,
    "momentum": 0.5,
    "clip": 1.5,
    "features": "hog",
    "feature_norm": 2.5,
    "average_last": 7,
    "sampling_rate": 0.25,
    "physical_batch": 33,
    "teachers": 9,
}
RAW = {
    "name": "all of it",
    "classes": ("a", "b", "c", "d"),
    "teacher": TEACHER,
    "black_box": {"draws": 17},
    "privacy": {"epsilon": 2.5, "delta": 1e-4, "label_counts_fraction": 0.2},
    "release": {"softening": "tsallis", "tsallis_order": 0.5, "k": 2, "coding": "bytes"},
    "pooling": {"kind": "class-counts"},
    "stages": {"count": 2, "sparsity": 0.6, "path": "linear", "temperature": (2.0, 3.0)},
    "student": {
        "architecture": "mlp",
        "loss": "reverse",
        "epochs": 3,
        "batch": 5,
        "learning_rate": 0.01,
        "weight_decay": 0.02,
        "augment": "auto",
        "relabel": 0.25,
        "sharpen": 3.5,
        "refine": "pixels",
        "mixup": 0.125,
    },
    "run": {"seed": 42, "minimum_clients": 6},
}


def made(kind: str = "linear", **changes: object) -> schema.Plan:
    raw = {**RAW, "teacher": {**TEACHER, "kind": kind}, **changes}
    settings = validate(PlanSettings, raw)
    return make_plan(settings, transfer_set=bytes(range(32)), samples=19, classes=settings.classes, encoding=bytes(32))


def test_every_setting_is_in_the_plan() -> None:
    plan = made()
    counts = plan.label_counts
    assert counts is not None
    assert plan == schema.Plan(
        name="all of it",
        transfer_set=bytes(range(32)),
        samples=19,
        classes=4,
        class_names=("a", "b", "c", "d"),
        family=schema.Family.TSALLIS,
        tsallis_order=0.5,
        truncation=schema.TopK(k=2),
        coding=schema.Coding.BYTES,
        pooling=schema.Pooling.CLASS_COUNTS,
        stages=(schema.Stage(sparsity=0.3, temperature=2.0), schema.Stage(sparsity=0.6, temperature=3.0)),
        teaching=plan.teaching,
        label_counts=counts,
        privacy=schema.Privacy(epsilon=2.5, delta=1e-4, unit=schema.Unit.RECORD, adjacency=schema.Adjacency.ADD_REMOVE_ONE),
        student=schema.Student(
            architecture="mlp",
            loss=schema.Loss.REVERSE,
            epochs=3,
            batch=5,
            learning_rate=0.01,
            weight_decay=0.02,
            augment=True,
            choose_augment=True,
            relabel=0.25,
            sharpen=3.5,
            refine="pixels",
            mixup=0.125,
        ),
        minimum_clients=6,
        public_seed=42,
        black_box=schema.BlackBoxTeaching(draws=17),
        encoding=bytes(32),
    )
    assert 2.4 < accounting.epsilon(((plan.teaching, counts),), 1e-4) <= 2.5
    # The counts' share of the whole, by the squared parameter of Gaussian DP.
    assert counts.noise_std**-2 == pytest.approx(0.2 * accounting.gaussian_mu(2.5, 1e-4) ** 2, rel=2e-3)


@pytest.mark.parametrize("kind", ["linear", "cnn", "votes"])
def test_every_constant_of_a_schedule_is_the_settings_own(kind: str) -> None:
    teaching = made(kind).teaching
    for field in fields(teaching):
        if field.name in TEACHER:
            assert getattr(teaching, field.name) == TEACHER[field.name], field.name
        else:
            assert field.name in {"noise_multiplier", "architecture", "queries"}
    if isinstance(teaching, schema.NetTeaching):
        assert teaching.architecture == kind
    if isinstance(teaching, schema.VotesTeaching):
        assert teaching.queries == 19


def test_what_is_drawn_and_what_is_counted_follow_their_settings() -> None:
    plan = made(release={"truncation": "sampled", "draws": 21}, pooling={"kind": "record-counts"}, black_box=None, classes=7)
    assert plan.truncation == schema.Sampled(draws=21)
    assert plan.record_count is not None
    assert (plan.label_counts, plan.black_box, plan.classes, plan.class_names) == (None, None, 7, ())


def evidence(**changes: object) -> PlanSettings:
    raw = {**RAW, "teacher": {"kind": "evidence", "normaliser": 123.0}, "release": {"k": 2}, "pooling": {"kind": "mean"}}
    return validate(PlanSettings, raw | changes)


def test_what_is_auto_follows_from_public_inputs_and_the_expected_sites() -> None:
    f_ND = np.random.default_rng(0).normal(size=(19, 7)).astype(np.float32) / 4
    settings = evidence(stages={"count": 2, "temperature": "auto"})

    def chosen(settings: PlanSettings, sites: int | None) -> tuple[evidence_constants.Filter, set[float]]:
        plan = make_plan(settings, transfer_set=bytes(32), samples=19, classes=4, features=lambda: f_ND, sites=sites)
        assert isinstance(plan.teaching, schema.EvidenceTeaching)
        own = evidence_constants.Filter(ridge=plan.teaching.ridge, noise_to_signal=plan.teaching.noise_to_signal)
        return own, {stage.temperature for stage in plan.stages}

    noise = accounting.calibrate(
        schema.EvidenceTeaching(
            features="scattering", constant=0.3, normaliser=123.0, ridge=1.0, noise_multiplier=1.0, resolution=1 << 16
        ),
        epsilon=2.5,
        delta=1e-4,
        label_counts_fraction=None,
        counts=None,
    )[0].noise_multiplier
    for run, sites, expected in (({}, 9, 9), ({"expected_clients": 40}, 9, 40), ({"minimum_clients": 6}, None, 6)):
        own = settings.model_copy(update={"run": RunSettings(**run)})
        found = evidence_constants.of_inputs(
            f_ND, evidence_constants.Expected(classes=4, inputs=19, sites=expected, records=123.0, noise=noise)
        )
        assert chosen(own, sites) == (found.filter, {found.temperature})
    fixed = evidence(
        teacher={"kind": "evidence", "normaliser": 123.0, "ridge": 0.5}, stages={"count": 2, "temperature": "auto"}
    )
    usual = chosen(settings, 9)
    assert chosen(fixed, 9)[0] == replace(usual[0], ridge=0.5)
    assert chosen(fixed, 9)[1] != usual[1]
    alone = evidence(
        teacher={"kind": "evidence", "normaliser": 123.0, "noise_to_signal": 0}, stages={"count": 2, "temperature": "auto"}
    )
    assert chosen(alone, 9)[0].noise_to_signal == 0
    assert chosen(alone, 9)[0].ridge > usual[0].ridge


def test_without_public_inputs_auto_is_refused() -> None:
    with pytest.raises(SettingError, match=r"Expected public inputs, from which teacher\.ridge"):
        make_plan(evidence(), transfer_set=bytes(32), samples=19, classes=4)


def test_auto_is_for_evidence_and_power_alone() -> None:
    settings = evidence(
        teacher={"normaliser": 123.0}, stages={"temperature": "auto"}, release={"k": 2, "softening": "mixing"}
    )
    assert [sentence.partition(":")[0] for sentence in problems(settings)] == ["stages.temperature = 'auto'"] * 2
    with pytest.raises(SettingError, match=r"stages\.temperature as numbers with teacher\.kind = 'linear'"):
        make_plan(settings, transfer_set=bytes(32), samples=19, classes=4)
