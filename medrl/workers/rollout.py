"""The pool of rollout engines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ObjectFetchTimedOutError, ObjectLostError

from medrl.config.ppo import PpoConfig, SamplingConfig
from medrl.errors import MedrlError, WeightSyncError, WorkerLost
from medrl.faults.budget import FaultBudget
from medrl.faults.pool import Limits
from medrl.rollout.base import GenerateRequest
from medrl.types import Completion, SyncReport, Weights
from medrl.workers.capacity import RolePlan
from medrl.workers.pool import SYNC, Call, Pool, PoolWorker
from medrl.workers.runtime import prepare_worker


@ray.remote
class RolloutWorker(PoolWorker):
    """One generation engine."""

    def __init__(self, config: PpoConfig, stop_ids: tuple[int, ...], threads: int) -> None:
        prepare_worker(threads, seed=config.seed)
        self.config, self.stop_ids = config, stop_ids
        self.lineage = 0

    def start(self) -> str:
        """Build the engine; returns its class, for the run's record."""
        from medrl.rollout.engines import make_generator
        from medrl.weight_sync.receiver import Receiver

        receiver = Receiver(self.config.model, self.config.rollout)
        self.generator = make_generator(self.config, self.stop_ids, receiver)
        return self.generator.engine_class

    def generate(self, requests: list[GenerateRequest], sampling: SamplingConfig, greedy: bool) -> list[Completion]:
        return self.generator.generate(requests, sampling, greedy=greedy)

    def receive(self, weights: Weights, lineage: int) -> SyncReport:
        """Weights of another lineage than the last ones may be of an older version."""
        if lineage != self.lineage:
            self.generator.forget()
            self.lineage = lineage
        return self.generator.receive(weights)


class RolloutPool(Pool):
    """Prompts are shared out by their length; completions come back in order.

    An engine is STALE until it has taken over the newest weights, and a STALE one gets no prompts.
    """

    def __init__(
        self, plan: RolePlan, config: PpoConfig, stop_ids: tuple[int, ...], threads: int, budget: FaultBudget
    ) -> None:
        limits = Limits(config.timeouts.start, config.timeouts.sync, config.timeouts.generate)
        super().__init__(plan, RolloutWorker, (config, stop_ids, threads), limits, budget, stateless=False)
        self._weights: ray.ObjectRef | None = None  # kept for engines that join before the next sync
        self._syncs = 0
        self._lineage = 0
        self._reports: list[SyncReport] = []  # of the newest weights

    def generate(
        self, requests: list[GenerateRequest], sampling: SamplingConfig, greedy: bool = False
    ) -> list[Completion]:
        """One completion a request, in the same order, all of the newest version."""
        return self.sample(requests, sampling, greedy).result()

    def sample(
        self, requests: list[GenerateRequest], sampling: SamplingConfig, greedy: bool = False
    ) -> Call[list[Completion]]:
        """`generate` as a call that runs while the driver does something else; wait for it before the next sync."""

        def send(worker: Any, items: Sequence[int]) -> ray.ObjectRef:
            return worker.generate.remote([requests[i] for i in items], sampling, greedy)

        weights = [len(request.prompt.ids) + sampling.max_tokens for request in requests]
        return self.submit(weights, send, self._checked)

    def sync(self, weights: ray.ObjectRef) -> list[SyncReport]:
        """Every engine takes over the weights or is replaced: a generator is never left behind in silence."""
        self._look_around()
        self._weights, self._reports = weights, []
        self._syncs += 1
        self._machine.update(self._syncs, time.monotonic())
        self._wait(lambda: self._machine.updated)
        return list(self._reports)

    def forget(self) -> None:
        """The learners went back: no engine may sample before the next sync, which may be of an older version."""
        self._weights, self._reports = None, []
        self._lineage += 1
        self._machine.update(None, time.monotonic())

    def sync_member(self, handle: Any, version: int) -> ray.ObjectRef:
        return handle.receive.remote(self._weights, self._lineage)

    def synced(self, member: int, version: int, answer: SyncReport) -> None:
        if version == self._syncs:
            self._reports.append(answer)

    def failure(self, what: str, cause: BaseException) -> MedrlError | None:
        """Weights that no node holds any more are a fault of the policy: no engine could take them over."""
        gone = isinstance(cause, ObjectLostError) and not isinstance(cause, ObjectFetchTimedOutError)
        if what != SYNC or not gone:
            return super().failure(what, cause)
        lost = WorkerLost(f"rollout {what} failed: the weights are gone", got=type(cause).__name__,
                          remedy="the node of the policy's rank 0, which held them, has died; continue with --resume")
        lost.role, lost.workers = "policy", ("policy 0",)
        return lost

    def _checked(self, completions: list[Completion]) -> list[Completion]:
        expected, found = self._reports[0].version, {completion.version for completion in completions}
        if found - {expected}:
            raise WeightSyncError("answers of other weights than were asked for", limit=f"version {expected}",
                                  got=f"versions {sorted(found)}", remedy="report it")
        return completions
