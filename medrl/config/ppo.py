"""Config of the PPO stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from medrl.config.algorithm import AlgorithmConfig
from medrl.config.base import StrictModel
from medrl.config.common import (
    CheckpointConfig,
    DataChecks,
    FaultsConfig,
    LoraConfig,
    ModelConfig,
    TimeoutsConfig,
    TrackedConfig,
)
from medrl.config.learner import CriticConfig, LearnerConfig, OptimizerConfig, ReferenceConfig
from medrl.config.rewards import RewardPoolConfig
from medrl.config.rollout import RolloutConfig, SamplingConfig


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
    def has_value_head(self) -> bool:
        """Whether the critic is a head on the policy."""
        return self.has_critic and self.critic.mode == "head"

    @property
    def critic_inside(self) -> bool:
        """Whether the critic lives in the policy's workers."""
        return self.has_critic and self.critic.mode != "separate"

    @property
    def parts(self) -> int:
        """In how many parts an answer is sampled."""
        return self.rollout.max_staleness if self.rollout.at_sync == "continue" else 1

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
        self._check_learner("learner", self.learner, self.lora)
        if self.has_critic and not self.has_value_head:
            self._check_learner("critic", self.critic, self.critic.lora)
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
        if self.sampling.max_tokens % self.parts:
            raise ValueError(
                f"rollout.at_sync continue cuts answers into rollout.max_staleness parts of one length: "
                f"sampling.max_tokens {self.sampling.max_tokens} must be a multiple of {self.parts}"
            )
        groups = a.advantage in ("rloo", "grpo", "dr_grpo", "reinforce_pp_baseline")
        if groups and self.data.samples_per_prompt < 2:
            raise ValueError(
                f"algorithm.advantage {a.advantage} compares the answers to a prompt: "
                f"data.samples_per_prompt must be at least 2, got {self.data.samples_per_prompt}"
            )
        if self.has_critic and self.critic.init == "reward" and not any(source.model for source in self.reward.sources):
            raise ValueError("critic.init reward needs a reward source with a `model`; set critic.init: policy")
        if self.has_value_head:
            self._check_value_head()
        elif self.critic_inside:
            self._check_shared_critic()
        return self

    def _check_learner(self, role: str, learner: LearnerConfig, lora: LoraConfig | None) -> None:
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
        self._check_as_learner(("workers", "cpus_per_worker", "gpus_per_worker", "threads_per_worker"))

    def _check_value_head(self) -> None:
        if self.critic.lora or self.critic.init != "policy":
            raise ValueError(
                "critic.mode head puts a new head on the policy itself: set critic.init: policy and leave out "
                "critic.lora, or set another critic.mode")
        self._check_as_learner(LearnerConfig.model_fields.keys() - {"optimizer"})
        norms = self.critic.optimizer.max_grad_norm, OptimizerConfig().max_grad_norm
        if self.learner.optimizer.max_grad_norm != norms[0] != norms[1]:
            raise ValueError(
                f"critic.optimizer.max_grad_norm {norms[0]} cannot be: with critic.mode head the gradients of both "
                "losses are clipped together, at learner.optimizer.max_grad_norm; leave it out")

    def _check_as_learner(self, names: Iterable[str]) -> None:
        """ValueError unless the critic's settings of these names are the learner's, or left alone."""
        for name in names:
            value, default = getattr(self.critic, name), CriticConfig.model_fields[name].default
            if value not in (default, getattr(self.learner, name)):
                raise ValueError(
                    f"critic.{name} {value} cannot be: with critic.mode {self.critic.mode} the critic lives in the "
                    "learner's workers; leave it out")

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
        if self.rollout.max_staleness > 1:
            raise ValueError(
                "rollout.weight_transfer nccl sends the weights that the learner has at that moment, and with "
                f"rollout.max_staleness {self.rollout.max_staleness} engines take over older ones: set it to 1 or 0, "
                "or weight_transfer to object_store"
            )
