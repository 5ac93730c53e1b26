"""distinct-n and seq-rep-n against counting by hand."""

from __future__ import annotations

import pytest

from medrl.algo.diversity import distinct_n, repeated_share


@pytest.mark.parametrize(("sequences", "n", "expected"), [
    ([[1, 2, 3, 4]], 2, 1.0),
    ([[1, 1, 1, 1]], 2, 1 / 3),
    ([[1, 2], [1, 2]], 2, 0.5),
    ([[1, 2, 1], [2, 1, 2]], 2, 0.5),
    ([[7]], 2, 0.0),
    ([], 2, 0.0),
    ([[1, 2, 1]], 1, 2 / 3),
])
def test_hand_counted(sequences: list[list[int]], n: int, expected: float) -> None:
    assert distinct_n(sequences, n) == pytest.approx(expected)


@pytest.mark.parametrize(("sequence", "n", "expected"), [
    ([1, 2, 3, 4], 2, 0.0),
    ([1, 1, 1, 1], 2, 2 / 3),
    ([1, 2, 1, 2, 1], 2, 0.5),  # 12 21 12 21
    ([1, 2, 3], 4, 0.0),
    ([], 4, 0.0),
])
def test_what_an_answer_repeats(sequence: list[int], n: int, expected: float) -> None:
    assert repeated_share(sequence, n) == pytest.approx(expected)
