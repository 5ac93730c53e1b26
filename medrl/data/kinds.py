"""The kinds of rows: how one is read, what such rows are called, and which kind a row seems to be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from medrl.data.evaluation_rows import parse_choice, parse_reference, parse_safety
from medrl.data.formats import (
    ANSWER_PAIRS,
    FORMATS,
    ROLES,
    Row,
    parse_conversation,
    parse_pair,
    parse_passage,
    parse_prompt,
)


class Kind(NamedTuple):
    """What a stage wants of a row, and what such rows are called."""

    parse: Callable[[Row], Any]
    noun: str


KINDS = {
    "texts": Kind(parse_passage, "passages"),
    "conversations": Kind(parse_conversation, "conversations"),
    "pairs": Kind(parse_pair, "preference pairs"),
    "prompts": Kind(parse_prompt, "prompts"),
    "choices": Kind(parse_choice, "questions with options"),
    "references": Kind(parse_reference, "questions with reference answers"),
    "safety": Kind(parse_safety, "safety cases"),
}
OWN_KEYS = {"options": "choices", "answers": "references", "rules": "safety"}  # no other kind has them


def kind_of_row(row: Row) -> str | None:
    """Which of KINDS a row seems to be, by its keys and its last turn; None if no format is recognised."""
    if any(key in row for pair in ANSWER_PAIRS for key in pair):
        return "pairs"
    key = next((key for key in FORMATS if key in row), None)
    if key is None:
        return "texts" if "text" in row else None
    if own := next((kind for name, kind in OWN_KEYS.items() if name in row), None):
        return own
    if FORMATS[key].answers:
        return "conversations" if any(row.get(name) for name in FORMATS[key].answers) else "prompts"
    last = row[key][-1] if isinstance(row[key], list) and row[key] else None
    role = (last.get("from") or last.get("role")) if isinstance(last, dict) else None
    return "conversations" if isinstance(role, str) and ROLES.get(role) == "assistant" else "prompts"
