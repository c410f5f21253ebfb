"""Losses on truncated targets are the coarse divergences that their docstrings state, with their exact gradients."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators import Nucleus, Sampled, TopK, Truncated, losses, truncated

Loss = Callable[..., Tensor]
T = 3.0
NAMES = ("ttm", "hinton", "reverse", "jensen_shannon")


def loss_of(name: str) -> Loss:
    return (lambda target, z, **more: losses.hinton(target, z, T, **more)) if name == "hinton" else getattr(losses, name)


def logits(seed: int, n: int = 5, classes: int = 9, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coarse(p_NK: Tensor, ids_Nk: Tensor) -> Tensor:
    """Kept classes one by one and all others as one, computed independently by masks and dense sums."""
    others_NK = torch.ones_like(p_NK, dtype=torch.bool).scatter(1, ids_Nk, False)
    kept_Nk = p_NK.gather(1, ids_Nk)
    return torch.cat([kept_Nk, (p_NK * others_NK).sum(-1, keepdim=True)], 1) if ids_Nk.shape[1] < p_NK.shape[1] else kept_Nk


def masses(target: Truncated) -> Tensor:
    return torch.cat([target.p_Nk, target.tail_N.unsqueeze(-1)], 1) if target.kept < target.classes else target.p_Nk


def divergence(name: str, t: Tensor, s: Tensor) -> Tensor:
    """The textbook formula, in float64."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (torch.xlogy(a, a) - torch.xlogy(a, b)).sum(-1)

    if name == "reverse":
        raised = t.clamp(min=losses.FLOOR)
        return kl(s, raised / raised.sum(-1, keepdim=True)).mean()
    if name == "jensen_shannon":
        return ((kl(t, (t + s) / 2) + kl(s, (t + s) / 2)) / 2).mean()
    return kl(t, s).mean() * (T**2 if name == "hinton" else 1)


