"""Every kind of teacher passes the conformance suite; what only one kind has is tested here."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.plans import LINEAR
from helpers.teacher_conformance import Case, Conformance, EvidenceCase, EvidenceConformance, Silent, weights
from limbeck.base.errors import DataError, SettingError
from limbeck.client import teachers
from limbeck.client.noise import SystemEntropy, UnsafeSeeded, poisson_sample
from limbeck.client.settings import SiteSettings
from limbeck.client.teachers import architectures, gradients, kit, net
from limbeck.plans.schema import EvidenceTeaching, LinearTeaching, NetTeaching
from limbeck.simulations import data

NET = NetTeaching(
    architecture="cnn",
    sampling_rate=0.5,
    steps=4,
    learning_rate=0.5,
    momentum=0.9,
    clip=0.1,
    noise_multiplier=1.0,
    normaliser=20.0,
    physical_batch=16,
)
HEAD = replace(LINEAR, steps=4, average_last=2, clip=0.7)


def own_net(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A site's own: LayerNorm and one weight used twice, which limbeck's own nets have not."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(64, 64), nn.LayerNorm(64)
            self.last = nn.Linear(64, classes)

        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(x.flatten(1)))
            return self.last(self.norm(torch.tanh(hidden @ self.first.weight)))  # type: ignore[no-any-return]

    return Tied()


CASES = {
    "linear-pixels": Case(teaching=HEAD, inputs="images"),
    "linear-rows": Case(teaching=replace(HEAD, features="rows"), inputs="rows"),
    "linear-encoder": Case(teaching=replace(HEAD, features="rows"), inputs="texts"),
    "linear-scattering": Case(teaching=replace(HEAD, features="scattering"), inputs="images"),
    "linear-hog": Case(teaching=replace(HEAD, features="hog"), inputs="images"),
    "mlp-rows": Case(teaching=replace(NET, architecture="mlp"), inputs="rows"),
    "mlp-images": Case(teaching=replace(NET, architecture="mlp"), inputs="images"),
    "cnn": Case(teaching=NET, inputs="images"),
    "cnn-own": Case(teaching=NET, inputs="images", gradients_by="book-keeping"),
    "mlp-own": Case(teaching=replace(NET, architecture="mlp"), inputs="rows", gradients_by="book-keeping"),
    "resnet-gn": Case(teaching=replace(NET, architecture="resnet-gn"), inputs="images"),
    "custom": Case(teaching=replace(NET, architecture="custom"), inputs="images", factory=own_net),
    "custom-own": Case(
        teaching=replace(NET, architecture="custom"), inputs="images", factory=own_net, gradients_by="book-keeping"
    ),
}
# Every way to a sum of gradients, with classes that count differently.
UNEVEN = (1.0, 0.5, 0.3, 2.0, 1.0, 0.7, 0.5, 1.5, 0.4, 1.0)
CASES |= {
    f"{name}-weighted": replace(CASES[name], class_weights=UNEVEN)
    for name in ("linear-rows", "mlp-rows", "cnn", "custom", "mlp-own", "custom-own")
}


OWN = EvidenceTeaching(
    features="pixels", constant=0.3, normaliser=40.0, ridge=0.01, noise_multiplier=1.0, resolution=1 << 16
)
EVIDENCE = {
    "pixels": EvidenceCase(teaching=OWN, inputs="images"),
    "rows": EvidenceCase(teaching=replace(OWN, features="rows"), inputs="rows"),
    "encoder": EvidenceCase(teaching=replace(OWN, features="rows"), inputs="texts"),
    "scattering": EvidenceCase(teaching=replace(OWN, features="scattering"), inputs="images"),
    "hog": EvidenceCase(teaching=replace(OWN, features="hog"), inputs="images"),
    "scattering-filtered": EvidenceCase(
        teaching=replace(OWN, features="scattering", ridge=1e-3, noise_to_signal=1e-4), inputs="images"
    ),
    "rows-filtered": EvidenceCase(teaching=replace(OWN, features="rows", noise_to_signal=0.01), inputs="rows"),
    "rows-weighted": EvidenceCase(teaching=replace(OWN, features="rows"), inputs="rows", class_weights=UNEVEN),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
class TestTeachers(Conformance):
    """All of the suite for all kinds that are trained by gradients."""


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in EVIDENCE.items()])
class TestEvidence(EvidenceConformance):
    """All of the suite for evidence."""


def test_the_suite_covers_every_kind_that_a_plan_can_name() -> None:
    from limbeck.plans.schema import ARCHITECTURES, FEATURES

    taught = [case.teaching for case in (*CASES.values(), *EVIDENCE.values())]
    for kind in (LinearTeaching, EvidenceTeaching):
        assert {own.features for own in taught if isinstance(own, kind)} == set(FEATURES)
    assert {own.architecture for own in taught if isinstance(own, NetTeaching)} == set(ARCHITECTURES)


# Sampling


class Sampler(Silent):
    """Real sampling, no noise."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.source = UnsafeSeeded(seed)

    def uniform(self, n: int) -> np.ndarray:
        return self.source.uniform(n)


