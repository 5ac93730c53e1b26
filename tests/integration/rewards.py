"""Reward functions that tests name in configs."""

from __future__ import annotations

import time


def length(messages: list, answers: list[str]) -> list[float]:
    return [len(answer) / 10 for answer in answers]


def raises(messages: list, answers: list[str]) -> list[float]:
    raise LookupError("no such drug table")


def slow_length(messages: list, answers: list[str]) -> list[float]:
    time.sleep(1.0)
    return length(messages, answers)
