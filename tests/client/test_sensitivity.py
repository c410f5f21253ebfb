"""What the accounting rests on, for any plan and any record: one record moves a step's sum by at most the clip, and breaks nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from helpers.plans import LINEAR
from helpers.teacher_conformance import Silent
from limbeck.client import teachers
from limbeck.client.noise import UnsafeSeeded
from limbeck.client.settings import Gradients
from limbeck.client.teachers import architectures, gradients, linear, votes
from limbeck.client.teachers.net import Net
from limbeck.inputs import features
from limbeck.plans.schema import NetTeaching, VotesTeaching

SLACK = 1 + 1e-6
WIDTH, CLASSES = 3, 3
BY: tuple[Gradients, ...] = ("opacus", "book-keeping")
PUBLIC = np.array([[0, 0, 0], [1, -1, 2], [-1, 1, 1]], np.float32)
EXTREME = [0.0, 1e-45, -1e-38, 1e-20, 1.0, -1e10, 1e20, 3e38, -3e38, np.inf, -np.inf, np.nan]
cells = st.one_of(st.sampled_from(EXTREME), st.floats(width=32), st.floats(-3, 3, width=32))
rows = st.lists(cells, min_size=WIDTH, max_size=WIDTH)
clips = st.floats(-6, 6).map(lambda power: float(10**power))
norms = st.floats(-3, 3).map(lambda power: float(10**power))
# Also schedules that nobody would write, so that no bound on plans is what keeps the teachers sound.
rates = st.sampled_from([1e-6, 0.1, 4.0, 1e9])
normalisers = st.sampled_from([1e-24, 1.0, 300.0, 1e9])
labels = st.integers(0, CLASSES - 1)
# Also of plans that nobody would write, and none.
class_weights = st.none() | st.lists(st.sampled_from([1e-3, 0.5, 1.0, 1e3, 1e30]), min_size=CLASSES, max_size=CLASSES)


def weights_of(counts: list[float] | None) -> Tensor | None:
    return linear.weights_of(counts or ())


def others(n: int, scale: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """n ordinary records."""
    generator = np.random.default_rng(n)
    return generator.normal(size=(n, WIDTH)).astype(np.float32) * np.float32(scale), generator.integers(0, CLASSES, n)


def with_one_more(
    n: int, place: float, row: list[float], label: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """n records and one more among them; and the n alone."""
    x_N, y_N = others(n)
    at = int(place * n)
    return np.insert(x_N, at, np.array(row, np.float32), 0), np.insert(y_N, at, label), x_N, y_N


def moved(more: list[Tensor], less: list[Tensor]) -> float:
    assert all(bool(part.isfinite().all()) for part in (*more, *less))
    return float(torch.cat([(a - b).flatten() for a, b in zip(more, less, strict=True)]).norm())


@given(
    clip=clips,
    norm=norms,
    weight=st.sampled_from([0.0, 1.0, 1e3, 1e9, 1e300, np.inf, np.nan]),
    n=st.integers(0, 140),
    place=st.floats(0, 1),
    row=rows,
    label=labels,
    counts=class_weights,
)
@example(clip=1e-6, norm=1e3, weight=1e300, n=3, place=0.5, row=[1.0, 2.0, 3.0], label=0, counts=None)
@example(clip=1e-45, norm=4.0, weight=0.0, n=70, place=0.5, row=[1.0, 2.0, 3.0], label=0, counts=None)
@example(clip=0.5, norm=1.0, weight=0.0, n=3, place=0.5, row=[1.0, 2.0, 3.0], label=0, counts=[1e3, 1.0, 1.0])
@settings(max_examples=150)
def test_a_record_moves_the_sum_of_a_linear_head_by_at_most_the_clip(
    clip: float,
    norm: float,
    weight: float,
    n: int,
    place: float,
    row: list[float],
    label: int,
    counts: list[float] | None,
) -> None:
    balance = features.balance("rows", PUBLIC)
    start = weight * torch.randn(CLASSES, WIDTH + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(n))

    def total(x_N: NDArray[np.float32], y_N: NDArray[np.int64]) -> list[Tensor]:
        x_ND = linear.with_one(features.normalise(features.compute("rows", x_N), norm, balance))
        return [linear.clipped_sum(start, x_ND, linear.norms(x_ND), torch.from_numpy(y_N), clip, weights_of(counts))]

    more_x, more_y, x_N, y_N = with_one_more(n, place, row, label)
    assert moved(total(more_x, more_y), total(x_N, y_N)) <= clip * SLACK


def test_features_that_are_not_finite_count_as_zero_in_the_sum_itself() -> None:
    """`features.normalise` has none; should another function forget it, the sum still holds."""
    x_ND = torch.tensor([[1.0, 2.0], [torch.nan, 1.0], [torch.inf, 1.0], [0.5, 1.0]])
    found = linear.clipped_sum(torch.ones(2, 2).double(), x_ND, linear.norms(x_ND), torch.tensor([0, 1, 0, 1]), 0.2)
    kept = x_ND[[0, 3]]
    expected = linear.clipped_sum(torch.ones(2, 2).double(), kept, linear.norms(kept), torch.tensor([0, 1]), 0.2)
    torch.testing.assert_close(found, expected)


class Peculiar(nn.Module):
    """A site's own net that makes infinity and nan of ordinary numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.last(torch.cat([hidden[:, :2].exp(), (hidden[:, 2:].abs() - 0.1).sqrt()], 1))  # type: ignore[no-any-return]


