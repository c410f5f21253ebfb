"""Sampled answers and labels only: unbiased, with the stated variance."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators import LabelsOnly, Mixing, Power, Sampled, Truncated

ROWS = 40_000
P_K = [0.6, 0.25, 0.1, 0.05]


def repeated(p_K: list[float]) -> Tensor:
    return torch.tensor([p_K], dtype=torch.float64).expand(ROWS, -1)


def uniforms(draws: int, seed: int) -> Tensor:
    return torch.rand(ROWS, draws, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_unbiased(estimate: Truncated, p_K: Tensor, variance: float) -> None:
    """Every class is within 4.5 standard errors of its probability, and the mean squared error within 5 % of the stated."""
    dense = estimate.dense().double()
    spread_K = dense.std(0).clamp(min=1e-12) / ROWS**0.5
    assert bool(((dense.mean(0) - p_K).abs() <= 4.5 * spread_K).all())
    assert float((dense - p_K).square().sum(-1).mean()) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.0, 1.5])
def test_sampling_is_unbiased_with_the_stated_variance(exponent: float) -> None:
    p_NK = repeated(P_K)
    p_K = p_NK[0]
    q_K = p_K**exponent / (p_K**exponent).sum()
    stated = float((p_K**2 / q_K).sum() - (p_K**2).sum()) / 7
    if exponent == 1:
        assert stated == pytest.approx(float(1 - (p_K**2).sum()) / 7)
    assert_unbiased(Sampled(7, exponent=exponent)(p_NK, uniforms(7, seed=3)), p_K, stated)


def test_the_expected_gradient_of_a_student_is_that_of_the_whole_distribution() -> None:
    p_NK, student_K = repeated(P_K), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    estimate = Sampled(3, exponent=0.5)(p_NK, uniforms(3, seed=5)).dense()
    # Of cross-entropy by logits: s times the mass of the target, less the target.
    gradients = estimate.sum(-1, keepdim=True) * student_K - estimate
    torch.testing.assert_close(gradients.mean(0), student_K - p_NK[0], atol=0.01, rtol=0)


@given(seed=st.integers(0, 1000), draws=st.integers(1, 30))
def test_at_exponent_one_the_estimate_is_counts_over_draws(seed: int, draws: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p_NK = torch.randn(4, 6, generator=generator).softmax(-1)
    answers = Sampled(draws)(p_NK, torch.rand(4, draws, generator=generator))
    counts = answers.p_Nk * draws
    torch.testing.assert_close(counts, counts.round(), atol=1e-5, rtol=0)
    assert answers.p_Nk.sum(-1).tolist() == pytest.approx([1] * 4)
    assert answers.tail_N.tolist() == [0] * 4


def test_softening_counts_afterwards_is_biased_under_power_but_not_under_mixing() -> None:
    p_NK = repeated([0.7, 0.2, 0.1])
    counts = Sampled(5)(p_NK, uniforms(5, seed=4)).dense()
    bias = {kind: (kind(3.0)(counts).mean(0) - kind(3.0)(p_NK[0])).abs().max() for kind in (Power, Mixing)}
    assert float(bias[Power]) > 0.05
    assert float(bias[Mixing]) < 5e-3


def test_a_sampled_row_is_padded_with_other_ids_of_no_probability() -> None:
    answers = Sampled(3)(torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.1, 0.5, 0.9]]))
    assert answers.ids_Nk[0, 0] == 0
    assert len(set(answers.ids_Nk[0].tolist())) == 3
    assert answers.p_Nk.tolist() == [[1.0, 0, 0]]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_what_has_no_probability_is_never_drawn(exponent: float) -> None:
    p_NK = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).expand(200, -1)
    uniform = torch.rand(200, 9, generator=torch.Generator().manual_seed(0))
    uniform[0], uniform[1] = 0.0, 1 - 2**-24
    drawn = Sampled(9, exponent=exponent)(p_NK, uniform).dense()
    assert bool((drawn[:, [0, 2, 4]] == 0).all())
    assert drawn.sum(-1).tolist() == pytest.approx([1] * 200)


@pytest.mark.parametrize(("draws", "exponent"), [(0, 1.0), (2**25, 1.0), (3, -0.5), (3, float("nan"))])
def test_invalid_draws_and_exponents_are_refused(draws: int, exponent: float) -> None:
    with pytest.raises(SettingError, match=r"Expected (draws|exponent)"):
        Sampled(draws, exponent=exponent)


def test_uniforms_of_another_shape_are_refused() -> None:
    with pytest.raises(SettingError, match=r"Expected uniforms of shape \(1, 3\), got \(1, 2\)"):
        Sampled(3)(torch.tensor([[0.5, 0.5]]), torch.rand(1, 2))


# Labels only


def answers(p_K: list[float], draws: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(torch.tensor(p_K), ROWS * draws, replacement=True, generator=generator).view(ROWS, draws)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_repeated_labels_estimate_mixing_without_bias(temperature: float) -> None:
    p_K = torch.tensor(P_K, dtype=torch.float64)
    estimate = LabelsOnly(4, temperature)(answers(P_K, draws=6, seed=1))
    stated = float(1 - (p_K**2).sum()) / (6 * temperature**2)
    assert_unbiased(estimate, Mixing(temperature)(p_K), stated)
    torch.testing.assert_close(estimate.p_Nk.sum(-1) + estimate.tail_N, torch.ones(ROWS))


def test_answers_at_a_temperature_estimate_power_at_that_temperature() -> None:
    soft = Power(3.0)(torch.tensor(P_K, dtype=torch.float64))
    estimate = LabelsOnly(4)(answers(soft.tolist(), draws=6, seed=2))
    assert_unbiased(estimate, soft, float(1 - (soft**2).sum()) / 6)


@given(seed=st.integers(0, 1000), draws=st.integers(1, 12), temperature=st.floats(1, 10))
def test_labels_give_mixing_of_their_frequencies_exactly(seed: int, draws: int, temperature: float) -> None:
    labels = torch.randint(0, 5, (3, draws), generator=torch.Generator().manual_seed(seed))
    frequencies = torch.nn.functional.one_hot(labels, 5).float().mean(1)
    torch.testing.assert_close(LabelsOnly(5, temperature)(labels).dense(), Mixing(temperature)(frequencies))


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: LabelsOnly(1), "Expected classes"),
        (lambda: LabelsOnly(3, 0.5), "Expected temperature >= 1"),
        (lambda: LabelsOnly(3)(torch.tensor([[0, 3]])), r"Expected labels in \[0, 3\), got 3"),
        (lambda: LabelsOnly(3)(torch.tensor([[0, -1]])), r"Expected labels in \[0, 3\), got -1"),
        (lambda: LabelsOnly(3)(torch.zeros(2, 0, dtype=torch.int64)), "Expected labels of N inputs in M >= 1 answers"),
    ],
)
def test_invalid_labels_are_refused(make: object, wanted: str) -> None:
    assert callable(make)
    with pytest.raises(SettingError, match=wanted):
        make()
