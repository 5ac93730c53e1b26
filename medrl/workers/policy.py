"""The policy learner on Ray: one worker a rank, and the group the loop talks to."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import ray

from medrl.config.ppo import PpoConfig
from medrl.errors import WorkerLost
from medrl.profile.recorder import Recorded
from medrl.setup.memory import give_back_freed_memory
from medrl.types import Experience, RolloutBatch, Weights, WeightsNotice
from medrl.workers.group import Pending, WorkerGroup
from medrl.workers.offers import Offer, StoredOffer, StreamedOffer, settled
from medrl.workers.runtime import in_row_order, prepare_worker

if TYPE_CHECKING:
    from medrl.learner.base import CriticLearner, PolicyLearner


class LearnerWorker(Recorded):
    """What policy and critic ranks share: joining the process group."""

    def __init__(self, config: PpoConfig, rank: int, world: int, threads: int) -> None:
        prepare_worker(threads, seed=config.seed)
        self.config, self.rank, self.world = config, rank, world

    def address(self) -> tuple[str, int]:
        """Host and a free port for rank 0's rendezvous."""
        with socket.socket() as s:
            s.bind(("", 0))
            return ray.util.get_node_ip_address(), s.getsockname()[1]

    def join(self, host: str, port: int) -> None:
        from medrl.learner.engine import init_process

        init_process(self.rank, self.world, host, port, self.config.timeouts.collective)

    def _share(self, batch: RolloutBatch) -> tuple[np.ndarray, RolloutBatch]:
        """The numbers of this rank's rows for a forward pass, dealt out by their tokens, and the rows."""
        from medrl.learner.schedule import rank_shares

        rows = rank_shares(batch.attention_mask.sum(1), self.world)[self.rank]
        return rows, batch.rows(rows)


