"""Prompts to roll out: read, templated, held to a length, and dealt in batches."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medrl.config.ppo import PromptData
from medrl.data.chat import encode_prompt
from medrl.data.datasets import read_prompts
from medrl.errors import CheckpointError, DataError
from medrl.types import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build_prompts(
    path: str | Path, tokenizer: PreTrainedTokenizerBase, data: PromptData, report: Callable[[str], None] = print
) -> list[Prompt]:
    """Read `path` and template each row; `data.too_long` says what becomes of prompts over `data.max_prompt_tokens`.

    `report` gets one line with the count when prompts were dropped or cut. Raises DataError.
    """
    limit = data.max_prompt_tokens
    kept: list[tuple[tuple[Message, ...], list[int]]] = []
    rows = read_prompts(path, data)
    over = 0
    for row, messages in enumerate(rows, start=1):
        ids = encode_prompt(tokenizer, messages)
        if len(ids) > limit:
            over += 1
            if data.too_long == "error":
                raise DataError(
                    f"{path}: prompt {row} is longer than data.max_prompt_tokens",
                    limit=f"≤ {limit} tokens",
                    got=f"{len(ids)} tokens",
                    remedy="raise data.max_prompt_tokens, or set data.too_long to drop, left or right",
                )
            if data.too_long == "drop":
                continue
            messages = _cut(tokenizer, messages, limit, data.too_long, where=f"{path}: prompt {row}")
            ids = encode_prompt(tokenizer, messages)
        kept.append((messages, ids))
    if over:
        done = "dropped" if data.too_long == "drop" else f"cut on the {data.too_long}"
        report(f"{path}: {over} of {len(rows)} prompts were longer than {limit} tokens and were {done}")
    if not kept:
        raise DataError(
            f"{path}: every prompt is longer than data.max_prompt_tokens",
            limit=f"≤ {limit} tokens",
            remedy="raise data.max_prompt_tokens",
        )
    names = prompt_ids([messages for messages, _ in kept])
    return [Prompt(name, messages, tuple(ids)) for name, (messages, ids) in zip(names, kept, strict=True)]


def _cut(tokenizer, messages: tuple[Message, ...], limit: int, side: str, where: str) -> tuple[Message, ...]:
    """Shorten the last message (the user's) on `side` by whole characters until the prompt fits."""
    text = messages[-1]["content"]

    def shortened(chars: int) -> tuple[Message, ...]:
        part = text[len(text) - chars :] if side == "left" else text[:chars]
        return (*messages[:-1], {**messages[-1], "content": part})

    low, high = 0, len(text) - 1  # invariant: `low` characters fit, if any number does
    while low < high:
        middle = (low + high + 1) // 2
        if len(encode_prompt(tokenizer, shortened(middle))) <= limit:
            low = middle
        else:
            high = middle - 1
    if not shortened(low)[-1]["content"].strip():
        raise DataError(
            f"{where} does not fit data.max_prompt_tokens even with its last turn cut away",
            limit=f"≤ {limit} tokens",
            remedy="raise data.max_prompt_tokens, or set data.too_long: drop",
        )
    return shortened(low)


def prompt_ids(conversations: Sequence[tuple[Message, ...]]) -> list[str]:
    """An id for each conversation: a hash of its text, with -2, -3 … for repeats of the same one."""
    seen: Counter[str] = Counter()
    names = []
    for messages in conversations:
        turns = json.dumps([[m["role"], m["content"]] for m in messages], ensure_ascii=False)
        name = hashlib.sha256(turns.encode("utf-8")).hexdigest()[:16]
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


class PromptStream:
    """Deals prompts in batches without end: each pass over them is in a new seeded order, batches straddle passes.

    A batch never holds a prompt twice: request seeds are derived from prompt ids, so its answers would be equal.
    Raises DataError when there are fewer prompts than `batch_size`.
    """

    def __init__(self, prompts: Sequence[Prompt], batch_size: int, seed: int, shuffle: bool) -> None:
        if len(prompts) < batch_size:
            raise DataError(
                "fewer prompts than data.batch_size",
                limit=f"≥ {batch_size} prompts",
                got=f"{len(prompts)}",
                remedy="lower data.batch_size (data.samples_per_prompt gives more answers a prompt) or add prompts",
            )
        self.prompts = list(prompts)
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self.restart()

    def next_batch(self) -> list[Prompt]:
        """The next `batch_size` prompts."""
        return [self.prompts[index] for index in self._next_indices()]

    @property
    def dealt(self) -> int:
        """Batches since the start."""
        return self._batches

    def state(self) -> dict:
        """Where the stream stands, as plain JSON values."""
        return {"batches": self._batches, "fingerprint": self._fingerprint()}

    def load(self, state: dict) -> None:
        """Go to where `state` was taken. Raises CheckpointError if that was another stream."""
        if state["fingerprint"] != self._fingerprint():
            raise CheckpointError(
                "the checkpoint was written with other prompts, batch size, seed or order",
                remedy="resume with the data settings of the run that wrote it",
            )
        self.restart()
        for _ in range(state["batches"]):
            self._next_indices()

    def restart(self) -> None:
        """Back to the first batch."""
        self._batches = 0
        self._passes = 0
        self._queue: list[int] = []

    def _next_indices(self) -> list[int]:
        batch, self._queue = self._queue[: self._batch_size], self._queue[self._batch_size :]
        if len(batch) < self._batch_size:
            # what the batch already holds goes to the end of the new pass, out of this batch
            order = sorted(self._new_order(), key=set(batch).__contains__)
            missing = self._batch_size - len(batch)
            batch, self._queue = batch + order[:missing], order[missing:]
        self._batches += 1
        return batch

    def _new_order(self) -> list[int]:
        count = len(self.prompts)
        rng = np.random.default_rng([self._seed, self._passes])
        self._passes += 1
        return rng.permutation(count).tolist() if self._shuffle else list(range(count))

    def _fingerprint(self) -> str:
        settings = json.dumps([[p.id for p in self.prompts], self._batch_size, self._seed, self._shuffle])
        return hashlib.sha256(settings.encode("utf-8")).hexdigest()
