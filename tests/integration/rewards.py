"""Reward functions that tests name in configs."""

from __future__ import annotations


def length(messages: list, answers: list[str]) -> list[float]:
    return [len(answer) / 10 for answer in answers]


def raises(messages: list, answers: list[str]) -> list[float]:
    raise LookupError("no such drug table")
