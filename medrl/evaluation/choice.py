"""Multiple choice, by the probability of the options and by the letter that a generated answer names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from string import ascii_uppercase as LETTERS

import numpy as np

from medrl.evaluation.bootstrap import Bootstrap, Estimate
from medrl.evaluation.language import is_chinese
from medrl.evaluation.measured import Choice
from medrl.types import Message

INSTRUCTIONS = {True: "请只回答正确选项的字母。", False: "Answer with the letter of the right option only."}
# From the clearest to the least clear; `{letters}` stands for those that exist.
NAMED = (
    r"(?:answer|option|choice)(?: is|:)*\s*[(\[*]*([{letters}])(?![A-Za-z])",
    r"(?:答案|选项|选择|应选|选)(?:应该|应)?(?:是|为|:)*\s*[(\[*]*([{letters}])(?![A-Za-z])",
    r"^[\s(\[*]*([{letters}])\s*(?:[.:,;)\]*。、]|$)",
    r"[(\[]([{letters}])[)\]]",
)


def accuracy(choices: Sequence[Choice], bootstrap: Bootstrap) -> Estimate:
    """Share of questions whose right option has the largest log-prob as the answer (summed over its tokens)."""
    return bootstrap.mean([_first(c.logprobs) == c.correct for c in choices])


def accuracy_per_token(choices: Sequence[Choice], bootstrap: Bootstrap) -> Estimate:
    """The same by the log-prob divided by the option's number of tokens, so that long options are not held back."""
    return bootstrap.mean([_first(np.divide(c.logprobs, c.tokens)) == c.correct for c in choices])


def accuracy_generated(choices: Sequence[Choice], bootstrap: Bootstrap) -> Estimate:
    """Share of questions whose generated answer names the right letter; an answer without a letter is wrong."""
    return bootstrap.mean([c.chosen == c.correct for c in choices])


def with_options(messages: tuple[Message, ...], options: Sequence[str]) -> tuple[Message, ...]:
    """The conversation with the lettered options after its last turn, and the request to answer with a letter."""
    *before, last = messages
    lines = [last["content"], *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))]
    text = "\n".join([*lines, INSTRUCTIONS[is_chinese(last["content"])]])
    return (*before, {**last, "content": text})


def named_option(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option that `answer` names, by its letter or else by its text; None if it names none or several."""
    text = unicodedata.normalize("NFKC", answer).strip()
    letters = LETTERS[: len(options)]
    for pattern in NAMED:
        flags = re.IGNORECASE if "answer" in pattern else 0
        if found := set(re.findall(pattern.replace("{letters}", letters), text, flags)):
            return letters.index(found.pop().upper()) if len(found) == 1 else None
    quoted = [i for i, option in enumerate(options) if unicodedata.normalize("NFKC", option) in text]
    return quoted[0] if len(quoted) == 1 else None


def _first(values: Sequence[float] | np.ndarray) -> int:
    return int(np.argmax(values))
