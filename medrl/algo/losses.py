"""PPO's per-token losses, the weights that make one number of them, the importance correction, and statistics.

A mini-batch's loss is Σ token_weights · per_token. The weights come from the whole mini-batch, so micro-batches and
ranks each sum what they hold and the sums add up: the result does not depend on how the rows are shared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from medrl.algo.kl import MAX_LOG_RATIO, kl_estimate
from medrl.algo.masking import at_least_float32


def token_weights(
    response_mask: Tensor, aggregation: Literal["token_mean", "sequence_mean", "token_sum"], max_tokens: int
) -> Tensor:
    """Weights [B, T] float32 of a whole mini-batch's tokens; all 0 if it has no response token.

    token_mean: 1 / response tokens. sequence_mean: 1 / (answers · tokens of the answer) (Shao 2024). token_sum:
    1 / (answers · max_tokens) (Liu 2025, Dr. GRPO). An answer without response tokens does not count as one.
    """
    mask = response_mask.float()
    lengths = mask.sum(1, keepdim=True)
    answers = (lengths > 0).sum().clamp(min=1)
    match aggregation:
        case "token_mean":
            return mask / lengths.sum().clamp(min=1)
        case "sequence_mean":
            return mask / lengths.clamp(min=1) / answers
        case "token_sum":
            return mask / (answers * max_tokens)


def policy_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """π_new / π_old per token [B, T], the log-ratio clamped to ± 20."""
    difference = at_least_float32(logprobs) - at_least_float32(old_logprobs)
    return difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    importance: Tensor | None = None,
) -> Tensor:
    """Clipped surrogate per token [B, T]: max(−A·ratio, −A·clip(ratio, 1 − ε_low, 1 + ε_high)) (Schulman 2017, eq. 7).

    `dual_clip` c bounds it by −A·c where A < 0 (Ye 2020). `importance` w [B, T] multiplies it, detached (Yao 2025).
    """
    advantages = at_least_float32(advantages)
    ratio = policy_ratio(logprobs, old_logprobs)
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return loss if importance is None else loss * at_least_float32(importance).detach()


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """½·max((V − R)², (clip(V, V_old ± ε_v) − R)²) per token [B, T]; `clip` None: ½·(V − R)² (Huang 2024)."""
    values, old_values, returns = (at_least_float32(x) for x in (values, old_values, returns))
    loss = (values - returns).square()
    if clip is not None:
        clipped = torch.clamp(values, old_values - clip, old_values + clip)
        loss = torch.maximum(loss, (clipped - returns).square())
    return loss / 2


def importance_weights(
    old_logprobs: Tensor,
    engine_logprobs: Tensor,
    response_mask: Tensor,
    mode: Literal["off", "truncate", "mask"],
    cap: float,
    level: Literal["token", "sequence"] = "token",
) -> Tensor:
    """Detached weights w = π_learner,old / π_engine per token [B, T], 0 outside the mask (Yao 2025).

    truncate: min(w, cap). mask: w where 1/cap ≤ w ≤ cap, else 0. off: 1. At level "sequence" w is that of the whole
    answer (the log-differences summed first), the same on each of its tokens.
    """
    difference = at_least_float32(old_logprobs.detach()) - at_least_float32(engine_logprobs.detach())
    if level == "sequence":
        difference = torch.where(response_mask.bool(), difference, 0.0).sum(1, keepdim=True).expand_as(difference)
    weights = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    match mode:
        case "off":
            weights = torch.ones_like(weights)
        case "truncate":
            weights = weights.clamp(max=cap)
        case "mask":
            weights = torch.where((weights >= 1 / cap) & (weights <= cap), weights, 0.0)
    return torch.where(response_mask.bool(), weights, 0.0)


@torch.no_grad()
def policy_stats(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    loss: Tensor,
    entropy: Tensor | None = None,
) -> dict[str, float]:
    """Sums over the response tokens of the rows given, for `merge_stats` and `finish_stats`.

    `loss` [B, T] is the per-token loss that is optimised. A token counts as clipped where the clip cuts its gradient:
    A < 0 below 1 − ε_low, A > 0 above 1 + ε_high. approx_kl is k3 of old → new on old's samples.
    """
    ratio = policy_ratio(logprobs, old_logprobs)
    per_token = {
        "policy_loss": loss,
        "ratio_mean": ratio,
        "clip_fraction_low": (ratio < 1 - clip_low) & (advantages < 0),
        "clip_fraction_high": (ratio > 1 + clip_high) & (advantages > 0),
        "approx_kl": kl_estimate(old_logprobs, logprobs, "k3"),
    }
    if entropy is not None:
        per_token["entropy"] = entropy
    mask = response_mask.bool()
    largest = ratio[mask].max().item() if mask.any() else 0.0
    return _sums(per_token, mask) | {"ratio_max": largest}


@torch.no_grad()
def value_stats(
    values: Tensor, old_values: Tensor, returns: Tensor, response_mask: Tensor, *, clip: float | None, loss: Tensor
) -> dict[str, float]:
    """Sums over the response tokens of the rows given, for `merge_stats` and `finish_stats`.

    The explained variance is that of `old_values`: what the critic knew before it saw these returns.
    """
    error = (returns - old_values).double()
    per_token = {
        "value_loss": loss,
        "value_mean": values,
        "returns_mean": returns,
        "returns_square": returns.double().square(),
        "value_error": error,
        "value_error_square": error.square(),
        "value_clip_fraction": (values - old_values).abs() > (float("inf") if clip is None else clip),
    }
    return _sums(per_token, response_mask.bool())


def merge_stats(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    """One dict for micro-batches or ranks together: `*_max` entries by max, all others by sum."""
    merged: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            if name in merged:
                value = max(merged[name], value) if name.endswith("_max") else merged[name] + value
            merged[name] = value
    return merged


def finish_stats(summed: dict[str, float]) -> dict[str, float]:
    """Merged sums to metrics: token means, maxima, and the explained variance 1 − Var(R − V) / Var(R).

    Without any response token, and for returns without variance, they are 0.
    """
    count = max(summed["tokens"], 1.0)
    metrics = {name: v if name.endswith("_max") else v / count for name, v in summed.items() if name != "tokens"}
    if "returns_square" in metrics:
        returns_variance = metrics.pop("returns_square") - metrics["returns_mean"] ** 2
        error_variance = metrics.pop("value_error_square") - metrics.pop("value_error") ** 2
        metrics["explained_variance"] = 1 - error_variance / returns_variance if returns_variance > 1e-12 else 0.0
    return metrics


def _sums(per_token: dict[str, Tensor], mask: Tensor) -> dict[str, float]:
    sums = {name: x.double()[mask].sum().item() for name, x in per_token.items()}
    return sums | {"tokens": float(mask.sum())}
