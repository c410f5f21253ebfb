"""A split of one's own records: nothing and nobody is in two parts, and neither the order of the records nor their labels decide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from limbeck.base.errors import SettingError
from limbeck.simulations.data import split
from limbeck.simulations.data.split import Records, Split


@st.composite
def records(draw: st.DrawFn) -> Records:
    """Up to 40 records, some with the same inputs, of some people, from some sites."""
    count = draw(st.integers(6, 40))
    rows = st.lists
    return Records(
        inputs=[bytes([value]) for value in draw(rows(st.integers(0, 30), min_size=count, max_size=count))],
        people=draw(rows(st.none() | st.sampled_from("abcdefghij"), min_size=count, max_size=count)),
        sites=draw(rows(st.sampled_from(["Basel", "Bern"]), min_size=count, max_size=count)),
        labels=draw(rows(st.integers(0, 2), min_size=count, max_size=count)),
    )


def split_or_none(found: Records, **settings: object) -> Split | None:
    whole = {"candidates": np.arange(len(found)), "public": 0.3, "test": 0.3, "seed": 1, **settings}
    try:
        return split.split(found, **whole)  # type: ignore[arg-type]
    except SettingError:
        return None


def permuted(found: Records, order: list[int]) -> Records:
    return Records(
        **{name: [getattr(found, name)[row] for row in order] for name in ("inputs", "people", "sites", "labels")}
    )


@given(records(), st.booleans())
def test_no_record_and_no_person_is_in_two_parts(found: Records, of_a_site: bool) -> None:
    named = split.named_sites(found.sites, ["Basel"], "public") if of_a_site and "Basel" in found.sites else None
    rest = np.setdiff1d(np.arange(len(found)), named if named is not None else [])
    parts = split_or_none(found, candidates=rest, **({"public": named} if named is not None else {}))
    assume(parts is not None)
    assert parts is not None
    marks = [
        {mark for row in rows.tolist() for mark in (found.inputs[row], found.people[row]) if mark is not None}
        for rows in (parts.private, parts.public, parts.test)
    ]
    assert not marks[0] & marks[1]
    assert not marks[0] & marks[2]
    assert not marks[1] & marks[2]
    chosen = [*parts.private, *parts.public, *parts.test]
    assert len(chosen) == len(set(chosen)) == len(found) - sum(parts.doubled.values())


@given(records(), st.randoms(use_true_random=False))
def test_the_order_of_the_records_changes_nothing(found: Records, random: object) -> None:
    order = list(range(len(found)))
    random.shuffle(order)  # type: ignore[attr-defined]
    other = permuted(found, order)
    parts, again = split_or_none(found), split_or_none(other)
    assert (parts is None) == (again is None)
    if parts is None or again is None:
        return

    def content(of: Records, rows: np.ndarray) -> list[object]:
        return [(of.inputs[row], of.people[row], of.sites[row], of.labels[row]) for row in rows.tolist()]

    for name in ("private", "public", "test"):
        assert content(found, getattr(parts, name)) == content(other, getattr(again, name))


@given(records(), st.integers(1, 5))
def test_a_part_is_as_large_as_wanted_at_most_and_labels_do_not_choose_it(found: Records, wanted: int) -> None:
    parts = split_or_none(found, public=wanted)
    assume(parts is not None)
    assert parts is not None
    assert 1 <= len(parts.public) <= wanted
    assert 1 <= len(parts.test) <= round(0.3 * len(found))
    relabelled = Records(inputs=found.inputs, people=found.people, sites=found.sites, labels=[0] * len(found))
    again = split_or_none(relabelled, public=wanted)
    assert again is not None
    # Records that only their label told apart are of one unit, which is drawn or not as a whole.
    assert {found.inputs[row] for row in again.public} == {found.inputs[row] for row in parts.public}


def plain(count: int) -> Records:
    return Records(
        inputs=[bytes([row]) for row in range(count)], people=[None] * count, sites=[None] * count, labels=[0] * count
    )


def test_the_seed_decides_who_is_public_and_never_what_is_tested_on() -> None:
    first, other = split_or_none(plain(100)), split_or_none(plain(100), seed=2)
    assert first is not None
    assert other is not None
    assert first.test.tolist() == other.test.tolist()
    assert set(first.public.tolist()) != set(other.public.tolist())
    assert (len(first.private), len(first.public), len(first.test)) == (40, 30, 30)


def test_what_cannot_be_divided_is_told_with_the_reason() -> None:
    one = Records(inputs=[bytes([row]) for row in range(10)], people=["same"] * 10, sites=[None] * 10, labels=[0] * 10)
    with pytest.raises(SettingError, match=r"data.test: expected 2 of 10 records, got none: .* groups of 10 or more"):
        split.split(one, candidates=np.arange(10), public=0.2, test=0.2)
    with pytest.raises(SettingError, match=r"data.public = 10: expected fewer than the 10 records"):
        split.split(plain(10), candidates=np.arange(10), public=10, test=1)
    everything = np.arange(10)
    with pytest.raises(SettingError, match=r"expected records that are not private.*, got 3, all of which are"):
        split.split(
            Records(inputs=[b"a"] * 3 + [b"b"] * 3 + [b"a"] * 3, people=[None] * 9, sites=[None] * 9, labels=[0] * 9),
            candidates=everything[:6],
            public=everything[6:9],
            test=3,
        )
    with pytest.raises(SettingError, match=r"data.public = \['Genf'\]: expected sites out of Basel, Bern, got 'Genf'"):
        split.named_sites(["Basel", "Bern", None], ["Genf"], "public")
