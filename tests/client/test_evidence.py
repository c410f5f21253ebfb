"""Evidence: what one record can do to the sums, and that the answers of sites add up to those of one site that holds all records."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from helpers.plans import PLAN
from helpers.teacher_conformance import Silent
from limbeck.client import release, teachers
from limbeck.client.noise import UnsafeSeeded
from limbeck.client.teachers import evidence
from limbeck.client.teachers.evidence import Evidence
from limbeck.inputs import covariance
from limbeck.plans import checks
from limbeck.plans.schema import EvidenceTeaching, Plan, Pooling, Stage, TopK
from limbeck.protos import codec
from limbeck.protos.messages import Ask, Share
from limbeck.server.pooling import Pool
from limbeck.simulations import central, data

TEACHING = EvidenceTeaching(
    features="pixels", constant=0.3, normaliser=30.0, ridge=0.02, noise_multiplier=1.0, resolution=1 << 16
)
CLASSES = 3
_generator = np.random.default_rng(0)
PUBLIC = _generator.normal(size=(6, 3)).astype(np.float32)
EXTREME = [0.0, 1e-45, -1e-38, 1e-20, 1.0, -1e10, 1e20, 3e38, -3e38, np.inf, -np.inf, np.nan]
cells = st.one_of(st.sampled_from(EXTREME), st.floats(width=32), st.floats(-3, 3, width=32))


@given(
    row=st.integers(1, 12).flatmap(lambda width: st.lists(cells, min_size=width, max_size=width)),
    constant=st.sampled_from([0.0, 0.3, 0.9]) | st.floats(0, 0.9),
    steps=st.sampled_from([1, 4, 1 << 12, 1 << 20]) | st.integers(0, 1 << 20),
)
@example(row=[1.0, 1.0, 1.0], constant=0.0, steps=1 << 20)
@example(row=[3e38, 1e-45], constant=0.9, steps=4096)
@example(row=[np.nan, 1.0], constant=0.3, steps=4096)
@settings(max_examples=150)
def test_no_record_has_a_row_longer_than_the_resolution(row: list[float], constant: float, steps: int) -> None:
    found = evidence.rows(np.array([row], np.float32), constant, np.array([steps]))
    assert found.dtype == np.int64
    assert sum(each**2 for each in found[0].tolist()) <= steps**2
    if not np.isfinite(row).all():
        assert not found.any()
        return
    assert found[0, -1] == int(constant * steps)
    signs = np.sign(np.array(row, np.float64))
    assert ((found[0, :-1] == 0) | (np.sign(found[0, :-1]) == signs)).all()
    if signs.any() and steps >= 1 << 12:
        # Rounded towards zero, a row loses at most one step of each number.
        assert math.sqrt(sum(each**2 for each in found[0].tolist())) >= steps - 2 * math.sqrt(len(row)) - 2


@pytest.mark.parametrize("width", [1, 2, 3, 4096, 1 << 17])
def test_squares_of_wide_rows_do_not_overflow(width: int) -> None:
    found = evidence.rows(np.ones((1, width), np.float32), 0.3, np.array([1 << 20]))
    assert 0 < sum(each**2 for each in found[0].tolist()) <= 1 << 40
    assert (found > 0).all()


def test_no_plan_overflows_64_bits_or_float64() -> None:
    """As `limbeck.plans.checks` says: 2^31 records and forty standard deviations of noise."""
    most, noise = checks.WHOLES["teaching.resolution"][1], checks.REALS["teaching.noise_multiplier"][1]
    largest = replace(TEACHING, resolution=most, noise_multiplier=noise)
    assert (2**31 * most + 40 * math.sqrt(evidence.variance(largest))) < 2**53


@given(
    row=st.lists(cells, min_size=3, max_size=3),
    label=st.integers(0, CLASSES - 1),
    n=st.integers(0, 12),
    place=st.floats(0, 1),
    counts=st.none() | st.lists(st.sampled_from([1e-3, 0.5, 1.0, 1e3, 1e30]), min_size=CLASSES, max_size=CLASSES),
)
@settings(max_examples=60)
def test_one_record_moves_the_release_by_at_most_the_resolution_whatever_it_is(
    row: list[float], label: int, n: int, place: float, counts: list[float] | None
) -> None:
    """Everything between a record and the sums to which noise is added."""
    own = replace(TEACHING, features="rows")
    generator = np.random.default_rng(n)
    x_N, y_N = generator.normal(size=(n, 3)).astype(np.float32), generator.integers(0, CLASSES, n)
    at = int(place * n)
    more_x, more_y = np.insert(x_N, at, np.array(row, np.float32), 0), np.insert(y_N, at, label)

    class Kept(Silent):
        """Remembers the sums: with no noise, they are what is released."""

    released = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(covariance, "solve", lambda sums_KD, *_, **__: released.append(sums_KD) or sums_KD)  # type: ignore[func-returns-value]
        for x, y in ((x_N, y_N), (more_x, more_y)):
            evidence.train(own, x, y, classes=CLASSES, public_x=PUBLIC, noise=Kept(), class_weights=counts or ())
    moved_KD = (released[1] - released[0]).astype(np.int64)
    assert sum(each**2 for each in moved_KD.ravel().tolist()) <= own.resolution**2
    assert not np.delete(moved_KD, label, 0).any()


@pytest.mark.parametrize(("inputs", "width"), [(50, 8), (8, 50)])
def test_both_forms_solve_with_the_covariance(inputs: int, width: int) -> None:
    generator = np.random.default_rng(1)
    f_ND, b_KD = generator.normal(size=(inputs, width)).astype(np.float32), generator.normal(size=(3, width))
    g_DD = f_ND.T.astype(float) @ f_ND / inputs
    for ridge in (1e-6, 0.1, 100.0):
        found = covariance.solve(b_KD, f_ND, ridge)
        np.testing.assert_allclose(found @ (g_DD + ridge * np.eye(width)), b_KD, rtol=1e-6, atol=1e-6)
        for ratio in (1e-3, 0.1, 100.0):
            filtered = covariance.solve(b_KD, f_ND, ridge, ratio)
            solved_with = g_DD @ g_DD + ridge * g_DD + ratio * np.eye(width)
            np.testing.assert_allclose(filtered @ solved_with, b_KD @ g_DD, rtol=1e-6, atol=1e-6)
    # The smallest that a plan may have, and a spectrum as features have it: what matters has digits to spare.
    steep_ND = f_ND * np.arange(1, width + 1, dtype=np.float32) ** -2.0
    steep_DD = steep_ND.T.astype(float) @ steep_ND / inputs
    e_D, v_DD = np.linalg.eigh(steep_DD)
    gain_D = e_D / (e_D**2 + 1e-8 * e_D + 1e-12)
    np.testing.assert_allclose(
        steep_ND @ covariance.solve(b_KD, steep_ND, 1e-8, 1e-12).T,
        steep_ND @ (b_KD @ (v_DD * gain_D) @ v_DD.T).T,
        rtol=1e-3,
        atol=1e-3,
    )


def digits(private: int, public: int) -> tuple[NDArray[np.generic], NDArray[np.int64], data.DataSet]:
    """Records, their labels, and the data set with its public inputs."""
    found = data.load("digits", private=private, public=public, test=1)
    assert isinstance(found.private_x, np.ndarray)
    return found.private_x, found.private_y, found


def test_a_kept_factor_is_of_its_own_filter_constant_and_inputs(tmp_path: Path) -> None:
    x_N, y_N, found = digits(30, 20)
    ratio = replace(TEACHING, noise_to_signal=0.1)
    others = replace(TEACHING, ridge=0.5), replace(TEACHING, constant=0.1), replace(ratio, noise_to_signal=0.2)
    for own in (TEACHING, ratio, *others):
        for public_x in (found.public_x, found.public_x[::-1][:15]):
            kept, made = (
                teachers.train(
                    own,
                    x_N,
                    y_N,
                    classes=10,
                    public_x=public_x,
                    noise=UnsafeSeeded(1),
                    cache=cache,
                )
                for cache in (tmp_path, None)
            )
            assert isinstance(kept, Evidence)
            assert isinstance(made, Evidence)
            assert torch.equal(kept.weight_KD, made.weight_KD)


# Sums over sites


def _answered(teacher: Evidence, plan: Plan, x_N: NDArray[np.generic]) -> Share:
    """What the coordinator gets of a teacher's answers: softened, truncated, encoded and decoded."""
    answers = release.answers(teacher.log_probabilities(x_N), plan, plan.stages[0].temperature, Silent())
    plan_hash = codec.plan_hash(plan)
    sent = codec.encode_reply(Share(plan_hash=plan_hash, stage=0, first=0, answers=answers), plan=plan)
    received = codec.decode_reply(sent, plan=plan, expecting=Ask(plan_hash=plan_hash, stage=0, first=0, count=len(x_N)))
    assert isinstance(received, Share)
    return received