def net_of(name: str, scale: float) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Peculiar() if name == "peculiar" else architectures.build(name, (WIDTH,), CLASSES)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(scale)
    return net


ENGINES: dict[str, tuple[str, Callable[[nn.Module, Tensor | None], gradients.Engine]]] = {
    "book-keeping": ("mlp", gradients.BookKeeping),
    "functional": ("mlp", gradients.Functional),
    "hooks": ("mlp", gradients.Hooks),
    "fast": ("mlp", gradients.FastClipping),
    "custom": ("peculiar", gradients.Functorch),
    "custom-own": ("peculiar", gradients.Functional),
}


# Engines for nets of all kinds of layers.
EVERYWHERE: list[Callable[[nn.Module], gradients.Engine]] = [
    gradients.BookKeeping,
    gradients.Functional,
    gradients.Functorch,
    gradients.Hooks,
]


@pytest.mark.parametrize("name", ENGINES)
@given(
    clip=clips,
    scale=st.sampled_from([0.0, 1.0, 10.0]),
    n=st.integers(0, 4),
    place=st.floats(0, 1),
    row=rows,
    label=labels,
    counts=class_weights,
)
@settings(max_examples=40)
def test_a_record_moves_the_sum_of_a_net_by_at_most_the_clip(
    name: str, clip: float, scale: float, n: int, place: float, row: list[float], label: int, counts: list[float] | None
) -> None:
    architecture, engine = ENGINES[name]
    weight_K = weights_of(counts)
    own = engine(net_of(architecture, scale), weight_K.float() if weight_K is not None else None)
    more_x, more_y, x_N, y_N = with_one_more(n, place, row, label)
    more = own.clipped_sums(torch.from_numpy(more_x), torch.from_numpy(more_y), clip)
    less = own.clipped_sums(torch.from_numpy(x_N), torch.from_numpy(y_N), clip) if n else [torch.zeros_like(a) for a in more]
    assert moved(more, less) <= clip * SLACK


@pytest.mark.parametrize("name", ENGINES)
@given(clip=clips, scale=st.sampled_from([1e9, 1e19, 1e30, np.inf, np.nan]), row=rows, label=labels)
@settings(max_examples=25)
def test_whatever_has_become_of_a_nets_weights_one_record_counts_for_at_most_the_clip(
    name: str, clip: float, scale: float, row: list[float], label: int
) -> None:
    architecture, engine = ENGINES[name]
    own = engine(net_of(architecture, scale), None)
    total = own.clipped_sums(torch.tensor([row]), torch.tensor([label]), clip)
    assert moved(total, [torch.zeros_like(part) for part in total]) <= clip * SLACK


