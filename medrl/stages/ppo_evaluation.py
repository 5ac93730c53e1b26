"""Greedy answers to held-out prompts, and what a run's answers look like in numbers."""

from __future__ import annotations

import numpy as np

from medrl.algo.diversity import distinct_n
from medrl.config.ppo import PpoConfig
from medrl.rollout.base import GenerateRequest
from medrl.stages.ppo_inputs import PpoInputs
from medrl.types import Completion, ScoreRequest, Scores
from medrl.workers.launch import Workers


def evaluate(config: PpoConfig, inputs: PpoInputs, workers: Workers) -> tuple[dict[str, float], list[dict]]:
    """Score the greedy answers to the held-out prompts; ({}, []) when the run has none.

    The scores are the reward sources' calibrated sum, neither clipped nor penalised.
    """
    if not inputs.eval_prompts:
        return {}, []
    requests = [GenerateRequest(prompt, 0, 0) for prompt in inputs.eval_prompts]
    completions = workers.rollout.generate(requests, config.sampling, greedy=True)
    texts = inputs.score_requests(completions)
    scores = workers.reward.score(texts).result()
    return answer_metrics(completions, scores), sample_rows(completions, texts, scores, "held-out")


def answer_metrics(completions: list[Completion], scores: Scores) -> dict[str, float]:
    """Score, length and variety of a set of answers."""
    return {
        "score_mean": float(scores.total.mean()),
        "score_std": float(scores.total.std()),
        **{f"source/{name}": float(part.mean()) for name, part in scores.parts.items()},
        "length_mean": float(np.mean([len(c.ids) for c in completions])),
        "ended_fraction": float(np.mean([c.finish == "stop" for c in completions])),
        "distinct_2": distinct_n([c.ids for c in completions], 2),
    }


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
