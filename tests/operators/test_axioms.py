"""The checker finds what is broken, only what is broken, and what it finds is real."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers import broken
from limbeck.base.errors import SettingError
from limbeck.operators import EntropyTarget, Hybrid, Mixing, Power, Separable, Tsallis
from limbeck.operators.axioms import Axiom, check, majorisation, search
from limbeck.operators.projections import ArgMax, Sparsemax, nearest

RANKING, CONTINUITY, ENTROPY, IDENTITY, BOUNDARY = list(Axiom)[1:]


def normalised(weight_NK: Tensor) -> Tensor:
    return weight_NK / weight_NK.sum(-1, keepdim=True)


SOUND: dict[str, Callable[[float], Any]] = {
    "power": Power,
    "mixing": Mixing,
    "hybrid": Hybrid,
    "tsallis 0.5": partial(Tsallis, 0.5),
    "tsallis 2": partial(Tsallis, 2.0),
    "a plain function": lambda t: lambda p_NK: normalised((p_NK / p_NK.amax(-1, keepdim=True)) ** (1 / t)),
}

BROKEN: dict[str, tuple[Callable[[float], Any], set[Axiom]]] = {
    "small entries tie": (broken.Levelled, {RANKING}),
    "steps in T": (broken.stepped, {CONTINUITY}),
    "torn in p": (broken.Torn, {CONTINUITY}),
    "swinging": (broken.swinging, {ENTROPY}),
    "too warm": (broken.too_warm, {IDENTITY}),
    "never uniform": (broken.never_uniform, {BOUNDARY}),
    "never one-hot": (broken.never_one_hot, {BOUNDARY}),
    "tsallis 2 below T = 1": (partial(broken.UncheckedTsallis, 2.0), {BOUNDARY}),
    "top-k, renormalised": (broken.top_k(2), {RANKING, CONTINUITY, IDENTITY, BOUNDARY}),
    "arg-max": (broken.arg_max, {RANKING, CONTINUITY, IDENTITY, BOUNDARY}),
    "sparsemax": (broken.sparsemax, {RANKING, IDENTITY}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND.keys())
def test_a_sound_family_raises_no_alarm(make: Callable[[float], Any], dtype: torch.dtype) -> None:
    report = check(make, dtype=dtype, rounds=2 if dtype == torch.float64 else 1, seed=1)
    assert [finding.counterexample for finding in report.findings if not finding.holds] == []
    assert all(finding.trials > 0 and finding.worst <= finding.tolerance for finding in report.findings)


def test_an_entropy_target_raises_no_alarm() -> None:
    assert check(EntropyTarget.at_temperature, rounds=1).holds


@pytest.mark.parametrize(("make", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_found_and_nothing_else_and_a_sound_family_does_not_share_it(
    make: Callable[[float], Any], expected: set[Axiom]
) -> None:
    report = check(make, rounds=3)
    assert {finding.axiom for finding in report.findings if not finding.holds} == expected
    assert report.holds is False
    for axiom in expected:
        example = report[axiom].counterexample
        assert example is not None
        assert example.size > example.tolerance
        assert example.reproduce(make) == pytest.approx(example.size, rel=1e-6)
        assert example.reproduce(Power) <= example.tolerance
        assert float(example.p_K.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["small entries tie", "steps in T", "torn in p", "swinging", "too warm", "never uniform"])
def test_each_axiom_is_found_broken_in_float32_too(name: str) -> None:
    make, expected = BROKEN[name]
    report = check(make, dtype=torch.float32, rounds=2)
    assert {finding.axiom for finding in report.findings if not finding.holds} == expected


def test_tsallis_below_its_domain_is_no_distribution() -> None:
    report = check(partial(broken.UncheckedTsallis, 0.2), axioms={Axiom.DISTRIBUTION}, rounds=8)
    assert not report[Axiom.DISTRIBUTION].holds


def test_what_is_no_distribution_is_found() -> None:
    example = check(broken.Unnormalised, axioms={Axiom.DISTRIBUTION}, rounds=4)[Axiom.DISTRIBUTION].counterexample
    assert example is not None
    assert example.size == pytest.approx(0.01)
    assert "sums to 1.01" in example.what


def test_a_counterexample_of_few_classes_is_preferred() -> None:
    example = check(broken.arg_max, axioms={RANKING})[RANKING].counterexample
    assert example is not None
    assert len(example.p_K) <= 3


def test_a_narrow_bump_in_the_temperature_is_not_stepped_over() -> None:
    """Entropy falls between T = 6 and 6.3 only, by little."""

    def make(temperature: float) -> Power:
        return Power(temperature - 0.8 * math.exp(-(((temperature - 6.2) / 0.1) ** 2)))

    assert not check(make, axioms={ENTROPY}, rounds=60)[ENTROPY].holds


def test_neighbours_that_change_places_are_found_however_close() -> None:
    """A ripple of 1e-9 on power: order breaks only between entries nearer than 1e-9."""

    def rippled(temperature: float) -> Separable:
        return Separable(lambda p, t: p ** (1 / t) * (1 + 1e-9 * torch.sin(1e10 * p)), temperature)

    example = check(rippled, axioms={RANKING}, rounds=4)[RANKING].counterexample
    assert example is not None
    assert 0 < float(example.p_K.sort().values.diff().min()) < 1e-8


def test_an_order_that_breaks_at_tiny_probabilities_only_is_found() -> None:
    """Below p = 1e-20 the smaller entry comes out the larger."""

    def folded(temperature: float) -> Separable:
        fold = math.log(1e-20)
        return Separable(lambda log_p, t: (fold + (log_p - fold).abs()) / t, temperature, log_space=True)

    example = check(folded, axioms={RANKING}, rounds=3)[RANKING].counterexample
    assert example is not None
    assert float(example.p_K.min()) < 1e-20


@pytest.mark.parametrize("seed", [0, 2])
def test_what_random_draws_miss_is_reached_by_climbing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is reversed only where the largest entry is within 1e-4 of 0.73; seed 2 needs the gradient to get there."""
    assert not check(broken.Reversed, axioms={RANKING}, rounds=2, seed=seed)[RANKING].holds
    monkeypatch.setattr(search, "STEPS", 0)
    assert check(broken.Reversed, axioms={RANKING}, rounds=2, seed=seed)[RANKING].holds


