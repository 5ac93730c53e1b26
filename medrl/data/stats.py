"""`medrl data stats`: how many rows, how long they are, and how many repeat others."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medrl.data.datasets import Tally, recognise, scan
from medrl.data.files import data_files
from medrl.data.identity import prompt_digest, row_digest, turns
from medrl.types import Conversation, PreferencePair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HEAD = f"  {'':<20}{'mean':>10}{'median':>10}{'95%':>10}{'max':>10}"


def run_stats(paths: Sequence[str], kind: str | None, tokenizer: str | None) -> None:
    """Print the figures of each file; tokens are counted as the stages do, with the chat template."""
    count = _token_counter(tokenizer) if tokenizer else None
    for file in (file for path in paths for file in data_files(path)):
        for line in describe(file, kind or recognise(file), count):
            print(line)


def describe(file: str, kind: str, tokens: Callable[[Any], int] | None = None) -> Iterator[str]:
    """Lines about the rows of one file. Bad ones are counted and otherwise left aside."""
    tally = Tally(kind)
    figures: dict[str, array] = {}
    rows: set[bytes] = set()
    prompts: set[bytes] = set()
    for row in tally.watch(scan(file, kind)):
        if row.problem:
            continue
        measures = _measures(row.value) | ({"tokens": tokens(row.value)} if tokens else {})
        for name, value in measures.items():
            figures.setdefault(name, array("q")).append(value)
        rows.add(row_digest(row.value))
        prompts.add(prompt_digest(row.value))
    yield from tally.lines()
    yield HEAD
    for name, values in figures.items():
        numbers = np.asarray(values)
        middle, most = np.quantile(numbers, [0.5, 0.95])
        yield f"  {name:<20}{numbers.mean():>10,.1f}{middle:>10,.0f}{most:>10,.0f}{numbers.max():>10,}"
    yield f"  {tally.good - len(rows):,} rows repeat an earlier one, {tally.good - len(prompts):,} an earlier prompt"


def _measures(value: Any) -> dict[str, int]:
    messages = turns(value)
    if isinstance(value, str):
        return {"characters": len(value)}
    found = {"turns": len(messages), "characters": sum(len(turn["content"]) for turn in messages)}
    if isinstance(value, PreferencePair):
        found |= {"chosen characters": len(value.chosen), "rejected characters": len(value.rejected)}
    return found


def _token_counter(directory: str) -> Callable[[Any], int]:
    from medrl.config.common import ModelConfig
    from medrl.data.chat import check_tokenizer
    from medrl.models.loading import load_tokenizer

    tokenizer = load_tokenizer(ModelConfig(path=directory))
    check_tokenizer(tokenizer)
    return lambda value: count_tokens(tokenizer, value)


def count_tokens(tokenizer: PreTrainedTokenizerBase, value: Any) -> int:
    """Tokens of a row as a stage trains on it; of a pair's longer side."""
    from medrl.data.chat import encode_answer, encode_conversation, encode_prompt

    if isinstance(value, str):
        return len(tokenizer.encode(value, add_special_tokens=False))
    if isinstance(value, Conversation):
        return len(encode_conversation(tokenizer, value.messages, value.tools)[0])
    if isinstance(value, PreferencePair):
        sides = (value.chosen, value.rejected)
        return max(len(encode_answer(tokenizer, value.messages, side, ended=True)) for side in sides)
    return len(encode_prompt(tokenizer, turns(value)))
