"""Operators get the class that they share, a calibration reaches its match, and the bound on students holds."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from limbeck.base.errors import SettingError
from limbeck.operators import Mixing, Power, Shared, calibrate, compare, compare_targets, reparametrise
from limbeck.operators.equivalence import mean_entropy, moments


@dataclass(frozen=True)
class Beta:
    """Power under another name and another scale: T' = 1 + 2 (T - 1)."""

    temperature: float

    def __call__(self, p_NK: Tensor) -> Tensor:
        return Power(1 + 2 * (self.temperature - 1))(p_NK)

    def from_log(self, log_p_NK: Tensor) -> Tensor:
        return Power(1 + 2 * (self.temperature - 1)).from_log(log_p_NK)


def teacher(n: int = 40, classes: int = 5, seed: int = 0) -> Tensor:
    z_NK = 3 * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z_NK.log_softmax(-1)


def features(n: int = 40, d: int = 3, seed: int = 1) -> Tensor:
    drawn = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([torch.ones(n, 1, dtype=torch.float64), drawn], 1)


@given(temperature=st.floats(1.05, 8), seed=st.integers(0, 50))
def test_a_reparametrised_family_is_found_at_its_temperature_with_equal_targets(temperature: float, seed: int) -> None:
    log_p = teacher(seed=seed)
    calibration = calibrate(Power(temperature), Beta, log_p)
    assert calibration.temperature == pytest.approx(1 + (temperature - 1) / 2, rel=1e-6)
    assert abs(calibration.residual) < 1e-9
    assert compare(Power(temperature), calibration.softening, log_p).shared is Shared.TARGETS


@pytest.mark.parametrize("first", [Power(2.5), Mixing(1.7)])
def test_calibration_by_mean_entropy_matches_the_mean_entropy(first: Power | Mixing) -> None:
    log_p = teacher()
    family = Mixing if isinstance(first, Power) else Power
    calibration = calibrate(first, family, log_p)
    assert mean_entropy(calibration.softening.from_log(log_p)) == pytest.approx(
        mean_entropy(first.from_log(log_p)), abs=1e-9
    )


def test_a_sharpening_operator_is_matched_below_one() -> None:
    assert calibrate(Power(0.4), Power, teacher()).temperature == pytest.approx(0.4, rel=1e-6)
    with pytest.raises(SettingError, match="temperature >= 1"):
        calibrate(Power(0.4), Mixing, teacher())


def test_calibration_by_moments_comes_closer_than_any_temperature_of_a_fine_grid() -> None:
    log_p, phi = teacher(), features()
    first = Power(3.0)
    calibration = calibrate(first, Mixing, log_p, match="moments", features_ND=phi)
    wanted = moments(phi, first(log_p.exp()))
    grid = [float((moments(phi, Mixing(1 + 0.01 * i)(log_p.exp())) - wanted).norm()) for i in range(2000)]
    assert calibration.residual <= min(grid) + 1e-12
    assert calibration.residual == pytest.approx(min(grid), rel=1e-3)


def test_matching_moments_needs_features_of_the_same_samples() -> None:
    with pytest.raises(SettingError, match="Expected features"):
        calibrate(Power(2.0), Mixing, teacher(), match="moments")
    with pytest.raises(SettingError, match="Expected features of 40 samples"):
        calibrate(Power(2.0), Mixing, teacher(), match="moments", features_ND=features(39))
    with pytest.raises(SettingError, match="Expected match"):
        calibrate(Power(2.0), Mixing, teacher(), match="variance")  # type: ignore[arg-type]


def test_for_two_classes_every_family_is_the_other_at_a_temperature_per_sample_but_at_no_common_one() -> None:
    log_p = teacher(classes=2)
    reparametrised = reparametrise(Power(2.0), Mixing, log_p)
    assert float(reparametrised.residual_N.max()) < 1e-6
    assert float(reparametrised.temperature_N.max()) > 1.5 * float(reparametrised.temperature_N.min())
    common = calibrate(Power(2.0), Mixing, log_p)
    assert compare(Power(2.0), common.softening, log_p).shared is Shared.DECISIONS