@pytest.mark.parametrize("special", [0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0])
def test_a_jump_at_exactly_one_usual_temperature_is_found(special: float) -> None:
    def make(temperature: float) -> Power:
        return Power(1.1 * temperature if temperature == special else temperature)

    example = check(make, axioms={CONTINUITY}, rounds=2)[CONTINUITY].counterexample
    assert example is not None
    assert special in {example.temperature, example.other_temperature}


@pytest.mark.parametrize(("fewest", "seed"), [(2, 0), (50, 1), (50, 2)])
def test_a_tie_broken_by_position_at_the_cold_end_is_found(fewest: int, seed: int) -> None:
    """Also if only many classes show it, where two largest entries hardly ever tie by chance."""

    def make(temperature: float) -> Any:
        def operator(p_NK: Tensor) -> Tensor:
            return ArgMax()(p_NK) if temperature < 1e-3 and p_NK.shape[1] >= fewest else Power(temperature)(p_NK)

        return operator

    example = check(make, axioms={BOUNDARY}, rounds=2, seed=seed)[BOUNDARY].counterexample
    assert example is not None
    assert int((example.p_K == example.p_K.max()).sum()) > 1


def test_the_ends_of_the_domain_are_found_and_what_lies_beyond_is_not_checked() -> None:
    report = check(Mixing, axioms={BOUNDARY}, rounds=2)
    assert report.lowest == 1.0
    assert report.highest == pytest.approx(1e12)
    assert "T to 0 not checked" in report[BOUNDARY].note
    assert check(Power, axioms={BOUNDARY}, rounds=2)[BOUNDARY].note == ""


def test_a_family_without_an_identity_says_so() -> None:
    def hot_only(temperature: float) -> Power:
        if temperature < 1.5:
            raise SettingError(f"Expected temperature >= 1.5, got {temperature!r}.")
        return Power(temperature)

    report = check(hot_only, rounds=1)
    assert report.holds
    assert "not checked" in report[IDENTITY].note