@pytest.mark.parametrize("engine", [*EVERYWHERE, gradients.FastClipping])
def test_a_gradient_whose_square_no_float32_holds_counts_for_the_clip(
    engine: Callable[[nn.Module], gradients.Engine],
) -> None:
    own = engine(nn.Sequential(nn.Linear(WIDTH, CLASSES, bias=False)))
    with torch.no_grad():
        own.parameters[0].zero_()
    # The last: no small number is added to a norm, as Opacus would.
    for value, clip in ((1e25, 0.5), (3e-30, 0.5), (1e-6, 5e-7)):
        (total,) = own.clipped_sums(torch.tensor([[value, 0.0, 0.0]]), torch.tensor([0]), clip)
        expected = min(clip, value * math.sqrt(2 / 3))
        assert float(total.norm()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("engine", EVERYWHERE)
@pytest.mark.parametrize("architecture", ["cnn", "resnet-gn"])
@pytest.mark.parametrize("value", [1e20, 3e38, np.nan, np.inf, 1e-45])
@pytest.mark.parametrize("clip", [1e-6, 1e6])
def test_an_image_of_any_value_moves_a_convolutional_sum_by_at_most_the_clip(
    engine: Callable[[nn.Module], gradients.Engine],
    architecture: str,
    value: float,
    clip: float,
) -> None:
    own = engine(architectures.build(architecture, (1, 8, 8), CLASSES))
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[1] *= value
    more = own.clipped_sums(images, torch.arange(3), clip)
    less = own.clipped_sums(images[[0, 2]], torch.tensor([0, 2]), clip)
    assert moved(more, less) <= clip * SLACK


@given(
    row=rows,
    label=labels,
    n=st.sampled_from([0, 5, 70]),
    place=st.floats(0, 1),
    rate=rates,
    norm=norms,
    momentum=st.sampled_from([0.0, 0.9]),
    counts=class_weights,
)
@settings(max_examples=60)
def test_one_record_changes_one_vote_per_input_whatever_it_is_and_however_heads_are_trained(
    row: list[float],
    label: int,
    n: int,
    place: float,
    rate: float,
    norm: float,
    momentum: float,
    counts: list[float] | None,
) -> None:
    teaching = VotesTeaching(
        teachers=4,
        queries=3,
        features="rows",
        feature_norm=norm,
        steps=5,
        learning_rate=rate,
        momentum=momentum,
        noise_multiplier=1.0,
    )
    shard = np.random.default_rng(0).uniform(size=n + 1)

    class Dealt(Silent):
        """Every record keeps its shard."""

        def __init__(self, drawn: NDArray[np.float64]) -> None:
            super().__init__()
            self.drawn = drawn

        def uniform(self, n: int) -> NDArray[np.float64]:
            assert n == len(self.drawn)
            return self.drawn

    more_x, more_y, x_N, y_N = with_one_more(n, place, row, label)
    found = []
    for x, y, drawn in ((more_x, more_y, shard), (x_N, y_N, np.delete(shard, int(place * n)))):
        teacher = votes.train(
            teaching, x, y, classes=CLASSES, public_x=PUBLIC, noise=Dealt(drawn), class_weights=counts or ()
        )
        assert bool((teacher.votes_NK.sum(1) == 4).all())
        found.append(teacher.votes_NK)
    assert float((found[0] - found[1]).norm(dim=1).max()) <= math.sqrt(2) * SLACK


def test_weights_saturate() -> None:
    values = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e300, -3.0], dtype=torch.float64)
    bound = linear.LARGEST
    assert linear.saturated(values).tolist() == [0.0, bound, -bound, bound, -3.0]


@given(
    row=rows,
    label=labels,
    n=st.sampled_from([0, 5]),
    rate=rates,
    normaliser=normalisers,
    norm=norms,
    clip=clips,
    noise=st.booleans(),
)
@example(row=[1.0, 2.0, 3.0], label=0, n=0, rate=1e9, normaliser=1e-24, norm=1e3, clip=1e6, noise=True)
@settings(max_examples=60)
def test_no_record_and_no_schedule_makes_a_linear_teacher_that_is_not_finite(
    row: list[float], label: int, n: int, rate: float, normaliser: float, norm: float, clip: float, noise: bool
) -> None:
    teaching = replace(LINEAR, features="rows", steps=6, average_last=2, learning_rate=rate)
    teaching = replace(teaching, normaliser=normaliser, feature_norm=norm, clip=clip)
    more_x, more_y, x_N, y_N = with_one_more(n, 0.5, row, label)
    for x, y in ((more_x, more_y), (x_N, y_N)):
        source = UnsafeSeeded(1) if noise else Silent()
        teacher = teachers.train(teaching, x, y, classes=CLASSES, public_x=PUBLIC, noise=source)
        assert isinstance(teacher, linear.Linear)
        assert bool(teacher.weight_KD.isfinite().all())
        assert bool(teacher.bias_K.isfinite().all())
        assert bool(teacher.log_probabilities(PUBLIC).isfinite().all())


@pytest.mark.parametrize("architecture", ["mlp", "custom"])
@given(
    row=rows, label=labels, n=st.sampled_from([0, 5]), rate=rates, normaliser=normalisers, clip=clips, by=st.sampled_from(BY)
)
@settings(max_examples=20)
def test_no_record_and_no_schedule_makes_a_net_that_is_not_finite(
    architecture: str, row: list[float], label: int, n: int, rate: float, normaliser: float, clip: float, by: Gradients
) -> None:
    teaching = NetTeaching(
        architecture=architecture,
        sampling_rate=1.0,
        steps=3,
        learning_rate=rate,
        momentum=0.9,
        clip=clip,
        noise_multiplier=1.0,
        normaliser=normaliser,
        physical_batch=4,
    )
    more_x, more_y, _, _ = with_one_more(n, 0.5, row, label)
    options: dict[str, Any] = {"public_x": PUBLIC, "noise": UnsafeSeeded(1), "gradients_by": by}
    factory = lambda shape, classes: net_of("mlp", 1.0)  # noqa: E731
    teacher = teachers.train(teaching, more_x, more_y, classes=CLASSES, factory=factory, **options)
    assert isinstance(teacher, Net)
    assert all(bool(parameter.isfinite().all()) for parameter in teacher.net.parameters())
    assert bool(teacher.log_probabilities(PUBLIC).isfinite().all())
