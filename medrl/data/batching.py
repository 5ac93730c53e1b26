"""From completions to padded arrays, and from batches to micro-batches."""

from __future__ import annotations

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
    lengths: Sequence[int] | np.ndarray, max_rows: int, max_tokens: int | None = None
) -> list[np.ndarray]:
    """Row numbers in groups of at most `max_rows` rows and at most `max_tokens` tokens, padding included.

    Every row is in exactly one group, rows of like length together so that little is padding; a row longer than
    `max_tokens` is alone. The longest come first, so that too large a group fails at once.
    """
    lengths = np.asarray(lengths)
    order = np.argsort(-lengths, kind="stable")
    groups, start = [], 0
    while start < len(order):
        fitting = max_rows if max_tokens is None else min(max_rows, max_tokens // lengths[order[start]])
        groups.append(order[start : start + max(1, fitting)])
        start += len(groups[-1])
    return groups
