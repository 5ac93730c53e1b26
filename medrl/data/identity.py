"""What makes two rows the same, and two prompts: digests of 16 bytes, so that millions fit into memory."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any

from medrl.types import Message


def turns(value: Any) -> tuple[Message, ...]:
    """The conversation of a row: the prompt of a pair; a passage is one turn of the user's."""
    if isinstance(value, str):
        return ({"role": "user", "content": value},)
    return value if isinstance(value, tuple) else value.messages


def canonical(value: Any) -> dict[str, Any]:
    """A row of any kind as the JSON object that medrl itself writes, and reads back the same."""
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, tuple):
        return {"messages": value}
    return {name: part for name, part in vars(value).items() if part != ()}


def row_digest(value: Any) -> bytes:
    """The same for rows that are equal in everything medrl reads of them."""
    return _digest(json.dumps(canonical(value), ensure_ascii=False, sort_keys=True))


def prompt_digest(value: Any) -> bytes:
    """The same for rows that open with the same question, whatever its case, width and spacing, and whatever follows.

    The opening is the first user turn: conversations that go on differently after it share what may leak.
    """
    opening = next(turn["content"] for turn in turns(value) if turn["role"] == "user")
    return _digest(" ".join(unicodedata.normalize("NFKC", opening).casefold().split()))


def held_out(digest: bytes, fraction: float, seed: int) -> bool:
    """Whether a prompt belongs to the held-out part: true for `fraction` of all prompts, the same ones every time."""
    number = hashlib.blake2b(digest, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(number, "big") < fraction * 2**64


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
