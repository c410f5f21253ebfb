"""What answers say about labels and noise: a sentence where it is so, and none where it is not.

Shape legend: N public inputs, D features, K classes, C sites.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.plans import PLAN
from limbeck.operators import Power, TopK
from limbeck.plans import evidence_constants
from limbeck.plans.evidence_constants import Expected, Filter
from limbeck.plans.schema import EvidenceTeaching, Plan, Sampled
from limbeck.plans.schema import TopK as PlannedTopK
from limbeck.server import observed
from limbeck.server.pooling import Pool

CLASSES, SITES, RECORDS, INPUTS, WIDTH = 4, 3, 300.0, 400, 12
TEACHING = EvidenceTeaching(
    features="rows", constant=0.3, normaliser=RECORDS, ridge=0.01, noise_multiplier=1.5, resolution=1 << 16
)
EVIDENCE = replace(
    PLAN,
    teaching=TEACHING,
    classes=CLASSES,
    class_names=(),
    samples=INPUTS,
    truncation=PlannedTopK(k=CLASSES),
    label_counts=None,
)


def named(*rows: tuple[int, ...]) -> Tensor:
    return torch.tensor(rows)


def test_sites_that_name_other_classes_are_told_apart_from_noise() -> None:
    alike = named((26, 24, 25, 25), (24, 27, 24, 25), (25, 24, 26, 25))
    unlike = named((70, 10, 10, 10), (10, 70, 10, 10), (10, 10, 70, 10))
    assert observed.unlike_sites(PLAN, alike) is None
    sentence = observed.unlike_sites(PLAN, unlike)
    assert sentence is not None
    # Of 100 answers each, 30 are the same, and a third of the rest of what all name.
    assert "by 40% of the public inputs" in sentence
    assert 'teacher.kind = "evidence"' in sentence


def test_where_scores_add_up_or_one_site_answers_unlike_sites_are_no_matter() -> None:
    unlike = named((100, 0, 0, 0), (0, 100, 0, 0))
    assert observed.unlike_sites(EVIDENCE, unlike) is None
    assert observed.unlike_sites(PLAN, unlike[:1]) is None
    assert observed.unlike_sites(PLAN, unlike[:0]) is None


def test_a_pool_counts_what_each_site_names_first_in_no_order() -> None:
    pool = Pool(samples=3, classes=3)
    for rows in ([[0.1, 0.8, 0.1]] * 3, [[0.7, 0.2, 0.1], [0.2, 0.2, 0.6], [0.7, 0.2, 0.1]]):
        pool.add(TopK(k=2)(torch.tensor(rows)))
    assert pool.named.tolist() == [[0, 3, 0], [2, 0, 1]]
    assert Pool(samples=3, classes=3).named.shape == (0, 3)


def pooled(plan: Plan, *, records: float, noise: float, temperature: float = 30.0) -> tuple[Tensor, np.ndarray]:
    """The pool of `SITES` sites with so many records each, whose features are the public inputs', and G's eigenvalues."""
    rng = np.random.default_rng(5)
    f_ND = rng.normal(size=(INPUTS, WIDTH)) * np.arange(1, WIDTH + 1) ** -0.5
    f_ND /= np.linalg.norm(f_ND, axis=1, keepdims=True)
    w_KD = rng.normal(0, np.sqrt((1 - 1 / CLASSES) / CLASSES), (CLASSES, WIDTH))
    gram = f_ND.T @ f_ND / INPUTS
    teaching = plan.teaching
    assert isinstance(teaching, EvidenceTeaching)
    solve = gram @ np.linalg.inv(gram @ gram + teaching.ridge * gram + teaching.noise_to_signal * np.eye(WIDTH))
    z_CNK = [
        CLASSES * f_ND @ solve @ (records * w_KD @ gram + rng.normal(0, noise, w_KD.shape)).T / RECORDS for _ in range(SITES)
    ]
    p_CNK = Power(temperature).from_log(torch.from_numpy(np.stack(z_CNK)).log_softmax(-1)).exp()
    return p_CNK.mean(0).float(), evidence_constants.eigenvalues(f_ND)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 1.0])
def test_evidence_that_varies_as_expected_is_nothing_to_speak_of(ratio: float) -> None:
    plan = replace(EVIDENCE, teaching=replace(TEACHING, noise_to_signal=ratio))
    pool_NK, e_J = pooled(plan, records=RECORDS, noise=1.5)
    assert observed.evidence(plan, pool_NK, SITES, 30.0, e_J) is None


@pytest.mark.parametrize(
    ("records", "noise", "teaching", "wanted"),
    [
        (5 * RECORDS, 1.5, TEACHING, "times what the plan's constants expect"),
        (RECORDS / 100, 40.0, replace(TEACHING, noise_multiplier=40.0), "of what pooled answers vary by is noise"),
    ],
)
def test_evidence_that_is_noise_or_of_far_more_records_is_said(
    records: float, noise: float, teaching: EvidenceTeaching, wanted: str
) -> None:
    plan = replace(EVIDENCE, teaching=teaching)
    pool_NK, e_J = pooled(plan, records=records, noise=noise)
    sentence = observed.evidence(plan, pool_NK, SITES, 30.0, e_J)
    assert sentence is not None
    assert wanted in sentence


def test_the_pool_is_expected_to_vary_as_one_site_that_holds_all_records() -> None:
    """Of as many classes as there may be, so that the mean over them does not matter."""
    e_J = np.array([0.5, 0.2, 0.05])
    all_ = Expected(classes=1000, inputs=100, sites=1, records=900.0, noise=2.0)
    signal, noise = evidence_constants.pooled_variance(e_J, Filter(ridge=0.01), all_)
    whole = evidence_constants.deviation(e_J, Filter(ridge=0.01), all_, one_class=False)
    assert signal + noise == pytest.approx(whole**2, rel=2e-3)
    shared = evidence_constants.pooled_variance(e_J, Filter(ridge=0.01), replace(all_, sites=3, records=300.0))
    assert shared == pytest.approx((signal, 3 * noise))


def test_only_of_plans_whose_scores_can_be_told_from_their_answers() -> None:
    assert observed.applies(EVIDENCE)
    scattering = replace(TEACHING, features="scattering")
    assert not observed.applies(replace(EVIDENCE, teaching=scattering))
    assert observed.applies(replace(EVIDENCE, teaching=scattering, student=replace(EVIDENCE.student, refine="scattering")))
    assert not observed.applies(replace(EVIDENCE, truncation=Sampled(draws=8)))
    assert not observed.applies(PLAN)


def test_eigenvalues_are_those_of_the_balanced_features_of_a_part_of_many_inputs() -> None:
    x_ND = np.random.default_rng(1).normal(size=(2100, 5)).astype(np.float32)
    found = observed.eigenvalues(EVIDENCE, x_ND, None)
    assert found.sum() == pytest.approx(1 - 0.3**2)
    centred = x_ND - x_ND.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert found == pytest.approx((1 - 0.3**2) * np.sort(np.linalg.eigvalsh(unit.T @ unit / 2100))[::-1], abs=0.02)
