"""Truncations keep the guarantees that their docstrings state."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import limbeck.operators
from limbeck.operators import Mixing, Power, Sampled, SoftenThenTruncate, TopK, TruncateThenSoften, concatenate
from limbeck.operators.errors import SettingError


def rows(seed: int, n: int = 6, classes: int = 8) -> torch.Tensor:
    return (2 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(-1)


def test_what_the_package_offers_is_pinned() -> None:
    assert set(limbeck.operators.__all__) == {
        "Anchoring",
        "Calibration",
        "Comparison",
        "Reparametrised",
        "Shared",
        "calibrate",
        "compare",
        "compare_targets",
        "reparametrise",
        "Mixing",
        "Power",
        "Sampled",
        "SoftenThenTruncate",
        "Softening",
        "TopK",
        "Truncated",
        "TruncateThenSoften",
        "concatenate",
        "family",
    }


@given(seed=st.integers(0, 1000), k=st.integers(1, 8))
def test_top_k_keeps_the_largest_in_order_and_the_tail(seed: int, k: int) -> None:
    p_NK = rows(seed)
    kept = TopK(k)(p_NK)
    torch.testing.assert_close(kept.p_Nk, p_NK.sort(-1, descending=True).values[:, :k])
    torch.testing.assert_close(p_NK.gather(1, kept.ids_Nk), kept.p_Nk)
    torch.testing.assert_close(kept.p_Nk.sum(-1) + kept.tail_N, torch.ones(6, dtype=torch.float64))


@given(seed=st.integers(0, 1000), k=st.integers(1, 7))
def test_top_k_renormalised_is_off_by_twice_the_lost_mass(seed: int, k: int) -> None:
    p_NK = rows(seed)
    kept = TopK(k)(p_NK)
    dense = torch.zeros_like(p_NK).scatter_(1, kept.ids_Nk, kept.p_Nk / kept.p_Nk.sum(-1, keepdim=True))
    torch.testing.assert_close((dense - p_NK).abs().sum(-1), 2 * (1 - kept.p_Nk.sum(-1)))


def test_ties_are_broken_by_the_smaller_id() -> None:
    assert TopK(3)(torch.full((1, 3), 1 / 3)).ids_Nk.tolist() == [[0, 1, 2]]


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 8), k=st.integers(1, 8))
def test_the_short_cut_from_logits_equals_the_plain_path(seed: int, temperature: float, k: int) -> None:
    p_NK = rows(seed)
    chain = SoftenThenTruncate(softening=Power(temperature), truncation=TopK(k))
    short, plain = chain.from_log(p_NK.log()), chain(p_NK)
    torch.testing.assert_close(short.dense(), plain.dense(), atol=1e-6, rtol=0)
    assert short.ids_Nk.tolist() == plain.ids_Nk.tolist()


def test_the_two_orders_differ_because_softening_feeds_the_tail() -> None:
    p_NK = rows(1)
    first = SoftenThenTruncate(softening=Power(4.0), truncation=TopK(2))(p_NK)
    second = TruncateThenSoften(truncation=TopK(2), softening=Power(4.0))(p_NK)
    assert bool((first.tail_N > 0.2).all())
    assert second.tail_N.tolist() == [0.0] * 6


def test_sampling_is_unbiased_with_the_stated_variance() -> None:
    p_NK = torch.tensor([[0.6, 0.25, 0.1, 0.05]], dtype=torch.float64).expand(40_000, -1)
    uniform = torch.rand(40_000, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    estimate = Sampled(7)(p_NK, uniform).dense()
    torch.testing.assert_close(estimate.mean(0), p_NK[0], atol=3e-3, rtol=0)
    variance = (estimate - p_NK).square().sum(-1).mean()
    assert float(variance) == pytest.approx((1 - float(p_NK[0].square().sum())) / 7, rel=0.03)


def test_softening_counts_afterwards_is_biased_under_power_but_not_under_mixing() -> None:
    p_NK = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64).expand(40_000, -1)
    uniform = torch.rand(40_000, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    counts = Sampled(5)(p_NK, uniform).dense()
    bias = {kind: (kind(3.0)(counts).mean(0) - kind(3.0)(p_NK[0])).abs().max() for kind in (Power, Mixing)}
    assert float(bias[Power]) > 0.05
    assert float(bias[Mixing]) < 5e-3


def test_a_sampled_row_is_padded_with_other_ids_of_no_probability() -> None:
    answers = Sampled(3)(torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.1, 0.5, 0.9]]))
    assert answers.ids_Nk[0, 0] == 0
    assert len(set(answers.ids_Nk[0].tolist())) == 3
    assert answers.p_Nk.tolist() == [[1.0, 0, 0]]


@pytest.mark.parametrize("k", [0, -1, 9])
def test_a_k_that_is_no_number_of_classes_is_refused(k: int) -> None:
    with pytest.raises(SettingError, match="Expected k"):
        TopK(k)(rows(0))


def test_parts_of_different_k_do_not_concatenate() -> None:
    with pytest.raises(ValueError, match="one K and k"):
        concatenate([TopK(1)(rows(0)), TopK(2)(rows(0))])


def test_the_tail_is_spread_evenly_when_made_dense() -> None:
    dense = TopK(2)(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).dense()
    torch.testing.assert_close(dense, torch.tensor([[0.5, 0.3, 0.1, 0.1]]))
