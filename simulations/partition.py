"""Which client holds which records: frozen callables, deterministic in a public seed.

Each takes labels (N,), a number of clients and a seed, and returns one sorted array of record indices per client. The arrays are disjoint
and contain all records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from limbeck.base import check
from limbeck.base.errors import SettingError
from limbeck.inputs.tables import Table
from limbeck.simulations.data.dataset import DataSet

Parts = list[NDArray[np.int64]]
TRIES = 100
# Records that each site has, however skewed the sizes are.
LEAST = 10
# Records below which a teacher learns little but noise.
FEW = 20
# Kinds, as a scenario names them, that make sites unequal on purpose.
SKEWED = ("dirichlet", "classes", "quantity")
# Names that a sentence shows.
SHOWN = 8


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

    - alpha: > 0; the smaller, the more skewed. At 0.01 nearly all records of a class are at one client.
    - minimum: records that each client has at least. Proportions are drawn again until they have; where a hundred draws do not reach it,
      the first one counts, and clients that lack records get them from the largest client, at random.
    """

    alpha: float
    minimum: int = LEAST

    def __post_init__(self) -> None:
        check.positive(alpha=self.alpha, minimum=self.minimum)

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

        return _large_enough(draw, rng, len(y_N), clients, self.minimum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """Label skew as strong as it can be: each client has records of so many classes alone; a class is shared evenly by those that have it.

    per_client: classes of each client, at least 1. Which ones is drawn, and every class is at about as many clients.
    """

    per_client: int = 1

    def __post_init__(self) -> None:
        check.positive(per_client=self.per_client)

    def __call__(self, y_N: NDArray[np.int64], clients: int, seed: int) -> Parts:
        _require_enough(len(y_N), clients, 1)
        labels, place_N = np.unique(y_N, return_inverse=True)
        if not len(labels) <= clients * self.per_client:
            raise SettingError(
                f"partition.classes_per_site = {self.per_client}: expected {clients} sites to have room for all {len(labels)} classes of"
                f" the records, got room for {clients * self.per_client}."
            )
        if self.per_client > len(labels):
            raise SettingError(
                f"partition.classes_per_site = {self.per_client}: expected at most the {len(labels)} classes of the records."
            )
        rng = np.random.default_rng(seed)
        holders: list[list[int]] = [[] for _ in labels]
        for client in range(clients):
            # Those that the fewest clients have; of equals, by chance.
            for place in sorted(rng.permutation(len(labels)).tolist(), key=lambda each: len(holders[each]))[
                : self.per_client
            ]:
                holders[place].append(client)
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(clients)]
        for place, those in enumerate(holders):
            rows = rng.permutation(np.flatnonzero(place_N == place))
            if len(rows) < len(those):
                raise SettingError(
                    f"partition.clients = {clients}: expected a record of class {labels[place]} for each of the {len(those)} sites that"
                    f" have it, got {len(rows)}."
                )
            for client, share in zip(those, np.array_split(rows, len(those)), strict=True):
                parts[client].append(share)
        return [np.sort(np.concatenate(part)) for part in parts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """Quantity skew: labels mixed, sizes in proportions drawn from Dirichlet(alpha). minimum: as of `Dirichlet`."""

    alpha: float
    minimum: int = LEAST

    def __post_init__(self) -> None:
        check.positive(alpha=self.alpha, minimum=self.minimum)

    def __call__(self, y_N: NDArray[np.int64], clients: int, seed: int) -> Parts:
        rng = np.random.default_rng(seed)

        def draw() -> Parts:
            cuts = (np.cumsum(rng.dirichlet(np.full(clients, self.alpha)))[:-1] * len(y_N)).round().astype(int)
            return [np.sort(part) for part in np.split(rng.permutation(len(y_N)), cuts)]

        return _large_enough(draw, rng, len(y_N), clients, self.minimum)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Natural:
    """Each client is a site that the data set names. groups_N: the site of every record, 0 to clients - 1; clients may be None."""

    groups_N: NDArray[np.int64]

    def __call__(self, y_N: NDArray[np.int64], clients: int | None, seed: int) -> Parts:
        sites = np.unique(self.groups_N)
        if clients is not None and len(sites) != clients:
            raise SettingError(f"Expected partition.clients = {len(sites)}, the natural sites of the data, got {clients}.")
        return [np.flatnonzero(self.groups_N == site) for site in sites]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ByPerson:
    """All records of a person at one site: persons are divided, each with the most common label of their records.

    people_N: the person of every record. inner: how persons are divided; what it says of records holds for persons.
    """

    people_N: NDArray[np.int64]
    inner: Partition

    def __call__(self, y_N: NDArray[np.int64], clients: int, seed: int) -> Parts:
        people, person_N = np.unique(self.people_N, return_inverse=True)
        labels = np.zeros((len(people), int(y_N.max(initial=0)) + 1), np.int64)
        np.add.at(labels, (person_N, y_N), 1)
        return [np.flatnonzero(np.isin(person_N, part)) for part in self.inner(labels.argmax(1), clients, seed)]


def large_enough(dataset: DataSet, minimum: int) -> DataSet:
    """The data set with those natural sites alone that have at least `minimum` records; what they are is said.

    Raises: SettingError if none has.
    """
    # There are natural sites.
    assert dataset.groups is not None
    assert dataset.group_names is not None
    sizes = np.bincount(dataset.groups, minlength=len(dataset.group_names))
    kept = np.flatnonzero(sizes >= minimum)
    if len(kept) == len(sizes):
        return dataset
    if not len(kept):
        raise SettingError(
            f"partition.minimum = {minimum}: expected a site with as many records, got at most {sizes.max()}."
        )
    names = tuple(dataset.group_names[site] for site in kept)
    number = np.full(len(sizes), -1, np.int64)
    number[kept] = np.arange(len(kept))
    rows = np.flatnonzero(np.isin(dataset.groups, kept))
    x, of_test = dataset.private_x, dataset.test_groups
    left_out = [dataset.group_names[site] for site in np.setdiff1d(np.arange(len(sizes)), kept)]
    people = None if dataset.people is None else dataset.people[rows]
    return replace(
        dataset,
        people=people,
        private_x=x.rows(rows.tolist()) if isinstance(x, Table) else x[rows],
        private_y=dataset.private_y[rows],
        files=tuple(dataset.files[row] for row in rows.tolist()) if dataset.files else (),
        groups=number[dataset.groups[rows]],
        group_names=names,
        test_groups=None if of_test is None else np.where(of_test < 0, -1, number[of_test]),
        said=(
            *dataset.said,
            f"{len(left_out)} sites have fewer than {minimum} records (partition.minimum) and take no part: {_some(left_out)}.",
        ),
    )


def describe(dataset: DataSet, parts: Parts) -> list[str]:
    """What a reader should know of the sites: how many records they have, which are small, and which lack a class."""
    names = dataset.group_names or tuple(f"site {index}" for index in range(len(parts)))
    sizes = [len(part) for part in parts]
    table = counts(parts, dataset.private_y, len(dataset.class_names))
    said = [f"{len(parts)} sites with {min(sizes)} to {max(sizes)} records."]
    if small := [name for name, size in zip(names, sizes, strict=True) if size < FEW]:
        said.append(
            f"{len(small)} of {len(parts)} sites have fewer than {FEW} records, of which a teacher learns little but noise:"
            f" {_some(small)}. partition.minimum {'leaves them out' if dataset.groups is not None else 'gives each site more'};"
            " pooling.kind weighs sites by their records."
        )
    lacking = [
        f"{name} ({_lacks(dataset.class_names, row)})"
        for name, row in zip(names, table.tolist(), strict=True)
        if not all(row)
    ]
    if lacking:
        said.append(f"{len(lacking)} of {len(parts)} sites have no record of some class: {_some(lacking)}.")
    if dataset.people is not None:
        places = Counter(person for part in parts for person in set(dataset.people[part].tolist()))
        if elsewhere := sum(number > 1 for number in places.values()):
            said.append(f"{elsewhere} persons have records at several sites, each of which spends its own epsilon on them.")
    return said


def _lacks(class_names: Sequence[str], row: Sequence[int]) -> str:
    """The classes without a record at a site, or those with one if these are fewer."""
    absent = [label for label, number in zip(class_names, row, strict=True) if not number]
    present = [label for label, number in zip(class_names, row, strict=True) if number]
    return ", ".join(absent) if len(absent) <= len(present) else f"only {', '.join(present)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def counts(parts: Sequence[NDArray[np.int64]], y_N: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(C, K) records of each class at each client."""
    return np.stack([np.bincount(y_N[part], minlength=classes) for part in parts])


def _require_enough(records: int, clients: int, minimum: int) -> None:
    if clients < 1 or clients * minimum > records:
        raise SettingError(
            f"Expected partition.clients with at least {minimum} of {records} records each, got {clients} clients."
        )


def _large_enough(draw: Callable[[], Parts], rng: np.random.Generator, records: int, clients: int, minimum: int) -> Parts:
    """The first draw in which all clients have enough records; or the very first, filled up from its largest clients."""
    _require_enough(records, clients, minimum)
    first = parts = draw()
    for _ in range(TRIES - 1):
        if min(map(len, parts)) >= minimum:
            return parts
        parts = draw()
    return _filled_up(first, rng, minimum)


def _filled_up(parts: Parts, rng: np.random.Generator, minimum: int) -> Parts:
    """All parts with at least `minimum` records, of which there are enough; what a part lacks is taken from the largest one."""
    parts = list(parts)
    for small in range(len(parts)):
        while (lacking := minimum - len(parts[small])) > 0:
            large = max(range(len(parts)), key=lambda place: len(parts[place]))
            # The largest one keeps as many as any part must have.
            given = rng.permutation(parts[large])[: min(lacking, len(parts[large]) - minimum)]
            parts[large] = np.setdiff1d(parts[large], given)
            parts[small] = np.sort(np.concatenate([parts[small], given]))
    return parts