def test_for_three_classes_a_temperature_per_sample_is_not_enough() -> None:
    assert float(reparametrise(Power(2.0), Mixing, teacher(classes=3)).residual_N.median()) > 1e-3


def test_a_change_across_the_features_keeps_the_moments_and_one_along_them_does_not() -> None:
    f_NK, phi = (teacher() / 3).softmax(-1), features()
    noise_NK = torch.randn(f_NK.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    noise_NK = noise_NK - noise_NK.mean(-1, keepdim=True)
    basis = torch.linalg.qr(phi).Q
    along = basis @ (basis.T @ noise_NK)
    for change, shared in ((noise_NK - along, Shared.MOMENTS), (along, Shared.DECISIONS)):
        lead = f_NK.topk(2).values.diff().abs().min()
        step = 0.4 * min(float((f_NK / change.abs()).min()), float(lead / change.abs().max() / 2))
        comparison = compare_targets(f_NK, f_NK + step * change, features_ND=phi, tolerance=1e-9)
        assert comparison.shared is shared
        assert comparison.targets > 1e-6


def test_operators_that_decide_otherwise_share_nothing() -> None:
    f_NK = torch.tensor([[0.6, 0.4], [0.2, 0.8]])
    comparison = compare_targets(f_NK, f_NK.flip(1))
    assert comparison.shared is Shared.NOTHING
    assert comparison.decisions == 1.0
    assert comparison.mean_l1 == pytest.approx((0.4 + 1.2) / 2)


def test_a_tie_is_no_other_decision() -> None:
    assert compare_targets(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.4, 0.4, 0.2]])).decisions == 0


@given(seed=st.integers(0, 30), ridge=st.floats(0.05, 1))
def test_the_students_are_no_further_apart_than_the_bound(seed: int, ridge: float) -> None:
    log_p, phi = teacher(seed=seed), features(seed=seed + 100)
    first, second = Power(2.0), Mixing(3.0)
    comparison = compare(first, second, log_p, features_ND=phi)
    weights = [fit(phi, softening(log_p.exp()), ridge) for softening in (first, second)]
    assert float((weights[0] - weights[1]).norm()) <= comparison.shift_bound(ridge) + 1e-6
    assert comparison.moments is not None
    assert comparison.pull is not None
    assert comparison.moments <= comparison.pull <= float(phi.norm(dim=-1).max()) * comparison.mean_l1 + 1e-12


def test_a_bound_needs_features() -> None:
    with pytest.raises(SettingError, match="with features"):
        compare(Power(2.0), Mixing(2.0), teacher()).shift_bound(0.1)


def test_a_family_that_cannot_reach_the_first_says_by_how_much() -> None:
    @dataclass(frozen=True)
    class Hesitant:
        temperature: float

        def __call__(self, p_NK: Tensor) -> Tensor:
            return Mixing(min(self.temperature, 1.1))(p_NK)

        def from_log(self, log_p_NK: Tensor) -> Tensor:
            return Mixing(min(self.temperature, 1.1)).from_log(log_p_NK)

    calibration = calibrate(Power(1e5), Hesitant, teacher())
    short = math.log(5) - mean_entropy(Mixing(1.1).from_log(teacher()))
    assert calibration.residual == pytest.approx(-short, abs=1e-6)


def fit(phi_ND: Tensor, targets_NK: Tensor, ridge: float) -> Tensor:
    """Softmax regression with a penalty, by plain gradient descent with a step of 1 / smoothness: slow and sure."""
    weights = torch.zeros(phi_ND.shape[1], targets_NK.shape[1], dtype=torch.float64)
    step = 1 / (float(torch.linalg.eigvalsh(phi_ND.T @ phi_ND / len(phi_ND))[-1]) + ridge)
    for _ in range(1500):
        weights -= step * (moments(phi_ND, (phi_ND @ weights).softmax(-1) - targets_NK) + ridge * weights)
    return weights
