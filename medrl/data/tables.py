"""Token tables: what the supervised stages train on, read and tokenised before any worker starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from medrl.config.common import SupervisedData
from medrl.data.datasets import read_pairs
from medrl.data.lengths import Fitter
from medrl.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that is not learned
PLAIN = SupervisedData()
NOT_COUNTED = ("labels", "prompt_ids")  # columns whose tokens stand in another one too


@dataclass(frozen=True)
class Rows:
    """Tokenised rows; each column of `table` holds one list of int32 a row. Example: columns input_ids, labels."""

    table: pa.Table
    dropped: int  # rows left out because they are longer than training.max_length
    cut: int  # rows shortened to it
    tokens: int


def build_rows(rows: Sequence[dict[str, list[int]]], path: str, max_length: int, cut: int = 0) -> Rows:
    """Keep the rows whose columns all fit into `max_length` tokens; say how many do not, and refuse if none does.

    `cut`: how many of them were shortened before.
    """
    kept = [row for row in rows if max(map(len, row.values())) <= max_length]
    dropped = len(rows) - len(kept)
    if not kept:
        shortest = min(max(map(len, row.values())) for row in rows)
        raise DataError(f"{path}: every row is too long", limit=f"training.max_length {max_length} tokens",
                        got=f"{len(rows)} rows of {shortest} tokens or more", remedy="raise training.max_length")
    if dropped:
        print(f"{path}: left out {dropped} of {len(rows)} rows, longer than training.max_length {max_length} tokens")
    if cut:
        print(f"{path}: cut {cut} of {len(rows)} rows down to training.max_length {max_length} tokens")
    columns = {name: pa.array([row[name] for row in kept], pa.list_(pa.int32())) for name in kept[0]}
    tokens = sum(len(ids) for row in kept for name, ids in row.items() if name not in NOT_COUNTED)
    return Rows(pa.table(columns), dropped, cut, tokens)


def pair_rows(
    tokenizer: PreTrainedTokenizerBase, path: str, max_length: int, data: SupervisedData = PLAIN
) -> Rows:
    """One row a pair: the prompt, and the prompt with either answer and its end token (chosen_ids, rejected_ids)."""
    fitter = Fitter(tokenizer, max_length, data.too_long)
    rows = []
    for pair in read_pairs(path, data):
        prompt, (chosen, rejected) = fitter.answers(pair.messages, (pair.chosen, pair.rejected))
        rows.append({"prompt_ids": prompt, "chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected})
    return build_rows(rows, path, max_length, fitter.cut)
