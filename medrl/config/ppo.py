"""Config of the PPO stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medrl.config.algorithm import AlgorithmConfig
from medrl.config.base import StrictModel
from medrl.config.common import (
    CheckpointConfig,
    DataChecks,
    DType,
    FaultsConfig,
    LoraConfig,
    ModelConfig,
    TimeoutsConfig,
    TrackedConfig,
)
from medrl.config.rewards import RewardPoolConfig


class PromptData(DataChecks):
    """Prompts to roll out."""

    prompts: str = Field(description="prompts: file, directory or hub dataset (docs/data-formats.md)")
    eval_prompts: str | None = Field(
        default=None, description="held-out prompts; greedy answers to them are scored before, during and after"
    )
    batch_size: int = Field(default=64, ge=1, description="prompts per step")
    samples_per_prompt: int = Field(default=1, ge=1, description="answers sampled for each prompt")
    max_prompt_tokens: int = Field(default=256, ge=1, description="limit on a templated prompt")
    too_long: Literal["error", "drop", "left", "right"] = Field(
        default="error",
        description="a longer prompt: error, drop it, or cut its last user turn on a side (counts are printed)",
    )
    shuffle: bool = Field(default=True, description="a new seeded order each pass over the prompts")


class SamplingConfig(StrictModel):
    """How answers are sampled."""

    max_tokens: int = Field(default=128, ge=1, description="limit on an answer")
    temperature: float = Field(
        default=1.0, gt=0, description="sampling temperature; the learner's log-probs are scaled by it too"
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="nucleus mass; below 1 engine and learner log-probs are not comparable"
    )
    top_k: int = Field(default=-1, ge=-1, description="keep the k likeliest tokens; -1: all")

    @model_validator(mode="after")
    def _top_k(self):
        if self.top_k == 0:
            raise ValueError("top_k must be -1 (all) or at least 1, got 0")
        return self


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
    """The value model, with an engine and an optimizer of its own."""

    mode: Literal["separate", "shared"] = Field(
        default="separate",
        description="separate: workers of its own; shared: in the policy's workers, an adapter and a head on the "
        "policy's base, which is held once (needs both lora sections and init: policy; its workers, CPUs, GPUs and "
        "threads are the learner's)",
    )
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


class EngineConfig(StrictModel):
    """Engines that generate answers, one a worker."""

    engine: Literal["vllm", "hf"] = Field(
        default="vllm", description="vllm, or plain transformers generation (slow; for debugging)"
    )
    workers: int = Field(default=1, ge=1, description="engines")
    dtype: DType = Field(default="bfloat16", description="dtype the engine samples in")
    kv_cache_gib: float = Field(default=1.0, gt=0, description="CPU: GiB for the KV cache of one engine")
    gpu_memory_utilization: float = Field(
        default=0.5, gt=0, le=1, description="GPU: share of the memory one engine may take"
    )
    enforce_eager: bool | None = Field(default=None, description="no compilation; null: true on CPU, false on GPU")
    cpus_per_worker: float = Field(default=1.0, gt=0, description="CPUs reserved for each engine")
    gpus_per_worker: float = Field(default=0.0, ge=0, description="GPUs reserved for each engine")
    threads_per_worker: int | None = Field(
        default=None, ge=1, description="threads an engine; null: its share of the machine"
    )


class RolloutConfig(EngineConfig):
    """The pool of rollout engines."""

    max_workers: int | None = Field(
        default=None, ge=1,
        description="engines that may join while the run goes on, as soon as the cluster has room; `workers` start it. "
        "null: as many as `workers`",
    )
    max_model_len: int | None = Field(
        default=None, ge=8, description="longest prompt + answer; null: data.max_prompt_tokens + sampling.max_tokens"
    )
    max_staleness: Literal[0, 1] = Field(
        default=0,
        description="updates that the weights which sample may be behind. 0: on-policy, engines and learners take "
        "turns; 1: engines sample the next step's answers while the learners train (needs algorithm.importance)",
    )
    probe_tolerance: float | None = Field(
        default=None,
        gt=0,
        description="largest probe log-prob gap after a sync; null: 1e-3 in float32, 0.15 in bfloat16",
    )
    weight_transfer: Literal["object_store", "nccl"] = Field(
        default="object_store",
        description="how weights reach the engines: through Ray's object store, or (full fine-tuning, "
        "learner and engines on whole GPUs) from GPU to GPU",
    )
    sleep_level: Literal[0, 1, 2] = Field(
        default=0,
        description="engines that share GPUs with learners: what they free while these train. 0: nothing; 1: cache and "
        "weights, which wait in the CPU's memory; 2: the same, but the weights come back with the next sync",
    )

    @model_validator(mode="after")
    def _elastic(self):
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(f"max_workers must be at least workers {self.workers}, got {self.max_workers}")
        return self

    @model_validator(mode="after")
    def _sleeps(self):
        if self.sleep_level and (self.engine != "vllm" or not self.gpus_per_worker):
            raise ValueError(
                f"sleep_level {self.sleep_level} needs engine vllm on a GPU, got engine {self.engine} with "
                f"gpus_per_worker {self.gpus_per_worker:g}: set it to 0"
            )
        if self.sleep_level and self.max_staleness:
            raise ValueError(
                f"sleep_level {self.sleep_level} frees engines while learners train, which is when max_staleness "
                f"{self.max_staleness} has them sample: set one of the two to 0"
            )
        return self


class EvaluationConfig(StrictModel):
    """Greedy answers to data.eval_prompts."""

    every: int | None = Field(
        default=None, ge=1, description="steps between evaluations; null: before the first and after the last step only"
    )
    max_prompts: int = Field(default=64, ge=1, description="use the first n held-out prompts")


class PpoConfig(TrackedConfig):
    """`medrl ppo`: the whole loop."""

    steps: int = Field(default=100, ge=1, description="PPO steps (rollout batches)")
    model: ModelConfig = Field(description="the policy; also the reference")
    lora: LoraConfig | None = Field(default=None, description="null: full fine-tuning")
    data: PromptData
    sampling: SamplingConfig = SamplingConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    learner: LearnerConfig = LearnerConfig()
    critic: CriticConfig = Field(default=CriticConfig(), description="read with algorithm.advantage gae only")
    reference: ReferenceConfig = ReferenceConfig()
    reward: RewardPoolConfig
    rollout: RolloutConfig = RolloutConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    faults: FaultsConfig = FaultsConfig()

    @property
    def answers_per_step(self) -> int:
        return self.data.batch_size * self.data.samples_per_prompt

    @property
    def has_critic(self) -> bool:
        return self.algorithm.advantage == "gae"

    @property
    def shares_base(self) -> bool:
        """Whether the critic lives in the policy's workers, on the policy's base."""
        return self.has_critic and self.critic.mode == "shared"

    @property
    def max_model_len(self) -> int:
        return self.rollout.max_model_len or self.data.max_prompt_tokens + self.sampling.max_tokens

    @model_validator(mode="after")
    def _possible(self):
        a = self.algorithm
        if self.answers_per_step % a.mini_batches:
            raise ValueError(
                f"data.batch_size × data.samples_per_prompt = {self.answers_per_step} must be a multiple of "
                f"algorithm.mini_batches {a.mini_batches}"
            )
        if self.answers_per_step // a.mini_batches < self.learner.workers:
            raise ValueError(
                f"a mini-batch has {self.answers_per_step // a.mini_batches} answers for learner.workers "
                f"{self.learner.workers}: "
                "raise data.batch_size or lower algorithm.mini_batches"
            )
        if self.lora is None and self.reference.mode != "dedicated":
            raise ValueError(
                f"reference.mode {self.reference.mode} needs lora (the reference is the policy's base with another "
                "adapter or none); set reference.mode: dedicated"
            )
        if self.rollout.weight_transfer == "nccl":
            self._check_nccl()
        if (self.reference.mode == "adapter") != (self.reference.adapter is not None):
            raise ValueError("reference.adapter and reference.mode: adapter go together; set both or neither")
        if self.lora:
            self.lora.check_no_dropout("RL")
            if self.reference.mode != "dedicated":
                self.lora.check_base_stays("use reference.mode: dedicated")
        trained = {"learner": (self.learner, self.lora)}
        if self.has_critic:
            trained["critic"] = (self.critic, self.critic.lora)
        for role, (learner, lora) in trained.items():
            if learner.micro_batch_tokens is not None and learner.micro_batch_tokens < self.max_model_len:
                raise ValueError(
                    f"{role}.micro_batch_tokens {learner.micro_batch_tokens} is less than one prompt and answer may "
                    f"have, {self.max_model_len} tokens; raise it, or lower sampling.max_tokens"
                )
            if self.model.dtype == "bfloat16" and lora is None and learner.zero_stage < 2:
                raise ValueError(
                    f"full training in bfloat16 needs {role}.zero_stage 2 or 3 (DeepSpeed keeps float32 master weights "
                    f"from there on), got {learner.zero_stage}; set it to 2, or use lora or model.dtype: float32"
                )
        if self.max_model_len < self.data.max_prompt_tokens + self.sampling.max_tokens:
            raise ValueError(
                f"rollout.max_model_len {self.max_model_len} is below data.max_prompt_tokens + sampling.max_tokens = "
                f"{self.data.max_prompt_tokens + self.sampling.max_tokens}"
            )
        if self.rollout.max_staleness and a.importance == "off":
            raise ValueError(
                f"rollout.max_staleness {self.rollout.max_staleness} trains on answers of older weights, which have to "
                "be weighed: set algorithm.importance to truncate or mask"
            )
        groups = a.advantage in ("rloo", "grpo", "dr_grpo", "reinforce_pp_baseline")
        if groups and self.data.samples_per_prompt < 2:
            raise ValueError(
                f"algorithm.advantage {a.advantage} compares the answers to a prompt: "
                f"data.samples_per_prompt must be at least 2, got {self.data.samples_per_prompt}"
            )
        if self.has_critic and self.critic.init == "reward" and not any(source.model for source in self.reward.sources):
            raise ValueError("critic.init reward needs a reward source with a `model`; set critic.init: policy")
        if self.shares_base:
            self._check_shared_critic()
        return self

    def _check_shared_critic(self) -> None:
        if self.lora is None or self.critic.lora is None or self.critic.init != "policy":
            raise ValueError(
                "critic.mode shared puts a second adapter on the policy's base: set lora, critic.lora and "
                "critic.init: policy, or critic.mode: separate")
        for name, lora in (("lora", self.lora), ("critic.lora", self.critic.lora)):
            lora.check_base_stays(f"critic.mode shared needs it as it is ({name}); use critic.mode: separate")
        for role, learner in (("learner", self.learner), ("critic", self.critic)):
            if learner.zero_stage == 3:
                raise ValueError(
                    f"critic.mode shared needs the whole base on every rank: set {role}.zero_stage to 2 or less, or "
                    "critic.mode: separate")
        for name in ("workers", "cpus_per_worker", "gpus_per_worker", "threads_per_worker"):
            value, default = getattr(self.critic, name), CriticConfig.model_fields[name].default
            if value not in (default, getattr(self.learner, name)):
                raise ValueError(
                    f"critic.{name} {value} cannot be: with critic.mode shared the critic lives in the learner's "
                    "workers; leave it out")

    def _check_nccl(self) -> None:
        """NCCL joins no two processes on one GPU, and adapters are small enough for the object store."""
        gpus = {"learner": self.learner.gpus_per_worker, "rollout": self.rollout.gpus_per_worker}
        problems = [f"{role}.gpus_per_worker {count:g}" for role, count in gpus.items() if count < 1 or count % 1]
        problems += ["lora"] if self.lora else []
        problems += [f"rollout.engine {self.rollout.engine}"] if self.rollout.engine != "vllm" else []
        if problems:
            raise ValueError(
                "rollout.weight_transfer nccl needs lora: null, rollout.engine vllm, and whole GPUs for learner and "
                f"rollout, got {', '.join(problems)}; set it to object_store"
            )
