"""Losses are the ones their names promise."""

import pytest
import torch
from torch import Tensor

from limbeck.plans.schema import Loss
from limbeck.server import losses


def case(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z, p = (
        torch.randn(6, 5, dtype=torch.float64, generator=generator),
        torch.randn(6, 5, dtype=torch.float64, generator=generator),
    )
    return p.softmax(-1), z


def test_ttm_is_the_divergence_to_the_untempered_student() -> None:
    p, z = case()
    expected = (p * (p.log() - z.log_softmax(-1))).sum(-1).mean()
    torch.testing.assert_close(losses.ttm(p, z), expected)
    assert float(losses.ttm(p, p.log())) == pytest.approx(0, abs=1e-12)


def test_hinton_tempers_the_student_and_scales_by_t_squared() -> None:
    p, z = case()
    torch.testing.assert_close(losses.hinton(p, z, 3.0), 9 * losses.ttm(p, z / 3))


def test_ttm_is_hintons_divergence_less_a_renyi_entropy() -> None:
    """KL(p_T || q) = T KL(p_T || q_T) - (T - 1) H_{1/T}(q) + const, the constant free of the student [F: arXiv 2402.11148]."""
    temperature, constants = 3.0, []
    p, _ = case()
    for seed in range(3):
        _, z = case(seed)
        q = z.softmax(-1)
        order = 1 / temperature
        renyi = ((q**order).sum(-1).log() / (1 - order)).mean()
        tempered = (p * (p.log() - (z / temperature).log_softmax(-1))).sum(-1).mean()
        constants.append(float(losses.ttm(p, z) - temperature * tempered + (temperature - 1) * renyi))
    assert constants == pytest.approx([constants[0]] * 3)


@pytest.mark.parametrize("loss", list(Loss))
def test_gradients_are_right(loss: Loss) -> None:
    p, z = case()
    assert torch.autograd.gradcheck(lambda logits: losses.by_name(loss, p, logits, 2.0), z.requires_grad_())


def test_zeros_in_the_target_are_no_trouble() -> None:
    assert bool(losses.ttm(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, -200.0]])).isfinite())


def test_every_loss_of_a_plan_vanishes_where_the_student_is_right_and_only_hinton_tempers_it() -> None:
    p, _ = case()
    for loss in Loss:
        student = p.log() * (2 if loss is Loss.HINTON else 1)
        assert float(losses.by_name(loss, p, student, 2.0)) == pytest.approx(0, abs=1e-12)
        assert float(losses.by_name(loss, p, -student, 2.0)) > 0.01
