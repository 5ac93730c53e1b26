"""Answers to the same question, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medrl.report.scales import short, signed

MAX_ANSWERS = 24  # on the page; samples.jsonl and evaluation.json hold all


@dataclass(frozen=True)
class Answer:
    """A question's answers. Empty text: the model said nothing; None: it was not asked."""

    turns: list[dict[str, str]]  # of the conversation that leads to the answer
    before: str | None
    after: str | None
    before_score: str
    after_score: str
    difference: str
    reference: str | None = None
    set: str = ""


@dataclass(frozen=True)
class Answers:
    """The first of them, in the order they were asked: none is picked for how it came out."""

    before: str  # what the columns are called
    after: str
    shown: list[Answer]
    total: int


def of_training(samples: Sequence[dict[str, Any]]) -> Answers | None:
    """Held-out answers before the first step against those of the last evaluation; None when there are none."""
    held_out = [row for row in samples if row["kind"] == "held-out"]
    if not held_out:
        return None
    first, last = held_out[0]["step"], held_out[-1]["step"]
    later = {row["prompt_id"]: row for row in held_out if row["step"] == last} if last > first else {}
    pairs = [(row, later.get(row["prompt_id"], {})) for row in held_out if row["step"] == first]
    return Answers(
        "before training" if first == 0 else f"step {first}", f"after step {last}" if later else "after training",
        [_answer(before["messages"], before["answer"], after.get("answer"), before["score"], after.get("score"))
         for before, after in pairs[:MAX_ANSWERS]],
        len(pairs),
    )


def of_evaluation(samples: Sequence[dict[str, Any]]) -> Answers | None:
    """The model's answers with the baseline's beside them, of all sets in turn; None when there are none."""
    if not samples:
        return None
    rank: dict[str, int] = {}
    turns = []
    for row in samples:
        rank[row["set"]] = rank.get(row["set"], 0) + 1
        turns.append((rank[row["set"]], row))
    shown = [row for _, row in sorted(turns, key=lambda turn: turn[0])[:MAX_ANSWERS]]
    return Answers(
        "baseline", "model",
        [_answer(row["messages"], row["baseline_answer"], row["answer"], row["baseline_score"], row["score"],
                 row["reference"], row["set"]) for row in shown],
        len(samples),
    )


def _answer(turns: list[dict[str, str]], before: str | None, after: str | None, before_score: float | None,
            after_score: float | None, reference: str | None = None, name: str = "") -> Answer:
    difference = "" if before_score is None or after_score is None else signed(after_score - before_score)
    return Answer(
        turns, before, after,
        "" if before_score is None else short(before_score), "" if after_score is None else short(after_score),
        difference, reference, name,
    )
