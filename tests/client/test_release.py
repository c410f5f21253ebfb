"""Noisy counts and noisy votes: the mechanisms are what the ledger charges for."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn import functional

from limbeck.base.errors import DataError
from limbeck.client import discrete, release, teachers
from limbeck.client.noise import SystemEntropy, UnsafeSeeded
from limbeck.client.teachers import votes
from limbeck.operators import EntropyTarget, Softening, TopK, Tsallis
from limbeck.plans import schema
from limbeck.plans.schema import Family, LabelCounts, Plan, RecordCount, VotesTeaching
from limbeck.simulations import data

VOTES = VotesTeaching(
    teachers=8, queries=50, features="pixels", feature_norm=4, steps=20, learning_rate=1, momentum=0.5, noise_multiplier=3
)
DRAWS = 4000


class Fixed:
    """Every record in the shard it is told; no noise, but its scale is noted."""

    label = "fixed"

    def __init__(self, uniform: NDArray[np.float64]) -> None:
        self.own, self.std = uniform, 0.0

    def uniform(self, n: int) -> NDArray[np.float64]:
        return self.own[:n]

    def gaussian(self, *shape: int, std: float) -> Tensor:
        self.std = std
        return torch.zeros(shape)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 4.3])
def test_the_discrete_gaussian_has_its_own_probabilities(sigma: float) -> None:
    noise = UnsafeSeeded(3)
    drawn = Counter(discrete.gaussian(noise.below, sigma) for _ in range(DRAWS))
    weight = {x: math.exp(-x * x / 2 / sigma**2) for x in range(-60, 61)}
    expected = {x: DRAWS * own / sum(weight.values()) for x, own in weight.items()}
    common = [x for x, own in expected.items() if own >= 5]
    observed = [drawn[x] for x in common]
    rest = DRAWS - sum(expected[x] for x in common)
    found = stats.chisquare([*observed, DRAWS - sum(observed)], [*(expected[x] for x in common), rest])
    assert found.pvalue > 1e-4


def test_the_discrete_laplace_has_its_own_probabilities() -> None:
    noise = UnsafeSeeded(4)
    drawn = Counter(discrete.laplace(noise.below, 2) for _ in range(DRAWS))
    scale = math.tanh(0.25)
    for x in range(-3, 4):
        p = scale * math.exp(-abs(x) / 2)
        assert abs(drawn[x] / DRAWS - p) < 5 * math.sqrt(p / DRAWS)


@pytest.mark.parametrize("n", [1, 2, 3, 200, 257])
def test_uniform_integers_are_in_range_and_even(n: int) -> None:
    noise = UnsafeSeeded(5)
    drawn = [noise.below(n) for _ in range(3000)]
    assert set(drawn) <= set(range(n))
    assert abs(np.mean(drawn) - (n - 1) / 2) <= 5 * n / math.sqrt(12 * 3000)


def test_counts_are_integers_with_the_declared_noise_around_the_truth() -> None:
    y_N, noise = np.arange(30) % 3, SystemEntropy()
    mechanism = LabelCounts(noise_std=2.0)
    released = [release.label_counts(y_N, 3, mechanism, noise) for _ in range(600)]
    # As Python's own integers: a float that happens to be whole could have been rounded from one that is not.
    assert all(type(count) is int for counts in released for count in counts)
    drawn = np.array(released)
    totals = np.array([release.record_count(y_N, RecordCount(noise_std=2.0), noise) for _ in range(1800)])
    for found, truth in ((drawn, 10), (totals, 30)):
        assert abs(found.mean() - truth) < 0.3
        assert abs(found.std() - 2) < 0.2


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 5000])
def test_every_count_has_noise_of_its_own_whatever_its_size(size: int) -> None:
    """Ten classes of one size: ten independent numbers. Level: about 1e-9 each."""
    y_N, noise = np.repeat(np.arange(10), size), SystemEntropy()
    mechanism = LabelCounts(noise_std=2.0)
    drawn = np.array([release.label_counts(y_N, 10, mechanism, noise) for _ in range(60)]) - size
    assert stats.chi2.ppf(1e-9, 60) < ((drawn / 2) ** 2).sum(0).min()
    assert ((drawn / 2) ** 2).sum(0).max() < stats.chi2.isf(1e-10, 60)
    # Were one number added to all classes, their mean would vary as each does.
    assert 60 * 10 * (drawn.mean(1) / 2).var() < stats.chi2.isf(1e-9, 60)
    totals = np.array([release.record_count(y_N, RecordCount(noise_std=2.0), noise) for _ in range(60)]) - 10 * size
    assert stats.chi2.ppf(1e-9, 60) < ((totals / 2) ** 2).sum() < stats.chi2.isf(1e-9, 60)


@pytest.mark.parametrize("size", [5, 2000])
def test_every_vote_has_noise_of_its_own(size: int) -> None:
    public_x = np.zeros((200, 8, 8), np.uint8)
    teaching = replace(VOTES, queries=200, teachers=2, steps=1)
    x_N, y_N = np.zeros((size, 8, 8), np.uint8), np.zeros(size, np.int64)
    noise = votes.train(teaching, x_N, y_N, classes=10, public_x=public_x, noise=SystemEntropy()).votes_NK
    noise = noise - functional.one_hot(torch.zeros(200, dtype=torch.int64), 10) * 2
    scaled = (noise / (math.sqrt(2) * VOTES.noise_multiplier)).numpy()
    assert len(np.unique(scaled)) > 1990
    assert stats.chi2.ppf(1e-9, 2000) < (scaled**2).sum() < stats.chi2.isf(1e-9, 2000)
    assert 10 * (scaled.mean(1) ** 2).sum() < stats.chi2.isf(1e-9, 200)
    assert 200 * (scaled.mean(0) ** 2).sum() < stats.chi2.isf(1e-9, 10)


def records(n: int = 64) -> tuple[NDArray[np.generic], NDArray[np.int64], NDArray[np.generic]]:
    found = data.load("digits", private=n, public=50, test=1)
    assert isinstance(found.private_x, np.ndarray)
    return found.private_x, found.private_y, found.public_x


def counted(x_N: NDArray[np.generic], y_N: NDArray[np.int64], public_x: NDArray[np.generic], noise: Fixed) -> Tensor:
    teacher = teachers.train(VOTES, x_N, y_N, classes=10, public_x=public_x, noise=noise)  # type: ignore[arg-type]
    assert isinstance(teacher, votes.Votes)
    return teacher.votes_NK


def test_one_record_more_moves_at_most_one_vote_per_input() -> None:
    x_N, y_N, public_x = records()
    uniform = np.random.default_rng(0).uniform(size=64)
    whole = counted(x_N, y_N, public_x, Fixed(uniform))
    assert (whole.sum(1) == VOTES.teachers).all()
    moved = 0.0
    for left_out in range(0, 64, 7):
        kept = np.delete(np.arange(64), left_out)
        less = counted(x_N[kept], y_N[kept], public_x, Fixed(uniform[kept]))
        per_input = (whole - less).norm(dim=1)
        assert float(per_input.max()) <= math.sqrt(2) + 1e-6
        moved = max(moved, float(per_input.max()))
    # The bound is reached, so noise for less would be too little.
    assert moved == pytest.approx(math.sqrt(2))


def test_noise_on_votes_has_the_standard_deviation_that_is_charged_for() -> None:
    x_N, y_N, public_x = records()
    noise = Fixed(np.random.default_rng(0).uniform(size=64))
    counted(x_N, y_N, public_x, noise)
    assert noise.std == pytest.approx(math.sqrt(2) * VOTES.noise_multiplier)
    drawn = [votes.train(VOTES, x_N, y_N, classes=10, public_x=public_x, noise=SystemEntropy()).votes_NK for _ in range(2)]
    # Shards differ too, which adds at most a vote or two to noise of 4.2.
    assert 0.9 < float((drawn[0] - drawn[1]).std()) / (math.sqrt(2) * noise.std) < 1.2


def test_a_records_shard_does_not_depend_on_the_others_or_its_place() -> None:
    first = votes.shards(Fixed(np.linspace(0, 0.99, 50)), 50, 8)  # type: ignore[arg-type]
    fewer = votes.shards(Fixed(np.delete(np.linspace(0, 0.99, 50), 3)), 49, 8)  # type: ignore[arg-type]
    assert np.array_equal(np.delete(first, 3), fewer)
    assert np.bincount(votes.shards(SystemEntropy(), 8000, 8), minlength=8).min() > 850


def test_votes_answer_only_what_was_paid_for_and_the_same_each_time(tmp_path: Path) -> None:
    x_N, y_N, public_x = records()
    votes.train(VOTES, x_N, y_N, classes=10, public_x=public_x, noise=SystemEntropy()).save(tmp_path / "t")
    teacher = teachers.load(tmp_path / "t")
    log_p_NK = teacher.log_probabilities(public_x)
    torch.testing.assert_close(log_p_NK.exp().sum(1), torch.ones(50))
    assert torch.equal(log_p_NK, teachers.load(tmp_path / "t").log_probabilities(public_x))
    with pytest.raises(DataError, match="Expected the public inputs that were voted on"):
        teacher.log_probabilities(x_N)


def test_a_site_without_records_votes_too() -> None:
    x_N, y_N, public_x = records()
    empty = counted(x_N[:0], y_N[:0], public_x, Fixed(np.zeros(0)))
    assert torch.equal(empty[:, 0], torch.full((50,), float(VOTES.teachers)))


def test_votes_of_many_sub_teachers_are_right_more_often_than_not() -> None:
    found = data.load("digits", private=900, public=200, test=1)
    assert isinstance(found.private_x, np.ndarray)
    mild = replace(VOTES, queries=200, teachers=30, noise_multiplier=1.0)
    teacher = votes.train(mild, found.private_x, found.private_y, classes=10, public_x=found.public_x, noise=SystemEntropy())
    predicted = teacher.log_probabilities(found.public_x).argmax(1).numpy()
    assert (predicted == found.public_y).mean() > 0.8


@pytest.mark.parametrize(
    ("family", "order", "softening"),
    [
        (Family.TSALLIS, 0.5, Tsallis(0.5, 2.0)),
        (Family.ENTROPY_TARGET, None, EntropyTarget(0.5, relative=True)),
    ],
)
def test_an_answer_is_softened_by_the_family_and_order_that_the_plan_names(
    make_plan: Callable[..., Plan], family: Family, order: float | None, softening: Softening
) -> None:
    log_p_NK = (2 * torch.randn(6, 10, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    found = release.answers(log_p_NK, make_plan(family=family, tsallis_order=order), 2.0, UnsafeSeeded(0))
    expected = TopK(3)(softening.from_log(log_p_NK).exp())
    assert found.ids_Nk.tolist() == expected.ids_Nk.tolist()
    torch.testing.assert_close(found.p_Nk, expected.p_Nk)
    torch.testing.assert_close(found.tail_N, expected.tail_N)


def test_a_site_knows_which_of_its_answers_lie_on_the_floor_at_which_temperature(plan: Plan) -> None:
    """A teacher of a rare class: log-odds of 20 against it, more and less."""
    odds_N = torch.linspace(10, 30, 200)
    log_p_NK = torch.stack([odds_N * 0, -odds_N], 1).log_softmax(1)
    own = replace(plan, classes=2, truncation=schema.TopK(k=2), label_counts=None)
    shares = {
        temperature: release.at_floor(release.answers(log_p_NK, own, temperature, UnsafeSeeded(1)), own)
        for temperature in (1.0, 40.0)
    }
    assert shares[1.0] == pytest.approx((0, 0.81), abs=0.01)
    assert shares[40.0] == (0, 0)
    drawn = replace(own, truncation=schema.Sampled(draws=4))
    assert release.at_floor(release.answers(log_p_NK, drawn, 1.0, UnsafeSeeded(1)), drawn) == ()
    assert release.at_floor(release.answers(log_p_NK[:0], own, 1.0, UnsafeSeeded(1)), own) == ()