def test_each_step_of_a_net_takes_each_record_at_the_rate_and_pairs_independently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffled batches, often sold as Poisson samples, have one size and negative correlations."""
    taken: list[np.ndarray] = []

    def remember(noise: object, n: int, rate: float) -> np.ndarray:
        chosen = poisson_sample(noise, n, rate)  # type: ignore[arg-type]
        taken.append(np.isin(np.arange(n), chosen))
        return chosen

    monkeypatch.setattr(net, "poisson_sample", remember)
    CASES["mlp-rows"].train(Sampler(1), 8, steps=3000, sampling_rate=0.3, learning_rate=1e-6)
    found = np.array(taken, float)
    assert found.shape == (3000, 8)
    assert np.allclose(found.mean(0), 0.3, atol=0.04)
    assert np.allclose((found.T @ found / 3000)[np.triu_indices(8, 1)], 0.09, atol=0.03)
    assert found.sum(1).var() == pytest.approx(8 * 0.3 * 0.7, rel=0.15)
    assert np.abs(np.corrcoef(found[1:].ravel(), found[:-1].ravel())[0, 1]) < 0.03


def test_an_empty_sample_is_a_step_with_noise() -> None:
    class Nobody(Silent):
        def uniform(self, n: int) -> np.ndarray:
            return np.ones(n)

    noise = Nobody()
    CASES["cnn"].train(noise)
    assert len(noise.gaussians) == 4 * 8


def test_a_sample_larger_than_the_physical_batch_is_summed_in_parts() -> None:
    whole, parts = (CASES["cnn"].train(Silent(), physical_batch=size) for size in (64, 7))
    for a, b in zip(whole.net.parameters(), parts.net.parameters(), strict=True):  # type: ignore[attr-defined]
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["linear-pixels", "linear-rows"])
def test_no_feature_of_a_private_record_is_kept(name: str, tmp_path: Path) -> None:
    """A cache is for public inputs, and one machine's sites may share it."""
    case = CASES[name]
    (x_N, y_N), options = case.records(5), {"classes": 10, "public_x": case.public(), "noise": Silent()}
    for _ in range(2):
        teachers.train(case.teaching, x_N, y_N, cache=tmp_path, **options)  # type: ignore[arg-type]
    (kept,) = tmp_path.glob("*.npy")
    assert len(np.load(kept)) == len(case.public())


