"""What a learner promises its caller."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from medrl.types import Experience, Probe, RolloutBatch

ExportedWeights = tuple[Literal["adapter", "full"], dict[str, torch.Tensor], dict[str, float], Probe]


class Learner(Protocol):
    """One rank of a training group. Every method is collective: all ranks of the group call it, in the same order.

    The caller need not know how many ranks there are, how rows are cut into micro-batches, or how parameters are
    partitioned: none of it changes a result beyond rounding.
    """

    def describe(self) -> dict[str, Any]:
        """What a run records about the learner: engine and optimizer classes, ZeRO stage, trainable parameters."""
        ...

    def save(self, directory: str | Path) -> None:
        """Write parameters, optimizer, scheduler and RNG state into `directory` (shared by all ranks)."""
        ...

    def load(self, directory: str | Path) -> None:
        """Restore exactly what `save` wrote. Raises CheckpointError when it was written by another number of ranks."""
        ...


class PolicyLearner(Learner, Protocol):
    """The policy in training, and with LoRA the reference inside it."""

    def logprobs(self, batch: RolloutBatch) -> np.ndarray:
        """[B, T] tempered log-probs of the response tokens of the rows given, 0 elsewhere."""
        ...

    def ref_logprobs(self, batch: RolloutBatch) -> np.ndarray:
        """The same by the reference inside the policy: its base with the adapter off, or under a frozen adapter."""
        ...

    def reference_canary(self) -> list[float]:
        """Reference log-probs of a fixed sequence: bit-identical as long as the process lives."""
        ...

    def update(self, experience: Experience, kl_coef: float, seed: int) -> dict[str, float]:
        """All epochs of one batch. Every rank gets the whole batch and picks its rows; metrics are the same on all.

        Raises TrainingError, on all ranks and before parameters change, when a loss or gradient is not finite.
        """
        ...

    def export_weights(self, probe_ids: tuple[int, ...], *, copied: bool = True) -> ExportedWeights | None:
        """(kind, tensors, scaling, probe) on rank 0, None elsewhere; the fields of `Weights`.

        `copied` False: full weights may be the parameters themselves, which the next update changes.
        """
        ...

    def manifest(self) -> list[dict]:
        """Name, shape, dtype and count of every trainable parameter."""
        ...


class CriticLearner(Learner, Protocol):
    """The value model in training."""

    def values(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray]:
        """[B, T] values of the states before the response tokens, 0 elsewhere, and [B] after the last token."""
        ...

    def update(self, experience: Experience, seed: int) -> dict[str, float]:
        """All epochs of one batch; as in PolicyLearner.update."""
        ...
