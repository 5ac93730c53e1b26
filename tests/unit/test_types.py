"""Shapes are checked where batches are made."""

from __future__ import annotations

import numpy as np
import pytest

from medrl.types import Completion, Prompt, RolloutBatch


def batch(**changes: np.ndarray) -> RolloutBatch:
    arrays = {
        "ids": np.arange(6).reshape(2, 3),
        "attention_mask": np.array([[1, 1, 0], [1, 1, 1]], bool),
        "response_mask": np.array([[0, 1, 0], [0, 1, 1]], bool),
        "engine_logprobs": np.zeros((2, 3), np.float32),
        "ended": np.array([True, False]),
    }
    return RolloutBatch(**(arrays | changes))


def test_lengths_count_response_tokens() -> None:
    assert batch().lengths.tolist() == [1, 2]


def test_rows_are_trimmed_to_the_longest_of_them() -> None:
    first = batch().rows(np.array([0]))
    assert first.ids.tolist() == [[0, 1]] and first.ended.tolist() == [True]


@pytest.mark.parametrize(
    "changes",
    [
        {"response_mask": np.zeros((2, 2), bool)},
        {"ended": np.zeros(3, bool)},
        {"response_mask": np.array([[0, 1, 1], [0, 1, 1]], bool)},
    ],
)
def test_wrong_shapes_and_responses_on_padding_are_refused(changes: dict) -> None:
    with pytest.raises(ValueError, match="response_mask|ended"):
        batch(**changes)


def test_a_completion_needs_as_many_logprobs_as_tokens() -> None:
    prompt = Prompt("p", ({"role": "user", "content": "?"},), (1,))
    with pytest.raises(ValueError, match="2 tokens, 1 log-probs"):
        Completion(prompt, 0, (1, 2), (0.0,), "stop", 0)
    with pytest.raises(ValueError, match="no tokens"):
        Prompt("p", (), ())
