from __future__ import annotations

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


@given(lengths=st.lists(st.integers(1, 50)), size=st.integers(1, 7))
def test_micro_batches_share_out_every_row_once(lengths, size):
    groups = micro_batches(lengths, size)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(1 <= len(group) <= size for group in groups)
    taken = [lengths[i] for group in groups for i in group]
    assert taken == sorted(lengths, reverse=True)


@given(lengths=st.lists(st.integers(1, 50)), rows=st.integers(1, 7), spare=st.integers(0, 100))
def test_micro_batches_keep_to_their_tokens_and_waste_no_room(lengths, rows, spare):
    tokens = max(lengths, default=1) + spare
    groups = [[lengths[i] for i in group] for group in micro_batches(lengths, rows, tokens)]
    assert sorted(length for group in groups for length in group) == sorted(lengths)
    assert all(len(group) <= rows and len(group) * max(group) <= tokens for group in groups)
    assert all(len(group) == rows or (len(group) + 1) * max(group) > tokens for group in groups[:-1])


@given(lengths=st.lists(st.integers(1, 50)), rows=st.integers(1, 7), spare=st.integers(0, 100))
def test_without_padding_only_the_rows_own_tokens_count(lengths, rows, spare):
    tokens = max(lengths, default=1) + spare
    groups = [[lengths[i] for i in group] for group in micro_batches(lengths, rows, tokens, padded=False)]
    assert [length for group in groups for length in group] == sorted(lengths, reverse=True)
    assert all(len(group) <= rows and sum(group) <= tokens for group in groups)
    for group, following in zip(groups, groups[1:], strict=False):
        assert len(group) == rows or sum(group) + following[0] > tokens


def test_a_row_longer_than_the_tokens_of_a_micro_batch_is_alone():
    assert [g.tolist() for g in micro_batches([3, 9, 2, 4], 8, 8)] == [[1], [3, 0], [2]]


def test_micro_batches_are_deterministic_for_equal_lengths():
    assert [g.tolist() for g in micro_batches([5, 5, 9, 5], 2)] == [[2, 0], [1, 3]]


def test_collate_refuses_nothing_to_collate():
    with pytest.raises(ValueError):
        collate([], pad_id=0)
