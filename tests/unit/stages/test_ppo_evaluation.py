"""What PPO's evaluations report."""

from __future__ import annotations

import pytest

from medrl.evaluation.measured import Answer
from medrl.stages.ppo_evaluation import answer_metrics

ANSWERS = [
    Answer("a", (), "", (1, 2, 3, 1, 2, 3), True, score=1.0),
    Answer("b", (), "", (1, 2), False, score=3.0),
]


def test_the_figures_by_hand() -> None:
    assert answer_metrics(ANSWERS, {}, seed=0) == pytest.approx({
        "score_mean": 2.0, "score_std": 1.0, "length_mean": 4.0, "ended_fraction": 0.5, "distinct_2": 0.5,
        "repetition": 0.125,
    })


def test_the_win_rate_is_against_the_scores_of_step_0() -> None:
    metrics = answer_metrics(ANSWERS, {"a": 1.0, "b": 2.5}, seed=0)
    assert metrics["win_rate"] == 0.75
    assert 0.5 <= metrics["win_rate_low"] <= 0.75 <= metrics["win_rate_high"] <= 1.0


def test_prompts_that_step_0_did_not_answer_are_left_out() -> None:
    """As after a resume with a larger evaluation.max_prompts."""
    metrics = answer_metrics(ANSWERS, {"b": 5.0, "c": 0.0}, seed=0)
    assert metrics["win_rate"] == 0.0 and "win_rate_low" not in metrics
