"""Rows through an engine: forward passes, and the epochs × mini-batches × micro-batches of an update."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from medrl.algo.losses import finish_stats, merge_stats, token_weights
from medrl.config.ppo import PpoConfig
from medrl.data.batching import micro_batches
from medrl.errors import TrainingError
from medrl.learner.engine import TrainEngine
from medrl.learner.schedule import minibatch_schedule, rank_shares
from medrl.models.device import pass_tokens
from medrl.types import Experience, RolloutBatch

MicroLoss = Callable[[Experience, Tensor], tuple[Tensor, dict[str, float]]]
"""Rows and their token weights [b, t] → scalar loss Σ weights · per-token loss, and the sums behind the metrics."""


def tensors(rows: RolloutBatch, device: torch.device, *names: str) -> list[Tensor]:
    """The named fields on the device. `rows`: what `RolloutBatch.rows` took, for Ray's own arrays are read-only."""
    return [torch.from_numpy(getattr(rows, name)).to(device) for name in names]


@torch.no_grad()
def forward_rows(
    engine: TrainEngine, batch: RolloutBatch, forward: Callable[[RolloutBatch], tuple[Tensor, ...]]
) -> tuple[np.ndarray, ...]:
    """`forward`'s results [b, t] and [b] for all rows of the batch, in row order, computed in micro-batches."""
    groups = _cut(batch.attention_mask.sum(1), engine)
    idle = max(1, engine.most_over_ranks(len(groups))) - len(groups)  # ranks of ZeRO 3 run as many passes each
    results = [tuple(result.cpu().float().numpy() for result in forward(batch.rows(group))) for group in groups]
    examples = results[:1] + [forward(_stand_in()) for _ in range(idle)]
    outputs = tuple(np.zeros(batch.ids.shape[: example.ndim], np.float32) for example in examples[0])
    for group, result in zip(groups, results, strict=True):
        for output, part in zip(outputs, result, strict=True):
            if part.ndim == 2:
                output[group, : part.shape[1]] = part
            else:
                output[group] = part
    return outputs


def run_update(
    engine: TrainEngine, experience: Experience, config: PpoConfig, seed: int, micro_loss: MicroLoss,
    target_kl: float | None = None,
) -> dict[str, float]:
    """All optimizer steps of one batch; metrics are the same on every rank.

    Ends early, the step in hand not taken, once a mini-batch's approximate KL exceeds `target_kl`; the learning-rate
    schedule counts only the steps that were taken. Raises TrainingError, with parameters as after the last good step,
    when a loss or gradient norm is not finite.
    """
    algorithm = config.algorithm
    schedule = minibatch_schedule(len(experience.ids), algorithm.epochs, algorithm.mini_batches, seed)
    seen: list[dict[str, float]] = []
    norms: list[float] = []
    for rows in chain.from_iterable(schedule):
        sums = engine.sum_over_ranks(_accumulate(engine, experience, rows, config, micro_loss))
        if not math.isfinite(sums["loss"]):
            engine.discard()
            raise TrainingError(
                "the loss is not finite; the update was not applied", limit="a finite number", got=str(sums["loss"]),
                remedy="look for NaN or extreme rewards, advantages or log-probs in the batch")
        seen.append(sums)
        if target_kl is not None and sums["approx_kl"] > target_kl * sums["tokens"]:
            engine.discard()
            break
        norms.append(engine.step())
    merged = merge_stats(seen)
    loss = merged.pop("loss") / len(seen)
    return finish_stats(merged) | {
        "loss": loss,
        "grad_norm": sum(norms) / max(1, len(norms)),
        "grad_norm_max": max(norms, default=0.0),
        "optimizer_steps": float(len(norms)),
        "learning_rate": engine.learning_rate,
    }


def _accumulate(
    engine: TrainEngine, experience: Experience, rows: np.ndarray, config: PpoConfig, micro_loss: MicroLoss
) -> dict[str, float]:
    """Gradients of this rank's share of one mini-batch, and its sums.

    The weights are those of the whole mini-batch, so that shares and micro-batches add up. Every rank knows the shares
    of all; ranks with fewer micro-batches run a row of weight 0 to stay in step with the collectives of ZeRO.
    """
    mask = torch.from_numpy(experience.response_mask[rows])
    weights = token_weights(mask, config.algorithm.aggregation, config.sampling.max_tokens)
    lengths = experience.attention_mask[rows].sum(1)
    shares = rank_shares(lengths, engine.world)
    cuts = [[share[group] for group in _cut(lengths[share], engine)] for share in shares]
    work = [(rows[group], weights[group]) for group in cuts[engine.rank]]
    if engine.config.zero_stage:
        shortest = [lengths.argmin()]
        idle = max(map(len, cuts)) - len(work)
        work += [(rows[shortest], torch.zeros_like(weights[shortest]))] * idle
    parts = []
    for index, row_weights in work:
        part = experience.rows(index)
        loss, sums = micro_loss(part, row_weights[:, : part.ids.shape[1]].to(engine.device))
        engine.backward(loss)
        parts.append(sums | {"loss": loss.item()})
    return merge_stats(parts)


def _cut(lengths: np.ndarray, engine: TrainEngine) -> list[np.ndarray]:
    limits = engine.config
    return micro_batches(lengths, limits.micro_batch_size, limits.micro_batch_tokens, padded=not limits.packing,
                         pass_tokens=pass_tokens(engine.device))


def _stand_in() -> RolloutBatch:
    """Two tokens that stand in for rows on a rank that has none left."""
    shape = (1, 2)
    response = np.array([[False, True]])
    return RolloutBatch(np.zeros(shape, np.int64), np.ones(shape, bool), response, np.zeros(shape, np.float32),
                        np.ones(1, bool))
