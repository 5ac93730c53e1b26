"""What a model did with the rows of a set: metrics read nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from medrl.types import Message


@dataclass(frozen=True)
class Passage:
    """A text that was read."""

    logprob: float  # natural logarithm, of all its predicted tokens together
    tokens: int  # how many those are


@dataclass(frozen=True)
class Choice:
    """A question with options."""

    correct: int  # index of the right option
    logprobs: tuple[float, ...]  # of each option as the answer; empty when not asked for
    tokens: tuple[int, ...]  # of each option, the token that ends the answer included
    chosen: int | None  # the option that the generated answer names; None: none, or none was generated


@dataclass(frozen=True)
class Answer:
    """A generated answer."""

    id: str
    messages: tuple[Message, ...]
    text: str
    ids: tuple[int, ...]  # its tokens, the one that ends it included
    ended: bool  # False: cut by sampling.max_tokens
    references: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()  # safety rules that apply
    score: float | None = None  # calibrated reward
    baseline_score: float | None = None  # of the baseline's answer to the same prompt