@ray.remote
class PolicyWorker(LearnerWorker):
    """One rank of the policy's DeepSpeed engine."""

    learner: PolicyLearner
    critic: CriticLearner  # unless critic.mode is separate
    announced: Weights | None = None  # on rank 0, until its tensors may change

    def start(self, host: str, port: int, total_updates: int) -> dict:
        """Join the group and build the engine; returns what the run records about it."""
        from medrl.learner.actor_critic import DeepSpeedActorCritic
        from medrl.learner.critic import DeepSpeedCritic
        from medrl.learner.policy import DeepSpeedPolicy

        self.join(host, port)
        if self.config.has_value_head:
            self.learner = both = DeepSpeedActorCritic(self.config, total_updates)
            self.critic = both.critic
        else:
            self.learner = DeepSpeedPolicy(self.config, total_updates)
            if self.config.critic_inside:
                self.critic = DeepSpeedCritic(self.config, total_updates, self.learner.model)
        facts = self.learner.describe()
        return facts | {"critic": self.critic.describe()} if self.config.critic_inside else facts

    def logprobs(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray]:
        rows, share = self._share(batch)
        return rows, self.learner.logprobs(share)

    def ref_logprobs(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray]:
        rows, share = self._share(batch)
        return rows, self.learner.ref_logprobs(share)

    def reference_canary(self) -> list[float]:
        return self.learner.reference_canary()

    def update(self, experience: Experience, kl_coef: float, seed: int) -> dict[str, float]:
        self.announced = None
        metrics = self.learner.update(experience, kl_coef, seed)
        give_back_freed_memory()  # the other roles have their turn now
        return metrics

    def export_weights(self, version: int, probe_ids: tuple[int, ...]) -> Weights | None:
        from medrl.weight_sync.publisher import make_weights

        exported = self.learner.export_weights(probe_ids)
        return None if exported is None else make_weights(version, *exported)

    def announce_weights(self, version: int, probe_ids: tuple[int, ...]) -> WeightsNotice | None:
        """The same, but the tensors stay here until they are asked for."""
        from medrl.weight_sync.publisher import fingerprint
        from medrl.weight_sync.stream import notice_of

        exported = self.learner.export_weights(probe_ids, copied=False)
        if exported is None:
            return None
        kind, tensors, scaling, probe = exported
        self.announced = Weights(version, kind, tensors, scaling, fingerprint(tensors), probe)
        return notice_of(self.announced)

    def open_channels(self, count: int) -> list[bytes]:
        """Ids of channels to so many engines; on rank 0."""
        from medrl.weight_sync.nccl import channel_ids

        return channel_ids(count)

    def stream_weights(self, channels: list[bytes], answers: list[ray.ObjectRef]) -> dict[int, str]:
        """Send what was announced over each of the channels until its engine's answer is there; on rank 0.

        Returns the number of each channel that broke, and why.
        """
        from medrl.weight_sync.nccl import SENDER, NcclChannel
        from medrl.weight_sync.sender import send_to_all

        def over() -> list[int]:
            return settled(answers)

        connects = [partial(NcclChannel, channel, SENDER) for channel in channels[: len(answers)]]
        return send_to_all(self._announced().tensors, connects, over, self.config.timeouts.sync)

    def announced_weights(self) -> Weights:
        """What was announced, tensors included, for Ray's object store; on rank 0."""
        weights = self._announced()
        return replace(weights, tensors={name: tensor.cpu() for name, tensor in weights.tensors.items()})

    def _announced(self) -> Weights:
        if self.announced is None:
            raise WorkerLost("the weights that were announced are being changed")
        return self.announced

    def save(self, path: str) -> None:
        self.learner.save(path)

    def load(self, path: str) -> None:
        self.announced = None
        self.learner.load(path)

    def critic_values(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows, share = self._share(batch)
        return rows, *self.critic.values(share)

    def critic_update(self, experience: Experience, seed: int) -> dict[str, float]:
        metrics = self.critic.update(experience, seed)
        give_back_freed_memory()
        return metrics

    def critic_save(self, path: str) -> None:
        self.critic.save(path)

    def critic_load(self, path: str) -> None:
        self.critic.load(path)


class LearnerGroup(WorkerGroup):
    """Calls that policy and critic share. Every call reaches all ranks: they run collectives together.

    `spawn` places and creates the workers, `total_updates` are the optimizer steps of the whole run.
    """

    def __init__(self, role: str, spawn: Callable[[], tuple], config: PpoConfig, total_updates: int) -> None:
        super().__init__(role, *spawn())
        self.timeouts = config.timeouts
        self._spawn = spawn
        self._total_updates = total_updates
        self._streams = config.rollout.weight_transfer == "nccl"

    def start(self) -> Pending[dict]:
        host, port = self.pending([self.handles[0].address.remote()], "start", self.timeouts.start).result()
        return self.pending(
            [h.start.remote(host, port, self._total_updates) for h in self.handles], "start", self.timeouts.start
        )

    def rebuild(self) -> Pending[dict]:
        """New workers in the place of all old ones, on other nodes where theirs are gone."""
        self.shutdown()
        self.handles, self._placement = self._spawn()
        return self.start()

    def save(self, path: str) -> Pending[None]:
        return self.pending([h.save.remote(path) for h in self.handles], "checkpoint", self.timeouts.checkpoint)

    def load(self, path: str) -> Pending[None]:
        return self.pending([h.load.remote(path) for h in self.handles], "restore", self.timeouts.checkpoint)


class PolicyGroup(LearnerGroup):
    """The policy learner's ranks."""

    def logprobs(self, batch: ray.ObjectRef) -> Pending[np.ndarray]:
        """[B, T] log-probs of the current policy."""
        return self.pending(
            [h.logprobs.remote(batch) for h in self.handles], "log-probs", self.timeouts.score, in_row_order
        )

    def ref_logprobs(self, batch: ray.ObjectRef) -> Pending[np.ndarray]:
        """[B, T] log-probs of the reference inside the policy."""
        return self.pending(
            [h.ref_logprobs.remote(batch) for h in self.handles], "reference log-probs", self.timeouts.score,
            in_row_order,
        )

    def reference_canary(self) -> Pending[list[float]]:
        """Log-probs of a fixed sequence by the reference inside the policy."""
        return self.pending(
            [h.reference_canary.remote() for h in self.handles], "reference canary", self.timeouts.score
        )

    def update(self, experience: ray.ObjectRef, kl_coef: float, seed: int) -> Pending[dict[str, float]]:
        """One PPO update; metrics over all ranks."""
        return self.pending(
            [h.update.remote(experience, kl_coef, seed) for h in self.handles], "update", self.timeouts.update
        )

    def export_weights(self, version: int, probe_ids: tuple[int, ...]) -> Offer:
        """The current weights, for the rollout engines."""
        if self._streams:
            return StreamedOffer(self.handles[0], self._exported(
                [h.announce_weights.remote(version, probe_ids) for h in self.handles]))
        return StoredOffer(self._exported([h.export_weights.remote(version, probe_ids) for h in self.handles]))

    def _exported(self, refs: list[ray.ObjectRef]) -> ray.ObjectRef:
        """Rank 0's, which stays in the object store until a rollout worker pulls it."""
        done, _ = ray.wait(refs, num_returns=len(refs), timeout=self.timeouts.sync, fetch_local=False)
        if len(done) < len(refs):
            self.pending(refs, "weight export", 0.0).result()
        return refs[0]


class SharedReference:
    """The reference as the policy workers' base with the adapter off or another one on: no model of its own."""

    def __init__(self, policy: PolicyGroup) -> None:
        self._policy = policy

    def logprobs(self, batch: ray.ObjectRef) -> Pending[np.ndarray]:
        """[B, T] reference log-probs."""
        return self._policy.ref_logprobs(batch)

    def canary(self) -> Pending[list[float]]:
        """Reference log-probs of a fixed sequence: they must never change."""
        return self._policy.reference_canary()
