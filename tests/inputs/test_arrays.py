"""Bytes become [0, 1] exactly, other numbers stay, and images get their channel first, for whoever reads inputs."""

from __future__ import annotations

import numpy as np
import pytest

from limbeck.base.errors import DataError
from limbeck.inputs import arrays
from limbeck.inputs.tensors import tensors


def test_bytes_are_divided_by_255_and_other_numbers_stay() -> None:
    x_N = np.array([[0, 1, 128, 255]], np.uint8)
    scaled = arrays.unit_scale(x_N)
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [[0.0, np.float32(1 / 255), np.float32(128 / 255), 1.0]]
    for numbers in (np.array([[-3, 255]], np.int64), np.array([[0.5, 255.0]], np.float64)):
        assert arrays.unit_scale(numbers).tolist() == numbers.tolist()
    assert arrays.unit_scale(np.array([[1e300, -1e300]])).tolist() == [[np.inf, -np.inf]]


def test_images_get_their_channel_first_and_rows_stay() -> None:
    colour = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    assert np.array_equal(tensors(colour).numpy(), arrays.unit_scale(colour).transpose(0, 3, 1, 2))
    assert np.array_equal(tensors(colour[..., 0]).numpy(), arrays.unit_scale(colour[..., 0])[:, None])
    assert np.array_equal(tensors(colour[:, 0, 0]).numpy(), arrays.unit_scale(colour[:, 0, 0]))
    with pytest.raises(DataError, match=r"got shape \(2,\)"):
        tensors(colour[:, 0, 0, 0])
