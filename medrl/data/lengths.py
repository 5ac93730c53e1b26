"""Supervised rows that are longer than the model is trained on: shortened as `data.too_long` says, where that is sound.

No policy cuts an assistant header or the start of an answer. `left` leaves out the oldest turns (never the system's);
`right` cuts the end of an answer, and with it the token that ends it: nothing teaches the model to stop there. A row
that its policy cannot shorten comes back as it is, for the caller to leave out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from medrl.data.chat import encode_conversation, encode_prompt, encode_reply
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

    def answers(self, messages: Sequence[Message], answers: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Token ids of the prompt, and of each answer to it with its end token."""
        prompt = encode_prompt(self._tokenizer, messages)
        replies = [encode_reply(self._tokenizer, answer, ended=True) for answer in answers]
        room = self._limit - max(map(len, replies))  # for the prompt
        if len(prompt) <= room or self._too_long == "drop":
            return prompt, replies
        if self._too_long == "right":
            shorter = [ids[: max(0, self._limit - len(prompt))] for ids in replies]
            if len(prompt) < self._limit and len(set(map(tuple, shorter))) == len(set(map(tuple, replies))):
                self.cut += 1
                return prompt, shorter
        else:
            for later in _later(messages):
                fewer = encode_prompt(self._tokenizer, later)
                if len(fewer) <= room:
                    self.cut += 1
                    return fewer, replies
        return prompt, replies


def _later(messages: Sequence[Message]) -> Iterator[tuple[Message, ...]]:
    """What is left of a conversation that begins with its second, third … user turn, the system's turns kept."""
    system = tuple(message for message in messages if message["role"] == "system")
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    for start in users[1:]:
        yield (*system, *(message for message in messages[start:] if message["role"] != "system"))
