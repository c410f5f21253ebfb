"""Partitions cover all records once, repeat with the seed, and refuse what cannot be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.base.errors import SettingError
from limbeck.simulations.partition import Dirichlet, Iid, Natural, Partition, Quantity, counts

Y = np.arange(600) % 10
ALL: list[Partition] = [Iid(), Dirichlet(alpha=0.5), Quantity(alpha=1.0), Natural(groups_N=np.arange(600) // 120)]


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


@pytest.mark.parametrize("partition", ALL[:3])
def test_more_clients_than_records_is_refused(partition: Partition) -> None:
    with pytest.raises(SettingError, match=r"partition.clients"):
        partition(Y[:50], 51, 0)


def test_a_wrong_number_of_natural_sites_is_refused() -> None:
    with pytest.raises(SettingError, match=r"partition.clients = 5"):
        ALL[3](Y, 4, 0)


def test_a_skew_that_leaves_a_client_empty_is_given_up_on_with_a_reason() -> None:
    with pytest.raises(SettingError, match=r"partition.alpha = 0.001"):
        Dirichlet(alpha=0.001)(Y, 50, 0)
