"""Noise is what the accounting assumes, comes from the operating system, and leaves the global generators alone."""

import logging

import numpy as np
import pytest
import torch
from scipy import stats

from limbeck.client.noise import SystemEntropy, UnsafeSeeded, poisson_sample


def test_gaussian_noise_is_normal_with_the_asked_standard_deviation() -> None:
    sample = UnsafeSeeded(1).gaussian(200_001, std=3.0).double().numpy()
    assert stats.kstest(sample / 3.0, "norm").pvalue > 1e-3
    assert sample.std() == pytest.approx(3.0, rel=0.01)


def test_calls_and_neighbours_are_uncorrelated() -> None:
    noise = UnsafeSeeded(2)
    first, second = noise.gaussian(100_000, std=1.0), noise.gaussian(100_000, std=1.0)
    for a, b in [(first, second), (first[1:], first[:-1]), (first[:50_000], first[50_000:])]:
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.015


def test_the_shape_is_kept_also_for_odd_sizes() -> None:
    assert UnsafeSeeded(0).gaussian(3, 7, std=1.0).shape == (3, 7)
    assert UnsafeSeeded(0).gaussian(0, std=1.0).shape == (0,)


def test_system_entropy_never_repeats() -> None:
    assert not torch.equal(SystemEntropy().gaussian(8, std=1.0), SystemEntropy().gaussian(8, std=1.0))


def test_a_seeded_source_repeats_and_says_in_its_name_that_it_is_unsafe() -> None:
    assert torch.equal(UnsafeSeeded(5).gaussian(8, std=1.0), UnsafeSeeded(5).gaussian(8, std=1.0))
    assert not torch.equal(UnsafeSeeded(5).gaussian(8, std=1.0), UnsafeSeeded(6).gaussian(8, std=1.0))
    assert UnsafeSeeded(5).label == "UnsafeSeeded"


def test_the_global_generators_are_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    first = SystemEntropy().gaussian(4, std=1.0)
    torch.manual_seed(0)
    assert not torch.equal(first, SystemEntropy().gaussian(4, std=1.0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state(legacy=False)["state"]["key"])


def test_the_key_does_not_show() -> None:
    assert repr(SystemEntropy()) == "SystemEntropy()"


def test_a_seed_is_in_no_log_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "limbeck"):
        texts = [str(UnsafeSeeded(918273645)), repr(UnsafeSeeded(918273645))]
    assert "no privacy guarantee holds" in caplog.text
    assert not any("918273645" in text for text in [*texts, caplog.text])


def test_poisson_sampling_takes_each_record_at_the_rate_and_pairs_independently() -> None:
    noise = UnsafeSeeded(3)
    taken = np.zeros((20_000, 6))
    for row in taken:
        row[poisson_sample(noise, 6, 0.3)] = 1
    assert np.allclose(taken.mean(0), 0.3, atol=0.015)
    pairs = (taken.T @ taken / len(taken))[np.triu_indices(6, 1)]
    assert np.allclose(pairs, 0.09, atol=0.01)
    # A shuffled batch would have a fixed size; this one is binomial.
    assert taken.sum(1).var() == pytest.approx(6 * 0.3 * 0.7, rel=0.05)
