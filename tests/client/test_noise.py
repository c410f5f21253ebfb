"""Noise is what the accounting assumes, comes from the operating system, and leaves the global generators alone."""

import copy
import hashlib
import logging
import os
import pickle
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from scipy import stats

from limbeck.base.errors import SettingError
from limbeck.client.noise import CHUNK, SystemEntropy, UnsafeSeeded, poisson_sample

# A sound source fails a test of this level once in a thousand million runs.
LEVEL = 1e-9


def test_gaussian_noise_is_normal_with_the_asked_standard_deviation() -> None:
    sample = UnsafeSeeded(1).gaussian(200_001, std=3.0).numpy()
    assert stats.kstest(sample / 3.0, "norm").pvalue > 1e-3
    assert sample.std() == pytest.approx(3.0, rel=0.01)


def test_the_tails_of_real_noise_are_those_of_the_normal_distribution() -> None:
    """A tail that is cut tells outright of a record whose gradient reaches past it. Two million numbers of the system's entropy."""
    n = 2_000_000
    sample = SystemEntropy().gaussian(n, std=1.0).numpy()
    for bound in (1.0, 2.0, 3.0, 3.5, 4.0, 4.2):
        expected = stats.binom(n, stats.norm.sf(bound))
        for beyond in (int((sample > bound).sum()), int((sample < -bound).sum())):
            assert expected.ppf(LEVEL) <= beyond <= expected.isf(LEVEL), bound
    assert expected.ppf(LEVEL) > 0


def test_noise_has_all_the_digits_of_float64() -> None:
    """It is added to float64 sums: coarser, it would leave their last digits as they are."""
    sample = SystemEntropy().gaussian(100_000, std=1.0)
    assert sample.dtype == torch.float64
    assert len(np.unique(sample.numpy())) == 100_000
    assert float((sample.float().double() == sample).double().mean()) < 1e-3


@pytest.mark.parametrize("n", [2, 1000, CHUNK, CHUNK + 1000, 3 * CHUNK])
def test_the_two_numbers_that_one_pair_of_uniforms_gives_are_independent(n: int) -> None:
    """Box and Muller: one of them is a cosine, the other a sine. They lie half a chunk apart."""
    sample = SystemEntropy().gaussian(n, std=1.0).numpy()
    assert len(np.unique(sample)) == n
    if n < 1000:
        return
    part = sample[: min(n, CHUNK) // 2 * 2].reshape(2, -1)
    limit = float(stats.norm.isf(LEVEL / 4)) / part.shape[1] ** 0.5
    # Linear dependence, and that of the squares, which share a radius.
    assert abs(float((part[0] * part[1]).mean())) < limit
    squares = part**2 - 1
    # The product of squares has a standard deviation of 2, and longer tails than the normal distribution.
    assert abs(float((squares[0] * squares[1]).mean())) < 3 * limit
    # The angle between the two is uniform.
    angle = np.arctan2(part[1], part[0]) / (2 * np.pi) % 1
    assert stats.kstest(angle, "uniform").pvalue > LEVEL


def test_noise_without_a_scale_is_refused() -> None:
    for std in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(SettingError, match="Expected std > 0"):
            SystemEntropy().gaussian(3, std=std)


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


class Urandom:
    """In place of os.urandom: known bytes, and how many were asked for."""

    def __init__(self, flip: int | None = None) -> None:
        self.asked: list[int] = []
        self.given = b""
        self.flip = flip

    def __call__(self, n: int) -> bytes:
        self.asked.append(n)
        drawn = bytearray(hashlib.shake_256(len(self.given).to_bytes(4, "big")).digest(n))
        if self.flip is not None and len(self.given) <= self.flip < len(self.given) + n:
            drawn[self.flip - len(self.given)] ^= 1
        self.given += bytes(drawn)
        return bytes(drawn)


def words(key: bytes, nonce: bytes, n: int) -> NDArray[np.float64]:
    """The first n uniform numbers of AES-256 in counter mode, made here."""
    stream = Cipher(algorithms.AES256(key), modes.CTR(nonce)).encryptor().update(bytes(8 * n))
    return (np.frombuffer(stream, np.uint64) >> np.uint64(11)) / 2**53


def test_a_key_is_32_bytes_of_the_systems_entropy_and_nothing_else_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for seconds in (1e9, 2e9):
        urandom = Urandom()
        monkeypatch.setattr(os, "urandom", urandom)
        for clock in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns"):
            monkeypatch.setattr(time, clock, lambda seconds=seconds: seconds)
        drawn.append(SystemEntropy().uniform(50))
        assert urandom.asked == [32, 16]
        np.testing.assert_array_equal(drawn[-1], words(urandom.given[:32], urandom.given[32:], 50))
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_every_byte_of_the_key_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for flip in (None, *range(48)):
        monkeypatch.setattr(os, "urandom", Urandom(flip))
        found.add(SystemEntropy().uniform(4).tobytes())
    assert len(found) == 49


def in_children(n: int, source: SystemEntropy) -> Iterator[bytes]:
    """What n forked children draw from a source that they share with this process, 64 bytes each."""
    for _ in range(n):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(writing, source.uniform(8).tobytes())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            yield pipe.read()
        os.waitpid(child, 0)


def test_processes_that_were_forked_with_a_source_never_draw_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trainings with the same noise: their difference has none."""
    source = SystemEntropy()
    source.uniform(3)
    # Also where numbers of processes are used again.
    for number in (os.getpid, lambda: 7):
        monkeypatch.setattr(os, "getpid", number)
        source.uniform(1)
        drawn = [*in_children(3, source), source.uniform(8).tobytes()]
        assert all(len(own) == 64 for own in drawn)
        assert len(set(drawn)) == 4


def test_a_source_cannot_be_copied_or_sent_so_no_stream_is_used_twice() -> None:
    for copied in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copied(SystemEntropy())


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
