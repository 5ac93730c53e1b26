"""Ray Train: one function on N workers that share a torch.distributed process group."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, LoggingConfig, RunConfig, TrainingFailedError, get_context
from ray.train import ScalingConfig as RayScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from medrl.errors import MedrlError, WorkerError
from medrl.setup.choices import SPINS, choose_threads
from medrl.setup.cores import usable_cores
from medrl.workers.capacity import RolePlan
from medrl.workers.placement import check_cluster
from medrl.workers.runtime import prepare_memory

if TYPE_CHECKING:
    import pyarrow as pa

Job = TypeVar("Job")
START_TIMEOUT_S = 600  # placing and starting the workers
COLLECTIVE_TIMEOUT_S = 1800  # one torch.distributed operation

# TRL reports its use to the hub unless told not to; nothing of a medical training run may leave the cluster.
# Threads that wait must soon sleep: spinning ones starve whatever shares the machine.
WORKER_ENV = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "GOMP_SPINCOUNT": SPINS}


def launch(
    loop: Callable[[Job, dict[str, pa.Table]], dict], job: Job, tables: dict[str, pa.Table], plan: RolePlan,
    max_failures: int, folder: Path, watch: Callable[[], None],
) -> dict:
    """Run `loop(job, tables)` on every worker; return what rank 0 returned.

    The tables travel through the object store, one copy a node. `folder` must be on storage that every worker sees.
    `watch` is called about once a second while the workers run. A MedrlError of a worker is raised here as it is;
    anything else that ends a worker is a WorkerError, raised after `max_failures` new starts: `loop` must go on
    from where it was.
    """
    check_cluster({"train": plan})
    references = {name: ray.put(table) for name, table in tables.items()}

    def run(config: dict) -> dict:
        _set_threads(plan.threads)
        prepare_memory()
        return loop(config["job"], {name: ray.get(reference) for name, reference in config["tables"].items()})

    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(START_TIMEOUT_S)
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"  # also how long the end of a run goes unnoticed
    resources = {"CPU": plan.cpus} | ({"GPU": plan.gpus} if plan.gpus else {})
    make_trainer = partial(
        TorchTrainer, run, train_loop_config={"job": job, "tables": references},
        scaling_config=RayScalingConfig(
            num_workers=plan.workers, use_gpu=plan.gpus > 0, resources_per_worker=resources,
            placement_strategy=plan.strategy, label_selector=dict(plan.labels) or None),
        run_config=RunConfig(
            name="ray_train", storage_path=str(folder), worker_runtime_env={"env_vars": WORKER_ENV},
            # Without a limit the controller would start failing workers for ever.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            logging_config=LoggingConfig(log_level="ERROR")),
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S))
    for failures in range(max_failures + 1):
        try:
            return _fit(make_trainer(), watch).return_value
        except TrainingFailedError as error:
            cause = _cause(error)
            if failures == max_failures or not isinstance(cause, WorkerError):
                raise cause from None
            print(f"{cause}\nstarting the workers again: {failures + 1} of {max_failures} times", flush=True)
        finally:
            shutil.rmtree(folder / "ray_train", ignore_errors=True)
    raise AssertionError("unreachable")


def _set_threads(threads: int | None) -> None:
    """Torch threads of this worker: as configured, or its share of the machine's cores."""
    import torch

    together = get_context().get_local_world_size()
    torch.set_num_threads(choose_threads(threads, 1, usable_cores(), together).value)


def _fit(trainer: TorchTrainer, watch: Callable[[], None]) -> Any:
    """`trainer.fit()` in a thread of its own: on the main thread Ray Train would take SIGINT over for good."""
    outcome: Future = Future()

    def target() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=target, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(1.0)
        watch()
    return outcome.result()


def _cause(error: TrainingFailedError) -> MedrlError:
    """The first worker's own error if it is one of ours, else what happened to the workers."""
    failures: list[Exception] = [error]
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        failures = [failure for _, failure in sorted(error.worker_failures.items())]
    elif isinstance(error, ControllerError):
        failures = [error.controller_failure]
    for failure in failures:
        if isinstance(failure, MedrlError):
            return failure
    first = failures[0]
    if isinstance(first, WorkerHealthCheckFailedError):
        first = first.health_check_failure
    got = f"{type(first).__name__}: {first}"[:2000]
    if isinstance(first, RayActorError):
        return WorkerError("a training worker died", got=got,
                           remedy="if it ran out of memory, lower training.micro_batch_size or use a larger machine")
    if isinstance(first, WorkerGroupStartupTimeoutError):
        return WorkerError("the training workers could not be placed", limit=f"all of them within {START_TIMEOUT_S} s",
                           got=got, remedy="wait until the cluster has room for what scaling asks for, or ask for less")
    return WorkerError("training failed", got=got, remedy="see the worker's log in Ray's session folder")
