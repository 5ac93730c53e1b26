"""From completions to padded arrays, and from batches to micro-batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medrl.types import Completion, RolloutBatch


def collate(completions: Sequence[Completion], pad_id: int) -> RolloutBatch:
    """Prompts and answers as one right-padded batch [B, T], in the order given."""
    width = max(len(c.prompt.ids) + len(c.ids) for c in completions)
    shape = (len(completions), width)
    ids = np.full(shape, pad_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=bool)
    response_mask = np.zeros(shape, dtype=bool)
    logprobs = np.zeros(shape, dtype=np.float32)
    for row, completion in enumerate(completions):
        start = len(completion.prompt.ids)
        stop = start + len(completion.ids)
        ids[row, :start] = completion.prompt.ids
        ids[row, start:stop] = completion.ids
        attention_mask[row, :stop] = True
        response_mask[row, start:stop] = True
        logprobs[row, start:stop] = completion.logprobs
    ended = np.array([c.finish == "stop" for c in completions])
    return RolloutBatch(ids, attention_mask, response_mask, logprobs, ended)


def micro_batches(
    lengths: Sequence[int] | np.ndarray, max_rows: int, max_tokens: int | None = None, *, padded: bool = True,
    pass_tokens: int,
) -> list[np.ndarray]:
    """Row numbers in groups of at most `max_rows` rows and at most `max_tokens` tokens, padding included if `padded`.

    Every row is in exactly one group, rows of like length together; a row longer than `max_tokens` is alone. Of all
    such cuts it is the one with the fewest tokens, where each group counts as `pass_tokens` more: what a pass through
    the model costs by itself. The longest rows come first, so that too large a group fails at once.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    longest_first = np.asarray(lengths)[order].tolist()
    costs, begins = [0.0], [0]  # of the best cut of the rows before each place, and where its last group begins
    for end in range(1, len(longest_first) + 1):
        best, tokens = (math.inf, end), 0
        for begin in range(end - 1, max(end - max_rows, 0) - 1, -1):
            rows = end - begin
            tokens = rows * longest_first[begin] if padded else tokens + longest_first[begin]
            if rows > 1 and max_tokens is not None and tokens > max_tokens:
                break
            best = min(best, (costs[begin] + tokens + pass_tokens, begin))
        costs.append(best[0])
        begins.append(best[1])
    groups, end = [], len(longest_first)
    while end:
        groups.append(order[begins[end] : end])
        end = begins[end]
    return groups[::-1]
