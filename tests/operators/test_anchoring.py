"""Anchoring pulls a stage's target towards the teachers by at least the share it promises."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators import Anchoring


def rows(seed: int, sharpness: float) -> Tensor:
    return (sharpness * torch.randn(5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(-1)


def divergence(p_NK: Tensor, q_NK: Tensor) -> Tensor:
    return torch.xlogy(p_NK, p_NK / q_NK).sum(-1)


@given(seed=st.integers(0, 10_000), alpha=st.floats(0, 1), sharpness=st.floats(0.1, 8))
def test_the_target_is_a_distribution_and_closer_to_the_teachers_by_at_least_one_minus_alpha(
    seed: int, alpha: float, sharpness: float
) -> None:
    pooled, previous = rows(seed, sharpness), rows(seed + 1, sharpness)
    target = Anchoring(alpha)(pooled, previous)
    torch.testing.assert_close(target.sum(-1), torch.ones(5, dtype=torch.float64))
    bound = (1 - alpha) * divergence(pooled, previous)
    assert bool((divergence(pooled, target) <= bound + 1e-12).all())


def test_its_ends_are_the_teachers_and_the_previous_student() -> None:
    pooled, previous = rows(1, 2), rows(2, 2)
    assert torch.equal(Anchoring(1.0)(pooled, previous), pooled)
    assert torch.equal(Anchoring(0.0)(pooled, previous), previous)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_a_share_outside_zero_to_one_is_refused_by_name(alpha: float) -> None:
    with pytest.raises(SettingError, match=r"Expected alpha in \[0, 1\]"):
        Anchoring(alpha)
