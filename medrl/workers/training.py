"""What pretrain, sft, reward and dpo share in a training worker: TRL's arguments, the step log, saving.

A stage hands in TRL's classes, so that TRL stays with the stages.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch.distributed as dist
from datasets import Dataset
from datasets.table import InMemoryTable
from peft.utils.integrations import gather_params_ctx
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from medrl.config.common import ModelConfig
from medrl.errors import TrainingError
from medrl.lora.adapter import save_adapter
from medrl.lora.heads import check_head_trains
from medrl.lora.manifest import manifest
from medrl.lora.merge import merge_adapter
from medrl.lora.reference_proofs import check_first_loss
from medrl.lora.resolve import Task
from medrl.lora.wrap import wrap
from medrl.models.export import save_model
from medrl.models.loading import load_tokenizer
from medrl.workers.supervised import Job

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class FirstLoss:
    """What the loss of the first step must be, within the relative `bound`."""

    expected: float
    bound: float


def build_model(job: Job, load: Callable[[ModelConfig], PreTrainedModel], task: Task) -> Any:
    """The model to train, with its adapters, on the CPU; the same on every rank.

    TRL's arguments must exist before: under ZeRO 3 they make loading shard the weights.
    """
    set_seed(job.config.seed)  # a new head and new adapters start the same on every rank
    model = load(job.config.model)
    if job.config.lora:
        model = wrap(model, job.config.lora, task=task)
    if task == "scalar":
        check_head_trains(model)
    return model


def fit(
    job: Job, model: Any, table: pa.Table, trainer_class: type[Trainer], arguments: TrainingArguments,
    first_loss: FirstLoss | None = None,
) -> dict[str, Any]:
    """Train `model` on `table`, save it to `job.model` (and `job.adapter`), return the outcome; on every rank.

    The batches are the same for any number of workers, but for the last one of a pass: if the rows do not fill it, one
    worker takes what is left, and several fill it up with rows from the start of the pass.
    """
    tokenizer, trained, log = load_tokenizer(job.config.model), manifest(model), StepLog(job, first_loss)
    trainer = trainer_class(
        model=model, args=arguments, train_dataset=Dataset(InMemoryTable(table)), processing_class=tokenizer,
        callbacks=[log])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    train_seconds = log.seconds
    merged = _save(job, trainer.model, tokenizer)
    return {
        "steps": trainer.state.global_step, "trained_parameters": sum(row["count"] for row in trained),
        "tokens_seen": log.tokens, "loss_first": log.losses[0], "loss_last": log.losses[-1],
        "train_seconds": round(train_seconds, 1), "merge": merged,
    }


def training_arguments(job: Job) -> dict[str, Any]:
    """Keyword arguments that TRL's configs share. No setting is left to a default that TRL changed."""
    config, training = job.config, job.config.training
    per_worker = training.batch_size // config.scaling.workers
    micro_batch = min(training.micro_batch_size, per_worker)
    on_cpu = config.scaling.gpus_per_worker == 0
    return {
        "output_dir": str(job.folder), "seed": config.seed, "use_cpu": on_cpu, "bf16": config.model.dtype == "bfloat16",
        "num_train_epochs": training.epochs, "max_steps": training.max_steps or -1,
        "per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": per_worker // micro_batch,
        "learning_rate": training.lr, "lr_scheduler_type": SCHEDULES[training.schedule],
        "warmup_steps": training.warmup_ratio,  # below 1 it is a share of the steps
        "weight_decay": training.weight_decay, "max_grad_norm": training.max_grad_norm,
        "gradient_checkpointing": training.gradient_checkpointing, "deepspeed": zero_config(training.zero_stage),
        "ddp_find_unused_parameters": False, "dataloader_num_workers": 0, "dataloader_pin_memory": not on_cpu,
        "max_length": None,  # the driver left out what is too long
        "logging_steps": 1, "logging_nan_inf_filter": False,  # the filter would hide a NaN behind the running mean
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
    }


def zero_config(stage: int | None) -> dict[str, Any] | None:
    """DeepSpeed's config for a ZeRO stage; "auto" values are filled in from the training arguments."""
    if stage is None:
        return None
    return {
        "zero_optimization": {"stage": stage}, "bf16": {"enabled": "auto"}, "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "train_batch_size": "auto",
        "zero_allow_untested_optimizer": True,
    }


class StepLog(TrainerCallback):
    """Writes metrics.jsonl on rank 0 and stops every rank when the loss or the gradient is not finite."""

    def __init__(self, job: Job, first_loss: FirstLoss | None = None) -> None:
        self.job, self.first_loss = job, first_loss
        self.losses: list[float] = []
        self.tokens = 0
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return  # the summary at the end
        row = {
            "step": state.global_step, "steps": state.max_steps, "epoch": logs["epoch"], "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"), "lr": logs["learning_rate"], "tokens": int(logs["num_tokens"]),
            "seconds": round(self.seconds, 3)}
        for name in ("loss", "grad_norm"):
            if row[name] is not None and not math.isfinite(row[name]):  # DeepSpeed does not always tell the norm
                raise TrainingError(
                    f"{self.job.stage}: {name} is not finite at step {state.global_step}", limit="a finite number",
                    got=str(row[name]), remedy="lower training.lr, or check the data and the base model's weights")
        if not self.losses and self.first_loss is not None:
            check_first_loss(row["loss"], self.first_loss.expected, self.first_loss.bound)
        self.losses.append(row["loss"])
        self.tokens = row["tokens"]
        if state.is_world_process_zero:
            with self.job.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def _save(job: Job, model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Write the model (the adapter and the merged model) from rank 0; returns on every rank when it is there."""
    merged = None
    with gather_params_ctx(list(model.parameters()), modifier_rank=None):
        if dist.get_rank() == 0:
            if job.config.lora is None:
                save_model(model, tokenizer, job.model)
            else:
                save_adapter(model, job.adapter)
                tokenizer.save_pretrained(job.adapter)
    unset_hf_deepspeed_config()  # under ZeRO 3 it would shard every model that is loaded from here on
    if dist.get_rank() == 0 and job.config.lora is not None:
        merged = merge_adapter(str(job.adapter), job.config.model.path, str(job.model), job.config.model.dtype)
    dist.barrier()
    return merged
