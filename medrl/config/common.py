"""Config sections that several stages share."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from medrl.config.base import StrictModel

DType = Literal["float32", "bfloat16"]


class DataChecks(StrictModel):
    """What becomes of rows that cannot be used."""

    on_bad_row: Literal["error", "skip"] = Field(
        default="error", description="stop at the first one, or leave it out and say where it is and why"
    )
    max_bad_rows: int = Field(
        default=100, ge=0, description="with `skip`: more bad rows than this in what one path names are an error"
    )


class SupervisedData(DataChecks):
    """Data of a supervised stage whose rows are conversations."""

    too_long: Literal["drop", "left", "right"] = Field(
        default="drop",
        description="a row longer than training.max_length: left out, without its oldest turns, or without the end of "
        "its answer; left out too where that does not help (counts are printed and reported)",
    )


class ModelConfig(StrictModel):
    """Which model to start from."""

    path: str = Field(description="directory with config.json and safetensors weights (or a hub id)")
    tokenizer: str | None = Field(default=None, description="tokenizer directory; null: the model's own")
    chat_template: str | None = Field(
        default=None, description="name of a template that ships with medrl or path of a .jinja file (see "
        "docs/data-formats.md); null: the tokenizer's own",
    )
    dtype: DType = Field(default="float32", description="dtype the weights are loaded and trained in")
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] | None = Field(
        default=None,
        description="attention kernel; null: flash_attention_2 on a GPU that runs it in `dtype`, where the package is "
        "installed and the architecture has it, else sdpa",
    )
    trust_remote_code: bool = Field(default=False, description="run Python code that comes with the model")


class LoraConfig(StrictModel):
    """Low-rank adapters; leave the whole section out for full fine-tuning."""

    targets: list[str] = Field(
        default=["all-linear"],
        min_length=1,
        description="roles (attention, mlp, all-linear, linear-attention, experts) or module patterns read by `match`",
    )
    match: Literal["exact", "subtree", "regex", "suffix"] = Field(
        default="exact", description="how patterns match module names; exact: full dotted path, * for layer numbers"
    )
    rank: int = Field(default=16, ge=1, description="rank of the adapters")
    ranks: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default={}, description="other ranks by pattern (same `match`); alpha stays, so each has its own s"
    )
    alpha: float = Field(
        default=32.0, gt=0, description="s = alpha / the module's own rank (alpha / sqrt(rank) with rslora)"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="adapter dropout; must be 0 in RL")
    bias: Literal["none", "all", "lora_only"] = Field(
        default="none", description="which biases train; must be none for a shared reference"
    )
    rslora: bool = Field(default=False, description="rank-stabilised scaling")
    dora: bool = Field(default=False, description="weight-decomposed LoRA (PT, SFT, RM only)")
    init: Literal["default", "gaussian", "pissa", "olora"] = Field(
        default="default",
        description="how A and B start; pissa and olora change the base and are refused with a shared reference",
    )
    layers: str | None = Field(
        default=None, description='decoder layers to adapt, for example "8-23" or "0,4,8-11"; null: all'
    )
    freeze: list[str] = Field(default=[], description="module name patterns (same `match`) never adapted")
    modules_to_save: list[str] = Field(default=[], description="modules trained in full (same `match`)")

    def check_no_dropout(self, stage: str) -> None:
        """ValueError if two forward passes of the same weights would differ."""
        if self.dropout:
            raise ValueError(f"lora.dropout must be 0 in {stage} (log-probs would differ by noise), got {self.dropout}")

    def check_base_stays(self, remedy: str) -> None:
        """ValueError if the model with the adapter off is no longer its base, which is to be the reference."""
        if self.bias != "none" or self.init in ("pissa", "olora"):
            raise ValueError(f"lora.bias other than none, and lora.init pissa or olora, change the base: {remedy}")


class TrainingConfig(StrictModel):
    """Optimisation of a supervised stage (TRL under Ray Train)."""

    epochs: float = Field(default=1.0, gt=0, description="passes over the data")
    max_steps: int | None = Field(
        default=None, ge=1, description="stop after this many optimizer steps, whatever `epochs` says"
    )
    batch_size: int = Field(default=16, ge=1, description="sequences per optimizer step over all workers")
    micro_batch_size: int = Field(default=16, ge=1, description="sequences per forward pass on one worker")
    lr: float = Field(default=2e-4, gt=0, description="peak learning rate")
    schedule: Literal["linear", "cosine", "constant"] = Field(default="cosine", description="decay after warm-up")
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW weight decay")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradient norm clip")
    gradient_checkpointing: bool = Field(default=False, description="recompute activations in the backward pass")
    zero_stage: Literal[0, 1, 2, 3] | None = Field(
        default=None, description="DeepSpeed ZeRO stage; null: plain data parallel"
    )
    max_length: int = Field(default=512, ge=8, description="tokens per sequence")
    eval_every: int | None = Field(
        default=None, ge=1,
        description="steps between evaluations on held-out data, whose best weights are what is saved (an error if "
        "none is better than before training); null: the last weights are saved, and evaluated",
    )
    patience: int | None = Field(
        default=None, ge=1, description="stop after this many evaluations without a better held-out loss; null: never"
    )

    @model_validator(mode="after")
    def _evaluations(self):
        if self.patience and not self.eval_every:
            raise ValueError("patience counts evaluations during training: set eval_every")
        if self.eval_every and self.zero_stage == 3:
            raise ValueError("eval_every needs whole weights on every worker: use zero_stage 0, 1 or 2")
        return self


class CheckpointConfig(StrictModel):
    """When to save, and how many to keep."""

    every: int | None = Field(default=None, ge=1, description="steps between checkpoints; null: only at the end")
    keep_last: int = Field(default=2, ge=1, description="complete checkpoints to keep")
    storage: str | None = Field(
        default=None,
        description="folder or fsspec URL (s3://… and so on) that also gets them, copied while training goes on; "
        "null: only the run's own folder has them",
    )

    @field_validator("storage")
    @classmethod
    def _plain_url(cls, storage: str | None) -> str | None:
        if storage and "::" in storage:
            raise ValueError("must be one URL, not a chain of them")
        url = urlsplit(storage or "")
        if url.scheme and (url.password or url.query or url.fragment):
            raise ValueError("must have no password, query or fragment: they would be kept in config.yaml; "
                             "the storage's own client reads credentials from the environment")
        return storage


class SupervisedCheckpointConfig(CheckpointConfig):
    """When to save, and how many to keep."""

    every: int | None = Field(
        default=None, ge=1, description="steps between checkpoints, one at the end besides; null: none at all"
    )


class ScalingConfig(StrictModel):
    """How many workers a supervised stage runs on."""

    workers: int = Field(default=1, ge=1, description="data-parallel training workers")
    cpus_per_worker: float = Field(default=1.0, gt=0, description="CPUs reserved for each worker")
    gpus_per_worker: float = Field(default=0.0, ge=0, description="GPUs reserved for each worker (0: CPU)")
    threads_per_worker: int | None = Field(
        default=None, ge=1, description="torch threads a worker; null: the CPUs of the machine over the workers"
    )
    max_failures: int = Field(
        default=0, ge=0, description="how often workers that failed are started again, from the newest checkpoint"
    )


Role = Literal["policy", "critic", "reference", "reward", "rollout", "train", "evaluation"]


class RayConfig(StrictModel):
    """Which Ray cluster to run on, and where on it."""

    address: str | None = Field(
        default=None,
        description='"auto", "ray://host:port" or host:port; null: RAY_ADDRESS if set, else a local cluster',
    )
    num_cpus: int | None = Field(
        default=None,
        ge=1,
        description="logical CPUs of a local cluster; null: what there is, at least what the run asks for",
    )
    labels: dict[Role, dict[str, str]] = Field(
        default={}, description="role → labels that its nodes must have (`ray start --labels`); other roles go anywhere"
    )
    strict_pack: bool = Field(
        default=False,
        description="all ranks of a learner on one node, or an error; false: on as few nodes as there is room",
    )


class TimeoutsConfig(StrictModel):
    """Seconds to wait before a worker counts as hung. Every wait has one of these."""

    start: float = Field(default=600.0, gt=0, description="placing and starting all workers, models loaded")
    generate: float = Field(default=1800.0, gt=0, description="one rollout batch")
    score: float = Field(default=1800.0, gt=0, description="rewards, log-probs and values of one batch")
    update: float = Field(default=3600.0, gt=0, description="the optimisation of one batch")
    sync: float = Field(default=600.0, gt=0, description="one weight sync")
    checkpoint: float = Field(default=1800.0, gt=0, description="saving or loading a checkpoint")
    collective: float = Field(default=1800.0, gt=0, description="one torch.distributed operation")


class FaultsConfig(StrictModel):
    """What a run does about workers that die or fall silent."""

    limit: int = Field(
        default=10, ge=0,
        description="lost workers, over the whole run, that are replaced; one more ends it. 0: the first one does",
    )


class MlflowConfig(StrictModel):
    """Where `tracking: [mlflow]` sends a run."""

    uri: str | None = Field(
        default=None,
        description="tracking server or database; null: MLFLOW_TRACKING_URI if set, else <output_dir>/mlflow.db",
    )

    @field_validator("uri")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri and urlsplit(uri).password:
            raise ValueError("holds a password, which would be kept in config.yaml; set MLFLOW_TRACKING_URI instead")
        return uri


class StageConfig(StrictModel):
    """What every stage's config starts with."""

    name: str = Field(min_length=1, description="run name; results go to <output_dir>/<name>")
    output_dir: str = Field(default="runs", description="folder of all runs")
    seed: int = Field(default=0, ge=0, description="the one seed everything random in the run derives from")
    ray: RayConfig = RayConfig()

    @property
    def run_dir(self) -> str:
        return f"{self.output_dir}/{self.name}"


