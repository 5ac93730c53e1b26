"""The pool of rollout engines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
from ray.exceptions import ObjectFetchTimedOutError, ObjectLostError, RayActorError, RayError, RayTaskError

from medrl.config.ppo import PpoConfig
from medrl.config.rollout import SamplingConfig
from medrl.errors import MedrlError, WeightSyncError, WorkerLost
from medrl.faults.budget import FaultBudget
from medrl.faults.commands import Sync
from medrl.faults.pool import Limits
from medrl.rollout.base import GenerateRequest
from medrl.types import Completion, SyncReport, Weights, WeightsNotice
from medrl.workers.capacity import RolePlan
from medrl.workers.offers import Offer
from medrl.workers.pool import SYNC, Asked, Call, Pool, PoolWorker, cause_of
from medrl.workers.runtime import prepare_worker

SEND = "weight stream"
POLICY = -1  # no member: what is asked of the policy's rank 0


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
        self._follow(lineage)
        return self.generator.receive(weights)

    def receive_stream(self, notice: WeightsNotice, channels: list[bytes], place: int, lineage: int) -> SyncReport:
        """The same from the policy's rank 0 over one of the channels."""
        from medrl.weight_sync.nccl import RECEIVER, NcclChannel

        self._follow(lineage)
        return self.generator.receive_stream(notice, partial(NcclChannel, channels[place], RECEIVER))

    def rest(self) -> None:
        self.generator.rest()

    def _follow(self, lineage: int) -> None:
        if lineage != self.lineage:
            self.generator.forget()
            self.lineage = lineage


class RolloutPool(Pool):
    """Prompts are shared out by their length; completions come back in order.

    An engine is STALE until it has taken over the newest weights, and a STALE one gets no prompts.
    """

    def __init__(
        self, plan: RolePlan, config: PpoConfig, stop_ids: tuple[int, ...], threads: int, budget: FaultBudget
    ) -> None:
        limits = Limits(config.timeouts.start, config.timeouts.sync, config.timeouts.generate)
        super().__init__(plan, RolloutWorker, (config, stop_ids, threads), limits, budget, stateless=False)
        self._sleep_level = config.rollout.sleep_level
        self._offer: Offer | None = None  # kept for engines that join before the next sync
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
        """`generate` as a call that runs while the driver does something else; it has to end before the next sync."""

        def send(worker: Any, items: Sequence[int]) -> ray.ObjectRef:
            return worker.generate.remote([requests[i] for i in items], sampling, greedy)

        weights = [len(request.ids) + sampling.max_tokens for request in requests]
        return self.submit(weights, send, self._checked)

    def sync(self, offer: Offer) -> Call[list[SyncReport]]:
        """Every engine takes over the weights or is replaced: a generator is never left behind in silence."""
        self._look_around()
        self._offer, self._reports = offer, []
        self._syncs += 1
        self._machine.update(self._syncs, time.monotonic())
        offer.begin([command.member for command in self._machine.commands if isinstance(command, Sync)])
        self._carry_out()
        if sending := offer.send():
            self._ask(POLICY, SEND, sending, self._sent)
        return Call(lambda seconds: self._reached(lambda: self._machine.updated, seconds), lambda: list(self._reports))

    def rest(self) -> None:
        """Engines free GPU memory for the learners (`rollout.sleep_level`). At level 2 a sync must come before the next
        answers."""
        if not self._sleep_level:
            return
        self._turn(0.0)
        limit = self._machine.limits.sync
        asked = {self._handles[number].rest.remote(): number for number in self._machine.ready}
        done, silent = ray.wait(list(asked), num_returns=len(asked), timeout=limit)
        for ref in done:
            self._hear(Asked(asked[ref], "rest", lambda nothing, now: None), ref)
        for ref in silent:
            self._machine.lost(asked[ref], f"not asleep within {limit:g} s", time.monotonic())
        if self._sleep_level == 2:
            self._let_go()
        self._carry_out()

    def forget(self) -> None:
        """The learners went back: no engine may sample before the next sync, which may be of an older version."""
        self._lineage += 1
        self._let_go()

    def _let_go(self) -> None:
        """No engine holds any weights until the next sync."""
        self._offer, self._reports = None, []
        self._machine.update(None, time.monotonic())

    def sync_member(self, number: int, version: int) -> ray.ObjectRef:
        assert self._offer is not None
        return self._offer.ask(number, self._handles[number], self._lineage)

    def _sent(self, broken: dict[int, str], now: float) -> None:
        """Its engines are lost for this or for a reason of their own."""
        for reason in broken.values():
            self._budget.events.record("stream_broken", role=self.role, reason=reason)

    def synced(self, member: int, version: int, answer: SyncReport) -> None:
        if version == self._syncs:
            self._reports.append(answer)

    def failure(self, what: str, error: RayError) -> MedrlError | None:
        """Weights that nobody holds any more are a fault of the policy: no engine could take them over. A stream that
        broke is one of the engine, or of the way to it."""
        cause = cause_of(error)
        if what == SYNC and isinstance(cause, WorkerLost):
            return None
        gone = isinstance(cause, ObjectLostError) and not isinstance(cause, ObjectFetchTimedOutError)
        # A worker's death as the cause of a task's error is that of the worker that should have made its argument.
        holder_died = isinstance(cause, RayActorError) and (what == SEND or isinstance(error, RayTaskError))
        if what not in (SYNC, SEND) or not (gone or holder_died):
            return super().failure(what, error)
        lost = WorkerLost(f"rollout {what} failed: the weights are gone", got=type(cause).__name__,
                          remedy="the policy's rank 0, which held them, or its node has died; continue with --resume")
        lost.role, lost.workers = "policy", ("policy 0",)
        return lost

    def _checked(self, completions: list[Completion]) -> list[Completion]:
        expected, found = self._reports[0].version, {completion.version for completion in completions}
        if found - {expected}:
            raise WeightSyncError("answers of other weights than were asked for", limit=f"version {expected}",
                                  got=f"versions {sorted(found)}", remedy="report it")
        return completions
