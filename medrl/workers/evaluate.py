"""The workers of `medrl evaluate`: a pool that measures models, and the reward pool. Both end with their block."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from medrl.config.common import ModelConfig
from medrl.config.evaluate import EvaluateConfig
from medrl.faults.budget import FaultBudget
from medrl.faults.events import EventLog
from medrl.rollout.base import GenerateRequest
from medrl.types import Completion
from medrl.workers.capacity import RolePlan
from medrl.workers.group import WorkerGroup
from medrl.workers.placement import check_cluster, place, plan_role, threads_for
from medrl.workers.reward import RewardPool
from medrl.workers.runtime import prepare_worker, split_evenly


@dataclass(frozen=True)
class ScoredSequence:
    """Token ids, of which those from `start` on are to be scored given all before them. `start` ≥ 1."""

    ids: tuple[int, ...]
    start: int


@ray.remote
class EvaluationWorker:
    """Holds one plain model or one engine at a time, and only while it works."""

    def __init__(self, config: EvaluateConfig, threads: int) -> None:
        prepare_worker(threads, seed=config.seed)
        self.config = config

    def logprobs(self, model: ModelConfig, sequences: list[ScoredSequence]) -> np.ndarray:
        """[n] float64: log p of each sequence's scored tokens, summed."""
        import torch

        from medrl.data.batching import micro_batches
        from medrl.models.device import pass_tokens, pick_device
        from medrl.models.forward import policy_forward
        from medrl.models.loading import load_causal_lm

        device = pick_device()
        loaded = load_causal_lm(model).to(device)  # pyright: ignore[reportArgumentType]
        out = np.zeros(len(sequences))
        lengths = [len(s.ids) for s in sequences]
        for rows in micro_batches(lengths, self.config.micro_batch_size, pass_tokens=pass_tokens(device)):
            ids, mask, scored = (torch.tensor(x, device=device) for x in _padded([sequences[i] for i in rows]))
            with torch.inference_mode():
                logprobs, _ = policy_forward(loaded, ids, mask, scored, temperature=1.0, entropy=False)
            out[rows] = logprobs.double().sum(1).cpu().numpy()
        del loaded
        _free()
        return out

    def generate(
        self, model: ModelConfig, stop_ids: tuple[int, ...], requests: list[GenerateRequest]
    ) -> list[Completion]:
        from medrl.rollout.engines import make_generator
        from medrl.weight_sync.receiver import NoReceiver

        config = self.config.model_copy(update={"model": model})
        generator = make_generator(config, stop_ids, NoReceiver())
        try:
            return generator.generate(requests, config.sampling, greedy=config.greedy)
        finally:
            generator.close()
            del generator
            _free()


def _free() -> None:
    """What comes next takes a share of the whole device."""
    import torch

    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


class EvaluationPool(WorkerGroup):
    """Rows are shared out evenly; results come back in order."""

    def __init__(self, handles: list, placement: Any, config: EvaluateConfig) -> None:
        super().__init__("evaluation", handles, placement)
        self.timeouts = config.timeouts

    def logprobs(self, model: ModelConfig, sequences: list[ScoredSequence]) -> np.ndarray:
        """[n] float64: log p of each sequence's scored tokens, summed."""
        refs = [handle.logprobs.remote(model, part) for handle, part in self._shares(sequences)]
        return self.pending(refs, "log-probs", self.timeouts.score, np.concatenate).result() if refs else np.zeros(0)

    def generate(
        self, model: ModelConfig, stop_ids: tuple[int, ...], requests: list[GenerateRequest]
    ) -> list[Completion]:
        """One completion a request."""
        refs = [handle.generate.remote(model, stop_ids, part) for handle, part in self._shares(requests)]
        return self.pending(
            refs, "generation", self.timeouts.generate, lambda parts: [c for part in parts for c in part]
        ).result()

    def _shares(self, items: list) -> list[tuple[Any, list]]:
        slices = split_evenly(len(items), len(self.handles))
        return [(handle, items[s]) for handle, s in zip(self.handles, slices, strict=True) if s.stop > s.start]


def role_plans(config: EvaluateConfig) -> dict[str, RolePlan]:
    """Both roles; they run one after the other."""
    models = (config.model.path, config.model.tokenizer, config.baseline)
    plans = {"evaluation": plan_role("evaluation", config.rollout, config, models)}
    if config.reward:
        scorers = tuple(source.model for source in config.reward.sources)
        plans["reward"] = plan_role("reward", config.reward, config, scorers)
    return plans


@contextmanager
def launch_evaluators(config: EvaluateConfig) -> Iterator[EvaluationPool]:
    """A pool for one model after the other."""
    plan = role_plans(config)["evaluation"]
    check_cluster({plan.role: plan})
    placement = place(plan, config.timeouts.start)
    options = {"num_cpus": plan.cpus, "num_gpus": plan.gpus, "placement_group": placement}
    threads = threads_for({plan.role: plan})[plan.role].value
    pool = EvaluationPool(
        [EvaluationWorker.options(**options, placement_group_bundle_index=i).remote(config, threads)
         for i in range(plan.workers)], placement, config)
    try:
        yield pool
    finally:
        pool.shutdown()


@contextmanager
def launch_scorers(config: EvaluateConfig, calibrations: dict[str, tuple[float, float]]) -> Iterator[RewardPool]:
    """The reward pool, ready to score."""
    plan = role_plans(config)["reward"]
    check_cluster({plan.role: plan})
    budget = FaultBudget(config.faults.limit, EventLog(Path(config.run_dir) / "events.jsonl"))
    pool = RewardPool(plan, config, calibrations, threads_for({plan.role: plan})[plan.role].value, budget)
    try:
        pool.start().result()
        yield pool
    finally:
        pool.shutdown()


def _padded(sequences: list[ScoredSequence]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, attention mask and the mask of scored tokens, [B, T] right-padded."""
    shape = (len(sequences), max(len(s.ids) for s in sequences))
    ids, mask, scored = np.zeros(shape, np.int64), np.zeros(shape, bool), np.zeros(shape, bool)
    for row, sequence in enumerate(sequences):
        end = len(sequence.ids)
        ids[row, :end], mask[row, :end], scored[row, sequence.start : end] = sequence.ids, True, True
    return ids, mask, scored