class TrackedConfig(StageConfig):
    """What every training stage's config starts with."""

    tracking: list[Literal["console", "jsonl", "tensorboard", "mlflow"]] = Field(
        default=["console", "jsonl", "tensorboard"], description="where metrics go; mlflow: pip install 'medrl[mlflow]'"
    )
    mlflow: MlflowConfig = MlflowConfig()


class SupervisedConfig(TrackedConfig):
    """What pretrain, sft, reward and dpo have in common."""

    model: ModelConfig
    lora: LoraConfig | None = Field(default=None, description="null: full fine-tuning")
    training: TrainingConfig = TrainingConfig()
    checkpoint: SupervisedCheckpointConfig = SupervisedCheckpointConfig()
    scaling: ScalingConfig = ScalingConfig()

    @model_validator(mode="after")
    def _followed(self):
        if "jsonl" not in self.tracking:
            raise ValueError("tracking must have jsonl: the other trackers follow metrics.jsonl")
        return self

    @model_validator(mode="after")
    def _batch_arithmetic(self):
        t, workers = self.training, self.scaling.workers
        if t.batch_size % workers:
            raise ValueError(f"training.batch_size {t.batch_size} must be a multiple of scaling.workers {workers}")
        per_worker = t.batch_size // workers
        if per_worker % min(t.micro_batch_size, per_worker):
            raise ValueError(
                f"training.batch_size {t.batch_size} over {workers} workers is {per_worker} a worker: "
                f"not a multiple of training.micro_batch_size {t.micro_batch_size}"
            )
        return self
