"""Patterns whose matches count unless something else in their clause turns them around, as "no" does."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

CLAUSE_END = re.compile(r"[.,;:!?。、\n]")
REACH = 200  # characters before and after a match that are looked at


@dataclass(frozen=True)
class ClausePatterns:
    """A match in a clause where `unless_before` stands before it, or `unless_after` after it, is none."""

    patterns: tuple[re.Pattern[str], ...]
    unless_before: tuple[re.Pattern[str], ...] = ()
    unless_after: tuple[re.Pattern[str], ...] = ()
    clause_end: re.Pattern[str] = CLAUSE_END

    def matches(self, text: str) -> Iterator[re.Match[str]]:
        """The matches in a `normal` text, pattern by pattern."""
        for pattern in self.patterns:
            for match in pattern.finditer(text):
                before = self.clause_end.split(text[max(0, match.start() - REACH) : match.start()])[-1]
                after = self.clause_end.split(text[match.end() : match.end() + REACH])[0]
                if not (any(p.search(before) for p in self.unless_before)
                        or any(p.search(after) for p in self.unless_after)):
                    yield match


def normal(text: str) -> str:
    """Full-width forms become ASCII, typographic apostrophes plain ones, letters small."""
    return unicodedata.normalize("NFKC", text).casefold().replace("’", "'")


def compiled(patterns: dict[str, list[str]]) -> tuple[re.Pattern[str], ...]:
    """Language → patterns: all of them, since every language's patterns are tried on every text."""
    return tuple(re.compile(pattern) for of_language in patterns.values() for pattern in of_language)
