"""What watches a supervised training run: its log, and the held-out loss that decides which weights are kept."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from medrl.errors import TrainingError
from medrl.lora.reference_proofs import check_first_loss
from medrl.tracking.jsonl import drop_later_steps
from medrl.workers.checkpointing import save_trained
from medrl.workers.supervised import Job


@dataclass(frozen=True)
class FirstLoss:
    """What the loss of the first step must be, within the relative `bound`."""

    expected: float
    bound: float


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
        before = [logs for logs in state.log_history if "loss" in logs]  # of a run that is resumed
        self.losses = [logs["loss"] for logs in before]
        self.tokens = int(before[-1]["num_tokens"]) if before else 0
        if state.is_world_process_zero and self.job.metrics.exists():
            drop_later_steps(self.job.metrics, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return  # the summary at the end
        row = {
            "step": state.global_step, "steps": state.max_steps, "epoch": logs["epoch"], "loss": logs["loss"],
            "grad_norm": logs.get("grad_norm"), "lr": logs["learning_rate"], "tokens": int(logs["num_tokens"]),
            "seconds": round(self.seconds, 3)}
        for name in ("loss", "grad_norm"):
            if row[name] is not None:  # DeepSpeed does not always tell the norm
                check_finite(self.job, name, row[name], state.global_step)
        if not self.losses and self.first_loss is not None:
            check_first_loss(row["loss"], self.first_loss.expected, self.first_loss.bound)
        self.losses.append(row["loss"])
        self.tokens = row["tokens"]
        if state.is_world_process_zero:
            append_row(self.job, row)


class HeldOut(TrainerCallback):
    """Evaluates every `training.eval_every` steps and after the last one, keeps the best weights in `job.best`, and
    ends training after `training.patience` evaluations that were no better. `measure(model)` gives the same figures,
    `eval_loss` among them, on every rank."""

    def __init__(self, job: Job, measure: Callable[[Any], dict[str, Any]]) -> None:
        self.job, self.measure = job, measure

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, model: Any = None, **kwargs: Any
    ) -> None:
        training, step = self.job.config.training, state.global_step
        every = training.eval_every or 1
        if not logs or "loss" not in logs or not (step % every == 0 or step == state.max_steps):
            return
        started = time.monotonic()
        model.eval()
        with torch.no_grad():
            figures = self.measure(model)
        model.train()
        check_finite(self.job, "eval_loss", figures["eval_loss"], step)
        # In the trainer's state, so that they are in its checkpoints.
        if state.best_metric is None or figures["eval_loss"] < state.best_metric:
            state.best_metric, state.best_global_step = figures["eval_loss"], step
            if state.is_world_process_zero:
                save_trained(model, self.job.best)
        if state.is_world_process_zero:
            seconds = round(time.monotonic() - started, 3)
            append_row(self.job, {"step": step, "steps": state.max_steps} | figures | {"seconds": seconds})
        if training.patience and (step - state.best_global_step) // every >= training.patience:
            control.should_training_stop = True


def check_finite(job: Job, name: str, value: float, step: int) -> None:
    """TrainingError for a loss or norm that is not finite."""
    if not math.isfinite(value):
        raise TrainingError(
            f"{job.stage}: {name} is not finite at step {step}", limit="a finite number", got=str(value),
            remedy="lower training.lr, or check the data and the base model's weights")


def append_row(job: Job, row: dict[str, Any]) -> None:
    """One more line of metrics.jsonl."""
    with job.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
