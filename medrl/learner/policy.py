"""The policy learner: PPO's policy loss on a DeepSpeed engine, and with LoRA the reference inside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from medrl.algo.kl import kl_estimate
from medrl.algo.losses import policy_loss, policy_stats
from medrl.config.ppo import PpoConfig
from medrl.errors import AdapterError, ConfigError
from medrl.learner.base import ExportedWeights
from medrl.learner.engine import TrainEngine, precision_of
from medrl.learner.state import load_state, save_state, writing
from medrl.learner.update import forward_rows, run_update, tensors
from medrl.lora.adapter import adapter_tensors, save_adapter
from medrl.lora.manifest import check_manifest, manifest
from medrl.lora.reference import ReferenceSpec, attach_reference, reference_active
from medrl.lora.reference_proofs import canary_batch, check_policy_start, check_reference_canary
from medrl.lora.wrap import expert_tensors, wrap
from medrl.models.forward import policy_forward
from medrl.models.head import logits_finish
from medrl.models.loading import load_causal_lm, load_tokenizer
from medrl.models.packing import check_packing
from medrl.models.sharing import storage_bytes
from medrl.types import Experience, Probe, RolloutBatch

T = TypeVar("T")
RESUME_TOLERANCE = 1e-5


class DeepSpeedPolicy:
    """PolicyLearner on one DeepSpeed rank; needs `init_process`. `total_updates`: optimizer steps of the whole run."""

    def __init__(self, config: PpoConfig, total_updates: int) -> None:
        self.config = config
        torch.manual_seed(config.seed)  # every rank draws the same adapter
        model: Any = load_causal_lm(config.model)
        if config.lora:
            model = wrap(model, config.lora, task="causal")
            if experts := expert_tensors(model):
                raise AdapterError(
                    "rollout engines cannot take the adapter of fused experts",
                    got=experts[0],
                    remedy="leave the role experts out of lora.targets in PPO",
                )
        self.reference = _reference_inside(config)
        inside = config.reference.mode != "dedicated"
        if self.reference and inside:
            attach_reference(model, self.reference)
        if config.learner.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()  # transformers recomputes in train mode only; every dropout is 0
        self.trainable_rows = manifest(model)
        self.model = model
        self.engine = self._engine(total_updates)
        vocabulary = model.config.get_text_config().vocab_size
        if config.learner.packing:
            check_packing(self._apart, vocabulary, dtype=config.model.dtype, setting="learner.packing",
                          model=type(model.config).__name__)
        self.canary = canary_batch(vocabulary)
        if self.reference and inside:
            start, reference = self.logprobs(self.canary), self.ref_logprobs(self.canary)
            check_policy_start(torch.from_numpy(start), torch.from_numpy(reference))

    def describe(self) -> dict[str, Any]:
        logits = "in chunks" if logits_finish(self.engine.deepspeed) else "whole"
        facts = {"logits": logits, "trainable": self.trainable_rows, "parameter_bytes": storage_bytes(self.model)}
        return self.engine.describe() | facts

    def manifest(self) -> list[dict]:
        return self.trainable_rows

    def logprobs(self, batch: RolloutBatch) -> np.ndarray:
        return forward_rows(self.engine, batch, lambda rows: (self._pass(policy_forward, rows, entropy=False)[0],))[0]

    def ref_logprobs(self, batch: RolloutBatch) -> np.ndarray:
        if self.reference is None:
            raise ConfigError("a policy that trains in full holds no reference", remedy="set reference.mode: dedicated")
        with reference_active(self.model, self.reference):
            logprobs = DeepSpeedPolicy.logprobs(self, batch)
        check_manifest(self.model, self.trainable_rows)
        return logprobs

    def reference_canary(self) -> list[float]:
        return self.ref_logprobs(self.canary)[0].tolist()

    def update(self, experience: Experience, kl_coef: float, seed: int) -> dict[str, float]:
        def micro_loss(rows: Experience, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
            return self._loss(rows, weights, kl_coef)

        return run_update(self.engine, experience, self.config, seed, micro_loss, self.config.algorithm.target_kl)

    def export_weights(self, probe_ids: tuple[int, ...], *, copied: bool = True) -> ExportedWeights | None:
        probe = self._probe(probe_ids)
        if self.config.lora is None:
            tensors = self._full_tensors(copied=copied)
            return ("full", tensors, {}, probe) if self.engine.rank == 0 else None
        with self.engine.gathered(self._trainable()):
            if self.engine.rank:
                return None
            tensors, scaling = adapter_tensors(self.model)
        return "adapter", tensors, scaling, probe

    def save(self, directory: str | Path) -> None:
        """engine/, rng_<rank>.pt and learner.json; beside them adapter/ in PEFT's format, or model/ without LoRA."""
        facts = {"canary": self.reference_canary()} if self.config.reference.mode != "dedicated" else {}
        with writing(directory) as folder:
            save_state(self.engine, folder, frozen_too=self.config.lora is None, facts=facts)
            if self.config.lora is None:
                tensors = self._full_tensors(copied=True)
                if self.engine.rank == 0:
                    self.model.save_pretrained(folder / "model", state_dict=tensors)
                    load_tokenizer(self.config.model).save_pretrained(folder / "model")
                return
            with self.engine.gathered(self._trainable()):
                if self.engine.rank == 0:
                    save_adapter(self.model, folder / "adapter")

    def load(self, directory: str | Path) -> None:
        facts = load_state(self.engine, directory, frozen_too=self.config.lora is None)
        check_manifest(self.model, self.trainable_rows)
        if "canary" in facts:
            then, now = torch.tensor(facts["canary"]), torch.tensor(self.reference_canary())
            check_reference_canary(then, now, RESUME_TOLERANCE)

    def _engine(self, total_updates: int) -> TrainEngine:
        precision = precision_of(self.config.model, self.config.lora)
        return TrainEngine(self.model, self.config.learner, total_updates, precision)

    def _full_tensors(self, *, copied: bool) -> dict[str, Tensor]:
        return self.engine.full_tensors(copied=copied)

    def _trainable(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _pass(self, forward: Callable[..., T], rows: RolloutBatch, *, entropy: bool) -> T:
        ids, real, response = tensors(rows, self.engine.device, "ids", "attention_mask", "response_mask")
        temperature, packed = self.config.sampling.temperature, self.config.learner.packing
        return forward(self.engine.deepspeed, ids, real, response, temperature, entropy, packed=packed)

    def _apart(self, ids: Tensor, real: Tensor, packed: bool) -> Tensor:
        """Log-probs of all real tokens, for `check_packing`."""
        ids, real = ids.to(self.engine.device), real.to(self.engine.device)
        return policy_forward(self.engine.deepspeed, ids, real, real, 1.0, False, packed=packed)[0][real]

    def _loss(self, rows: Experience, weights: Tensor, kl_coef: float) -> tuple[Tensor, dict[str, float]]:
        logprobs, entropy = self._pass(policy_forward, rows, entropy=True)
        loss, sums = self._token_loss(rows, weights, kl_coef, logprobs, entropy)
        return (weights * loss).sum(), sums

    def _token_loss(
        self, rows: Experience, weights: Tensor, kl_coef: float, logprobs: Tensor, entropy: Tensor | None
    ) -> tuple[Tensor, dict[str, float]]:
        """Clipped surrogate − c·entropy + β·kl per token [b, t], where the last only if the KL is a loss; the sums
        behind the metrics."""
        a = self.config.algorithm
        old, ref, advantages, importance = tensors(
            rows, self.engine.device, "logprobs", "ref_logprobs", "advantages", "importance")
        assert entropy is not None
        loss = policy_loss(logprobs, old, advantages, clip_low=a.clip_low, clip_high=a.clip_high,
                           dual_clip=a.dual_clip, importance=importance)
        if a.entropy_coef:
            loss = loss - a.entropy_coef * entropy
        if a.kl.use == "loss":
            loss = loss + kl_coef * kl_estimate(logprobs, ref, a.kl.estimator)
        sums = policy_stats(logprobs, old, advantages, weights > 0, clip_low=a.clip_low, clip_high=a.clip_high,
                            loss=loss, entropy=entropy)
        return loss, sums

    @torch.no_grad()
    def _probe(self, ids: tuple[int, ...]) -> Probe:
        row = torch.tensor([ids], device=self.engine.device)
        real = torch.ones_like(row, dtype=torch.bool)
        logprobs, _ = policy_forward(self.engine.deepspeed, row, real, real, 1.0, False)
        return Probe(tuple(ids), tuple(logprobs[0, 1:].tolist()))


def _reference_inside(config: PpoConfig) -> ReferenceSpec | None:
    """The reference that the policy's own model can become; None without LoRA."""
    if config.lora is None:
        return None
    return ReferenceSpec("adapter" if config.reference.adapter else "base", config.reference.adapter)
