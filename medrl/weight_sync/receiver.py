"""The receiving side: verify what arrived, merge it, load it into an engine, prove by a probe that it is in there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Protocol

import torch

from medrl.config.common import ModelConfig
from medrl.config.rollout import RolloutConfig
from medrl.errors import WeightSyncError
from medrl.models.stored_weights import StoredWeights
from medrl.types import Channel, Probe, SyncReport, Weights, WeightsNotice
from medrl.weight_sync.merge import check_fits, check_layout, merged_tensors
from medrl.weight_sync.publisher import fingerprint
from medrl.weight_sync.stream import Incoming
from medrl.weight_sync.versions import VersionGate

PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}  # largest log-prob gap by the coarser dtype of learner and engine


class Engine(Protocol):
    """What the receiver needs of an inference engine."""

    def load_weights(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Replace the whole model by `tensors` (checkpoint names) and drop every cache computed with the old one."""
        ...

    def sequence_logprobs(self, ids: tuple[int, ...]) -> list[float]:
        """[n - 1] log p(ids[i + 1] | ids[:i + 1]) at temperature 1."""
        ...


class NoReceiver:
    """Of an engine that keeps the weights it was started with: they are version 0, and it takes no others."""

    version = 0

    def require_fresh(self) -> int:
        return self.version

    def forget(self) -> None:
        return

    def drop(self) -> None:
        raise WeightSyncError("this engine keeps the weights it was started with", got="a sleep without them")

    def take_over(self, weights: Weights, engine: Engine) -> SyncReport:
        raise WeightSyncError("this engine keeps the weights it was started with", got=f"version {weights.version}")

    def take_stream(self, notice: WeightsNotice, connect: Callable[[], Channel], engine: Engine) -> SyncReport:
        raise WeightSyncError("this engine keeps the weights it was started with", got=f"version {notice.version}")


class Receiver:
    """Holds the pristine base and the version of one engine."""

    def __init__(self, model: ModelConfig, rollout: RolloutConfig) -> None:
        self._base = StoredWeights(model.path)
        coarser = "bfloat16" if "bfloat16" in (model.dtype, rollout.dtype) else "float32"
        self._tolerance = rollout.probe_tolerance or PROBE_TOLERANCE[coarser]
        self._gate = VersionGate()

    @property
    def version(self) -> int | None:
        """The version the engine provably holds, None while it is STALE."""
        return self._gate.version

    def require_fresh(self) -> int:
        """The version the engine provably holds. Raises WeightSyncError while it is STALE."""
        return self._gate.require_fresh()

    def forget(self) -> None:
        """STALE until the next take-over, which may be of an older version."""
        self._gate.forget()

    def drop(self) -> None:
        """STALE until the next take-over: the engine's weights are gone."""
        self._gate.drop()

    def take_over(self, weights: Weights, engine: Engine) -> SyncReport:
        """Put `weights` into `engine`.

        Raises WeightSyncError when the bytes differ from their fingerprint, the tensors do not fit the base, the
        version is older than the newest one held, or the probe's log-probs are not the learner's. Any error, of any
        kind, leaves the engine STALE.
        """
        start = time.perf_counter()
        with self._gate.change_to(weights.version):
            arrived = fingerprint(weights.tensors)
            _check_whole(weights, arrived)
            check_fits(weights, self._base)
            engine.load_weights(merged_tensors(weights, self._base))
            gap = self._probe_gap(weights.version, weights.probe, engine)
        size = sum(tensor.numel() * tensor.element_size() for tensor in weights.tensors.values())
        return SyncReport(weights.version, arrived, gap, time.perf_counter() - start, size)

    def take_stream(self, notice: WeightsNotice, connect: Callable[[], Channel], engine: Engine) -> SyncReport:
        """Put the weights of `notice` into `engine` as they come over the channel that `connect` waits for.

        Raises what `take_over` raises, and WorkerLost when the sender is gone; any error leaves the engine STALE. Here
        damage is found only when the engine has changed: the fingerprint is that of the whole stream.
        """
        start = time.perf_counter()
        with self._gate.change_to(notice.version):
            check_layout(notice, self._base)
            with closing(connect()) as channel:
                incoming = Incoming(notice, channel)
                engine.load_weights(iter(incoming))
            arrived = incoming.fingerprint()
            _check_whole(notice, arrived)
            gap = self._probe_gap(notice.version, notice.probe, engine)
        return SyncReport(notice.version, arrived, gap, time.perf_counter() - start, incoming.bytes)

    def _probe_gap(self, version: int, probe: Probe, engine: Engine) -> float:
        learner, held = torch.tensor(probe.logprobs), torch.tensor(engine.sequence_logprobs(probe.ids))
        if not len(held) or learner.shape != held.shape:
            raise WeightSyncError(f"the probe of version {version} proves nothing",
                                  got=f"{len(learner)} log-probs for {len(probe.ids)} tokens")
        gaps = (held - learner).abs()
        worst = int(gaps.nan_to_num(nan=torch.inf).argmax())
        if not gaps[worst] <= self._tolerance:  # also true for NaN
            raise WeightSyncError(
                f"after loading version {version} the engine does not compute what the learner computes",
                limit=f"probe log-probs within {self._tolerance:g}",
                got=f"at probe token {worst + 1} the learner has {learner[worst]:.6f}, the engine {held[worst]:.6f}",
                remedy="a gap near the limit in bfloat16: raise rollout.probe_tolerance; a large one: the engine "
                       "cannot take over this model's weights, use rollout.engine: hf and report it")
        return float(gaps[worst])


def _check_whole(sent: Weights | WeightsNotice, arrived: str) -> None:
    if arrived != sent.fingerprint:
        raise WeightSyncError(f"weights of version {sent.version} were damaged on their way",
                              limit=f"sha256 {sent.fingerprint}", got=f"sha256 {arrived}",
                              remedy="restart from the last checkpoint; check this node's network and memory")
