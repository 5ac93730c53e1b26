"""What pretrain, sft, reward and dpo share in the driver: checks, the run's folder, its report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrl import checkpoint
from medrl.config.common import SupervisedConfig, TimeoutsConfig
from medrl.data.tables import Rows
from medrl.data.templates import NAMES
from medrl.errors import ConfigError, ModelError
from medrl.mirror import mirror_of, mirrored
from medrl.models.loading import check_model_dir, load_tokenizer
from medrl.run_dir import create_run_dir, write_json
from medrl.tracking.base import check_trackers
from medrl.workers.cluster import connect
from medrl.workers.follow import following
from medrl.workers.placement import plan_role
from medrl.workers.train import launch

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Job:
    """What the driver tells every training worker. All paths are absolute: workers run in a folder of their own."""

    stage: str
    config: SupervisedConfig
    folder: Path  # the run's; on storage that every worker sees

    @property
    def metrics(self) -> Path:
        """One JSON object for each optimizer step, and one for an evaluation before the first."""
        return self.folder / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints of medrl/checkpoint.py."""
        return self.folder / "checkpoints"

    @property
    def best(self) -> Path:
        """The trained tensors with the best held-out loss so far; gone when the run is finished."""
        return self.folder / "best.safetensors"

    @property
    def adapter(self) -> Path:
        """The LoRA adapter in PEFT's format."""
        return self.folder / "adapter"

    @property
    def model(self) -> Path:
        """The model the next stage starts from."""
        return self.folder / ("model" if self.config.lora is None else "merged")


def checked_tokenizer(config: SupervisedConfig) -> PreTrainedTokenizerBase:
    """The run's tokenizer, once the model directory is seen to be complete and to go with it and with max_length."""
    directory = check_model_dir(config.model.path, tokenizer=config.model.tokenizer is None)
    tokenizer = load_tokenizer(config.model)
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    values |= values.get("text_config", {})
    context, vocabulary = values.get("max_position_embeddings"), values.get("vocab_size")
    if context and config.training.max_length > context:
        raise ConfigError("training.max_length is more than the model can read", got=str(config.training.max_length),
                          limit=f"{context} tokens (max_position_embeddings)", remedy="lower training.max_length")
    on_cpu = config.scaling.gpus_per_worker == 0
    if on_cpu and config.training.zero_stage is not None and config.model.dtype != "float32":
        raise ConfigError("training.zero_stage on CPUs needs float32", got=f"model.dtype {config.model.dtype}",
                          remedy="set zero_stage to null, or model.dtype: float32, or give workers GPUs")
    largest = max(tokenizer.get_vocab().values())
    if vocabulary and largest >= vocabulary:
        raise ModelError("the tokenizer does not belong to the model", limit=f"token ids below vocab_size {vocabulary}",
                         got=f"token id {largest}", remedy="set model.tokenizer to the model's own tokenizer")
    return tokenizer


def run_stage(
    stage: str, config: SupervisedConfig, loop: Callable[[Job, dict[str, pa.Table]], dict], rows: dict[str, Rows],
    resume: bool,
) -> dict[str, Any]:
    """Train with `loop` as every worker's function; return the report, which report.json holds too.

    `resume`: go on from the run's newest checkpoint. CheckpointError when it was saved with another config.
    """
    if config.training.eval_every and "eval" not in rows:
        raise ConfigError("training.eval_every needs held-out data", got="data.eval null", remedy="set data.eval")
    check_trackers(config.tracking)
    started = time.monotonic()
    job = Job(stage, _with_absolute_paths(config), Path(config.run_dir).absolute())
    mirror = mirror_of(config, job.checkpoints, TimeoutsConfig().checkpoint, resume=resume)
    same_run = partial(checkpoint.check_config, current=config_fingerprint(job.config))
    found = checkpoint.find(job.checkpoints, same_run) if resume else None
    run_dir = create_run_dir(config, keep=found is not None)
    tables = {name: r.table for name, r in rows.items()}
    trackers = following(config.tracking, job.metrics, found[0] if found else None)
    model = job.config.model
    plan = plan_role("train", config.scaling, config, (model.path, model.tokenizer, f"{job.folder}/config.yaml"),
                     learner=True)
    with connect(config.ray, plan.workers * plan.cpus), mirrored(mirror), trackers as follow:
        outcome = launch(loop, job, tables, plan, config.scaling.max_failures, job.folder, follow)
        report = {
            "stage": stage, "name": config.name, "model": str(run_dir / job.model.name),
            "adapter": str(run_dir / job.adapter.name) if config.lora else None,
            "rows": {name: {"used": r.table.num_rows, "dropped": r.dropped, "cut": r.cut, "tokens": r.tokens}
                     for name, r in rows.items()},
            **outcome, "seconds": round(time.monotonic() - started, 1),
        }
        write_json(run_dir / "report.json", report)  # before the trackers close: they may keep it
    return report


def _with_absolute_paths(config: SupervisedConfig) -> SupervisedConfig:
    """Model paths that exist here become absolute; others are hub ids or names of chat templates."""
    paths = {name: str(Path(path).absolute()) for name in ("path", "tokenizer", "chat_template")
             if (path := getattr(config.model, name)) and path not in NAMES and Path(path).exists()}
    return config.model_copy(update={"model": config.model.model_copy(update=paths)})


def config_fingerprint(config: SupervisedConfig) -> dict[str, Any]:
    """The part of the config that a resumed run must share with the saved one."""
    free = {"output_dir": True, "name": True, "ray": True, "checkpoint": True, "tracking": True, "mlflow": True,
            "scaling": {"max_failures", "cpus_per_worker", "threads_per_worker"}}
    return config.model_dump(mode="json", exclude=free)
