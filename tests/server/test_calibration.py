"""A temperature makes probabilities mean what they say, changes no prediction, and is not taken from chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.base.errors import DataError
from limbeck.server.calibration import CHANCE, fit, sharpen


def drawn(temperature: float, inputs: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are those of the labels softened by 1/temperature: that temperature calibrates them."""
    generator = np.random.default_rng(seed)
    logit_NK = 2 * generator.standard_normal((inputs, 4))
    true_NK = np.exp(logit_NK) / np.exp(logit_NK).sum(1, keepdims=True)
    y_N = np.array([generator.choice(4, p=p) for p in true_NK])
    return sharpen(true_NK, 1 / temperature).astype(np.float32), y_N


@pytest.mark.parametrize("temperature", [0.3, 0.7, 2.5])
def test_the_temperature_that_was_applied_is_found_and_calibrates(temperature: float) -> None:
    p_NK, y_N = drawn(temperature)
    found = fit(p_NK, y_N, held_out=True, what="drawn inputs")
    assert found is not None
    assert found.temperature == pytest.approx(temperature, rel=0.1)
    assert found.log_loss[1] < found.log_loss[0]
    assert found.error[1] < 0.03 < found.error[0]
    assert (found.inputs, found.held_out, found.how) == (
        4000,
        True,
        "It is the temperature with the least log-loss on drawn inputs.",
    )


def test_a_temperature_that_chance_explains_is_not_taken() -> None:
    taken = sum(fit(*drawn(1.0, 60, seed), held_out=True, what="") is not None for seed in range(40))
    assert CHANCE > 0
    # 2 are expected.
    assert taken <= 6


def test_labels_of_too_few_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="at least 20 labelled public inputs to calibrate a student, got 19"):
        fit(*drawn(0.3, 19), held_out=True, what="")


@given(st.lists(st.floats(-20, 20, width=16), min_size=2, max_size=6), st.floats(0.05, 20))
def test_no_temperature_changes_which_class_is_predicted(logits: list[float], temperature: float) -> None:
    logit_1K = np.array([logits])
    p_1K = np.exp(logit_1K - logit_1K.max())
    p_1K /= p_1K.sum()
    sharp_1K = sharpen(p_1K, temperature)
    assert sharp_1K.sum() == pytest.approx(1)
    assert sharp_1K[0, p_1K.argmax()] == sharp_1K.max()


def test_probabilities_that_are_exactly_zero_stay_finite() -> None:
    assert sharpen(np.array([[1.0, 0.0]]), 0.05).tolist() == [[1.0, 0.0]]