# Engines


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet-gn"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 24)])
def test_all_engines_give_the_same_sums(name: str, shape: tuple[int, ...]) -> None:
    inputs, labels = torch.rand(12, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10
    inputs[4] = torch.nan
    own = architectures.build(name, shape, 10)
    kinds: list[gradients.Kind] = [
        gradients.Hooks,
        gradients.Functorch,
        gradients.Functional,
        *([gradients.FastClipping] if name == "mlp" else []),
    ]
    expected = gradients.BookKeeping(own).clipped_sums(inputs, labels, 0.2)
    for kind in kinds:
        for found, sum_of in zip(kind(own).clipped_sums(inputs, labels, 0.2), expected, strict=True):
            assert found.dtype == sum_of.dtype == torch.float64
            torch.testing.assert_close(found, sum_of, atol=1e-5, rtol=1e-4)
    assert not any(vars(parameter) or parameter.grad is not None for parameter in own.parameters())


def test_a_net_that_is_not_limbecks_own_never_goes_through_hooks() -> None:
    assert gradients.kind(nn.Linear(2, 2), trusted=False) is gradients.Functorch
    assert gradients.kind(nn.Linear(2, 2), trusted=False, by="book-keeping") is gradients.Functional


def test_a_sites_settings_name_the_engines(caplog: pytest.LogCaptureFixture) -> None:
    given = {"name": "north", "transfer_sets": "transfer-sets"}
    assert SiteSettings.model_validate(given).gradients == "opacus"
    assert SiteSettings.model_validate({**given, "gradients": "book-keeping"}).gradients == "book-keeping"
    # As 0.1.0 wrote it.
    with caplog.at_level(logging.WARNING, "limbeck"):
        assert SiteSettings.model_validate({**given, "gradients": "fastest"}).gradients == "book-keeping"
    assert 'gradients = "fastest" is now called "book-keeping"' in caplog.text


def test_opacus_is_the_default_and_clips_fast_where_all_weights_are_linear() -> None:
    for name, expected in (("mlp", gradients.FastClipping), ("cnn", gradients.Hooks), ("resnet-gn", gradients.Hooks)):
        own = architectures.build(name, (1, 8, 8), 10)
        assert gradients.kind(own, trusted=True) is expected
        assert gradients.kind(own, trusted=True, by="book-keeping") is gradients.BookKeeping


class Twice(nn.Module):
    """The second use of a weight is hidden from hooks of layers, and is by far the larger."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x)) + 100 * functional.linear(x, self.last.weight)  # type: ignore[no-any-return]


class TwoNames(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


class Fixed(nn.Module):
    """A constant in a buffer, and a weight that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(3.0))
        self.last = nn.Linear(4, 3)
        self.last.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.scale * x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("make", "kind"), [(Twice, gradients.Functorch), (TwoNames, gradients.Functional), (Fixed, gradients.Functional)]
)
def test_no_use_of_a_weight_of_a_sites_own_net_escapes_clipping(make: type[nn.Module], kind: type[gradients.Engine]) -> None:
    torch.manual_seed(0)
    own = make()
    engine = gradients.engine(own, trusted=False)
    assert type(engine) is kind
    inputs, labels = torch.rand(3, 4), torch.arange(3)
    (alone,) = (engine.clipped_sums(inputs[:1], labels[:1], torch.inf),)
    loss = functional.cross_entropy(own(inputs[:1]), labels[:1])
    for found, true in zip(alone, torch.autograd.grad(loss, engine.parameters), strict=True):
        torch.testing.assert_close(found.float(), true)
    more, less = engine.clipped_sums(inputs, labels, 0.01), engine.clipped_sums(inputs[:2], labels[:2], 0.01)
    assert float(torch.cat([(a - b).flatten() for a, b in zip(more, less, strict=True)]).norm()) <= 0.01 * (1 + 1e-6)


def test_why_opacuss_hooks_and_functorch_mode_do_not_serve_every_net() -> None:
    """What the choice of engines rests on: when a version of Opacus changes it, this says so."""
    torch.manual_seed(0)
    inputs, labels = torch.rand(3, 4), torch.arange(3)
    for make, wrong in ((Twice, True), (TwoNames, False)):
        own = make()
        true, seen = (kind(own).clipped_sums(inputs, labels, 1e9) for kind in (gradients.Functional, gradients.Hooks))
        far = [not torch.allclose(a, b, rtol=1e-3) for a, b in zip(true, seen, strict=True)]
        assert any(far) is wrong
    with pytest.raises(SettingError, match=r"weight 'last\.weight' has two names"):
        gradients.Functorch(TwoNames())
    with pytest.raises(SettingError, match="no layer with a buffer, such as 'scale'"):
        gradients.Functorch(Fixed())
    # The two passes of fast clipping disagree about such a weight, so that its norm is too small: far more than the clip is left.
    twice = gradients.FastClipping(Twice())
    assert float(torch.cat([part.flatten() for part in twice.clipped_sums(inputs[:1], labels[:1], 0.01)]).norm()) > 0.02
    with pytest.raises(SettingError, match="linear layers only, got Conv2d"):
        gradients.FastClipping(nn.Conv2d(1, 1, 3))
    shared = nn.Linear(4, 4)
    with pytest.raises(NotImplementedError, match="tying"):
        gradients.FastClipping(nn.Sequential(shared, nn.Tanh(), shared)).clipped_sums(inputs, labels, 1.0)


