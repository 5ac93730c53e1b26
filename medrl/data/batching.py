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
    lengths: Sequence[int] | np.ndarray, max_rows: int, max_tokens: int | None = None, *, padded: bool = True
) -> list[np.ndarray]:
    """Row numbers in groups of at most `max_rows` rows and at most `max_tokens` tokens, padding included if `padded`.

    Every row is in exactly one group, rows of like length together so that little is padding; a row longer than
    `max_tokens` is alone. The longest come first, so that too large a group fails at once.
    """
    groups: list[list[int]] = []
    tokens = 0
    for row in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        group = groups[-1] if groups else []
        tokens = (len(group) + 1) * lengths[group[0]] if padded and group else tokens + lengths[row]
        if not group or len(group) == max_rows or (max_tokens is not None and tokens > max_tokens):
            groups.append([row])
            tokens = lengths[row]
        else:
            group.append(row)
    return [np.array(group) for group in groups]
