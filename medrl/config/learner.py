"""Config of the models that train in RL, and of the one they are measured against."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medrl.config.base import StrictModel
from medrl.config.common import LoraConfig


class OptimizerConfig(StrictModel):
    """AdamW with linear warm-up and decay."""

    lr: float = Field(default=1e-4, gt=0, description="peak learning rate")
    betas: list[float] = Field(default=[0.9, 0.999], min_length=2, max_length=2, description="AdamW betas")
    eps: float = Field(default=1e-5, gt=0, description="AdamW epsilon")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW weight decay")
    warmup_steps: int = Field(default=0, ge=0, description="optimizer steps with a rising learning rate")
    schedule: Literal["linear", "constant"] = Field(default="linear", description="decay to 0 over the run, or none")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradient norm clip")


class LearnerConfig(StrictModel):
    """The group of training processes of the policy (or critic)."""

    workers: int = Field(default=1, ge=1, description="data-parallel ranks (DeepSpeed)")
    zero_stage: Literal[0, 1, 2, 3] = Field(default=0, description="DeepSpeed ZeRO stage")
    micro_batch_size: int = Field(default=16, ge=1, description="sequences per forward pass on one rank")
    micro_batch_tokens: int | None = Field(
        default=None, ge=1, description="at most so many tokens in one, padding included; null: no such limit"
    )
    packing: bool = Field(
        default=False,
        description="the sequences of a micro-batch as one row without padding; refused where they would see each "
        "other; pays with flash attention",
    )
    gradient_checkpointing: bool = Field(default=False, description="recompute activations in the backward pass")
    optimizer: OptimizerConfig = OptimizerConfig()
    cpus_per_worker: float = Field(default=1.0, gt=0, description="CPUs reserved for each rank")
    gpus_per_worker: float = Field(default=0.0, ge=0, description="GPUs reserved for each rank (0: CPU)")
    threads_per_worker: int | None = Field(
        default=None, ge=1, description="torch threads a rank; null: its share of the machine"
    )


class CriticConfig(LearnerConfig):
    """The value model."""

    mode: Literal["separate", "shared", "head"] = Field(
        default="separate",
        description="separate: workers of its own; shared: in the policy's workers, an adapter and a head on the "
        "policy's base, which is held once (needs both lora sections and init: policy; its workers, CPUs, GPUs and "
        "threads are the learner's); head: a head on the policy itself, whose passes serve both and which learns from "
        "both losses (needs init: policy; all but its optimizer is the learner's)",
    )
    coef: float = Field(default=1.0, gt=0, description="head: weight of the value loss beside the policy's")
    init: Literal["reward", "policy"] = Field(
        default="reward",
        description="start from the first reward model (needs the same tokenizer) or the policy with a zero head",
    )
    lora: LoraConfig | None = Field(default=None, description="null: the critic trains in full")


class ReferenceConfig(StrictModel):
    """The frozen model the KL is measured against."""

    mode: Literal["shared", "adapter", "dedicated"] = Field(
        default="shared",
        description="shared: the policy workers' base, adapter off; adapter: that base under the frozen `adapter`, "
        "which the policy starts from; dedicated: own workers (needed without LoRA)",
    )
    adapter: str | None = Field(
        default=None, description="adapter: directory of an adapter of model.path, trained with this run's lora section"
    )
    workers: int = Field(default=1, ge=1, description="dedicated: how many")
    cpus_per_worker: float = Field(default=1.0, gt=0, description="dedicated: CPUs reserved for each")
    gpus_per_worker: float = Field(default=0.0, ge=0, description="dedicated: GPUs reserved for each")
    threads_per_worker: int | None = Field(
        default=None, ge=1, description="dedicated: torch threads a worker; null: its share of the machine"
    )