@pytest.mark.parametrize("kind", [gradients.FastClipping, gradients.Hooks, gradients.Functorch])
def test_an_engine_that_copies_a_net_follows_its_weights(kind: gradients.Kind) -> None:
    own = architectures.build("mlp", (16,), 10)
    x_N, labels = torch.rand(6, 16, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    engine = kind(own)
    engine.clipped_sums(x_N, labels, 0.2)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(0.5).mul_(-2)
    expected = gradients.Functional(own).clipped_sums(x_N, labels, 0.2)
    for found, total in zip(engine.clipped_sums(x_N, labels, 0.2), expected, strict=True):
        torch.testing.assert_close(found, total, atol=1e-5, rtol=1e-4)


def test_fast_clipping_moves_no_other_records_share() -> None:
    """In float64 an additional record leaves no trace in what the others add; float32 would leave a ten-millionth of the clip each."""
    own = architectures.build("mlp", (64,), 10)
    x_N, labels = torch.rand(40, 64, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 10
    engine = gradients.FastClipping(own)
    more, less, alone = (
        engine.clipped_sums(x, y, 0.1) for x, y in ((x_N, labels), (x_N[:39], labels[:39]), (x_N[39:], labels[39:]))
    )
    for a, b, c in zip(more, less, alone, strict=True):
        torch.testing.assert_close(a - b, c, atol=1e-13, rtol=1e-9)


def test_book_keeping_refuses_what_it_cannot_see() -> None:
    with pytest.raises(SettingError, match="got 0: LayerNorm"):
        gradients.BookKeeping(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)))
    with pytest.raises(SettingError, match="without groups"):
        gradients.BookKeeping(nn.Conv2d(4, 4, 3, groups=2))
    shared = nn.Linear(4, 4)
    engine = gradients.BookKeeping(nn.Sequential(shared, nn.Tanh(), shared))
    with pytest.raises(SettingError, match="got Linear twice"):
        engine.clipped_sums(torch.rand(3, 4), torch.arange(3), 1.0)


# Settings


def test_no_built_in_net_mixes_records_or_remembers_them() -> None:
    for name, shape in [("mlp", (54,)), ("cnn", (1, 28, 28)), ("cnn", (1, 8, 8)), ("resnet-gn", (3, 32, 32))]:
        own = architectures.build(name, shape, 7)
        assert not list(own.buffers())
        assert kit.examine(own, shape, 7) == []


def test_initial_weights_are_public_constants() -> None:
    torch.manual_seed(5)
    one = architectures.build("cnn", (1, 28, 28), 10)
    torch.manual_seed(6)
    two = architectures.build("cnn", (1, 28, 28), 10)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("case", "public", "message"),
    [
        ("cnn", np.zeros((2, 54), np.float32), "images of at least 4 x 4"),
        ("linear-hog", np.zeros((2, 54), np.float32), "grey images"),
        ("linear-rows", np.zeros((2, 8, 8), np.uint8), "rows of shape"),
        ("custom", np.zeros((2, 8, 8), np.uint8), "a net of its own"),
        ("mlp-rows", np.zeros(2, np.float32), "rows .N, D. or images"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_record_is_read(case: str, public: np.ndarray, message: str) -> None:
    with pytest.raises((SettingError, DataError), match=message):
        teachers.check(CASES[case].teaching, public, classes=10)


def test_records_unlike_the_transfer_set_are_refused() -> None:
    for name, public_x in (("cnn", np.zeros((2, 9, 9), np.float32)), ("linear-rows", np.zeros((2, 65), np.float32))):
        x_N, y_N = CASES[name].records(3)
        with pytest.raises(DataError, match="like the transfer set"):
            teachers.train(CASES[name].teaching, x_N, y_N, classes=10, public_x=public_x, noise=SystemEntropy())


def test_a_file_that_is_no_teacher_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"nothing")
    with pytest.raises(DataError, match="Expected a teacher"):
        teachers.load(tmp_path / "t")
    CASES["custom"].train(SystemEntropy()).save(tmp_path / "custom")
    with pytest.raises(SettingError, match="a net of its own"):
        teachers.load(tmp_path / "custom")
    with pytest.raises(DataError, match="Expected the weights of the net"):
        teachers.load(tmp_path / "custom", factory=lambda shape, classes: nn.Linear(3, 3))


# A site's own net


def _batch_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 10))


class _Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.last(flat - flat.mean(0))  # type: ignore[no-any-return]


class _Remembering(_Mixing):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.detach().flatten(1).sum(0)
        return self.last(x.flatten(1))  # type: ignore[no-any-return]


class _Unused(_Mixing):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1))  # type: ignore[no-any-return]


