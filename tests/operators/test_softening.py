"""Softening operators keep the guarantees that their docstrings state."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.operators import Mixing, Power, family
from limbeck.operators.errors import SettingError

FAMILIES = [Power, Mixing]
temperatures = st.floats(1.0, 20.0)


@st.composite
def distributions(draw: st.DrawFn, least: float = 1e-4) -> Tensor:
    """A row of 2 to 12 probabilities, each at least about `least`."""
    weights = draw(st.lists(st.floats(least, 1.0), min_size=2, max_size=12))
    p_K = torch.tensor(weights, dtype=torch.float64)
    return (p_K / p_K.sum()).unsqueeze(0)


def entropy(p_NK: Tensor) -> float:
    return float(-torch.xlogy(p_NK, p_NK).sum())


@pytest.mark.parametrize("kind", FAMILIES)
@given(p_NK=distributions(), temperature=temperatures)
def test_rows_still_sum_to_one_and_keep_their_ranking(kind: type[Power | Mixing], p_NK: Tensor, temperature: float) -> None:
    soft = kind(temperature)(p_NK)
    assert float(soft.sum()) == pytest.approx(1)
    order = p_NK[0].argsort()
    gaps = p_NK[0][order].diff()
    assert bool((soft[0][order].diff()[gaps > 1e-9] > 0).all())


@pytest.mark.parametrize("kind", FAMILIES)
@given(p_NK=distributions(), temperature=temperatures, more=st.floats(0.01, 5))
def test_entropy_does_not_fall_as_the_temperature_rises(
    kind: type[Power | Mixing], p_NK: Tensor, temperature: float, more: float
) -> None:
    assert entropy(kind(temperature + more)(p_NK)) >= entropy(kind(temperature)(p_NK)) - 1e-12


@pytest.mark.parametrize("kind", FAMILIES)
@given(p_NK=distributions())
def test_a_temperature_of_one_is_the_identity(kind: type[Power | Mixing], p_NK: Tensor) -> None:
    torch.testing.assert_close(kind(1.0)(p_NK), p_NK)
    torch.testing.assert_close(kind(1.0).from_log(p_NK.log()).exp(), p_NK)


@pytest.mark.parametrize("kind", FAMILIES)
@given(p_NK=distributions(), temperature=temperatures)
def test_small_changes_of_p_and_temperature_change_little(
    kind: type[Power | Mixing], p_NK: Tensor, temperature: float
) -> None:
    moved = p_NK + 1e-9 * torch.linspace(-1, 1, p_NK.shape[1], dtype=torch.float64)
    moved = moved / moved.sum()
    assert float((kind(temperature)(p_NK) - kind(temperature + 1e-9)(moved)).abs().sum()) < 1e-4


@pytest.mark.parametrize("kind", FAMILIES)
@given(p_NK=distributions())
def test_a_huge_temperature_gives_the_uniform_distribution(kind: type[Power | Mixing], p_NK: Tensor) -> None:
    torch.testing.assert_close(kind(1e9)(p_NK), torch.full_like(p_NK, 1 / p_NK.shape[1]), atol=1e-6, rtol=0)


@given(p_NK=distributions())
def test_a_tiny_temperature_gives_the_arg_max_where_it_is_clear(p_NK: Tensor) -> None:
    top = p_NK[0].topk(2).values
    if top[0] / top[1] > 1.05:
        assert float(Power(1e-3)(p_NK).max()) > 1 - 1e-9


@given(p_NK=distributions(least=0.01), temperature=st.floats(0.3, 5))
def test_the_slope_of_entropy_is_the_variance_of_log_p_over_t_cubed(p_NK: Tensor, temperature: float) -> None:
    step = 1e-5
    slope = (entropy(Power(temperature + step)(p_NK)) - entropy(Power(temperature - step)(p_NK))) / (2 * step)
    soft, log_p = Power(temperature)(p_NK), p_NK.log()
    variance = float((soft * log_p**2).sum() - (soft * log_p).sum() ** 2)
    assert slope == pytest.approx(variance / temperature**3, rel=1e-4, abs=1e-7)


@given(temperature=temperatures)
def test_mixing_commutes_with_averaging_over_clients(temperature: float) -> None:
    p_CNK = torch.rand(4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    torch.testing.assert_close(Mixing(temperature)(p_CNK).mean(0), Mixing(temperature)(p_CNK.mean(0)))


def test_power_does_not_commute_with_averaging() -> None:
    p_CK = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert float((Power(3)(p_CK).mean(0) - Power(3)(p_CK.mean(0))).abs().max()) > 1e-3


def test_probabilities_of_1e_30_survive_in_float32() -> None:
    log_p = torch.tensor([[0.0, math.log(1e-30)]])
    assert float(Power(2).from_log(log_p).exp()[0, 1]) == pytest.approx(1e-15, rel=1e-4)


def test_zeros_stay_zero_under_power() -> None:
    assert Power(4.0)(torch.tensor([[0.5, 0.5, 0.0]])).tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.parametrize(
    ("kind", "temperature"), [(Power, 0.0), (Power, -1.0), (Power, math.nan), (Power, math.inf), (Mixing, 0.5)]
)
def test_a_temperature_outside_the_domain_is_refused_by_name(kind: type[Power | Mixing], temperature: float) -> None:
    with pytest.raises(SettingError, match="Expected temperature"):
        kind(temperature)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingError, match="power, mixing"):
        family("sparsemax", 2.0)
