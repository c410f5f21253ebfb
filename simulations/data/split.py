"""Which records are private, which are public inputs, and which are the test set: no record and no person is in two of them.

Records belong together if their inputs are equal, or if they are of one person: they are drawn as one unit. What is drawn depends on what
the records contain, never on their order: units are sorted by a hash of their content with a seed. Labels decide nothing.

Shape legend: N records of all files, main file first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import SettingError

Rows = NDArray[np.int64]
# Without a word about it, a fifth of the records each.
DEFAULT_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What a split looks at. All sequences are of length N.

    inputs: a hash of each record's inputs.
    people: whom it is of; None if that is unknown.
    sites: where it is from; None if that is unknown.
    labels: its class, which orders records of equal inputs, and never decides which are drawn.
    """

    inputs: Sequence[bytes]
    people: Sequence[str | None]
    sites: Sequence[str | None]
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.inputs)

    def marks(self, row: int) -> Iterable[bytes]:
        """What no two parts may have in common."""
        yield self.inputs[row]
        if (person := self.people[row]) is not None:
            yield b"person " + person.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Rows of each part, in an order that depends on their content and the seed alone.

    doubled: how many rows of a public file, a test file or of named sites were left out of "public" or "test", because the same record or
        person is also private, or, for "public", in the test set.
    """

    private: Rows
    public: Rows
    test: Rows
    doubled: dict[str, int]


def split(
    records: Records,
    *,
    candidates: Rows,
    public: int | float | Rows,
    test: int | float | Rows,
    private: int | None = None,
    seed: int = 0,
) -> Split:
    """Private records, public inputs and a test set without a record or a person in common.

    - candidates: rows from which shares and numbers are drawn; what is left of them is private.
    - public, test: how many, a share of the candidates, or the rows themselves. The test set does not depend on the seed.
    - private: at most so many.

    Raises: SettingError if there are not as many, or nothing is left of a part.
    """
    test_order, order = _order(records, b"test"), _order(records, str(seed).encode())
    units = _units(records, candidates)
    whole = len(candidates)
    if isinstance(test, np.ndarray):
        chosen_test = test.tolist()
    else:
        chosen_test, units = _draw(units, test_order, _target("test", test, whole), "test", whole)
    if isinstance(public, np.ndarray):
        chosen_public = public.tolist()
    else:
        chosen_public, units = _draw(units, order, _target("public", public, whole), "public", whole)
    rest = [row for unit in units for row in unit]
    if private is not None and private < len(rest):
        rest, _ = _draw(units, order, private, "private", whole)
    if not rest:
        raise SettingError(
            f"data.public and data.test: expected to leave private records, got none of {whole} records for the sites."
        )
    kept_test = _without(records, chosen_test, [rest])
    kept_public = _without(records, chosen_public, [rest, kept_test])
    doubled = {"public": len(chosen_public) - len(kept_public), "test": len(chosen_test) - len(kept_test)}
    for name, kept, other in (("public", kept_public, "private or tested on"), ("test", kept_test, "private")):
        if not kept:
            raise SettingError(f"data.{name}: expected records that are not {other}, got {doubled[name]}, all of which are.")
    return Split(
        private=_sorted(records, rest, order),
        public=_sorted(records, kept_public, order),
        test=_sorted(records, kept_test, test_order),
        doubled=doubled,
    )


def _target(name: str, wanted: int | float, there: int) -> int:
    if isinstance(wanted, int):
        if wanted >= there:
            raise SettingError(f"data.{name} = {wanted}: expected fewer than the {there} records, for some must be private.")
        return wanted
    return max(1, round(wanted * there))


def _draw(
    units: list[list[int]], order: Sequence[bytes], target: int, name: str, there: int
) -> tuple[list[int], list[list[int]]]:
    """Units of at most so many records together, in their order, and the rest. A unit that is too large for what is missing stays."""
    drawn: list[int] = []
    rest: list[list[int]] = []
    for unit in sorted(units, key=lambda rows: min(order[row] for row in rows)):
        if len(drawn) + len(unit) <= target:
            drawn += unit
        else:
            rest.append(unit)
    if not drawn:
        smallest = min((len(unit) for unit in units), default=0)
        raise SettingError(
            f"data.{name}: expected {target} of {there} records, got none: records that belong together (of one person, or with the"
            f" same inputs) come in groups of {smallest} or more."
        )
    return drawn, rest


def _units(records: Records, rows: Rows) -> list[list[int]]:
    """The rows, those together that share a mark, directly or through others."""
    parent = {row: row for row in rows.tolist()}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[bytes, int] = {}
    for row in parent:
        for mark in records.marks(row):
            parent[root(row)] = root(first.setdefault(mark, row))
    units: dict[int, list[int]] = {}
    for row in parent:
        units.setdefault(root(row), []).append(row)
    return list(units.values())


def _without(records: Records, rows: Collection[int], others: Iterable[Collection[int]]) -> list[int]:
    """Those rows that share no mark with the others."""
    taken = {mark for other in others for row in other for mark in records.marks(row)}
    return [row for row in rows if taken.isdisjoint(records.marks(row))]


def _order(records: Records, salt: bytes) -> list[bytes]:
    """A place for each row by its inputs and its person, and nothing else."""
    return [
        hashlib.blake2b(b"|".join([inputs, (person or "").encode()]), digest_size=16, key=salt[:64]).digest()
        for inputs, person in zip(records.inputs, records.people, strict=True)
    ]


def _sorted(records: Records, rows: Iterable[int], order: Sequence[bytes]) -> Rows:
    """Rows of the same place by site and label, after which they are alike in all that is looked at."""
    return np.array(sorted(rows, key=lambda row: (order[row], records.sites[row] or "", records.labels[row], row)), np.int64)


def named_sites(sites: Sequence[str | None], wanted: Sequence[str], key: str) -> Rows:
    """The rows of these sites. key: the setting that names them. Raises SettingError for a site that there is not."""
    known = {site.strip(): site for site in sites if site is not None}
    if missing := [name for name in wanted if name.strip() not in known]:
        shown = sorted(known)
        more = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
        raise SettingError(
            f"data.{key} = {list(wanted)}: expected sites out of {', '.join(shown[:20])}{more}, got {missing[0]!r}."
        )
    names = {name.strip() for name in wanted}
    return np.array([row for row, site in enumerate(sites) if site is not None and site.strip() in names], np.int64)