class _Branching(_Unused):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flatten(1)) * (1 if float(x.sum()) > 0 else 2)  # type: ignore[no-any-return]


def _frozen() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).requires_grad_(False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_batch_norm, r"Layer '1' is BatchNorm2d, which mixes records; put nn.GroupNorm\(8, 8\)"),
        (_Mixing, "depends on the other records"),
        (_Remembering, "Buffer 'seen' changes in a forward pass"),
        (_Unused, "Weight 'idle.weight' gets no gradient"),
        (_Branching, "Gradients are not available per record"),
        (_frozen, "no trainable weight"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), r"\(5, 10\) logits are required"),
        (lambda: nn.Linear(63, 10), "A forward pass over 5 records of shape"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10).double()), "float32 is required"),
    ],
)
def test_the_kit_says_what_is_wrong_with_a_net(make: Callable[[], nn.Module], message: str) -> None:
    problems = kit.examine(make(), (1, 8, 8), 10)
    assert len(problems) >= 1
    with pytest.raises(SettingError, match=message):
        kit.require_sound(make(), (1, 8, 8), 10)


# A net that is random, or keeps a state, of every kind: what it does with its input before the last layer.


class _Own(nn.Module):
    def __init__(self, before: Callable[[_Own, Tensor], Tensor]) -> None:
        super().__init__()
        self.last, self.before = nn.Linear(64, 10), before
        self.count, self.seen = 0, list[float]()
        self.kept: Any = None
        self.numbers, self.generator, self.python = np.random.default_rng(0), torch.Generator(), random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.before(self, x.flatten(1)))  # type: ignore[no-any-return]


_CALLS = [0]


def _counted(net: _Own, x: Tensor) -> Tensor:
    net.count += 1
    return x * max(0.5, 1 - net.count / 1e9)


def _counted_elsewhere(net: _Own, x: Tensor) -> Tensor:
    _CALLS[0] += 1
    return x * (0 if _CALLS[0] > 10_000 else 1)


def _listed(net: _Own, x: Tensor) -> Tensor:
    net.seen.append(float(len(net.seen)))
    return x


def _kept(net: _Own, x: Tensor) -> Tensor:
    net.kept = x.detach()
    return x


def _scaled_by_the_first(net: _Own, x: Tensor) -> Tensor:
    """As an activation normalisation is initialised."""
    if net.kept is None:
        net.kept = x.detach().std()
    return x / net.kept  # type: ignore[no-any-return]


def _attention(net: _Own, x: Tensor) -> Tensor:
    heads = x.view(-1, 1, 8, 8)
    return functional.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.2).flatten(1)


def _flat(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 10))


def _transformer(dropout: float) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True)
    return nn.Sequential(nn.Flatten(1, 2), layer, nn.Flatten(), nn.Linear(64, 10))


