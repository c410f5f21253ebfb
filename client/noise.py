"""The randomness that privacy rests on: the operating system's entropy through a stream cipher, never a global generator.

Gaussian samples come from a float64 Box-Muller transform and are added to float64 sums; rounding to float32 comes afterwards. A
finite-precision Gaussian is not exactly the ideal one that the accounting assumes; attacks through its low bits are not defended against
(docs/privacy.md). Integers from the discrete Gaussian are drawn exactly (`limbeck.client.discrete`) and added to integers.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from fractions import Fraction
from typing import Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from limbeck.base import check
from limbeck.client import discrete

log = logging.getLogger(__name__)

CHUNK = 1 << 16
# One entry for each fork on the way to this process. Process ids are reused; together with the number of forks they are unique.
_forks: list[None] = []
os.register_at_fork(after_in_child=lambda: _forks.append(None))


class Noise(Protocol):
    """A source of independent random numbers."""

    label: str

    def gaussian(self, *shape: int, std: float) -> Tensor:
        """Float64 samples of a normal distribution with mean 0 and standard deviation `std` > 0."""

    def discrete_gaussian(self, *shape: int, variance: Fraction) -> NDArray[np.int64]:
        """Integers x with probability proportional to exp(-x^2 / (2 variance)), exactly."""

    def uniform(self, n: int) -> NDArray[np.float64]:
        """n numbers in [0, 1), multiples of 2^-53."""

    def below(self, n: int) -> int:
        """An integer in [0, n), exactly uniform."""


class _Stream:
    """AES-256 in counter mode as a generator. Its key is neither shown nor stored anywhere else."""

    label = "stream"

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def uniform(self, n: int) -> NDArray[np.float64]:
        out = np.empty(n)
        for start in range(0, n, CHUNK):
            part = out[start : start + CHUNK]
            np.multiply(self._words(len(part)) >> np.uint64(11), 2.0**-53, out=part)
        return out

    def discrete_gaussian(self, *shape: int, variance: Fraction) -> NDArray[np.int64]:
        return discrete.gaussians(self._words, math.prod(shape), variance).reshape(shape)

    def gaussian(self, *shape: int, std: float) -> Tensor:
        check.positive(std=std)
        n = math.prod(shape)
        out = np.empty(n + n % 2)
        for start in range(0, len(out), CHUNK):
            part = out[start : start + CHUNK]
            u = self.uniform(len(part)).reshape(2, -1)
            radius = np.sqrt(-2 * np.log1p(-u[0])) * std
            angle = (2 * np.pi) * u[1]
            part[: u.shape[1]] = radius * np.cos(angle)
            part[u.shape[1] :] = radius * np.sin(angle)
        return torch.from_numpy(out[:n]).view(shape)

    def below(self, n: int) -> int:
        bits = (n - 1).bit_length()
        size = (bits + 7) // 8
        while True:
            drawn = int.from_bytes(self._bytes(size)) >> (8 * size - bits)
            if drawn < n:
                return drawn

    def _words(self, n: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._bytes(8 * n), np.uint64)

    def _bytes(self, n: int) -> bytes:
        return self._cipher.update(bytes(n))


def _process() -> tuple[int, int]:
    return os.getpid(), len(_forks)


class SystemEntropy(_Stream):
    """The source for real privacy: key and nonce from the operating system, different in every run and every process.

    A process that was forked with a source in it takes a new key before it draws: otherwise two processes would add the same noise.
    """

    label = "system-entropy"

    def __init__(self) -> None:
        super().__init__(os.urandom(32), os.urandom(16))
        self._process = _process()

    def _bytes(self, n: int) -> bytes:
        if self._process != _process():
            super().__init__(os.urandom(32), os.urandom(16))
            self._process = _process()
        return super()._bytes(n)


class UnsafeSeeded(_Stream):
    """Reproducible "noise" for experiments: whoever knows the seed can subtract it, so no guarantee holds."""

    label = "UnsafeSeeded"

    def __init__(self, seed: int) -> None:
        log.warning("Privacy noise is seeded (UnsafeSeeded): no privacy guarantee holds.")
        super().__init__(hashlib.sha256(f"limbeck UnsafeSeeded {seed}".encode()).digest(), bytes(16))


def poisson_sample(noise: Noise, n: int, rate: float) -> NDArray[np.intp]:
    """Indices below n, each included independently with probability `rate`: the Poisson sampling that the accounting assumes."""
    return np.flatnonzero(noise.uniform(n) < rate)
