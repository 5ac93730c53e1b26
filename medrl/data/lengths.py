"""Supervised rows that are longer than the model is trained on: shortened as `data.too_long` says, where that is sound.

No policy cuts an assistant header or the start of an answer. `left` leaves out the oldest turns (never the system's);
`right` cuts the end of an answer, and with it the token that ends it: nothing teaches the model to stop there. A row
that its policy cannot shorten comes back as it is, for the caller to leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from medrl.data.chat import encode_answer, encode_conversation, encode_prompt
from medrl.types import Conversation, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TooLong = Literal["drop", "left", "right"]


class Fitter:
    """Tokenises rows for a length of `limit` tokens, and counts in `cut` those it shortened."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int, too_long: TooLong) -> None:
        self.cut = 0
        self._tokenizer, self._limit, self._too_long = tokenizer, limit, too_long

    def conversation(self, row: Conversation) -> tuple[list[int], list[int]]:
        """Token ids [T] and the mask [T] over what the assistant says, as `encode_conversation` gives them."""
        ids, mask = encode_conversation(self._tokenizer, row.messages, row.tools)
        if len(ids) <= self._limit or self._too_long == "drop":
            return ids, mask
        if self._too_long == "right":
            stop = max((i + 1 for i, learned in enumerate(mask[: self._limit]) if learned), default=0)
            if stop:
                self.cut += 1
                return ids[:stop], mask[:stop]
        else:
            for messages in _later(row.messages):
                shorter = encode_conversation(self._tokenizer, messages, row.tools)
                if len(shorter[0]) <= self._limit:
                    self.cut += 1
                    return shorter
        return ids, mask

    def answers(self, messages: Sequence[Message], answers: Sequence[str]) -> list[list[int]]:
        """Token ids of the prompt with each of the answers, shortened alike: all have the same prompt."""
        whole = self._encode(messages, answers)
        if self._fits(whole) or self._too_long == "drop":
            return whole
        if self._too_long == "right":
            start = len(encode_prompt(self._tokenizer, messages))
            shorter = [ids[: self._limit] for ids in whole]
            if start < self._limit and len(set(map(tuple, shorter))) == len(set(map(tuple, whole))):
                self.cut += 1
                return shorter
        else:
            for later in _later(messages):
                shorter = self._encode(later, answers)
                if self._fits(shorter):
                    self.cut += 1
                    return shorter
        return whole

    def _encode(self, messages: Sequence[Message], answers: Sequence[str]) -> list[list[int]]:
        return [encode_answer(self._tokenizer, messages, answer, ended=True) for answer in answers]

    def _fits(self, rows: Sequence[list[int]]) -> bool:
        return max(map(len, rows)) <= self._limit


def _later(messages: Sequence[Message]) -> Iterator[tuple[Message, ...]]:
    """What is left of a conversation that begins with its second, third … user turn, the system's turns kept."""
    system = tuple(message for message in messages if message["role"] == "system")
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    for start in users[1:]:
        yield (*system, *(message for message in messages[start:] if message["role"] != "system"))
