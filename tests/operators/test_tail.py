"""The interval of a softened tail is never violated, and it is not trivial."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators import Nucleus, Power, TopK, Truncated, Truncation, tail_interval

SLACK = 1e-9


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Two to 40 classes, from nearly even to spread over twelve powers of ten, with ties."""
    logs = draw(st.lists(st.one_of(st.floats(-28, 0), st.integers(-6, 0)), min_size=2, max_size=40))
    return torch.tensor([logs], dtype=torch.float64).softmax(-1)


def truth(p_NK: Tensor, head: Truncated, temperature: float) -> tuple[Tensor, Tensor]:
    """The tail's sum of p^(1/T), and its mass after softening, from all of p."""
    named = torch.zeros_like(p_NK, dtype=torch.bool).scatter_(1, head.ids_Nk, head.p_Nk > 0)
    return (p_NK ** (1 / temperature)).masked_fill(named, 0).sum(-1), Power(temperature)(p_NK).masked_fill(named, 0).sum(-1)


@given(p_NK=weights(), data=st.data(), temperature=st.floats(0.2, 20))
def test_no_tail_lies_outside_its_interval(p_NK: Tensor, data: st.DataObject, temperature: float) -> None:
    truncation: Truncation = data.draw(
        st.one_of(st.integers(1, p_NK.shape[1]).map(TopK), st.floats(0.01, 1).map(Nucleus)), label="truncation"
    )
    head = truncation(p_NK)
    interval, (total_N, mass_N) = tail_interval(head, temperature), truth(p_NK, head, temperature)
    # The tail mass of a head is known to about 1e-16 of the whole, and x^(1/T) is steep at 0.
    slack = SLACK + p_NK.shape[1] * (1e-16 ** min(1 / temperature, 1))
    assert bool((interval.sum_low_N - slack <= total_N).all())
    assert bool((total_N <= interval.sum_high_N + slack).all())
    assert bool((interval.mass_low_N - slack <= mass_N).all())
    assert bool((mass_N <= interval.mass_high_N + slack).all())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0])
def test_constructed_tails_attain_both_ends(temperature: float) -> None:
    """An even tail of 8, and one as crowded as the smallest kept allows: 5 of 0.1 and nothing else, or 4 and a rest."""
    for mass, crowded in ((0.5, [0.1] * 5), (0.46, [0.1] * 4 + [0.06])):
        head = torch.tensor([1 - mass - 0.1, 0.1], dtype=torch.float64)
        even_K = torch.cat([head, torch.full((8,), mass / 8, dtype=torch.float64)])
        crowded_K = torch.cat([head, torch.tensor(crowded + [0.0] * (8 - len(crowded)), dtype=torch.float64)])
        released = TopK(2)(even_K.unsqueeze(0))
        interval = tail_interval(released, temperature)
        ends = sorted(float((p_K[2:] ** (1 / temperature)).sum()) for p_K in (even_K, crowded_K))
        assert [float(interval.sum_low_N), float(interval.sum_high_N)] == pytest.approx(ends, rel=1e-6)


def test_the_interval_is_not_vacuous_where_softening_matters() -> None:
    """The figures of the softened tail of a Zipf(1.2) distribution over 50,000 entries whose top 20 are released."""
    p_NK = (torch.arange(1, 50_001, dtype=torch.float64) ** -1.2).unsqueeze(0)
    p_NK = p_NK / p_NK.sum()
    head = TopK(20)(p_NK)
    for temperature, stated in ((1.0, 0.43), (2.0, 0.97), (4.0, 0.996)):
        interval, (_, mass_N) = tail_interval(head, temperature), truth(p_NK, head, temperature)
        assert float(mass_N) == pytest.approx(stated, abs=0.01)
        assert 0.3 < float(interval.mass_low_N) <= float(mass_N) + SLACK
        assert float(mass_N) <= float(interval.mass_high_N) + SLACK < 1
    assert float(tail_interval(head, 1.0).mass_high_N) == pytest.approx(0.43, abs=0.01)


@given(seed=st.integers(0, 1000), temperature=st.floats(1.0, 3.0))
def test_the_interval_of_ten_classes_is_narrow(seed: int, temperature: float) -> None:
    """The least mass of a tail that cannot be empty is a real part of its largest mass: neither 0 nor all of it."""
    p_NK = torch.randn(20, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)
    interval = tail_interval(TopK(3)(p_NK), temperature)
    assert float((interval.mass_high_N - interval.mass_low_N).max()) < 0.5
    assert float(interval.mass_low_N.min()) > 0.02
    assert float(interval.mass_high_N.max()) < 0.95


def test_a_whole_distribution_has_no_tail() -> None:
    interval = tail_interval(TopK(3)(torch.tensor([[0.5, 0.3, 0.2]])), 2.0)
    assert [float(interval.sum_high_N), float(interval.mass_high_N)] == [0, 0]


def test_a_quantised_head_with_too_much_tail_for_its_entries_gives_an_even_tail() -> None:
    head = Truncated(ids_Nk=torch.tensor([[0]]), p_Nk=torch.tensor([[0.3]]), tail_N=torch.tensor([0.7]), classes=3)
    interval = tail_interval(head, 2.0)
    assert float(interval.sum_low_N) == pytest.approx(float(interval.sum_high_N)) == pytest.approx(2 * 0.35**0.5)


def test_a_temperature_that_is_none_is_refused() -> None:
    with pytest.raises(SettingError, match="Expected temperature > 0"):
        tail_interval(TopK(1)(torch.tensor([[0.5, 0.5]])), 0.0)
