"""Constants of evidence plans: of the least expected error, bounded below, and what scores turn out to vary by.

Shape legend: N public inputs, D features, J eigenvalues, K classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from limbeck.base.errors import DataError, SettingError
from limbeck.plans import evidence_constants
from limbeck.plans.evidence_constants import Expected, Filter

Array = NDArray[np.float64]

EXPECTED = Expected(classes=10, inputs=2500, sites=8, records=750.0, noise=1.39)
E_J = np.asarray(0.2 / np.arange(1, 400) ** 1.5, np.float64)

spectra = st.tuples(st.floats(0.0, 3.0), st.integers(1, 300)).map(lambda drawn: _falling(*drawn))
expectations = st.builds(
    Expected,
    classes=st.integers(2, 100),
    inputs=st.integers(1, 10**6),
    sites=st.integers(1, 10**4),
    records=st.floats(1.0, 1e9),
    noise=st.floats(0.1, 1e6),
)


def _falling(power: float, count: int) -> Array:
    e_J = np.arange(1, count + 1).astype(np.float64) ** -power
    return np.asarray(e_J / e_J.sum(), np.float64)


ratios = st.one_of(st.just(0.0), st.floats(-12, 3).map(lambda power: 10.0**power))


@settings(max_examples=30)
@given(e_J=spectra, expected=expectations)
def test_no_other_ridge_of_a_plan_has_a_lower_risk_and_none_is_below_what_public_inputs_can_tell_apart(
    e_J: Array, expected: Expected
) -> None:
    ridge = evidence_constants.best_ridge(e_J, expected)
    least = evidence_constants.risk(e_J, Filter(ridge=ridge), expected)
    assert 1e-8 <= ridge <= 1e3
    for other in np.geomspace(1e-8, 1e3, 45):
        # Two digits are off by 5 % at most; the risk is flat about its least.
        assert least <= evidence_constants.risk(e_J, Filter(ridge=float(other)), expected) * 1.01
    assert ridge >= min(0.95e3, 0.93 * (1 / expected.inputs + 1 / (expected.sites * expected.records)))


@settings(max_examples=50)
@given(e_J=spectra, expected=expectations, other=st.builds(Filter, ridge=st.floats(1e-8, 1e3), noise_to_signal=ratios))
def test_no_other_filter_has_a_lower_risk(e_J: Array, expected: Expected, other: Filter) -> None:
    """Neither a ridge nor a ratio, nor both: the terms of the risk are least one by one."""
    chosen = evidence_constants.choose(e_J, expected).filter
    assert 1e-8 <= chosen.ridge <= 1e3
    assert 1e-12 <= chosen.noise_to_signal <= 1e3
    assume(1e-8 < chosen.ridge < 1e3 and 1e-12 < chosen.noise_to_signal < 1e3)
    least = evidence_constants.risk(e_J, chosen, expected)
    assert least <= evidence_constants.risk(e_J, other, expected) * 1.01
    gain_J = chosen.gains(e_J)
    for factor in (0.8, 1.25):
        moved = replace(chosen, noise_to_signal=chosen.noise_to_signal * factor, ridge=chosen.ridge * factor)
        assert (moved.gains(e_J) < gain_J).all() == (factor > 1)


def test_what_an_author_names_is_taken_and_the_rest_follows() -> None:
    both = evidence_constants.choose(E_J, EXPECTED)
    assert both.filter.ridge == pytest.approx(1 / 6000 + 1 / 2500, rel=0.05)
    ratio = 10 * 1.39**2 / (8 * 750**2) / (0.9 / E_J.sum())
    assert both.filter.noise_to_signal == pytest.approx(ratio, rel=0.05)
    alone = evidence_constants.choose(E_J, EXPECTED, noise_to_signal=0.0)
    assert alone.filter == Filter(ridge=evidence_constants.best_ridge(E_J, EXPECTED))
    assert alone.filter.ridge > both.filter.ridge
    assert evidence_constants.choose(E_J, EXPECTED, ridge=0.5).filter == replace(both.filter, ridge=0.5)
    named = Filter(ridge=0.1, noise_to_signal=0.2)
    given_both = evidence_constants.choose(E_J, EXPECTED, ridge=0.1, noise_to_signal=0.2)
    assert given_both.filter == named
    assert given_both.temperature == evidence_constants.temperature(E_J, named, EXPECTED)


@settings(max_examples=30)
@given(e_J=spectra, expected=expectations)
def test_temperatures_are_those_of_plans_and_more_skew_never_asks_for_less(e_J: Array, expected: Expected) -> None:
    chosen = evidence_constants.choose(e_J, expected)
    assert 1e-3 <= chosen.temperature <= 1e3
    alike, skewed = (evidence_constants.deviation(e_J, chosen.filter, expected, one_class=each) for each in (False, True))
    assert alike <= skewed


def test_more_noise_fewer_sites_and_fewer_public_inputs_ask_for_more_to_be_taken_out() -> None:
    usual, alone = (evidence_constants.choose(E_J, EXPECTED, noise_to_signal=own).filter for own in (None, 0.0))
    for change in ({"noise": 4.0}, {"sites": 2}, {"records": 200.0}, {"inputs": 50}):
        expected = replace(EXPECTED, **change)
        assert evidence_constants.choose(E_J, expected, noise_to_signal=0.0).filter.ridge > alone.ridge
        other = evidence_constants.choose(E_J, expected).filter
        assert (other.gains(E_J) < usual.gains(E_J)).all()


def test_the_risk_is_the_error_that_coefficients_drawn_from_the_prior_come_to() -> None:
    """Sites whose noise alone keeps them from the truth: so many records and public inputs that sampling adds nothing."""
    expected = Expected(classes=3, inputs=10**9, sites=4, records=1e5, noise=3e3)
    rng = np.random.default_rng(1)
    e_J = _falling(1.0, 30)
    w_KJ = rng.normal(0, np.sqrt((1 - 1 / 3) / 3), (4000, 3, 30))
    b_KJ = e_J * w_KJ + rng.normal(0, 3e3 * 2, w_KJ.shape) / 4e5
    for ridge, ratio in ((0.01, 0.0), (0.3, 0.0), (0.001, 0.02)):
        error = (e_J * (b_KJ * e_J / (e_J**2 + ridge * e_J + ratio) - w_KJ) ** 2).sum((1, 2)).mean()
        assert evidence_constants.risk(e_J, Filter(ridge=ridge, noise_to_signal=ratio), expected) == pytest.approx(
            error, rel=0.03
        )


@pytest.mark.parametrize("ratio", [0.0, 0.005])
@pytest.mark.parametrize("one_class", [False, True])
def test_scores_of_a_site_vary_as_expected(one_class: bool, ratio: float) -> None:
    """Indicators that are linear in features on average: K classes, of a site with so many records that sampling adds little."""
    classes, records, noise, ridge = 4, 20_000.0, 900.0, 0.02
    rng = np.random.default_rng(2)
    e_J = _falling(1.0, 40)
    expected = Expected(classes=classes, inputs=10**6, sites=5, records=records, noise=noise)
    found = []
    for _ in range(400):
        w_KJ = rng.normal(0, np.sqrt((1 - 1 / classes) / classes), (classes, 40))
        sums_KJ = records * e_J * w_KJ
        if one_class:
            # All records of the site are of the first class, of which a site that holds all alike has one in K.
            sums_KJ = np.concatenate([classes * sums_KJ[:1], np.zeros((classes - 1, 40))])
        weight_KJ = (
            classes * (sums_KJ + rng.normal(0, noise, sums_KJ.shape)) / records * e_J / (e_J**2 + ridge * e_J + ratio)
        )
        found.append((weight_KJ**2 * e_J).sum(1).mean())
    chosen = Filter(ridge=ridge, noise_to_signal=ratio)
    predicted = evidence_constants.deviation(e_J, chosen, expected, one_class=one_class)
    assert predicted == pytest.approx(np.sqrt(np.mean(found)), rel=0.05)


def test_a_site_of_one_class_is_softened_to_half_a_unit() -> None:
    chosen = evidence_constants.choose(E_J, EXPECTED)
    deviation = evidence_constants.deviation(E_J, chosen.filter, EXPECTED, one_class=True)
    assert deviation / chosen.temperature == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(("inputs", "width"), [(30, 12), (12, 30)])
def test_eigenvalues_are_those_of_the_covariance_whichever_side_is_shorter(inputs: int, width: int) -> None:
    f_ND = np.random.default_rng(3).normal(size=(inputs, width)).astype(np.float32) / 10
    wide_ND = f_ND.astype(np.float64)
    whole = np.sort(np.linalg.eigvalsh(wide_ND.T @ wide_ND / inputs))[::-1]
    assert evidence_constants.eigenvalues(f_ND) == pytest.approx(whole[: min(inputs, width)], rel=1e-9)


def test_many_public_inputs_are_sampled_evenly() -> None:
    f_ND = np.zeros((10**5, 2), np.float32)
    f_ND[: 10**4, 0] = 1
    assert evidence_constants.eigenvalues(f_ND) == pytest.approx([0.1], rel=1e-3)


def test_inputs_that_are_all_alike_are_refused() -> None:
    with pytest.raises(DataError, match="Expected public inputs that differ, got 3 with the same features"):
        evidence_constants.eigenvalues(np.zeros((3, 2), np.float32))


@pytest.mark.parametrize("name", ["classes", "inputs", "sites", "records", "noise"])
def test_impossible_expectations_are_refused_by_name(name: str) -> None:
    with pytest.raises(SettingError, match=f"Expected {name}"):
        replace(EXPECTED, **{name: 0})
