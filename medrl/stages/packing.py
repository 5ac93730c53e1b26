"""Several conversations in one row of SFT, and the proof that none of them sees another."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from medrl.data.tables import IGNORED
from medrl.models.packing import check_apart

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBED = 4  # conversations of the proof


def fill_rows(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Numbers of the conversations that share a row of at most `size` tokens: best fit, the longest ones first."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = bisect_left(room, (lengths[index], -1))
        if place == len(room):
            rows.append([])
            left, row = size, len(rows) - 1
        else:
            left, row = room.pop(place)
        rows[row].append(index)
        insort(room, (left - lengths[index], row))
    return rows


def packed_table(table: pa.Table, size: int) -> pa.Table:
    """Rows of input_ids and labels joined into rows of at most `size` tokens, with the lengths of their parts."""
    ids, labels = table["input_ids"].to_pylist(), table["labels"].to_pylist()
    rows = fill_rows([len(row) for row in ids], size)
    columns = {
        "input_ids": [[token for i in row for token in ids[i]] for row in rows],
        # Nothing predicts a conversation's first token.
        "labels": [[label for i in row for label in (IGNORED, *labels[i][1:])] for row in rows],
        "seq_lengths": [[len(ids[i]) for i in row] for row in rows],
    }
    return pa.table({name: pa.array(values, pa.list_(pa.int32())) for name, values in columns.items()})


def check_packing(model: Any, tokenizer: PreTrainedTokenizerBase, table: pa.Table, dtype: str) -> None:
    """ConfigError unless conversations in one row get the log-probs that each gets in a row of its own.

    `table`: of the unpacked rows.
    """
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(int(str(tokenizer.pad_token_id)), padding_free=True)

    def logprobs(rows: list[list[int]]) -> torch.Tensor:
        batch: Any = collate([{"input_ids": row} for row in rows])
        batch.pop("labels")
        inputs = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in batch.items()}
        return model(**inputs, use_cache=False).logits[0].float().log_softmax(-1).cpu()

    rows = table["input_ids"].slice(0, PROBED).to_pylist()
    with torch.no_grad():
        alone = torch.cat([logprobs([row]) for row in rows])
        check_apart(logprobs(rows), alone, dtype=dtype, setting="training.packing", model=type(model).__name__)
