"""The cost of a schedule agrees with an independent formula, and calibration errs towards privacy."""

import math
from dataclasses import replace

import pytest
from conftest import LINEAR
from scipy import optimize, stats

from limbeck.operators.errors import SettingError
from limbeck.protos import accounting
from limbeck.protos.messages import LabelCounts, NetTeaching

CNN = NetTeaching(
    architecture="cnn",
    sampling_rate=0.1,
    steps=100,
    learning_rate=1,
    momentum=0,
    clip=1,
    noise_multiplier=1.2,
    normaliser=64,
    physical_batch=64,
)


def exact_epsilon(mu: float, delta: float) -> float:
    """The Gaussian mechanism's own curve [F: arXiv 1805.06530], inverted with scipy."""

    def excess(epsilon: float) -> float:
        norm = stats.norm
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta)

    return float(optimize.brentq(excess, 0, 200))


@pytest.mark.parametrize("noise_multiplier", [4.0, 11.06, 40.0])
def test_full_batch_steps_compose_to_one_gaussian_mechanism(noise_multiplier: float) -> None:
    schedule = (replace(LINEAR, noise_multiplier=noise_multiplier), LabelCounts(noise_std=6.2))
    mu = math.sqrt(LINEAR.steps / noise_multiplier**2 + 1 / 6.2**2)
    found = accounting.epsilon((schedule,), 1e-5)
    assert exact_epsilon(mu, 1e-5) <= found <= exact_epsilon(mu, 1e-5) * 1.01


def test_poisson_sampling_is_cheaper_than_full_batches_and_dearer_than_its_rate() -> None:
    sampled = accounting.epsilon(((CNN, None),), 1e-5)
    full = accounting.epsilon(((replace(CNN, sampling_rate=1.0), None),), 1e-5)
    one = accounting.epsilon(((replace(CNN, steps=1), None),), 1e-5)
    assert one < sampled < full


def test_a_subsampled_schedule_costs_what_dp_sgd_is_known_to_cost() -> None:
    # 60,000 records, batch 256, 60 epochs, noise 1.1, delta 1e-5: 2.9 to 3.0 by moments accounting
    # (arXiv 1607.00133, and the tutorial of TensorFlow Privacy); PLD is a little tighter.
    teaching = replace(CNN, sampling_rate=256 / 60_000, steps=60 * 60_000 // 256, noise_multiplier=1.1)
    assert 2.3 < accounting.epsilon(((teaching, None),), 1e-5) < 3.0


@pytest.mark.parametrize("teaching", [LINEAR, CNN])
@pytest.mark.parametrize(("epsilon", "fraction"), [(1.0, None), (3.0, 0.05), (8.0, 0.2)])
def test_calibration_meets_its_target_and_never_exceeds_it(
    teaching: NetTeaching, epsilon: float, fraction: float | None
) -> None:
    schedule = accounting.calibrate(teaching, epsilon=epsilon, delta=1e-5, label_counts_fraction=fraction)
    assert 0.98 * epsilon <= accounting.epsilon((schedule,), 1e-5) <= epsilon
    assert (schedule[1] is None) == (fraction is None)


def test_no_schedule_costs_nothing() -> None:
    assert accounting.epsilon((), 1e-5) == 0


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0)])
def test_an_impossible_target_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(SettingError, match="Expected"):
        accounting.calibrate(LINEAR, epsilon=epsilon, delta=delta, label_counts_fraction=None)
