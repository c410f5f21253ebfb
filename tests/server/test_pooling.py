"""The pool equals a dense oracle, whatever the order, and grows with nothing but N and K."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators import TopK, Truncated
from limbeck.server.pooling import LEAST_SHARE, Pool, class_weights, record_weights


def answers(seed: int, n: int = 5, classes: int = 4, k: int = 2) -> Truncated:
    return TopK(k)(torch.randn(n, classes, generator=torch.Generator().manual_seed(seed)).softmax(-1))


def pooled(parts: list[Truncated], weights: list[Tensor | None]) -> Tensor:
    pool = Pool(samples=5, classes=4)
    for part, weight in zip(parts, weights, strict=True):
        pool.add(part, weights_K=weight)
    return pool.result()


@given(seed=st.integers(0, 1000), clients=st.integers(1, 6))
def test_the_pool_equals_a_dense_weighted_mean(seed: int, clients: int) -> None:
    parts = [answers(seed + client) for client in range(clients)]
    weights = torch.rand(clients, 4, generator=torch.Generator().manual_seed(seed)) + 0.1
    expected = (torch.stack([part.dense() for part in parts]) * weights[:, None]).sum(0) / weights.sum(0)
    found = pooled(parts, list(weights))
    torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.ones(5))


def test_without_weights_it_is_the_plain_mean() -> None:
    parts = [answers(1), answers(2)]
    torch.testing.assert_close(pooled(parts, [None, None]), (parts[0].dense() + parts[1].dense()) / 2)


def test_the_order_of_arrival_does_not_change_one_bit() -> None:
    parts = [answers(seed) for seed in range(4)]
    weights: list[Tensor | None] = [torch.tensor([0.1, 0.7, 0.3, 1e-3]) * (seed + 1) for seed in range(4)]
    results = [pooled([parts[i] for i in order], [weights[i] for i in order]) for order in itertools.permutations(range(4))]
    assert all(torch.equal(result, results[0]) for result in results)


def test_parts_of_the_transfer_set_may_come_one_by_one() -> None:
    whole = answers(3)
    pool = Pool(samples=5, classes=4)
    pool.add(whole.rows(slice(3, 5)), first=3)
    pool.add(whole.rows(slice(0, 3)), first=0)
    torch.testing.assert_close(pool.result(), whole.dense())


def test_a_sample_that_nobody_answered_is_an_error() -> None:
    pool = Pool(samples=6, classes=4)
    pool.add(answers(0))
    with pytest.raises(SettingError, match="got none to 1"):
        pool.result()


@pytest.mark.parametrize(
    "weights",
    [torch.ones(3), torch.tensor([1, 1, 1, -1.0]), torch.tensor([1, 1, 1, torch.nan]), torch.tensor([1, 1, 1, 1e7])],
)
def test_weights_that_cannot_be_meant_are_refused(weights: Tensor) -> None:
    with pytest.raises(SettingError, match="Expected 4 weights"):
        Pool(samples=5, classes=4).add(answers(0), weights_K=weights)


def test_answers_outside_the_transfer_set_are_refused() -> None:
    with pytest.raises(SettingError, match="within 5 samples"):
        Pool(samples=5, classes=4).add(answers(0), first=1)


@pytest.mark.parametrize("field", ["p_Nk", "tail_N"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_answers_that_are_not_finite_are_never_pooled(field: str, value: float) -> None:
    """The codec lets none through. As an integer, the sum of one would be a number like any other."""
    own = answers(0)
    spoilt = getattr(own, field).clone()
    spoilt[0] = value
    pool = Pool(samples=6, classes=4)
    with pytest.raises(SettingError, match="finite probabilities"):
        pool.add(replace(own, **{field: spoilt}))


def test_the_pool_knows_the_share_of_answers_on_the_floor_per_class() -> None:
    pool = Pool(samples=4, classes=3)
    for row in ([0.5, 0.5, 0.0], [0.2, 0.3, 0.5]):
        p_NK = torch.tensor([row] * 4)
        pool.add(TopK(3)(p_NK))
    assert pool.at_floor == (0.0, 0.0, 0.5)


def test_a_site_weighs_in_a_class_by_its_share_of_the_records_of_that_class() -> None:
    weights = class_weights([[30, -2, 0], [20, 5, 0], [40, 5, 0]])
    torch.testing.assert_close(
        torch.stack(weights), torch.tensor([[3.0, 1e-5, 3], [2, 4.5, 3], [4, 4.5, 3]]) / 9, atol=1e-5, rtol=0
    )


@given(
    honest=st.lists(st.lists(st.integers(-50, 5_000), min_size=4, max_size=4), min_size=2, max_size=9),
    lie=st.lists(st.integers(-(10**6), 2**31 + 10**6), min_size=4, max_size=4),
)
def test_no_claim_buys_a_site_more_than_half_of_a_class_and_no_site_is_silenced(
    honest: list[list[int]], lie: list[int]
) -> None:
    weights_CK = torch.stack(class_weights([*honest, lie])).double()
    assert bool((weights_CK >= LEAST_SHARE * 0.999).all())
    assert bool((weights_CK[-1] <= weights_CK[:-1].sum(0) * (1 + 1e-4)).all())
    weights = record_weights([sum(own) for own in [*honest, lie]])
    assert all(LEAST_SHARE <= own <= 1 for own in weights)
    assert weights[-1] <= sum(weights[:-1]) * (1 + 1e-9)


@pytest.mark.parametrize("sites", [4, 8, 20])
def test_a_claim_of_a_thousand_million_records_counts_as_three_sites_in_the_middle(sites: int) -> None:
    """In the issue it had 0.91 of every class, and two of them ended the run."""
    honest, lie = [[100, 200, 300, 400]] * (sites - 1), [10**9] * 4
    weights_CK = torch.stack(class_weights([*honest, lie])).double()
    # Of the middle site's 1,000 records, three times as many, evenly over four classes.
    share_K = weights_CK[-1] / weights_CK.sum(0)
    expected_K = [min(0.5, 750 / (750 + (sites - 1) * own)) for own in honest[0]]
    torch.testing.assert_close(share_K, torch.tensor(expected_K, dtype=torch.float64), atol=1e-4, rtol=0)
    weights = record_weights([*(sum(own) for own in honest), 4 * 10**9])
    assert weights[-1] / sum(weights) == pytest.approx(min(0.5, 3 / (sites + 2)))


def test_a_negative_claim_takes_nothing_from_what_others_claim() -> None:
    """Noise makes some; and whoever claims the least that can be said would otherwise turn a rare class into one that nobody has."""
    claims = [[-248, -248], [30, 3], [25, 4], [20, 5]]
    expected = torch.tensor([[0.0, 0.0], [30 / 75, 3 / 12], [25 / 75, 4 / 12], [20 / 75, 5 / 12]])
    torch.testing.assert_close(torch.stack(class_weights(claims)), expected, atol=1e-4, rtol=0)


def test_claims_of_honest_sites_of_different_sizes_are_left_as_they_are() -> None:
    claims = torch.tensor([[100, 40, 7], [80, 30, 60], [60, 30, 60], [150, 60, 120]])
    torch.testing.assert_close(torch.stack(class_weights(claims.tolist())), claims / claims.sum(0))


def test_a_site_that_claims_nothing_can_answer_alone() -> None:
    """As where all others fall silent: the run goes on with what it has."""
    weights = class_weights([[-3, -1, 0, -2], [90, 80, 70, 60], [2**31] * 4])
    pool = Pool(samples=5, classes=4)
    pool.add(answers(0), weights_K=weights[0])
    torch.testing.assert_close(pool.result(), answers(0).dense(), atol=1e-3, rtol=0)
