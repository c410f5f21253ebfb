"""Rows of numbers as a table with columns x0, x1, ..., so that a public encoding of numbers takes arrays too, without a detour over text.

Shape legend: N rows, D numbers per row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from limbeck.base.errors import DataError
from limbeck.inputs.tables import Cell, Table, require


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowTable(Table):
    """A table of numbers. values: (N, D), NaN where one is missing; the cells of `columns` are made of it on demand."""

    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column. Raises DataError if there is no such column."""
        require(self.columns, [name], self.source)
        return np.array(self.values[:, int(name[1:])])

    def rows(self, chosen: Iterable[int]) -> Table:
        """The table of these rows, in this order."""
        return from_rows(self.values[list(chosen)], self.source)


class _Cells(Sequence[Cell]):
    """A column of numbers as a table's cells."""

    def __init__(self, value_N: NDArray[np.float64]) -> None:
        self.value_N = value_N

    def __len__(self) -> int:
        return len(self.value_N)

    @overload
    def __getitem__(self, row: int) -> Cell: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Cell]: ...

    def __getitem__(self, row: int | slice) -> Cell | Sequence[Cell]:
        if isinstance(row, slice):
            return _Cells(self.value_N[row])
        value = float(self.value_N[row])
        return None if np.isnan(value) else repr(value)


def from_rows(x_ND: NDArray[np.generic], source: str) -> RowTable:
    """A table of rows of numbers. source: its name in messages. Raises DataError for other shapes."""
    if x_ND.ndim != 2 or x_ND.dtype.kind not in "biuf":
        raise DataError(f"Expected rows (N, D) of numbers in {source}, got shape {x_ND.shape} of {x_ND.dtype}.")
    values = x_ND.astype(np.float64)
    # No quantity is infinite: it would make every public mean so.
    values[~np.isfinite(values)] = np.nan
    columns = {f"x{place}": _Cells(values[:, place]) for place in range(values.shape[1])}
    return RowTable(columns=columns, source=source, values=values)
