"""Packed conversations: rows that are full, and models that keep their parts apart."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medrl.errors import ConfigError
from medrl.stages.packing import check_packing, fill_rows, packed_table
from tests.unit.lora.tiny_families import tiny_model

SIZE = 20


@given(st.lists(st.integers(1, SIZE), min_size=1, max_size=40))
def test_every_conversation_is_in_one_row_and_no_two_rows_would_fit_into_one(lengths: list[int]) -> None:
    rows = fill_rows(lengths, SIZE)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    filled = sorted(sum(lengths[i] for i in row) for row in rows)
    assert filled[-1] <= SIZE and (len(filled) == 1 or filled[0] + filled[1] > SIZE)


def test_parts_keep_their_tokens_and_no_label_crosses_a_border() -> None:
    table = pa.table({"input_ids": [[1, 2, 3], [4, 5], [6, 7, 8, 9]],
                      "labels": [[1, 2, -100], [-100, 5], [-100, -100, 8, 9]]})
    assert packed_table(table, 6).to_pylist() == [
        {"input_ids": [6, 7, 8, 9, 4, 5], "labels": [-100, -100, 8, 9, -100, 5], "seq_lengths": [4, 2]},
        {"input_ids": [1, 2, 3], "labels": [-100, 2, -100], "seq_lengths": [3]},
    ]


def leaks(model) -> float:
    """How far the logits of 5 tokens move when 7 others stand before them in the row; written down without medrl."""
    first, second = torch.arange(10, 17)[None], torch.arange(30, 35)[None]
    positions = torch.cat([torch.arange(7), torch.arange(5)])[None]
    with torch.no_grad():
        alone = model(input_ids=second, position_ids=positions[:, 7:], use_cache=False).logits[0]
        packed = model(input_ids=torch.cat([first, second], 1), position_ids=positions, use_cache=False).logits[0, 7:]
    return float((packed - alone).abs().max())


@pytest.mark.parametrize(("family", "apart"), [
    ("llama", True), ("qwen3", True), ("gemma2", True), ("deepseek_v3", True), ("gpt2", True),
    ("opt", False), ("falcon", False), ("qwen3_next", False)])
def test_packing_is_refused_for_models_whose_parts_would_see_each_other(family: str, apart: bool) -> None:
    model = tiny_model(family)
    rows = pa.table({"input_ids": [list(range(3, 3 + n)) for n in (7, 12, 5, 9)]})
    assert (leaks(model) < 1e-5) == apart
    tokenizer = SimpleNamespace(pad_token_id=0)
    if apart:
        check_packing(model, tokenizer, rows, "float32")
    else:
        with pytest.raises(ConfigError, match="see each other"):
            check_packing(model, tokenizer, rows, "float32")
