"""Greedy answers to held-out prompts, by the metrics of `medrl evaluate`; their baseline is the policy of step 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from medrl.config.ppo import PpoConfig
from medrl.evaluation.bootstrap import Bootstrap
from medrl.evaluation.measured import Answer
from medrl.evaluation.metrics import METRICS
from medrl.rollout.base import GenerateRequest
from medrl.stages.ppo_inputs import PpoInputs
from medrl.types import Completion, ScoreRequest, Scores
from medrl.workers.launch import Workers

BOOTSTRAP_SAMPLES = 1000


def evaluate(
    config: PpoConfig, inputs: PpoInputs, workers: Workers, before: Mapping[str, float]
) -> tuple[dict[str, float], list[dict]]:
    """Score the greedy answers to the held-out prompts; ({}, []) when the run has none.

    The scores are the reward sources' calibrated sum, neither clipped nor penalised. `before`: prompt id → score at
    step 0, which the win rate is against; empty at step 0 itself.
    """
    if not inputs.eval_prompts:
        return {}, []
    requests = [GenerateRequest(prompt, 0, 0) for prompt in inputs.eval_prompts]
    completions = workers.rollout.generate(requests, config.sampling, greedy=True)
    texts = inputs.score_requests(completions)
    scores = workers.reward.score(texts).result()
    answers = [
        Answer(c.prompt.id, c.prompt.messages, t.answer, c.ids, t.ended, score=score)
        for c, t, score in zip(completions, texts, scores.total.tolist(), strict=True)
    ]
    parts = {f"source/{name}": float(part.mean()) for name, part in scores.parts.items()}
    metrics = answer_metrics(answers, before, config.seed) | parts
    return metrics, sample_rows(completions, texts, scores, "held-out")


def answer_metrics(answers: Sequence[Answer], before: Mapping[str, float], seed: int) -> dict[str, float]:
    """Score, length, variety of a set of answers, and how often they beat those of `before` (prompt id → score)."""
    bootstrap = Bootstrap(BOOTSTRAP_SAMPLES, seed)
    named = {"score_mean": "reward", "length_mean": "length", "distinct_2": "distinct_2", "repetition": "repetition"}
    metrics = {name: METRICS[metric](answers, bootstrap).value for name, metric in named.items()}
    metrics["score_std"] = float(np.std([a.score for a in answers]))  # type: ignore[arg-type]
    metrics["ended_fraction"] = float(np.mean([a.ended for a in answers]))
    rated = [replace(a, baseline_score=before[a.id]) for a in answers if a.id in before]
    if rated:
        wins = METRICS["win_rate"](rated, bootstrap)
        found = {"win_rate": wins.value, "win_rate_low": wins.low, "win_rate_high": wins.high}
        metrics |= {name: value for name, value in found.items() if value is not None}
    return metrics


def sample_rows(completions: list[Completion], texts: list[ScoreRequest], scores: Scores, kind: str) -> list[dict]:
    """Answers as rows of samples.jsonl; `kind` is "held-out" (greedy) or "rollout" (sampled)."""
    return [
        {
            "kind": kind,
            "prompt_id": c.prompt.id,
            "sample": c.sample,
            "version": c.version,
            "messages": list(t.messages),
            "answer": t.answer,
            "finish": c.finish,
            "tokens": len(c.ids),
            "score": float(score),
        }
        for c, t, score in zip(completions, texts, scores.total, strict=True)
    ]
