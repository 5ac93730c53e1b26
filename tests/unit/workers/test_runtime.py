"""Sharing rows out and bringing them back."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medrl.workers.runtime import in_row_order, split_evenly, stack_rows


@given(st.integers(0, 200), st.integers(1, 12))
def test_slices_cover_every_row_once_and_differ_by_at_most_one(n: int, parts: int) -> None:
    slices = split_evenly(n, parts)
    assert [i for s in slices for i in range(n)[s]] == list(range(n))
    sizes = [s.stop - s.start for s in slices]
    assert len(sizes) == parts and max(sizes) - min(sizes) <= 1


def test_narrower_parts_are_padded_with_zeros_on_the_right() -> None:
    stacked = stack_rows([np.ones((1, 2), np.float32), np.full((2, 3), 2.0, np.float32)])
    assert stacked.tolist() == [[1, 1, 0], [2, 2, 2], [2, 2, 2]]


@given(st.permutations(range(7)), st.integers(1, 6), st.booleans())
def test_rows_of_all_ranks_come_back_in_order(numbers: list[int], first: int, flat: bool) -> None:
    whole = np.arange(7.0) if flat else np.arange(21.0).reshape(7, 3)
    shares = [np.array(numbers[:first]), np.array(numbers[first:])]
    assert np.array_equal(in_row_order([(share, whole[share]) for share in shares]), whole)


def test_rows_of_ranks_whose_rows_are_shorter_are_padded() -> None:
    parts = [(np.array([2, 0]), np.ones((2, 1), np.float32)), (np.array([1]), np.full((1, 2), 2.0, np.float32))]
    assert in_row_order(parts).tolist() == [[1, 0], [2, 2], [1, 0]]
