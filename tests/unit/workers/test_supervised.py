"""Pure parts of the supervised training workers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.config.base import build_config
from medrl.config.supervised import PretrainConfig
from medrl.errors import DataError, TrainingError, WorkerError
from medrl.workers.callbacks import HeldOut, StepLog
from medrl.workers.evaluation import batches
from medrl.workers.supervised import Job, config_fingerprint
from medrl.workers.train import _cause
from medrl.workers.training import training_arguments


def job(folder: Path = Path("/run"), **sections) -> Job:
    values = {"name": "x", "model": {"path": "m"}, "data": {"train": "a.txt"}, **sections}
    return Job("pretrain", build_config(PretrainConfig, values), folder)


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 4, 64])
def test_the_batch_is_shared_out_exactly(workers: int, micro: int) -> None:
    batch = {"batch_size": 16, "micro_batch_size": micro}
    arguments = training_arguments(job(training=batch, scaling={"workers": workers}))
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * workers == 16
    assert arguments["per_device_train_batch_size"] <= micro


def test_trl_takes_the_arguments_as_they_are_meant() -> None:
    from trl import RewardConfig, SFTConfig

    plain = job(training={"schedule": "constant", "warmup_ratio": 0.25, "lr": 1e-3, "epochs": 2.0})
    for config_class in (SFTConfig, RewardConfig):
        arguments = config_class(**training_arguments(plain))
        assert arguments.get_warmup_steps(8) == 2 and arguments.lr_scheduler_type == "constant_with_warmup"
        assert not (arguments.bf16 or arguments.fp16 or arguments.gradient_checkpointing or arguments.max_length)
        assert arguments.report_to == [] and not arguments.push_to_hub and arguments.save_strategy == "no"


def logged(step: int, **changes) -> dict:
    return {"loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.1, "epoch": 0.5, "num_tokens": 7.0 * step} | changes


def state(step: int, rank: int = 0) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=20, is_world_process_zero=rank == 0, log_history=[],
                           best_metric=None, best_global_step=None)


def test_each_step_is_one_row_of_rank_0(tmp_path: Path) -> None:
    log, other = StepLog(job(tmp_path)), StepLog(job(tmp_path))
    for rank, one in enumerate((log, other)):
        one.on_train_begin(None, state(0, rank), None)
        for step in range(1, 21):
            one.on_log(None, state(step, rank), None, logged(step))
        one.on_log(None, state(20, rank), None, {"train_loss": 2.0, "train_runtime": 1.0})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert rows[2].keys() == {
        "step", "wall_time", "steps", "epoch", "loss", "grad_norm", "lr", "tokens", "seconds"}
    assert log.tokens == other.tokens == 140


def test_an_evaluation_is_part_of_its_step_s_row(tmp_path: Path) -> None:
    class Model:
        def eval(self) -> None: ...
        def train(self) -> None: ...

    own = job(tmp_path, training={"eval_every": 2}, data={"train": "a.txt", "eval": "b.txt"})
    figures = {"eval_loss": 0.5, "accuracy": 0.75, "accuracy_interval": [0.5, 0.9]}
    log = StepLog(own, held_out=HeldOut(own, lambda model: dict(figures)))
    trainer = state(0)
    log.on_train_begin(None, trainer, None, model=Model())
    for trainer.global_step in (1, 2):
        log.on_log(None, trainer, None, logged(trainer.global_step), model=Model())
    before, first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    measured = {"eval_loss", "accuracy", "accuracy_low", "accuracy_high", "eval_seconds"}
    assert before.keys() == {"step", "wall_time", "steps"} | measured and before["step"] == 0
    assert first.keys() == second.keys() - measured and (second["accuracy_low"], second["accuracy_high"]) == (0.5, 0.9)
    assert trainer.best_global_step == 0  # never better than before


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_stops_training_and_names_the_step(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(TrainingError, match=f"{name} is not finite at step 3"):
        StepLog(job(tmp_path)).on_log(None, state(3, rank=1), None, logged(3, **{name: value}))


def test_a_resumed_run_may_differ_in_where_and_how_it_runs_only() -> None:
    plain = config_fingerprint(job().config)
    free = {"output_dir": "x", "tracking": ["jsonl"], "mlflow": {"uri": "http://mlflow:5000"},
            "ray": {"num_cpus": 3}, "checkpoint": {"every": 7},
            "scaling": {"max_failures": 2, "threads_per_worker": 1, "cpus_per_worker": 0.5}}
    assert config_fingerprint(job(**free).config) == plain
    for other in ({"seed": 1}, {"training": {"lr": 1.0}}, {"scaling": {"workers": 2}}, {"model": {"path": "n"}}):
        assert config_fingerprint(job(**other).config) != plain


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 120))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = batches(lengths, budget)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    assert all(len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget for group in groups)


def test_a_workers_own_error_comes_back_as_it_is_and_others_as_worker_errors() -> None:
    from ray.exceptions import RayActorError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    ours = DataError("bad", got="x")
    assert _cause(WorkerGroupError("", {0: RuntimeError("peer left"), 1: ours})) is ours
    failed = _cause(WorkerGroupError("", {1: RuntimeError("no such op")}))
    assert isinstance(failed, WorkerError) and failed.got == "RuntimeError: no such op"
    silent = WorkerHealthCheckFailedError("no answer", RayActorError())
    deaths = [ControllerError(RayActorError()), *(WorkerGroupError("", {0: e}) for e in (RayActorError(), silent))]
    for death in deaths:
        assert _cause(death).message == "a training worker died"
    late = _cause(ControllerError(WorkerGroupStartupTimeoutError(2)))
    assert late.message == "the training workers could not be placed"
