"""Partitions cover all records once, repeat with the seed, and refuse what cannot be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.base.errors import SettingError
from limbeck.simulations.partition import Classes, Dirichlet, Iid, Natural, Partition, Quantity, counts

Y = np.arange(600) % 10
ALL: list[Partition] = [
    Iid(),
    Dirichlet(alpha=0.5),
    Quantity(alpha=1.0),
    Classes(per_client=2),
    Natural(groups_N=np.arange(600) // 120),
]


@pytest.mark.parametrize("partition", ALL)
@given(seed=st.integers(0, 100))
def test_every_record_is_at_one_client_and_the_seed_decides(partition: Partition, seed: int) -> None:
    parts = partition(Y, 5, seed)
    assert sorted(np.concatenate(parts)) == list(range(600))
    assert min(map(len, parts)) >= 10
    assert all(np.array_equal(a, b) for a, b in zip(parts, partition(Y, 5, seed), strict=True))
    if not isinstance(partition, Natural):
        assert not all(np.array_equal(a, b) for a, b in zip(parts, partition(Y, 5, seed + 1), strict=True))


def test_a_small_alpha_skews_labels_and_a_large_one_does_not() -> None:
    def skew(alpha: float) -> float:
        table = counts(Dirichlet(alpha=alpha)(Y, 5, 1), Y, 10)
        return float((table / table.sum(0)).std())

    assert skew(0.1) > 2 * skew(10)


def test_quantity_skew_keeps_labels_mixed() -> None:
    parts = Quantity(alpha=0.5)(Y, 3, 1)
    sizes = [len(part) for part in parts]
    assert max(sizes) > 1.5 * min(sizes)
    assert len(np.unique(Y[parts[0]])) == 10


@pytest.mark.parametrize("partition", ALL[:4])
def test_more_clients_than_records_is_refused(partition: Partition) -> None:
    with pytest.raises(SettingError, match=r"partition.clients"):
        partition(Y[:50], 51, 0)


def test_a_wrong_number_of_natural_sites_is_refused() -> None:
    with pytest.raises(SettingError, match=r"partition.clients = 5"):
        ALL[4](Y, 4, 0)


@given(clients=st.integers(1, 24), per_client=st.integers(1, 10), seed=st.integers(0, 100))
def test_each_client_has_so_many_classes_and_each_class_is_at_about_as_many_clients(
    clients: int, per_client: int, seed: int
) -> None:
    partition = Classes(per_client=per_client)
    if clients * per_client < 10:
        with pytest.raises(
            SettingError, match=f"room for all 10 classes of the records, got room for {clients * per_client}"
        ):
            partition(Y, clients, seed)
        return
    parts = partition(Y, clients, seed)
    table = counts(parts, Y, 10)
    assert ((table > 0).sum(1) == per_client).all()
    assert np.ptp((table > 0).sum(0)) <= 1
    assert table.sum(0).tolist() == [60] * 10
    for held in table.T:
        assert np.ptp(held[held > 0]) <= 1
    assert np.concatenate(parts).size == np.unique(np.concatenate(parts)).size


def test_classes_that_are_not_to_be_had_are_refused() -> None:
    with pytest.raises(SettingError, match=r"classes_per_site = 11: expected at most the 10 classes"):
        Classes(per_client=11)(Y, 5, 0)
    with pytest.raises(SettingError, match=r"expected a record of class 1 for each of the 2 sites that have it, got 1"):
        Classes()(np.array([0] * 9 + [1]), 4, 0)
    with pytest.raises(SettingError, match=r"Expected per_client > 0, got 0"):
        Classes(per_client=0)


@pytest.mark.parametrize("alpha", [0.01, 0.001])
@pytest.mark.parametrize("partition", [Dirichlet, Quantity])
def test_however_skewed_each_client_has_the_least_number_of_records(
    partition: type[Dirichlet] | type[Quantity], alpha: float
) -> None:
    parts = partition(alpha=alpha, minimum=11)(Y, 50, 0)
    assert sorted(np.concatenate(parts)) == list(range(600))
    sizes = np.array([len(part) for part in parts])
    assert sizes.min() == 11
    # Nearly all of them were filled up, and no client gave more than it could.
    assert (sizes == 11).sum() > 25
    assert all(np.array_equal(a, b) for a, b in zip(parts, partition(alpha=alpha, minimum=11)(Y, 50, 0), strict=True))
    with pytest.raises(SettingError, match="at least 13 of 600 records each, got 50 clients"):
        partition(alpha=alpha, minimum=13)(Y, 50, 0)
