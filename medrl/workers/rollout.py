"""The pool of rollout engines."""

from __future__ import annotations

import ray

from medrl.config.ppo import PpoConfig, SamplingConfig
from medrl.rollout.base import GenerateRequest
from medrl.types import Completion, SyncReport, Weights
from medrl.workers.group import Pending, WorkerGroup
from medrl.workers.runtime import prepare_worker, split_evenly


@ray.remote
class RolloutWorker:
    """One generation engine."""

    def __init__(self, config: PpoConfig, stop_ids: tuple[int, ...], threads: int) -> None:
        prepare_worker(threads, seed=config.seed)
        self.config, self.stop_ids = config, stop_ids

    def start(self) -> str:
        """Build the engine; returns its class, for the run's record."""
        from medrl.rollout.engines import make_generator
        from medrl.weight_sync.receiver import Receiver

        receiver = Receiver(self.config.model, self.config.rollout)
        self.generator = make_generator(self.config, self.stop_ids, receiver)
        return self.generator.engine_class

    def generate(self, requests: list[GenerateRequest], sampling: SamplingConfig, greedy: bool) -> list[Completion]:
        return self.generator.generate(requests, sampling, greedy=greedy)

    def receive(self, weights: Weights) -> SyncReport:
        return self.generator.receive(weights)

    def forget(self) -> None:
        self.generator.forget()


class RolloutPool(WorkerGroup):
    """Prompts are shared out evenly; completions come back in order."""

    def __init__(self, handles: list, placement, config: PpoConfig) -> None:
        super().__init__("rollout", handles, placement)
        self.timeouts = config.timeouts

    def start(self) -> Pending[str]:
        return self.pending([h.start.remote() for h in self.handles], "start", self.timeouts.start)

    def generate(
        self, requests: list[GenerateRequest], sampling: SamplingConfig, greedy: bool = False
    ) -> list[Completion]:
        """One completion a request, in the same order, all of the same version."""
        slices = [s for s in split_evenly(len(requests), len(self.handles)) if s.stop > s.start]
        refs = [h.generate.remote(requests[s], sampling, greedy) for h, s in zip(self.handles, slices, strict=False)]
        return self.pending(
            refs, "generation", self.timeouts.generate, lambda parts: [c for part in parts for c in part]
        ).result()

    def forget(self) -> None:
        """The learners went back: no engine may sample before the next sync, which may be of an older version."""
        self.pending([h.forget.remote() for h in self.handles], "forgetting", self.timeouts.sync).result()

    def sync(self, weights: ray.ObjectRef) -> list[SyncReport]:
        """Every engine takes over the weights, or the run ends: a generator is never left behind in silence."""
        refs = [h.receive.remote(weights) for h in self.handles]
        return self.pending(refs, "weight sync", self.timeouts.sync, list).result()