RANDOM: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dropout": (lambda: _flat(nn.Dropout(0.5)), r"Layer '1' is Dropout with p = 0\.5"),
    "little dropout": (lambda: _flat(nn.Dropout(1e-9)), "is Dropout"),
    "dropout of channels": (lambda: nn.Sequential(nn.Dropout2d(0.5), _flat()), "is Dropout2d"),
    "alpha dropout": (lambda: _flat(nn.AlphaDropout(0.5)), "is AlphaDropout"),
    "feature alpha dropout": (lambda: _flat(nn.FeatureAlphaDropout(0.5)), "is FeatureAlphaDropout"),
    "rrelu": (lambda: _flat(nn.RReLU()), "is RReLU with a random slope"),
    "pooling": (
        lambda: nn.Sequential(nn.FractionalMaxPool2d(2, output_size=4), nn.Flatten(), nn.Linear(16, 10)),
        "is FractionalMaxPool2d",
    ),
    "attention": (lambda: _transformer(0.1), "is MultiheadAttention with dropout"),
    "dropout, as a function": (lambda: _Own(lambda _, x: functional.dropout(x, 0.5)), r"random numbers \(aten\.bernoulli"),
    "attention, as a function": (lambda: _Own(_attention), "draws random numbers"),
    "gumbel": (lambda: _Own(lambda _, x: functional.gumbel_softmax(x)), "draws random numbers"),
    "rand": (lambda: _Own(lambda _, x: x + torch.rand(64)), "draws random numbers"),
    "randn_like": (lambda: _Own(lambda _, x: x + torch.randn_like(x)), "draws random numbers"),
    "bernoulli": (lambda: _Own(lambda _, x: x * torch.full((64,), 0.5).bernoulli()), "draws random numbers"),
    "a draw without effect": (lambda: _Own(lambda _, x: x + 0 * torch.rand(())), "draws random numbers"),
    "a generator of its own": (
        lambda: _Own(lambda net, x: x + torch.rand(64, generator=net.generator)),
        "draws random numbers",
    ),
    "only when it answers": (lambda: _Own(lambda net, x: x if net.training else x + torch.rand(64)), "random numbers"),
    "numpy": (lambda: _Own(lambda _, x: x * float(np.random.rand() < 2)), "from numpy's global generator"),
    "python": (lambda: _Own(lambda _, x: x * (random.random() < 2)), "from Python's global generator"),
    "numpy's own": (lambda: _Own(lambda net, x: x * (net.numbers.random() < 2)), "'numbers' of layer '' changes"),
    "python's own": (lambda: _Own(lambda net, x: x * (net.python.random() < 2)), "'python' of layer '' changes"),
    "the system": (lambda: _Own(lambda _, x: x + os.urandom(1)[0] / 99), "Two forward passes over the same records differ"),
    "a counter": (lambda: _Own(_counted), "'count' of layer '' changes"),
    "a counter elsewhere": (lambda: _Own(_counted_elsewhere), "'before' of layer '' changes"),
    "a list": (lambda: _Own(_listed), "'seen' of layer '' changes"),
    "its last input": (lambda: _Own(_kept), "'kept' of layer '' changes"),
    "its first input": (lambda: _Own(_scaled_by_the_first), "'kept' of layer '' changes"),
    "spectral norm": (
        lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(64, 10))),
        "changes in a forward pass",
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_net_that_is_random_or_keeps_a_state_is_refused_before_a_charge_and_before_it_trains(name: str) -> None:
    """Masks out of one generator depend on a record's place: one record more moved all others' gradients, 30 clips at 1,000 records."""
    make, message = RANDOM[name]
    case = replace(CASES["custom"], factory=lambda shape, classes: make())
    before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
    with pytest.raises(SettingError, match=message):
        teachers.check(case.teaching, case.public(), classes=10, factory=case.factory)
    noise = Silent()
    with pytest.raises(SettingError, match=message):
        case.train(noise)
    assert (noise.gaussians, noise.uniforms) == ([], [])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (repr(np.random.get_state()), random.getstate())


@pytest.mark.parametrize(
    "make",
    [
        lambda: own_net((1, 8, 8), 10),
        lambda: _flat(nn.Dropout(0.0)),
        lambda: _transformer(0.0),
        lambda: _Own(lambda _, x: x + torch.arange(64)),
        lambda: nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(64, 10))),
    ],
)
def test_tied_weights_attention_and_dropout_of_nothing_are_allowed(make: Callable[[], nn.Module]) -> None:
    assert kit.examine(make(), (1, 8, 8), 10) == []


def test_a_net_that_cannot_be_copied_is_refused_in_words() -> None:
    own = _Own(lambda _, x: x)
    own.kept = (row for row in range(3))
    assert kit.examine(own, (1, 8, 8), 10)[0].startswith("It cannot be examined: TypeError: cannot pickle 'generator'")


@pytest.mark.parametrize("kind", [gradients.Functorch, gradients.Functional])
def test_a_draw_that_escaped_the_examination_is_an_error_and_no_shared_mask(kind: type[gradients.Mapped]) -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))
    engine = kind(net.train())
    with pytest.raises(RuntimeError, match="randomness"):
        engine.gradients(torch.rand(5, 4), torch.arange(5) % 3)


def test_a_record_on_which_a_net_fails_counts_as_zero_and_changes_nothing_for_others() -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Embedding(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.table(x.long()).sum(1))  # type: ignore[no-any-return]

    engine = gradients.engine(Looking(), trusted=False)
    x_N, y_N = torch.tensor([[0.0], [1.0], [2.0]]), torch.arange(3)
    clean = engine.clipped_sums(x_N, y_N, 0.3)
    more = engine.clipped_sums(torch.cat([x_N[:1], torch.tensor([[9.0]]), x_N[1:]]), torch.tensor([0, 1, 1, 2]), 0.3)
    for a, b in zip(clean, more, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=0)