@given(owners=st.lists(st.integers(0, 5), min_size=60, max_size=60), spread=st.floats(0.02, 0.4), noisy=st.booleans())
@example(owners=[0] * 60, spread=0.1, noisy=False)
@example(owners=[at // 10 for at in range(60)], spread=0.4, noisy=True)
@settings(max_examples=8)
def test_the_pool_of_any_partition_is_that_of_one_site_with_all_records_up_to_noise_and_coding(
    owners: list[int], spread: float, noisy: bool
) -> None:
    """p = 1/K + (z - mean z) / (K T) + an error below 2 (largest |z - mean z| / T)^2 / K [D], and half a step of the code.

    Six sites, of which any may hold nothing; the scores of all records are the sum of theirs, noise included.
    """
    x_N, y_N, found = digits(60, 20)
    x_N, y_N, owner_N = x_N[np.argsort(y_N)], np.sort(y_N), np.array(owners)
    sites = [
        teachers.train(
            TEACHING,
            x_N[owner_N == site],
            y_N[owner_N == site],
            classes=10,
            public_x=found.public_x,
            noise=UnsafeSeeded(site) if noisy else Silent(),
        )
        for site in range(6)
    ]
    scores = [teacher.scores(found.public_x) for teacher in sites if isinstance(teacher, Evidence)]
    if not noisy:
        whole = teachers.train(TEACHING, x_N, y_N, classes=10, public_x=found.public_x, noise=Silent())
        assert isinstance(whole, Evidence)
        torch.testing.assert_close(sum(scores), whole.scores(found.public_x), rtol=1e-9, atol=1e-9)
    reach = max(float((z_NK - z_NK.mean(1, keepdim=True)).abs().max()) for z_NK in scores)
    temperature = reach / spread
    plan = replace(
        PLAN,
        teaching=TEACHING,
        samples=20,
        classes=10,
        truncation=TopK(k=10),
        stages=(Stage(sparsity=0.0, temperature=temperature),),
        pooling=Pooling.MEAN,
        label_counts=None,
    )
    pool = Pool(samples=20, classes=10)
    for teacher in sites:
        assert isinstance(teacher, Evidence)
        pool.add(_answered(teacher, plan, found.public_x).answers)
    summed_NK = torch.stack(scores).sum(0)
    linear_NK = 0.1 + (summed_NK - summed_NK.mean(1, keepdim=True)) / (10 * temperature * len(sites))
    assert float((pool.result() - linear_NK).abs().max()) <= (2 * spread**2 + 0.06) / 10


def test_a_site_of_one_class_says_as_much_of_it_as_a_site_of_all() -> None:
    """A softmax head of one class says that class everywhere, and pools of such heads know nothing."""
    x_N, y_N, found = digits(600, 300)
    own = replace(TEACHING, normaliser=60.0, noise_multiplier=0.3)
    pool_NK = torch.zeros(300, 10)
    for label in range(10):
        mine = y_N == label
        teacher = teachers.train(
            own,
            x_N[mine],
            y_N[mine],
            classes=10,
            public_x=found.public_x,
            noise=UnsafeSeeded(label),
        )
        pool_NK += (teacher.log_probabilities(found.public_x) / 20).softmax(-1)
    assert float((pool_NK.argmax(1).numpy() == found.public_y).mean()) > 0.85


def test_a_baseline_without_noise_has_none() -> None:
    """What simulations compare with: all records at one place."""
    x_N, y_N, found = digits(60, 20)
    without, silent = (
        teachers.train(TEACHING, x_N, y_N, classes=10, public_x=found.public_x, noise=noise)
        for noise in (central.NoNoise(), Silent())
    )
    assert torch.equal(without.log_probabilities(x_N), silent.log_probabilities(x_N))
