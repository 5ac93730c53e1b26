"""What watches a supervised training run: its log, and the held-out loss that decides which weights are kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from medrl.errors import TrainingError
from medrl.lora.reference_proofs import check_first_loss
from medrl.tracking.jsonl import JsonLines, metric_row
from medrl.workers.checkpointing import save_trained
from medrl.workers.supervised import Job

# Metric → the trainer's name for it.
KEYS = {"epoch": "epoch", "loss": "loss", "grad_norm": "grad_norm", "lr": "learning_rate", "tokens": "num_tokens"}


@dataclass(frozen=True)
class FirstLoss:
    """What the loss of the first step must be, within the relative `bound`."""

    expected: float
    bound: float


class HeldOut:
    """Evaluates before the first step, every `training.eval_every` steps and after the last one, keeps the best weights
    in `job.best`, and ends training after `training.patience` evaluations that were no better.

    `measure(model)` gives the same figures, `eval_loss` among them, on every rank.
    """

    def __init__(self, job: Job, measure: Callable[[Any], dict[str, Any]]) -> None:
        self.job, self.measure = job, measure

    def is_due(self, state: Any) -> bool:
        step, every = state.global_step, self.job.config.training.eval_every or 1
        return step % every == 0 or step == state.max_steps

    def evaluate(self, state: Any, control: Any, model: Any) -> dict[str, float]:
        """The figures of the model as it is. The best loss so far is in the trainer's state, so in its checkpoints."""
        training, step = self.job.config.training, state.global_step
        started = time.monotonic()
        model.eval()
        with torch.no_grad():
            figures = self.measure(model)
        model.train()
        check_finite(self.job, "eval_loss", figures["eval_loss"], step)
        if state.best_metric is None or figures["eval_loss"] < state.best_metric:
            state.best_metric, state.best_global_step = figures["eval_loss"], step
            if step and state.is_world_process_zero:
                save_trained(model, self.job.best)
        if training.patience and (step - state.best_global_step) // (training.eval_every or 1) >= training.patience:
            control.should_training_stop = True
        if interval := figures.pop("accuracy_interval", None):
            figures["accuracy_low"], figures["accuracy_high"] = interval
        return figures | {"eval_seconds": round(time.monotonic() - started, 3)}

    def check_better(self, state: Any) -> None:
        """TrainingError unless some evaluation was better than the one before the first step."""
        if state.best_global_step == 0:
            raise TrainingError(
                f"{self.job.stage}: training made nothing better: the best weights are those it started from",
                limit=f"an eval_loss below {state.best_metric:.6f}, that before the first step", got="none",
                remedy="lower training.lr, train longer, or see that data.eval is of the same kind as data.train; "
                "without training.eval_every the last weights are kept, whatever their loss")


class StepLog(TrainerCallback):
    """Writes metrics.jsonl on rank 0, a row a step, and stops every rank when loss or gradient is not finite."""

    def __init__(self, job: Job, first_loss: FirstLoss | None = None, held_out: HeldOut | None = None) -> None:
        self.job, self.first_loss, self.held_out = job, first_loss, held_out
        self.losses: list[float] = []
        self.tokens = 0
        self.started = time.monotonic()
        self.file: JsonLines | None = None  # on rank 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.started = time.monotonic()
        before = [logs for logs in state.log_history if "loss" in logs]  # of a run that is resumed
        self.losses = [logs["loss"] for logs in before]
        self.tokens = int(before[-1]["num_tokens"]) if before else 0
        if state.is_world_process_zero:
            self.file = JsonLines(self.job.metrics, state.global_step)
        if self.held_out and state.global_step == 0:
            self._write(state, self.held_out.evaluate(state, control, model))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, model: Any = None, **kwargs: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return  # the summary at the end
        row = {name: logs[key] for name, key in KEYS.items() if logs.get(key) is not None}
        for name in ("loss", "grad_norm"):
            if name in row:  # DeepSpeed does not always tell the norm
                check_finite(self.job, name, row[name], state.global_step)
        if not self.losses and self.first_loss is not None:
            check_first_loss(row["loss"], self.first_loss.expected, self.first_loss.bound)
        self.losses.append(row["loss"])
        self.tokens = int(row["tokens"])
        row["seconds"] = round(self.seconds, 3)
        if self.held_out and self.held_out.is_due(state):
            row |= self.held_out.evaluate(state, control, model)
        self._write(state, row)

    def _write(self, state: Any, row: dict[str, float]) -> None:
        if self.file is not None:
            self.file.append([metric_row(state.global_step, {"steps": state.max_steps} | row)])


def check_finite(job: Job, name: str, value: float, step: int) -> None:
    """TrainingError for a loss or norm that is not finite."""
    if not math.isfinite(value):
        raise TrainingError(
            f"{job.stage}: {name} is not finite at step {step}", limit="a finite number", got=str(value),
            remedy="lower training.lr, or check the data and the base model's weights")
