from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.data.batching import collate, micro_batches
from medrl.types import Completion, Prompt


def completion(prompt_ids: tuple[int, ...], ids: tuple[int, ...], finish="stop") -> Completion:
    prompt = Prompt("p", ({"role": "user", "content": "x"},), prompt_ids)
    return Completion(prompt, 0, ids, tuple(-0.5 * i for i in ids), finish, 0)


def test_collate_pads_on_the_right_and_puts_numbers_at_their_tokens():
    batch = collate([completion((7, 8, 9), (1,)), completion((7,), (2, 3, 4, 5), "length")], pad_id=6)
    assert batch.ids.tolist() == [[7, 8, 9, 1, 6], [7, 2, 3, 4, 5]] and batch.ids.dtype == np.int64
    assert batch.attention_mask.tolist() == [[True, True, True, True, False], [True] * 5]
    assert batch.response_mask.tolist() == [[False, False, False, True, False], [False, True, True, True, True]]
    assert batch.engine_logprobs.tolist() == [[0, 0, 0, -0.5, 0], [0, -1.0, -1.5, -2.0, -2.5]]
    assert batch.ended.tolist() == [True, False]
    assert batch.lengths.tolist() == [1, 4]


LENGTHS = st.lists(st.integers(1, 50), max_size=9)


def cost(groups: list[list[int]], padded: bool, pass_tokens: int) -> int:
    return sum((len(group) * max(group) if padded else sum(group)) + pass_tokens for group in groups)


def all_cuts(lengths: list[int]) -> Iterator[list[list[int]]]:
    """Of rows in this order."""
    for borders in product((False, True), repeat=max(0, len(lengths) - 1)):
        edges = [0, *(i + 1 for i, border in enumerate(borders) if border), len(lengths)]
        yield [lengths[a:b] for a, b in pairwise(edges) if b > a]


@given(lengths=LENGTHS, rows=st.integers(1, 7), limit=st.none() | st.integers(1, 200), padded=st.booleans(),
       pass_tokens=st.sampled_from([0, 3, 20, 10**9]))
def test_micro_batches_are_the_cheapest_of_all_within_the_limits(lengths, rows, limit, padded, pass_tokens):
    found = micro_batches(lengths, rows, limit, padded=padded, pass_tokens=pass_tokens)
    assert sorted(i for group in found for i in group) == list(range(len(lengths)))
    groups = [[lengths[i] for i in group] for group in found]
    assert [length for group in groups for length in group] == sorted(lengths, reverse=True)

    def allowed(group: list[int]) -> bool:
        tokens = len(group) * max(group) if padded else sum(group)
        return len(group) == 1 or (len(group) <= rows and (limit is None or tokens <= limit))

    assert all(map(allowed, groups))
    others = [cut for cut in all_cuts(sorted(lengths, reverse=True)) if all(map(allowed, cut))]
    assert cost(groups, padded, pass_tokens) == min(cost(cut, padded, pass_tokens) for cut in others)


def test_a_row_longer_than_the_tokens_of_a_micro_batch_is_alone():
    assert [g.tolist() for g in micro_batches([3, 9, 2, 4], 8, 8, pass_tokens=100)] == [[1], [3], [0, 2]]


def test_micro_batches_are_deterministic_for_equal_lengths():
    assert [g.tolist() for g in micro_batches([5, 5, 9, 5], 2, pass_tokens=100)] == [[2, 0], [1, 3]]


def test_padding_is_cut_off_where_that_is_worth_a_pass():
    assert [g.tolist() for g in micro_batches([96, 40, 96, 40], 4, pass_tokens=64)] == [[0, 2], [1, 3]]
    assert [g.tolist() for g in micro_batches([96, 70, 96, 70], 4, pass_tokens=64)] == [[0, 2, 1, 3]]


def test_collate_refuses_nothing_to_collate():
    with pytest.raises(ValueError):
        collate([], pad_id=0)
