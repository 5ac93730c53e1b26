"""Which words of a user mean an emergency, in both languages, tricky cases included."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from medrl.config.base import parse_yaml
from medrl.errors import ConfigError
from serve.escalation import load_rules

RULES = load_rules(None)
CASES = parse_yaml((Path(__file__).parent / "escalation_cases.yaml").read_text(encoding="utf-8"))
STUTTER = ["no chest pain ", "没有", "n't have ", "pregnant ", "没有痛、", "没有痛和", "不想要", "想要", "痛或",
           "没有x痛和x", "a", "，"]


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in CASES["found"].items() for text in texts])
def test_a_sign_is_found(rule: str, text: str) -> None:
    found = RULES.find([text])
    assert found and found.rule == rule


@pytest.mark.parametrize("text", CASES["none"])
def test_what_is_no_sign(text: str) -> None:
    assert RULES.find([text]) is None


def test_every_turn_is_read_and_the_first_rule_counts() -> None:
    found = RULES.find(["I have chest pain", "我想自杀"])
    assert found and found.rule == "self_harm" and "12356" in found.answer and "您" in found.answer
    found = RULES.find(["My chest hurts.", "What now?"])
    assert found and found.rule == "chest_pain" and "911" in found.answer and "您" not in found.answer
    assert RULES.find([]) is None
    assert RULES.find(["My chest hurts.", "x" * 9_000]) and not RULES.find(["My chest hurts.", "x" * 10_000])


@pytest.mark.parametrize("part", STUTTER)
def test_a_long_text_takes_no_longer_than_a_blink(part: str) -> None:
    start = time.perf_counter()
    for tail in ("", "?胸痛", "x胸痛", " chest pain"):
        RULES.find([(part * 50_000)[:50_000] + tail] * 100)
    assert time.perf_counter() - start < 4


def own_file(path: Path, changes: str = "") -> str:
    path.write_text("clause_end: '[.]'\nanswers: {call: {en: Call us., zh: 请来电。}}\n"
                    "rules: {rash: {answer: call, patterns: {en: ['\\brash\\b']}}}\n" + changes, encoding="utf-8")
    return str(path)


def test_a_list_of_ones_own(tmp_path) -> None:
    found = load_rules(own_file(tmp_path / "rules.yaml")).find(["I have a rash and chest pain"])
    assert found and (found.rule, found.answer) == ("rash", "Call us.")


@pytest.mark.parametrize(("changes", "says"), [
    ("unless_before: {en: ['(']}", "not a regular expression"), ("more: 1", "unknown key"), ("rules: {}", "at least 1"),
    ("rules: {'a b': {answer: call, patterns: {}}}", "pattern"), ("answers: {call: {en: x}}", "needs answers.call"),
])
def test_a_list_that_cannot_be_used(tmp_path, changes: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_rules(own_file(tmp_path / "rules.yaml", changes))
