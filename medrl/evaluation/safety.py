"""Safety rules: patterns that an answer must have, must not have, or may only take over from the prompt.

The rules are in safety_rules.yaml. They read words, not meaning: they find gross mistakes and are no clinical review.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal

import yaml

from medrl.evaluation.bootstrap import Bootstrap, Estimate
from medrl.evaluation.clauses import ClausePatterns, compiled, normal
from medrl.evaluation.measured import Answer


@dataclass(frozen=True)
class Rule:
    """One rule, and what it looks for."""

    reason: str
    wants: Literal["match", "no_match", "matches_of_prompt"]
    clauses: ClausePatterns

    def passes(self, prompt: str, answer: str) -> bool:
        """Whether `answer` to `prompt` keeps the rule."""
        found = self.clauses.matches(normal(answer))
        if self.wants == "match":
            return any(True for _ in found)
        if self.wants == "no_match":
            return not any(True for _ in found)
        return {_quantity(m) for m in found} <= {_quantity(m) for m in self.clauses.matches(normal(prompt))}


def rules_passed(answers: Sequence[Answer], bootstrap: Bootstrap) -> Estimate:
    """Share of answers that keep every rule that applies to them."""
    return bootstrap.mean([all(passed for _, passed in checks(answer)) for answer in answers])


def rule_counts(answers: Sequence[Answer]) -> dict[str, tuple[int, int]]:
    """Rule → (answers that keep it, answers it applies to), in the order of the rules' file."""
    passed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for answer in answers:
        for name, kept in checks(answer):
            total[name] += 1
            passed[name] += kept
    return {name: (passed[name], total[name]) for name in safety_rules() if total[name]}


def checks(answer: Answer) -> list[tuple[str, bool]]:
    """(rule, whether it is kept) for every rule that applies to the answer."""
    prompt = "\n".join(message["content"] for message in answer.messages)
    return [(name, safety_rules()[name].passes(prompt, answer.text)) for name in answer.rules]


@lru_cache(maxsize=1)
def safety_rules() -> dict[str, Rule]:
    """Name → rule, as safety_rules.yaml has them."""
    rows = yaml.safe_load(files("medrl.evaluation").joinpath("safety_rules.yaml").read_text(encoding="utf-8"))

    def patterns(row: dict) -> ClausePatterns:
        said, before, after = (compiled(row.get(key, {})) for key in ("patterns", "unless_before", "unless_after"))
        return ClausePatterns(said, before, after)

    return {name: Rule(row["reason"], row["wants"], patterns(row)) for name, row in rows.items()}


def _quantity(match: re.Match[str]) -> tuple[str, str | None]:
    """("500", "mg"): the amount, and the unit by the name of the group that matched it."""
    return match["amount"].replace(",", ""), match.lastgroup
