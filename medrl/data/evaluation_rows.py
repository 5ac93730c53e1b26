"""Rows that a model is measured on: questions with options, with reference answers, and with safety rules."""

from __future__ import annotations

from string import ascii_uppercase as LETTERS
from typing import Any

from medrl.data.formats import Row, parse_conversation, parse_prompt, text_of
from medrl.data.rows import BadRow, kind_of_value
from medrl.evaluation.safety import safety_rules
from medrl.types import ChoiceQuestion, ReferenceQuestion, SafetyCase


def parse_choice(row: Row) -> ChoiceQuestion:
    """A prompt, `options` as a list or as an object by letter, and `answer`: a letter, an index or an option's text."""
    options = _options(row)
    return ChoiceQuestion(parse_prompt(row), tuple(options.values()), _answer(row.get("answer"), options))


def parse_reference(row: Row) -> ReferenceQuestion:
    """A prompt with a list of `answers`, or a conversation, whose last turn is the one reference."""
    if "answers" in row:
        return ReferenceQuestion(parse_prompt(row), tuple(_texts(row, "answers")))
    *context, answer = parse_conversation(row).messages
    return ReferenceQuestion(tuple(context), (answer["content"],))


def parse_safety(row: Row) -> SafetyCase:
    """A prompt and the `rules` its answer must keep."""
    rules, known = _texts(row, "rules"), safety_rules()
    for i, rule in enumerate(rules):
        if rule not in known:
            raise BadRow(f"`rules[{i}]` is not a known rule", f"use one of {', '.join(known)}")
    return SafetyCase(parse_prompt(row), tuple(rules))


def _options(row: Row) -> dict[str, str]:
    """Letter → text."""
    given = row.get("options")
    if isinstance(given, dict):
        if list(given) != list(LETTERS[: len(given)]):
            raise BadRow("the keys of `options` must be A, B, C … in this order")
        row = {"options": list(given.values())}
    options = dict(zip(LETTERS, _texts(row, "options"), strict=False))
    if not 2 <= len(row["options"]) <= len(LETTERS):
        raise BadRow(f"`options` must be 2 to {len(LETTERS)}, got {len(row['options'])}")
    if len(set(options.values())) < len(options):
        raise BadRow("two of the `options` are the same")
    return options


def _answer(answer: Any, options: dict[str, str]) -> int:
    texts = list(options.values())
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(texts):
        return answer
    if isinstance(answer, str) and answer in texts:
        return texts.index(answer)
    if isinstance(answer, str) and answer.strip() in options:
        return list(options).index(answer.strip())
    raise BadRow("`answer` must be the letter, the index (from 0) or the text of one of the options")


def _texts(row: Row, key: str) -> list[str]:
    values = row.get(key)
    if not isinstance(values, list) or not values:
        raise BadRow(f"`{key}` must be a list of strings that is not empty, got {kind_of_value(values)}")
    return [text_of({name: text}, name) for i, text in enumerate(values) for name in (f"{key}[{i}]",)]