def test_answers_of_a_net_that_has_diverged_are_uniform(caplog: pytest.LogCaptureFixture) -> None:
    own = architectures.build("mlp", (4,), 5)
    with torch.no_grad():
        own[1].weight.fill_(torch.nan)  # type: ignore[index]
    with caplog.at_level(logging.ERROR, "limbeck"):
        log_p_NK = net.Net("mlp", (4,), 5, own).log_probabilities(np.zeros((3, 4), np.float32))
    assert "The teacher has diverged: 3 of 3 answers are uniform." in caplog.text
    torch.testing.assert_close(log_p_NK, torch.full((3, 5), -float(np.log(5))))


def test_a_custom_net_that_mixes_records_is_never_trained() -> None:
    case = replace(CASES["custom"], factory=lambda shape, classes: _batch_norm())
    noise = Silent()
    with pytest.raises(SettingError, match="BatchNorm2d"):
        case.train(noise)
    assert noise.gaussians == []


def test_the_template_passes_its_own_kit_on_images_and_rows(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(kit.TEMPLATE)
    factory = architectures.load_factory("mine:build", tmp_path)
    for shape in [(1, 28, 28), (3, 32, 32), (1, 8, 8), (54,)]:
        assert kit.examine(architectures.build("custom", shape, 5, factory), shape, 5) == []


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("mine", "as 'module:factory'"),
        ("no_such_module:build", "No module named"),
        ("broken:build", "ZeroDivisionError"),
        ("mine:nothing", "AttributeError"),
        ("mine:NUMBER", "to be a function"),
    ],
)
def test_a_factory_that_is_not_there_is_named(reference: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("NUMBER = 3\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(SettingError, match=message):
        architectures.load_factory(reference, tmp_path)


def test_a_factory_that_fails_is_a_setting_that_cannot_be_meant() -> None:
    case = replace(CASES["custom"], factory=lambda shape, classes: nn.Linear(classes // 0, 3))
    message = "to make a net for inputs of shape .1, 8, 8. and 10 classes: ZeroDivisionError"
    with pytest.raises(SettingError, match=message):
        teachers.check(case.teaching, case.public(), classes=10, factory=case.factory)


@pytest.mark.parametrize("name", ["linear-rows", "mlp-rows", "cnn", "custom", "mlp-own", "custom-own"])
@pytest.mark.parametrize("clip", [0.1, 0.3])
def test_a_class_weight_multiplies_a_records_gradient_before_it_is_clipped(name: str, clip: float) -> None:
    """So a record counts for at most the clip with any weight, and for less only where its gradient, weight and all, is shorter [D]."""
    case = CASES[name]
    label = int(case.records(1)[1][0])

    def moved(weight: float) -> Tensor:
        changes: dict[str, Any] = {"steps": 1, "clip": clip, "learning_rate": 1.0, "normaliser": 1.0, "momentum": 0.0}
        if not isinstance(case.teaching, NetTeaching):
            changes["average_last"] = 1
        weighted = replace(case, class_weights=tuple(weight if k == label else 7.0 for k in range(10)))
        after, before = (weights(weighted.train(Silent(), n, **changes)).double() for n in (1, 0))
        return after - before

    plain = moved(1.0)
    for weight in (1e-3, 0.5, 1e3):
        assert float(moved(weight).norm()) <= clip * (1 + 1e-5)
    # A thousandth of a gradient is not clipped here.
    assert float(moved(1e-3).norm()) < 0.9 * clip
    torch.testing.assert_close(moved(2e-3), 2 * moved(1e-3), atol=5e-7, rtol=1e-3)
    assert float(functional.cosine_similarity(moved(1e-3), plain, dim=0)) > 0.999
    torch.testing.assert_close(moved(1e3), plain * (clip / plain.norm()), atol=1e-6, rtol=1e-3)


# How well they learn


@pytest.mark.parametrize("features", ["pixels", "hog", "scattering"])
def test_a_linear_teacher_learns_digits_under_mild_noise(features: str) -> None:
    found = data.load("digits", private=900, public=300, test=397)
    assert isinstance(found.private_x, np.ndarray)
    teaching = replace(LINEAR, features=features, noise_multiplier=1.0, normaliser=900.0)
    teacher = teachers.train(
        teaching, found.private_x, found.private_y, classes=10, public_x=found.public_x, noise=SystemEntropy()
    )
    accuracy = (teacher.log_probabilities(found.test_x).argmax(1).numpy() == found.test_y).mean()
    assert accuracy > (0.75 if features == "hog" else 0.88)
