"""Rollout engines that rest, and whose fault an error is, over fake Ray workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, RayError, RayTaskError

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import MedrlError, WeightSyncError, WorkerError, WorkerLost
from medrl.faults.budget import FaultBudget
from medrl.faults.events import EventLog
from medrl.rollout.base import GenerateRequest
from medrl.types import Prompt
from medrl.workers import pool as pool_module
from medrl.workers import rollout as rollout_module
from medrl.workers.placement import plan_roles
from medrl.workers.pool import SYNC
from medrl.workers.rollout import SEND, RolloutPool


class FakeRay:
    """`wait` and `get` over references that are a FakeWorker's own answers: a value, an error, or nothing ever."""

    def __init__(self) -> None:
        self.killed: list[FakeWorker] = []

    def wait(self, refs: list[Any], **limits: Any) -> tuple[list[Any], list[Any]]:
        done = [ref for ref in refs if ref.answer is not ...]
        return done, [ref for ref in refs if ref not in done]

    def get(self, ref: Any, **limits: Any) -> Any:
        if isinstance(ref.answer, Exception):
            raise ref.answer
        return ref.answer

    def kill(self, worker: FakeWorker) -> None:
        self.killed.append(worker)


class Reference:
    def __init__(self, answer: Any) -> None:
        self.answer = answer


class FakeWorker:
    """Has started, and answers `rest` with what it is given."""

    def __init__(self, rest: Any = None) -> None:
        self.rested = 0
        self._rest = rest

    def __getattr__(self, method: str) -> Any:
        def remote(*arguments: Any) -> Reference:
            if method == "rest":
                self.rested += 1
                return Reference(self._rest)
            return Reference(...)

        return type("Method", (), {"remote": staticmethod(remote)})


REQUESTS = [GenerateRequest(Prompt("p", (), (1,)), 0, 1)]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A pool of workers that hold version 1, at a sleep level."""

    def make(level: int, *workers: FakeWorker) -> tuple[RolloutPool, FakeRay, PpoConfig]:
        config = build_config(PpoConfig, {
            "name": "run", "model": {"path": str(tmp_path)}, "lora": {}, "data": {"prompts": "p.jsonl"},
            "critic": {"init": "policy"}, "reward": {"sources": [{"name": "f", "function": "m:f"}]},
            "rollout": {"workers": len(workers), "gpus_per_worker": 0.5, "sleep_level": level}})
        ray, spares = FakeRay(), iter([*workers, *(FakeWorker() for _ in range(9))])
        for module in (pool_module, rollout_module):
            for name in ("wait", "get", "kill"):
                monkeypatch.setattr(module.ray, name, getattr(ray, name))
        budget = FaultBudget(9, EventLog(tmp_path / "events.jsonl", report=lambda line: None))
        pool = RolloutPool(plan_roles(config)["rollout"], config, (3,), 1, budget)
        pool._create = lambda number: pool._handles.update({number: next(spares)})
        pool._machine.grow(len(workers), 0.0)
        pool._carry_out()
        for number in range(len(workers)):
            pool._machine.started(number, 0.0)
        pool._machine.update(1, 0.0)
        pool._machine.commands.clear()
        for number in range(len(workers)):
            pool._machine.synced(number, 1, 0.0)
        pool._machine.commands.clear()
        return pool, ray, config

    return make


def lost(folder: Path) -> list[tuple[str, str]]:
    log = folder / "events.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [(row["worker"], row["reason"]) for row in rows if row["event"] == "worker_lost"]


def test_without_a_sleep_level_nobody_is_asked_to_rest(make) -> None:
    workers = [FakeWorker(), FakeWorker()]
    pool, *_ = make(0, *workers)
    pool.rest()
    assert [worker.rested for worker in workers] == [0, 0]


def test_at_level_1_engines_stay_fresh(make, tmp_path: Path) -> None:
    workers = [FakeWorker(), FakeWorker()]
    pool, *_ = make(1, *workers)
    pool.rest()
    assert [worker.rested for worker in workers] == [1, 1] and not lost(tmp_path)
    assert pool._machine.begin([1.0], 0.0)  # no error: there are weights to work with


def test_at_level_2_a_sync_has_to_come_first(make) -> None:
    pool, _, config = make(2, FakeWorker(), FakeWorker())
    pool.rest()
    with pytest.raises(WeightSyncError, match="sync weights first"):
        pool.generate(REQUESTS, config.sampling)
    assert not pool._machine.updated


@pytest.mark.parametrize("level", [1, 2])
def test_an_engine_that_dies_or_does_not_fall_asleep_is_replaced(make, tmp_path: Path, level: int) -> None:
    dead, awake, well = FakeWorker(ActorDiedError()), FakeWorker(...), FakeWorker()
    pool, ray, config = make(level, dead, awake, well)
    pool.rest()
    assert ray.killed == [dead, awake] and well in pool._handles.values()
    assert [worker for worker, _ in lost(tmp_path)] == ["rollout 0", "rollout 1"]
    assert lost(tmp_path)[1][1] == f"not asleep within {config.timeouts.sync:g} s"


def test_an_engine_that_cannot_sleep_ends_the_run(make) -> None:
    pool, *_ = make(1, FakeWorker(task_error(RuntimeError("out of memory"))))
    with pytest.raises(WorkerError, match="rollout rest failed"):
        pool.rest()


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("receive", "traceback", cause)


@pytest.mark.parametrize(("what", "error", "ends_the_run_as"), [
    (SYNC, ActorDiedError(), None),  # the engine's own death
    (SYNC, task_error(WorkerLost("weights did not come through")), None),
    (SYNC, task_error(ActorDiedError()), "policy"),  # that of who held the weights
    (SYNC, ObjectLostError("00", "", ""), "policy"),
    (SEND, ActorDiedError(), "policy"),
    (SYNC, task_error(WeightSyncError("damaged")), WeightSyncError),
    (SYNC, task_error(RuntimeError("no library")), WorkerError),
    (SEND, task_error(RuntimeError("no library")), WorkerError),
    ("work", ActorDiedError(), None),
    ("work", task_error(WeightSyncError("stale")), WeightSyncError),
])
def test_whose_fault_an_error_is(make, what: str, error: RayError, ends_the_run_as: Any) -> None:
    pool, *_ = make(0, FakeWorker())
    failure = pool.failure(what, error)
    if ends_the_run_as is None:
        assert failure is None
    elif ends_the_run_as == "policy":
        assert isinstance(failure, WorkerLost) and (failure.role, failure.workers) == ("policy", ("policy 0",))
    else:
        assert isinstance(failure, MedrlError) and type(failure) is ends_the_run_as
