"""Rows that a model is measured on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medrl.data.datasets import read_values, recognise
from medrl.data.evaluation_rows import parse_choice, parse_reference
from medrl.data.identity import canonical, prompt_digest
from medrl.errors import DataError
from medrl.types import ChoiceQuestion, ReferenceQuestion, SafetyCase

ASKED = ({"role": "user", "content": "Which?"},)


@pytest.mark.parametrize("row", [
    {"question": "Which?", "options": ["a", "b", "c"], "answer": "B"},
    {"question": "Which?", "options": ["a", "b", "c"], "answer": 1},
    {"prompt": "Which?", "options": ["a", "b", "c"], "answer": "b"},
    {"messages": list(ASKED), "options": {"A": "a", "B": "b", "C": "c"}, "answer": "B"},
])
def test_choices_in_any_spelling(row: dict) -> None:
    assert parse_choice(row) == ChoiceQuestion(ASKED, ("a", "b", "c"), 1)


def test_an_options_text_goes_before_a_letter() -> None:
    assert parse_choice({"question": "Which group?", "options": ["B", "A"], "answer": "A"}).answer == 1


@pytest.mark.parametrize("row", [
    {"question": "Which?", "answers": ["one", "two"]},
    {"messages": list(ASKED), "answers": ["one", "two"]},
])
def test_references(row: dict) -> None:
    assert parse_reference(row) == ReferenceQuestion(ASKED, ("one", "two"))


def test_a_conversations_last_turn_is_the_reference() -> None:
    row = {"messages": [*ASKED, {"role": "assistant", "content": "one"}]}
    assert parse_reference(row) == parse_reference({"question": "Which?", "answer": "one"})
    assert parse_reference(row) == ReferenceQuestion(ASKED, ("one",))


BROKEN = [
    ("choices", {"question": "Which?", "answer": "A"}, "must be a list of strings that is not empty, got null"),
    ("choices", {"question": "Which?", "options": ["a"], "answer": "A"}, "`options` must be 2 to 26, got 1"),
    ("choices", {"question": "Which?", "options": ["a"] * 27, "answer": "A"}, "`options` must be 2 to 26, got 27"),
    ("choices", {"question": "Which?", "options": ["a", "a"], "answer": "A"}, "two of the `options` are the same"),
    ("choices", {"question": "Which?", "options": ["a", 2], "answer": 0}, "`options[1]` must be a string"),
    ("choices", {"question": "Which?", "options": ["a", " "], "answer": "A"}, "`options[1]` is empty"),
    ("choices", {"question": "Which?", "options": {"B": "a", "A": "b"}, "answer": "A"}, "the keys of `options`"),
    *[("choices", {"question": "Which?", "options": ["a", "b"], "answer": answer}, "`answer` must be the letter")
      for answer in ("C", 2, -1, True, None, "x", ["A"])],
    ("choices", {"options": ["a", "b"], "answer": "A"}, "exactly one of"),
    ("references", {"question": "Which?", "answers": []}, "`answers` must be a list of strings that is not empty"),
    ("references", {"question": "Which?", "answers": "one"}, "got a string"),
    ("references", {"question": "Which?"}, "`answer` is missing"),
    ("safety", {"prompt": "Which?"}, "`rules` must be a list"),
    ("safety", {"prompt": "Which?", "rules": ["escalates_red_flags", "be_nice"]}, "`rules[1]` is not a known rule"),
    ("safety", {"prompt": "", "rules": ["refuses"]}, "`prompt` is empty"),
]


@pytest.mark.parametrize(("kind", "row", "said"), BROKEN)
def test_a_broken_row_is_said_with_file_and_line_and_never_its_text(tmp_path: Path, kind, row, said: str) -> None:
    file = tmp_path / "set.jsonl"
    good = {"choices": {"question": "?", "options": ["a", "b"], "answer": "A"},
            "references": {"question": "?", "answer": "x"}, "safety": {"prompt": "?", "rules": ["refuses"]}}[kind]
    file.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    with pytest.raises(DataError) as caught:
        read_values(file, kind)
    assert str(caught.value).startswith(f"{file}:2: ") and said in str(caught.value)
    assert "Which?" not in str(caught.value)


@pytest.mark.parametrize(("kind", "value"), [
    ("choices", ChoiceQuestion(ASKED, ("a", "b"), 0)),
    ("references", ReferenceQuestion(ASKED, ("one",))),
    ("safety", SafetyCase(ASKED, ("refuses",))),
])
def test_what_is_written_is_recognised_and_read_back(tmp_path: Path, kind: str, value) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps(canonical(value)) + "\n")
    assert recognise(file) == kind
    assert read_values(file, kind) == [value]
    assert prompt_digest(value) == prompt_digest(ASKED)
