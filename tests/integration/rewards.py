"""Reward functions that tests name in configs."""

from __future__ import annotations


def length(messages: list, answers: list[str]) -> list[float]:
    return [len(answer) / 10 for answer in answers]


def not_a_number(messages: list, answers: list[str]) -> list[float]:
    return [float("nan")] * len(answers)


def too_few(messages: list, answers: list[str]) -> list[float]:
    return [0.0] * (len(answers) - 1)


def raises(messages: list, answers: list[str]) -> list[float]:
    raise LookupError("no such drug table")
