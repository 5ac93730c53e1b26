"""What pretrain, sft, reward and dpo share in a training worker: TRL's arguments, fitting, saving.

A stage hands in TRL's classes, so that TRL stays with the stages.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import patch_environment
from datasets import Dataset
from datasets.table import InMemoryTable
from peft.utils.integrations import gather_params_ctx
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from medrl.config.common import ModelConfig
from medrl.lora.adapter import save_adapter
from medrl.lora.heads import check_head_trains
from medrl.lora.manifest import manifest
from medrl.lora.merge import merge_adapter
from medrl.lora.resolve import Task
from medrl.lora.wrap import wrap
from medrl.models.export import save_model
from medrl.models.loading import load_tokenizer
from medrl.workers.callbacks import FirstLoss, HeldOut, StepLog
from medrl.workers.checkpointing import checkpointing, load_trained_, newest
from medrl.workers.supervised import Job

SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


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
    measure: Callable[[Any], dict[str, Any]] | None = None, first_loss: FirstLoss | None = None,
) -> dict[str, Any]:
    """Train `model` on `table`, save it to `job.model` (and `job.adapter`), return the outcome; on every rank.

    Goes on from the newest checkpoint of the run if there is one. `measure`: held-out figures of the model in training.
    The batches are the same for any number of workers, but for the last one of a pass: if the rows do not fill it, one
    worker takes what is left, and several fill it up with rows from the start of the pass.
    """
    tokenizer, trained = load_tokenizer(job.config.model), manifest(model)
    held_out = HeldOut(job, measure) if measure and job.config.training.eval_every else None
    log = StepLog(job, first_loss, held_out)
    trainer: Any = checkpointing(trainer_class, job)(
        model=model, args=arguments, train_dataset=Dataset(InMemoryTable(table)), processing_class=tokenizer,
        callbacks=[log])
    trainer.remove_callback(PrinterCallback)
    folder, state = newest(job) or (None, None)
    if state:
        trainer._total_train_tokens = int(state.log_history[-1]["num_tokens"])  # TRL counts from 0 again
    trainer.train(resume_from_checkpoint=folder)
    train_seconds = log.seconds
    if held_out:
        held_out.check_better(trainer.state)
        load_trained_(model, job.best)
    merged = _save(job, trainer.model, tokenizer)
    return {
        "steps": trainer.state.global_step, "best_step": trainer.state.best_global_step,
        "trained_parameters": sum(row["count"] for row in trained),
        "tokens_seen": log.tokens, "loss_first": log.losses[0], "loss_last": log.losses[-1],
        "train_seconds": round(train_seconds, 1), "merge": merged,
    }


def training_arguments(job: Job) -> dict[str, Any]:
    """Keyword arguments that TRL's configs share. No setting is left to a default that TRL changed."""
    config, training = job.config, job.config.training
    per_worker = training.batch_size // config.scaling.workers
    micro_batch = min(training.micro_batch_size, per_worker)
    on_cpu = config.scaling.gpus_per_worker == 0
    state = {} if training.zero_stage is None else set_up_zero(on_cpu)
    return {
        "output_dir": str(job.folder), "seed": config.seed, 
        "use_cpu": on_cpu and training.zero_stage is None,  # Accelerate knows no DeepSpeed there
        "bf16": config.model.dtype == "bfloat16",
        "num_train_epochs": training.epochs, "max_steps": training.max_steps or -1,
        "per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": per_worker // micro_batch,
        "learning_rate": training.lr, "lr_scheduler_type": SCHEDULES[training.schedule],
        "warmup_steps": training.warmup_ratio,  # below 1 it is a share of the steps
        "weight_decay": training.weight_decay, "max_grad_norm": training.max_grad_norm,
        "gradient_checkpointing": training.gradient_checkpointing, "deepspeed": zero_config(training.zero_stage),
        "ddp_find_unused_parameters": False, "dataloader_num_workers": 0, "dataloader_pin_memory": not on_cpu,
        "max_length": None,  # the driver left out what is too long
        "logging_steps": 1, "logging_nan_inf_filter": False,  # the filter would hide a NaN behind the running mean
        "save_strategy": "steps" if config.checkpoint.every else "no", "save_steps": config.checkpoint.every or 1,
        "report_to": "none", "disable_tqdm": True, **state,
    }


def set_up_zero(on_cpu: bool) -> dict[str, Any]:
    """Prepare this process for DeepSpeed; returns the training arguments that go with it."""
    from medrl.learner.engine import set_up_deepspeed  # seconds to import

    set_up_deepspeed()
    if not on_cpu:
        return {}
    # Accelerate finds no backend for DeepSpeed without a GPU, and would take every rank for the only one: tell it.
    PartialState._reset_state()
    with patch_environment(ACCELERATE_USE_DEEPSPEED="true"):
        PartialState(backend="gloo")
    return {"accelerator_config": {"use_configured_state": True}}


def zero_config(stage: int | None) -> dict[str, Any] | None:
    """DeepSpeed's config for a ZeRO stage; "auto" values are filled in from the training arguments."""
    if stage is None:
        return None
    return {
        "zero_optimization": {"stage": stage}, "bf16": {"enabled": "auto"}, "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "train_batch_size": "auto",
        "zero_allow_untested_optimizer": True,
    }


def _save(job: Job, model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Write the model (the adapter and the merged model) from rank 0; returns on every rank when it is there."""
    merged = None
    with gather_params_ctx(list(model.parameters()), modifier_rank=None):
        if dist.get_rank() == 0:
            for leftover in (job.model, job.adapter):  # of a run that broke off while it saved
                shutil.rmtree(leftover, ignore_errors=True)
            if job.config.lora is None:
                save_model(model, tokenizer, job.model)
            else:
                save_adapter(model, job.adapter)
                tokenizer.save_pretrained(job.adapter)
    unset_hf_deepspeed_config()  # under ZeRO 3 it would shard every model that is loaded from here on
    if dist.get_rank() == 0 and job.config.lora is not None:
        merged = merge_adapter(str(job.adapter), job.config.model.path, str(job.model), job.config.model.dtype)
    dist.barrier()  # every rank has read the best weights
    if dist.get_rank() == 0:
        job.best.unlink(missing_ok=True)
    return merged