def expected(name: str, target: Truncated, z: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient of the coarse divergence by autograd through dense float64 tensors."""
    z = z.detach().double().requires_grad_()
    tempered = z / T if name == "hinton" else z
    double = Truncated(
        ids_Nk=target.ids_Nk, p_Nk=target.p_Nk.double(), tail_N=target.tail_N.double(), classes=target.classes
    )
    loss = divergence(name, masses(double), coarse(tempered.softmax(-1), target.ids_Nk))
    (gradient,) = torch.autograd.grad(loss, z)
    return loss.detach(), gradient


def computed(name: str, target: Truncated | Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.detach().clone().requires_grad_()
    loss = loss_of(name)(target, z)
    (gradient,) = torch.autograd.grad(loss, z)
    return loss.detach(), gradient


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 9), scale=st.floats(0.1, 8))
def test_loss_and_gradient_are_those_of_the_coarse_divergence(name: str, seed: int, k: int, scale: float) -> None:
    target = TopK(k)(logits(seed).softmax(-1))
    z = logits(seed + 1, scale=scale)
    for actual, wanted in zip(computed(name, target, z), expected(name, target, z), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [10, 300])
def test_float32_is_within_1e_6_of_float64_in_many_chunks(name: str, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truncated, "CHUNK_CPU", 4000)
    target = TopK(8)(logits(1, 101, classes).softmax(-1).float())
    z = logits(2, 101, classes).float() + 7
    loss, gradient = computed(name, target, z)
    loss64, gradient64 = expected(name, target, z)
    assert float(loss) == pytest.approx(float(loss64), rel=1e-6)
    assert float((gradient - gradient64).abs().max() / gradient64.abs().max()) < 1e-6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 4, 6])
def test_gradcheck(name: str, k: int) -> None:
    target = TopK(k)(logits(3, 4, 6).softmax(-1))
    assert torch.autograd.gradcheck(lambda z: loss_of(name)(target, z), logits(4, 4, 6).requires_grad_())


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 9), step=st.floats(1e-3, 5))
def test_not_negative_and_zero_only_where_all_buckets_agree(name: str, seed: int, k: int, step: float) -> None:
    z = logits(seed)
    temperature = T if name == "hinton" else 1
    target = TopK(k)((z / temperature).softmax(-1))
    # The student's tail may differ within itself: to permute its classes changes no bucket.
    others = torch.ones_like(z, dtype=torch.bool).scatter(1, target.ids_Nk, False)
    turned = z.clone()
    turned[others] = z[others].view(len(z), 9 - k).flip(-1).flatten()
    loss, gradient = computed(name, target, turned)
    assert float(loss) == pytest.approx(0, abs=1e-9)
    assert float(gradient.abs().max()) < 1e-9
    moved = turned.clone()
    moved[:, :] -= step * torch.nn.functional.one_hot(target.ids_Nk[:, 0], 9)
    assert float(loss_of(name)(target, moved)) > 1e-9


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 7))
def test_it_is_the_smallest_divergence_over_all_targets_that_truncate_so(name: str, seed: int, k: int) -> None:
    # Mild logits: no class is below the floor of the reverse divergence.
    p, z = logits(seed, scale=1).softmax(-1), logits(seed + 1, scale=1)
    target = TopK(k)(p)
    least = float(loss_of(name)(target, z))
    s = (z / (T if name == "hinton" else 1)).softmax(-1)
    assert least <= float(divergence(name, p, s)) + 1e-6
    student_tail = s / (1 - s.gather(1, target.ids_Nk).sum(-1, keepdim=True)) * target.tail_N.unsqueeze(-1)
    assert least == pytest.approx(
        float(divergence(name, student_tail.scatter(1, target.ids_Nk, target.p_Nk), s)), rel=1e-6, abs=1e-9
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_dense_target_is_the_case_where_every_class_is_kept(name: str) -> None:
    p, z = logits(5).softmax(-1), logits(6)
    for actual, wanted in zip(computed(name, p, z), computed(name, TopK(9)(p), z), strict=True):
        torch.testing.assert_close(actual, wanted)
    loss, gradient = computed(name, p.float(), z.float())
    torch.testing.assert_close(loss.double(), computed(name, p, z)[0], rtol=1e-5, atol=0)
    assert gradient.dtype == torch.float32


def expected_by_rows(name: str, target: Truncated, z: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient in float64 if rows keep different numbers of classes: each row alone, without its padding."""
    z = z.detach().double().requires_grad_()
    s_NK = (z / T if name == "hinton" else z).softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for s_K, ids_k, p_k, tail in zip(s_NK, target.ids_Nk, target.p_Nk.double(), target.tail_N.double(), strict=True):
        ids_m, p_m = ids_k[p_k > 0], p_k[p_k > 0]
        others = [j for j in range(target.classes) if j not in ids_m.tolist()]
        s_b = torch.cat([s_K[ids_m], s_K[others].sum(0, keepdim=True)]) if others else s_K[ids_m]
        t_b = torch.cat([p_m, tail.unsqueeze(0)]) if others else p_m
        total = total + divergence(name, t_b, s_b)
    loss = total / len(z)
    (gradient,) = torch.autograd.grad(loss, z)
    return loss.detach(), gradient


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), mass=st.floats(0.05, 1), scale=st.floats(0.1, 8))
def test_the_class_of_a_padding_slot_is_one_of_the_tail(name: str, seed: int, mass: float, scale: float) -> None:
    p = logits(seed, scale=scale).softmax(-1)
    target = Nucleus(mass)(
        torch.cat([p, torch.full((1, 9), 1 / 9, dtype=torch.float64), torch.eye(9, dtype=torch.float64)[:1]])
    )
    z = logits(seed + 1, n=7, scale=scale)
    for actual, wanted in zip(computed(name, target, z), expected_by_rows(name, target, z), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_nucleus_of_float32_is_within_1e_6_of_float64_in_many_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truncated, "CHUNK_CPU", 1000)
    target = Nucleus(0.9)(logits(1, 60, 40).softmax(-1).float())
    assert bool((target.p_Nk == 0).any())
    assert float(target.tail_N.min()) > 0.01
    z = logits(2, 60, 40).float() + 7
    loss, gradient = computed(name, target, z)
    loss64, gradient64 = expected_by_rows(name, target, z)
    assert float(loss) == pytest.approx(float(loss64), rel=1e-6)
    assert float((gradient - gradient64).abs().max() / gradient64.abs().max()) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_whose_slot_a_padding_is_makes_no_difference(name: str) -> None:
    """A single row of a nucleus has no padding."""
    p, z = logits(20).softmax(-1), logits(21)
    loss, gradient = computed(name, Nucleus(0.8)(p), z)
    alone = [computed(name, Nucleus(0.8)(p[i : i + 1]), z[i : i + 1]) for i in range(len(p))]
    assert len({Nucleus(0.8)(p[i : i + 1]).kept for i in range(len(p))}) > 1
    torch.testing.assert_close(loss, torch.stack([each for each, _ in alone]).mean())
    torch.testing.assert_close(gradient, torch.cat([each for _, each in alone]) / len(p))


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_with_padding(name: str) -> None:
    p = torch.cat([logits(3, 4, 6).softmax(-1), torch.full((1, 6), 1 / 6, dtype=torch.float64)])
    target = Nucleus(0.85)(p)
    assert bool((target.p_Nk == 0).any())
    assert target.kept == 6
    assert torch.autograd.gradcheck(lambda z: loss_of(name)(target, z), logits(4, 5, 6).requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_an_empty_tail_are_targets_like_others(name: str) -> None:
    uniform = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = Sampled(4)(logits(7, 6, scale=4).softmax(-1), uniform)
    assert bool((target.p_Nk == 0).any())
    assert not bool(target.tail_N.any())
    z = logits(8, 6)
    for actual, wanted in zip(computed(name, target, z), expected_by_rows(name, target, z), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_names_all_classes_has_no_tail_though_another_is_padded(name: str) -> None:
    ids, p = torch.arange(3).expand(2, 3), torch.tensor([[0.5, 0.25, 0.25], [0.75, 0.0, 0.0]])
    exact, rounded = (Truncated(ids_Nk=ids, p_Nk=p, tail_N=torch.tensor([tail, 0.25]), classes=3) for tail in (0.0, 1e-3))
    z = logits(22, 2, 3).float()
    for one, other in zip(computed(name, exact, z), computed(name, rounded, z), strict=True):
        assert one.tolist() == other.tolist()
        assert bool(one.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_names_nothing_teaches_nothing(name: str) -> None:
    target = Truncated(ids_Nk=torch.tensor([[2, 0]]), p_Nk=torch.zeros(1, 2), tail_N=torch.ones(1), classes=4)
    loss, gradient = computed(name, target, torch.tensor([[5.0, -1.0, 2.0, 0.0]]))
    assert float(loss) == pytest.approx(0, abs=1e-7)
    assert float(gradient.abs().max()) < 1e-7


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_extreme_logits_give_finite_losses_and_gradients(name: str, dtype: torch.dtype, seed: int) -> None:
    signs = logits(seed, 16).sign() * 1e4
    target = TopK(3)(logits(seed + 1, 16).softmax(-1).to(dtype))
    loss, gradient = computed(name, target, signs.to(dtype))
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite().all())
    if name in {"ttm", "hinton"}:
        scale = T if name == "hinton" else 1
        log_s = (signs / scale).log_softmax(-1)
        others = torch.ones_like(signs, dtype=torch.bool).scatter(1, target.ids_Nk, False)
        tail = log_s.masked_fill(~others, -math.inf).logsumexp(-1, keepdim=True)
        t = masses(target).double()
        wanted = (torch.xlogy(t, t) - t * torch.cat([log_s.gather(1, target.ids_Nk), tail], 1)).sum(-1).mean() * scale**2
        assert float(loss) == pytest.approx(float(wanted), rel=1e-6)


def test_the_tail_of_a_confident_student_keeps_its_digits() -> None:
    """1 - S = 4e-18 here: as a difference it is 0 even in float64, and the gradient off the kept ids would be lost."""
    target = Truncated(ids_Nk=torch.tensor([[0]]), p_Nk=torch.tensor([[0.5]]), tail_N=torch.tensor([0.5]), classes=3)
    loss, gradient = computed("ttm", target, torch.tensor([[40.0, 0.0, -1.0]]))
    log_tail = math.log1p(math.exp(-1)) - 40
    assert float(loss) == pytest.approx(-math.log(2) - 0.5 * log_tail, rel=1e-6)
    share = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(gradient, torch.tensor([[0.5, -0.5 * share, -0.5 * (1 - share)]]))


@pytest.mark.parametrize("name", NAMES)
def test_logits_in_half_precision_are_computed_in_float32(name: str) -> None:
    target = TopK(3)(logits(9).softmax(-1).float())
    half = logits(10).bfloat16()
    loss, gradient = computed(name, target, half)
    loss32, gradient32 = computed(name, target, half.float())
    assert loss.dtype == torch.float32
    assert float(loss) == float(loss32)
    assert gradient.tolist() == gradient32.bfloat16().tolist()


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_costs_nothing(name: str) -> None:
    loss, gradient = computed(name, TopK(2)(torch.empty(0, 4)), torch.empty(0, 4))
    assert float(loss) == 0
    assert gradient.shape == (0, 4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place_the_gradient_takes_the_memory_of_the_logits(name: str, dtype: torch.dtype) -> None:
    target = TopK(3)(logits(11).softmax(-1).float())
    weight = logits(12, 9, 9).to(dtype).requires_grad_()
    x = logits(13).to(dtype)
    (wanted,) = torch.autograd.grad(loss_of(name)(target, x @ weight), weight)
    z = x @ weight
    loss = loss_of(name)(target, z, in_place=True)
    (gradient,) = torch.autograd.grad(loss, weight, retain_graph=True)
    assert gradient.tolist() == wanted.tolist()
    with pytest.raises(RuntimeError, match="the logits are gone"):
        torch.autograd.grad(loss, weight)


def test_in_place_refuses_a_leaf_and_whatever_still_needs_the_logits() -> None:
    target = TopK(2)(logits(14).softmax(-1))
    with pytest.raises(SettingError, match="leaf"):
        losses.ttm(target, logits(15).requires_grad_(), in_place=True)
    z = logits(15).requires_grad_().exp()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.ttm(target, z, in_place=True).backward()


def test_without_a_gradient_the_logits_are_left_alone() -> None:
    target, z = TopK(2)(logits(16).softmax(-1)), logits(17)
    before = z.clone()
    plain = losses.ttm(target, z, in_place=True)
    with torch.no_grad():
        assert float(losses.ttm(target, z.requires_grad_(), in_place=True)) == float(plain)
    assert z.detach().equal(before)


def test_the_gradient_follows_what_is_done_with_the_loss_and_a_second_pass_repeats_it() -> None:
    target, z = TopK(2)(logits(18).softmax(-1)), logits(19).requires_grad_()
    _, once = computed("ttm", target, z)
    loss = -5 * losses.ttm(target, z)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
        torch.testing.assert_close(gradient, -5 * once)
    loss.backward()
    losses.ttm(target, z).backward()
    torch.testing.assert_close(z.grad, -4 * once)


def test_a_target_without_all_its_mass_teaches_shares_of_what_it_has() -> None:
    """Raw top-k without a tail: the minimum is at t_j / a on the head [F: arXiv 2503.16870]."""
    p = torch.tensor([[0.4, 0.2]], dtype=torch.float64)
    raw = Truncated(ids_Nk=torch.tensor([[0, 1]]), p_Nk=p, tail_N=torch.zeros(1, dtype=torch.float64), classes=3)
    _, gradient = computed("ttm", raw, torch.tensor([[math.log(2), 0, -60]], dtype=torch.float64))
    assert float(gradient.abs().max()) < 1e-12


@pytest.mark.parametrize("shape", [(5, 8), (4, 9), (5,)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match="Expected logits of the target's shape"):
        losses.ttm(TopK(2)(logits(0).softmax(-1)), torch.zeros(shape))


def test_a_target_raised_to_the_floor_is_a_distribution_again() -> None:
    target, logits = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    expected = sum(0.5 * math.log(0.5 / (raised / 1.1)) for raised in (1.0, 0.1))
    assert float(losses.reverse(target, logits, floor=0.1)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("floor", [0.0, 1.0, math.nan])
def test_a_floor_that_is_no_probability_is_refused(floor: float) -> None:
    with pytest.raises(SettingError, match="floor"):
        losses.reverse(TopK(2)(logits(0).softmax(-1)), logits(1), floor=floor)
