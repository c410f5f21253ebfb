"""Sparsity is reached exactly, by the smallest weights, and never comes back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from limbeck.base.errors import SettingError
from limbeck.plans.paths import cubic, equal_kl, linear
from limbeck.server.pruning import Masks


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))


def weight(net: nn.Sequential, layer: int) -> Tensor:
    own = net[layer].weight
    assert isinstance(own, Tensor)
    return own


@pytest.mark.parametrize("path", [cubic, linear])
@given(final=st.floats(0, 0.99), stages=st.integers(1, 20))
def test_a_path_rises_to_the_final_sparsity(path: object, final: float, stages: int) -> None:
    found = path(final, stages)  # type: ignore[operator]
    assert len(found) == stages
    assert found[-1] == pytest.approx(final)
    assert list(found) == sorted(found)


def test_the_cubic_path_prunes_most_at_first() -> None:
    assert cubic(0.9, 4) == pytest.approx([0.5203, 0.7875, 0.8859, 0.9], abs=1e-4)


@given(steps=st.lists(st.floats(0, 0.99), min_size=1, max_size=5), seed=st.integers(0, 20))
def test_sparsity_is_exact_and_monotone(steps: list[float], seed: int) -> None:
    net = model(seed)
    masks = Masks.ones(net)
    reached = 0
    for sparsity in steps:
        before = {name: mask.clone() for name, mask in masks.kept.items()}
        masks.prune(net, sparsity)
        reached = max(reached, min(round(sparsity * 104), 102))
        assert round(masks.sparsity * 104) == reached
        assert all(bool((before[name] | ~mask).all()) for name, mask in masks.kept.items())
        assert sum(int((weight == 0).sum()) for name, weight in net.named_parameters() if "weight" in name) == reached


def test_the_smallest_magnitudes_of_the_whole_model_go_first() -> None:
    net = model()
    masks = Masks.ones(net)
    magnitudes = torch.cat([weight(net, layer).abs().flatten() for layer in (0, 2)]).sort().values
    masks.prune(net, 0.5)
    kept = torch.cat([weight(net, layer)[masks.kept[f"{layer}.weight"]].abs() for layer in (0, 2)])
    assert kept.min().item() == magnitudes[52].item()


def test_no_layer_goes_empty() -> None:
    net = model()
    with torch.no_grad():
        weight(net, 0).mul_(1e-6)
    masks = Masks.ones(net)
    masks.prune(net, 0.95)
    assert all(bool(mask.any()) for mask in masks.kept.values())


@given(final=st.floats(0.3, 0.99), stages=st.integers(1, 16), power=st.floats(1, 6))
def test_equal_kl_spends_the_same_in_every_stage_of_a_convex_curve(final: float, stages: int, power: float) -> None:
    found = equal_kl(final, stages, [(i / 4000, (i / 4000) ** power) for i in range(4001)])
    assert found[-1] == final
    spent = [b**power - a**power for a, b in zip((0, *found), found, strict=False)]
    assert spent == pytest.approx([final**power / stages] * stages, rel=1e-2)


def test_equal_kl_on_a_straight_curve_is_the_linear_path_and_on_a_flat_one_too() -> None:
    for slope in (1.0, 0.0):
        assert equal_kl(0.9, 5, [(0.0, 0.0), (0.95, 0.95 * slope)]) == pytest.approx(linear(0.9, 5))


def test_equal_kl_rises_over_a_curve_that_falls_in_places() -> None:
    curve = [(0.0, 0.0), (0.4, 0.1), (0.6, 0.05), (0.8, 0.6), (0.9, 0.5), (0.99, 1.0)]
    found = equal_kl(0.95, 10, curve)
    assert list(found) == sorted(found)
    assert found[-1] == 0.95
    assert equal_kl(0.88, 4, curve)[-1] == 0.88


@pytest.mark.parametrize(
    "curve", [[], [(0.0, 0.0), (0.5, 1.0)], [(0.1, 0.0), (0.95, 1.0)], [(0.0, 0.0), (0.95, float("nan"))]]
)
def test_a_curve_that_does_not_cover_the_path_is_refused(curve: list[tuple[float, float]]) -> None:
    with pytest.raises(SettingError, match="Expected a curve"):
        equal_kl(0.9, 4, curve)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_an_impossible_sparsity_is_refused(sparsity: float) -> None:
    with pytest.raises(SettingError, match="sparsity"):
        cubic(sparsity, 4)
