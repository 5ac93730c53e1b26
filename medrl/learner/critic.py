"""The critic: a value per state, trained on returns, on its own DeepSpeed engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medrl.algo.losses import value_loss, value_stats
from medrl.config.common import ModelConfig
from medrl.config.ppo import PpoConfig
from medrl.errors import ConfigError
from medrl.learner.engine import TrainEngine, precision_of
from medrl.learner.state import load_state, save_state, writing
from medrl.learner.update import forward_rows, run_update, tensors
from medrl.lora.heads import check_head_trains
from medrl.lora.manifest import check_manifest, manifest
from medrl.lora.wrap import wrap
from medrl.models.export import load_calibration
from medrl.models.forward import value_forward
from medrl.models.head import head_input
from medrl.models.loading import load_tokenizer
from medrl.models.packing import check_packing
from medrl.models.scalar_head import ScalarModel
from medrl.models.sharing import share_weights, storage_bytes
from medrl.types import Experience, RolloutBatch

_TOKENIZER_PROBE = "The patient has a fever of 38.5 °C; 请多喝水，注意休息。"


class DeepSpeedCritic:
    """CriticLearner on one DeepSpeed rank; needs `init_process`. `total_updates`: optimizer steps of the whole run;
    `policy`: the model whose base it shares (critic.mode shared)."""

    def __init__(self, config: PpoConfig, total_updates: int, policy: nn.Module | None = None) -> None:
        self.config = config
        torch.manual_seed(config.seed)  # every rank draws the same adapter
        model: Any = load_value_model(config)
        if policy is not None:
            share_weights(model.backbone, policy)
        if config.critic.lora:
            model = wrap(model, config.critic.lora, task="scalar")
        check_head_trains(model)
        if config.critic.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()  # transformers recomputes in train mode only; every dropout is 0
        self.trainable_rows = manifest(model)
        self.engine = TrainEngine(model, config.critic, total_updates, precision_of(config.model, config.critic.lora))
        self.model = model
        shared = [policy] if policy is not None else []
        self.parameter_bytes = storage_bytes(model, *shared) - storage_bytes(*shared)
        if config.critic.packing:
            check_packing(self._apart, model.config.get_text_config().vocab_size, dtype=config.model.dtype,
                          setting="critic.packing", model=type(model.config).__name__)

    def describe(self) -> dict[str, Any]:
        facts = {"trainable": self.trainable_rows, "parameter_bytes": self.parameter_bytes}
        return self.engine.describe() | facts

    def values(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray]:
        values, last = forward_rows(self.engine, batch, self._forward)
        return values, last

    def update(self, experience: Experience, seed: int) -> dict[str, float]:
        return run_update(self.engine, experience, self.config, seed, self._loss)

    def save(self, directory: str | Path) -> None:
        with writing(directory):
            save_state(self.engine, directory, frozen_too=self.config.critic.lora is None, facts={})

    def load(self, directory: str | Path) -> None:
        load_state(self.engine, directory, frozen_too=self.config.critic.lora is None)
        check_manifest(self.model, self.trainable_rows)

    def _forward(self, rows: RolloutBatch) -> tuple[Tensor, Tensor]:
        ids, real, response = tensors(rows, self.engine.device, "ids", "attention_mask", "response_mask")
        return value_forward(self.engine.deepspeed, ids, real, response, packed=self.config.critic.packing)

    def _apart(self, ids: Tensor, real: Tensor, packed: bool) -> Tensor:
        """Hidden states of all real tokens, for `check_packing`: a new head's values are all 0."""
        ids, real = ids.to(self.engine.device), real.to(self.engine.device)
        with head_input(self.model.head, lambda hidden: hidden) as seen:
            value_forward(self.engine.deepspeed, ids, real, real, packed=packed)
        return seen[0].flatten(0, 1) if packed else seen[0][real]

    def _loss(self, rows: Experience, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Σ weights · clipped squared error."""
        clip = self.config.algorithm.value_clip
        old, returns = tensors(rows, self.engine.device, "values", "returns")
        values, _ = self._forward(rows)
        loss = value_loss(values, old, returns, clip)
        return (weights * loss).sum(), value_stats(values, old, returns, weights > 0, clip=clip, loss=loss)


def load_value_model(config: PpoConfig) -> ScalarModel:
    """The critic before training: the first reward model, scaled as its scores are, or the policy with a zero head.

    Raises ConfigError if the reward model reads another tokenizer than the policy writes.
    """
    policy = config.model
    shared = {"attn_implementation": policy.attn_implementation, "trust_remote_code": policy.trust_remote_code}
    if config.critic.init == "policy":
        return ScalarModel.from_causal(policy.path, policy.dtype, **shared)
    path, weight = next((source.model, source.weight) for source in config.reward.sources if source.model)
    if not _same_tokenizer(policy, policy.model_copy(update={"path": path, "tokenizer": None})):
        raise ConfigError(
            "critic.init reward needs a reward model with the policy's tokenizer",
            limit=f"the tokenizer of {policy.path}", got=f"another one in {path}", remedy="set critic.init: policy")
    calibration = load_calibration(path) if config.algorithm.reward.calibrate else None
    model = ScalarModel.from_reward(path, policy.dtype, calibration, **shared)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(weight)
    return model


def _same_tokenizer(a: ModelConfig, b: ModelConfig) -> bool:
    """The same vocabulary, and the same merges as far as a bilingual sentence shows."""
    first, second = load_tokenizer(a), load_tokenizer(b)
    return first.get_vocab() == second.get_vocab() and first.encode(_TOKENIZER_PROBE) == second.encode(_TOKENIZER_PROBE)
