"""Which client holds which records: frozen callables, deterministic in a public seed.

Each takes labels (N,), a number of clients and a seed, and returns one sorted array of record indices per client. The arrays are disjoint
and contain all records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from limbeck.base import check
from limbeck.base.errors import SettingError

Parts = list[NDArray[np.int64]]
TRIES = 1000


class Partition(Protocol):
    """From labels, a number of clients and a seed to record indices per client."""

    def __call__(self, y_N: NDArray[np.int64], clients: int, seed: int) -> Parts: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Iid:
    """Records are distributed evenly at random."""

    def __call__(self, y_N: NDArray[np.int64], clients: int, seed: int) -> Parts:
        _require_enough(len(y_N), clients, 1)
        return [np.sort(part) for part in np.array_split(np.random.default_rng(seed).permutation(len(y_N)), clients)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dirichlet:
    """Label skew: each class is split over the clients in proportions drawn from Dirichlet(alpha).

    alpha: > 0; the smaller, the more skewed. minimum: records per client; proportions are drawn again until all clients have that many.
    """

    alpha: float
    minimum: int = 10

    def __post_init__(self) -> None:
        check.positive(alpha=self.alpha)

    def __call__(self, y_N: NDArray[np.int64], clients: int, seed: int) -> Parts:
        rng = np.random.default_rng(seed)

        def draw() -> Parts:
            shares: list[list[NDArray[np.int64]]] = [[] for _ in range(clients)]
            for label in np.unique(y_N):
                rows = rng.permutation(np.flatnonzero(y_N == label))
                cuts = (np.cumsum(rng.dirichlet(np.full(clients, self.alpha)))[:-1] * len(rows)).round().astype(int)
                for share, part in zip(shares, np.split(rows, cuts), strict=True):
                    share.append(part)
            return [np.sort(np.concatenate(share)) for share in shares]

        return _until_large_enough(draw, len(y_N), clients, self.minimum, f"partition.alpha = {self.alpha:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """Quantity skew: labels mixed, sizes in proportions drawn from Dirichlet(alpha)."""

    alpha: float
    minimum: int = 10

    def __post_init__(self) -> None:
        check.positive(alpha=self.alpha)

    def __call__(self, y_N: NDArray[np.int64], clients: int, seed: int) -> Parts:
        rng = np.random.default_rng(seed)

        def draw() -> Parts:
            cuts = (np.cumsum(rng.dirichlet(np.full(clients, self.alpha)))[:-1] * len(y_N)).round().astype(int)
            return [np.sort(part) for part in np.split(rng.permutation(len(y_N)), cuts)]

        return _until_large_enough(draw, len(y_N), clients, self.minimum, f"partition.alpha = {self.alpha:g}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Natural:
    """Each client is a site that the data set names. groups_N: the site of every record, 0 to clients - 1."""

    groups_N: NDArray[np.int64]

    def __call__(self, y_N: NDArray[np.int64], clients: int, seed: int) -> Parts:
        sites = np.unique(self.groups_N)
        if len(sites) != clients:
            raise SettingError(f"Expected partition.clients = {len(sites)}, the natural sites of the data, got {clients}.")
        return [np.flatnonzero(self.groups_N == site) for site in sites]


def counts(parts: Sequence[NDArray[np.int64]], y_N: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(C, K) records of each class at each client."""
    return np.stack([np.bincount(y_N[part], minlength=classes) for part in parts])


def _require_enough(records: int, clients: int, minimum: int) -> None:
    if clients < 1 or clients * minimum > records:
        raise SettingError(
            f"Expected partition.clients with at least {minimum} of {records} records each, got {clients} clients."
        )


def _until_large_enough(draw: Callable[[], Parts], records: int, clients: int, minimum: int, what: str) -> Parts:
    _require_enough(records, clients, minimum)
    for _ in range(TRIES):
        parts = draw()
        if min(map(len, parts)) >= minimum:
            return parts
    raise SettingError(
        f"Expected {what} to give each of {clients} clients at least {minimum} of {records} records, got none in {TRIES} draws."
    )
