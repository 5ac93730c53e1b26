"""From a scored rollout batch to the experience of one PPO update: on the controller, the whole batch at once."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from medrl.algo.advantages import gae
from medrl.algo.critic_free import GROUP_ADVANTAGES, returns_to_go
from medrl.algo.diversity import repeated_share
from medrl.algo.kl import kl_estimate
from medrl.algo.losses import importance_weights
from medrl.algo.masking import masked_mean, masked_sum, whiten
from medrl.algo.rewards import answer_penalties, shape_scores, token_rewards
from medrl.config.algorithm import AlgorithmConfig
from medrl.config.rewards import RewardShaping
from medrl.types import Experience, RolloutBatch


def make_experience(
    batch: RolloutBatch,
    raw_scores: np.ndarray,
    logprobs: np.ndarray,
    ref_logprobs: np.ndarray,
    critic_values: tuple[np.ndarray, np.ndarray] | None,
    *,
    algorithm: AlgorithmConfig,
    kl_coef: float,
    group_size: int = 1,
) -> tuple[Experience, dict[str, float]]:
    """Shape the scores, put KL and score on the tokens, estimate and whiten the advantages.

    `raw_scores` [B], the scorers' calibrated sums; `logprobs`, `ref_logprobs` [B, T], the learner's before the update;
    `critic_values`, V [B, T] and V after the last token [B], None without a critic; `group_size` answers to a prompt
    stand side by side. Also returns the batch's metrics.
    """
    mask, ended = _tensor(batch.response_mask), _tensor(batch.ended)
    new, ref, engine = (_tensor(x) for x in (logprobs, ref_logprobs, batch.engine_logprobs))
    penalties = _penalties(batch, algorithm.reward)
    scores = shape_scores(_tensor(raw_scores).float(), penalties, clip=algorithm.reward.clip)
    kl = kl_estimate(new, ref, algorithm.kl.estimator)
    rewards = token_rewards(scores, kl, mask, kl_coef if algorithm.kl.use == "reward" else 0.0)
    if critic_values is None:
        values, returns = torch.zeros_like(rewards), returns_to_go(rewards, mask)
        group_advantage = GROUP_ADVANTAGES.get(algorithm.advantage)
        advantages = returns if group_advantage is None else _spread(group_advantage(rewards.sum(1), group_size), mask)
    else:
        values, last_values = (_tensor(x).float() for x in critic_values)
        bootstrap = torch.where(ended, 0.0, last_values) if algorithm.bootstrap_truncated else None
        advantages, returns = gae(rewards, values, mask, algorithm.gamma, algorithm.lam, bootstrap)
    if algorithm.whiten_advantages:
        advantages = whiten(advantages, mask)
    importance = importance_weights(
        new, engine, mask, algorithm.importance, algorithm.importance_cap, algorithm.importance_level
    )
    per_token = {
        "logprobs": new, "ref_logprobs": ref, "values": values, "rewards": rewards, "advantages": advantages,
        "returns": returns, "importance": importance,
    }
    experience = Experience(
        **{f.name: getattr(batch, f.name) for f in fields(RolloutBatch)},
        **{name: torch.where(mask, x, 0.0).float().numpy() for name, x in per_token.items()},
        scores=scores.numpy(), raw_scores=np.asarray(raw_scores, dtype=np.float32),
    )
    return experience, _metrics(experience) | {"penalty_mean": float(penalties.mean())}


def _penalties(batch: RolloutBatch, shaping: RewardShaping) -> Tensor:
    """[B] of the answers' ends, lengths and repeated 4-grams."""
    answers = (ids[mask] for ids, mask in zip(batch.ids, batch.response_mask, strict=True))
    return answer_penalties(
        _tensor(batch.ended), _tensor(batch.lengths),
        torch.tensor([repeated_share(ids.tolist(), 4) for ids in answers]),
        missing_eos=shaping.missing_eos_penalty, length=shaping.length_penalty,
        length_allowed=shaping.length_allowed, repetition=shaping.repetition_penalty,
    )


def _spread(per_answer: Tensor, mask: Tensor) -> Tensor:
    """Every response token gets its answer's number, undivided: [B] → [B, T]."""
    return torch.where(mask, per_answer.unsqueeze(1), 0.0)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.tensor(array)  # a copy: arrays from Ray's object store are read-only, which from_numpy warns about


def _metrics(e: Experience) -> dict[str, float]:
    """What the batch looks like, before any update. KL to the reference is k1 whatever estimator the reward uses."""
    mask = _tensor(e.response_mask)
    new, ref, engine = _tensor(e.logprobs), _tensor(e.ref_logprobs), _tensor(e.engine_logprobs)
    k1 = torch.where(mask, kl_estimate(new, ref, "k1"), 0.0)
    gap = torch.where(mask, (engine - new).abs(), 0.0)
    scores, raw, answers = _tensor(e.scores), _tensor(e.raw_scores), len(e.scores)
    metrics = {
        "score_mean": scores.mean(),
        "score_std": scores.std(correction=0),
        "raw_score_mean": raw.mean(),
        "raw_score_std": raw.std(correction=0),
        "reward_mean": masked_sum(_tensor(e.rewards), mask) / answers,
        "kl_sum_mean": k1.sum() / answers,
        "kl_token_mean": masked_mean(k1, mask),
        "returns_mean": masked_mean(_tensor(e.returns), mask),
        "length_mean": e.lengths.mean(),
        "ended_fraction": e.ended.mean(),
        "engine_gap_mean": masked_mean(gap, mask),
        "engine_gap_max": gap.max(),
        "engine_gap_k3": masked_mean(kl_estimate(engine, new, "k3"), mask),
        "importance_mean": masked_mean(_tensor(e.importance), mask),
    }
    return {name: float(value) for name, value in metrics.items()}
