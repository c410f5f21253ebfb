"""Rows of numbers as a table: the same numbers as through text, whatever reads them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from limbeck.base.errors import DataError
from limbeck.inputs import encodings
from limbeck.inputs.rows import from_rows
from limbeck.inputs.tables import Table

ROWS = arrays.arrays(
    np.float64, st.tuples(st.integers(2, 8), st.integers(1, 4)), elements=st.floats(-1e6, 1e6) | st.just(np.nan)
)


@given(ROWS)
def test_the_numbers_are_those_that_the_cells_say(x_ND: NDArray[np.float64]) -> None:
    rows = from_rows(x_ND, "rows")
    text = Table(columns={name: list(cells) for name, cells in rows.columns.items()}, source="text")
    assert (len(rows), list(rows.columns)) == (len(x_ND), [f"x{place}" for place in range(x_ND.shape[1])])
    for place, name in enumerate(rows.columns):
        np.testing.assert_array_equal(rows.numbers(name), x_ND[:, place])
        np.testing.assert_array_equal(text.numbers(name), x_ND[:, place])


def test_an_encoding_makes_the_same_of_both() -> None:
    x_ND = np.random.default_rng(0).normal(size=(20, 3))
    rows = from_rows(x_ND, "rows")
    text = Table(columns={name: list(cells) for name, cells in rows.columns.items()}, source="text")
    fitted = [encodings.fit_table(table, numbers=list(table.columns), categories=()) for table in (rows, text)]
    assert fitted[0] == fitted[1]
    np.testing.assert_array_equal(fitted[0](rows.rows([3, 1])), fitted[1](text.rows([3, 1])))
    assert list(rows.columns["x0"][1:3]) == [repr(float(x_ND[row, 0])) for row in (1, 2)]


def test_infinite_numbers_are_missing_and_other_shapes_are_refused() -> None:
    assert np.isnan(from_rows(np.array([[np.inf, 1.0]]), "rows").numbers("x0")).all()
    with pytest.raises(DataError, match=r"Expected rows \(N, D\) of numbers in a, got shape \(3,\)"):
        from_rows(np.zeros(3), "a")
    with pytest.raises(DataError, match="Expected a column 'x9' in a"):
        from_rows(np.zeros((3, 2)), "a").numbers("x9")