def test_a_factory_of_nothing_and_an_operator_of_another_shape_are_refused() -> None:
    def nothing(temperature: float) -> Power:
        raise SettingError("Expected something else.")

    with pytest.raises(SettingError, match=r"Expected an operator at T = 1, 2 or 0\.5"):
        check(nothing)
    with pytest.raises(SettingError, match="keeps the shape"):
        check(lambda t: lambda p_NK: p_NK.sum(-1))


def test_the_same_seed_gives_the_same_report() -> None:
    first, second = (check(broken.swinging, axioms={ENTROPY}, rounds=2, seed=3)[ENTROPY] for _ in range(2))
    assert (first.worst, first.trials) == (second.worst, second.trials)


def test_only_the_axioms_that_are_named_are_checked() -> None:
    report = check(broken.arg_max, axioms={ENTROPY, Axiom.DISTRIBUTION}, rounds=1)
    assert [finding.axiom for finding in report.findings] == [Axiom.DISTRIBUTION, ENTROPY]
    assert report.holds


# Sparsemax, whose guarantees the checker's findings rest on


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    """The condition that characterises a projection: no point of the simplex lies on the far side."""
    generator = torch.Generator().manual_seed(0)
    p_NK = (2 * torch.randn(50, 6, generator=generator, dtype=torch.float64)).softmax(-1)
    q_NK, z_NK = Sparsemax(2.0)(p_NK), p_NK.log() / 2.0
    corners = torch.eye(6, dtype=torch.float64).unsqueeze(1)
    assert float(((z_NK - q_NK) * (corners - q_NK)).sum(-1).max()) < 1e-12
    torch.testing.assert_close(q_NK.sum(-1), torch.ones(50, dtype=torch.float64))
    assert int((q_NK == 0).sum()) > 20


distributions = st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=8).map(
    lambda weights: torch.tensor([weights], dtype=torch.float64) / sum(weights)
)


@given(p_NK=distributions, t=st.floats(0.1, 20), step=st.floats(1e-6, 3), seed=st.integers(0, 100))
def test_sparsemax_moves_no_more_than_its_scores(p_NK: Tensor, t: float, step: float, seed: int) -> None:
    """A projection is 1-Lipschitz, so sparsemax is continuous: log p / T moves by step / T, and q by no more."""
    way_NK = torch.randn(p_NK.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    other_NK = (p_NK.log() + step * way_NK / way_NK.norm()).softmax(-1)
    assert float((Sparsemax(t)(p_NK) - Sparsemax(t)(other_NK)).norm()) <= step / t + 1e-12


@given(p_NK=distributions, t=st.floats(1.0, 20))
def test_sparsemax_of_p_over_t_is_mixing(p_NK: Tensor, t: float) -> None:
    """For T >= 1."""
    torch.testing.assert_close(nearest(p_NK / t), Mixing(t)(p_NK))


# Majorisation


@pytest.mark.parametrize(
    "make", [Power, Mixing, Hybrid, partial(Tsallis, 0.5), partial(Tsallis, 2.0), partial(Tsallis, 0.0)]
)
def test_the_sufficient_condition_holds_for_the_separable_families(make: Callable[[float], Any]) -> None:
    assert majorisation(make).holds


def separable(f: Callable[[Tensor, float], Tensor]) -> Callable[[float], Separable]:
    return lambda temperature: Separable(f, temperature)


def test_an_f_that_falls_is_shown_where_it_falls() -> None:
    failure = majorisation(separable(lambda p, t: 0.1 + (p - 0.3) ** 2)).increasing
    assert failure is not None
    assert failure.p < failure.other_p < 0.31


def test_an_f_that_is_flat_is_not_strictly_increasing() -> None:
    failure = majorisation(separable(lambda p, t: p.clamp(min=0.2))).increasing
    assert failure is not None
    assert failure.other_p <= 0.2


def test_a_ratio_that_rises_is_shown_with_its_temperatures() -> None:
    failure = majorisation(separable(lambda p, t: p**t)).ratio
    assert failure is not None
    assert failure.other_temperature is not None
    assert failure.temperature < failure.other_temperature
    ratio = [float(p) ** (failure.other_temperature - failure.temperature) for p in (failure.p, failure.other_p)]
    assert math.log(ratio[1] / ratio[0]) == pytest.approx(failure.size, rel=1e-6)
