"""Signs of an emergency in what a user writes: rules that are found in words, not in meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from medrl.config.base import StrictModel, load_config
from medrl.evaluation.clauses import ClausePatterns, compiled, normal
from medrl.evaluation.language import CHINESE, is_chinese

READ = 10_000  # characters that are read, the last ones: no text holds up the other requests
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
GAP = re.compile(rf"(?<={CHINESE.pattern}) (?={CHINESE.pattern})")


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


Pattern = Annotated[str, AfterValidator(_is_pattern)]
Patterns = dict[str, list[Pattern]]  # by language


class RuleEntry(StrictModel):
    """One rule of the file."""

    answer: str = Field(description="which of the fixed answers it calls for")
    patterns: Patterns


class RuleFile(StrictModel):
    """A file of rules: serve/escalation_rules.yaml says what the keys mean."""

    clause_end: Pattern
    unless_before: Patterns = {}
    unless_after: Patterns = {}
    answers: dict[str, dict[Literal["en", "zh"], str]]
    rules: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")], RuleEntry] = Field(min_length=1)

    @model_validator(mode="after")
    def _answered(self):
        for name, rule in self.rules.items():
            if {"en", "zh"} - set(self.answers.get(rule.answer, ())):
                raise ValueError(f"rule {name} needs answers.{rule.answer} in en and zh")
        return self


@dataclass(frozen=True)
class Escalation:
    """A rule that was found, and the fixed answer in the language of the text it was found in."""

    rule: str
    answer: str


class EscalationRules:
    """The rules of a file, in its order."""

    def __init__(self, file: RuleFile) -> None:
        shared = (compiled(file.unless_before), compiled(file.unless_after), re.compile(file.clause_end))
        self._rules = {name: ClausePatterns(compiled(rule.patterns), *shared) for name, rule in file.rules.items()}
        self._answers = {name: file.answers[rule.answer] for name, rule in file.rules.items()}

    def find(self, turns: Sequence[str]) -> Escalation | None:
        """The first rule that one of the turns meets. Only the last `READ` characters of them count."""
        texts, left = [], READ
        for turn in reversed(turns):
            texts.append(plain(turn[-left:]))
            left -= len(turn)
            if left <= 0:
                break
        for name, patterns in self._rules.items():
            for text in texts:
                if next(patterns.matches(text), None):
                    return Escalation(name, self._answers[name]["zh" if is_chinese(text) else "en"])
        return None


def load_rules(path: str | None) -> EscalationRules:
    """The rules in a file; None: those that come with medrl. Raises ConfigError."""
    if path:
        return EscalationRules(load_config(RuleFile, path))
    with as_file(files("serve") / "escalation_rules.yaml") as file:
        return EscalationRules(load_config(RuleFile, file))


def plain(text: str) -> str:
    """`normal`, without what cannot be seen, one space between words and none between Chinese characters."""
    return GAP.sub("", re.sub(r"[^\S\n]+", " ", INVISIBLE.sub("", normal(text))))
