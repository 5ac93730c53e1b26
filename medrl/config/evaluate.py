"""Config of `medrl evaluate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medrl.config.common import DataChecks, FaultsConfig, ModelConfig, StageConfig, TimeoutsConfig
from medrl.config.rewards import RewardPoolConfig
from medrl.config.rollout import EngineConfig, SamplingConfig

Metric = Literal[
    "perplexity", "accuracy", "accuracy_per_token", "accuracy_generated", "rouge_l", "bleu", "chrf", "rules_passed",
    "reward", "win_rate", "repetition", "distinct_2", "length",
]
OF_ANSWERS: tuple[Metric, ...] = ("reward", "win_rate", "repetition", "distinct_2", "length")
TASK_METRICS: dict[str, tuple[Metric, ...]] = {
    "text": ("perplexity",),
    "choice": ("accuracy", "accuracy_per_token", "accuracy_generated"),
    "reference": ("rouge_l", "bleu", "chrf", *OF_ANSWERS),
    "prompts": OF_ANSWERS,
    "safety": ("rules_passed", *OF_ANSWERS),
}


class EvaluationSet(DataChecks):
    """Rows of one task, measured together."""

    name: str = Field(min_length=1, description="name in the results")
    task: Literal["text", "choice", "reference", "prompts", "safety"] = Field(
        description="what its rows are, and which metrics they can have (docs/evaluation.md)"
    )
    path: str = Field(description="rows: file, directory or hub dataset (docs/data-formats.md)")
    metrics: list[Metric] | None = Field(
        default=None, min_length=1, description="null: every metric of the task that the config has the means for"
    )
    max_rows: int | None = Field(default=None, ge=1, description="use the first n rows; null: all")

    @model_validator(mode="after")
    def _of_the_task(self):
        possible = TASK_METRICS[self.task]
        for metric in self.metrics or ():
            if metric not in possible:
                raise ValueError(f"task {self.task} has no metric {metric}: choose from {', '.join(possible)}")
        return self


class EvaluateConfig(StageConfig):
    """`medrl evaluate`: a model measured on sets of rows, beside a baseline if there is one."""

    model: ModelConfig = Field(description="the model to measure")
    baseline: str | None = Field(
        default=None, description="directory of the model to compare with (SFT before PPO), read as `model` says"
    )
    reward: RewardPoolConfig | None = Field(
        default=None, description="scorers for the metrics reward and win_rate; null: none"
    )
    sets: list[EvaluationSet] = Field(min_length=1, description="what is measured, in this order")
    sampling: SamplingConfig = Field(default=SamplingConfig(), description="all but max_tokens needs greedy: false")
    greedy: bool = Field(default=True, description="always the likeliest token; false: drawn as `sampling` says")
    max_length: int = Field(
        default=1024, ge=8, description="longest prompt + answer, in tokens; passages of text are cut into such pieces"
    )
    micro_batch_size: int = Field(default=16, ge=1, description="sequences per forward pass for log-probs")
    rollout: EngineConfig = EngineConfig()
    bootstrap_samples: int = Field(default=1000, ge=1, description="resamples behind a 95 % interval")
    kept_answers: int = Field(default=20, ge=0, description="answers of each set kept in evaluation.json, with prompts")
    timeouts: TimeoutsConfig = TimeoutsConfig()
    faults: FaultsConfig = Field(default=FaultsConfig(), description="of the workers that score; others end the run")

    @property
    def max_model_len(self) -> int:
        return self.max_length

    def metrics_of(self, chosen: EvaluationSet) -> list[Metric]:
        """What is measured on a set."""
        return chosen.metrics or [m for m in TASK_METRICS[chosen.task] if self._missing(m) is None]

    def _missing(self, metric: Metric) -> str | None:
        """What the config lacks for a metric."""
        if metric in ("reward", "win_rate") and self.reward is None:
            return "reward"
        return "baseline" if metric == "win_rate" and self.baseline is None else None

    @model_validator(mode="after")
    def _possible(self):
        names = [s.name for s in self.sets]
        if len(set(names)) < len(names):
            raise ValueError(f"sets have the same name twice: {', '.join(names)}")
        for chosen in self.sets:
            for metric in chosen.metrics or ():
                if missing := self._missing(metric):
                    raise ValueError(f"set {chosen.name!r}: metric {metric} needs `{missing}`")
        if self.sampling.max_tokens >= self.max_length:
            raise ValueError(
                f"sampling.max_tokens {self.sampling.max_tokens} leaves no room for a prompt: "
                f"raise max_length {self.max_length}"
            )
        return self
