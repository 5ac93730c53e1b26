"""Pools whose workers die, fall silent and join while they work: the same results, and every loss on record."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import RewardError, WorkerError
from medrl.faults.budget import FaultBudget
from medrl.faults.commands import Command, Joined, Run, Sync
from medrl.faults.events import EventLog
from medrl.run_dir import create_run_dir
from medrl.stages.ppo_inputs import PpoInputs, prepare, rollout_requests
from medrl.types import Completion
from tests.integration.processes import struck
from tests.tiny import ppo_values

pytestmark = pytest.mark.ray


class Started:
    """Started workers and what the driver knows."""

    def __init__(self, config: PpoConfig, inputs: PpoInputs, workers: Any, log: Path) -> None:
        self.config, self.inputs, self.workers, self.log = config, inputs, workers, log
        self.requests = rollout_requests(config, 1, inputs.prompts.next_batch())

    def sync(self, version: int) -> list:
        return self.workers.rollout.sync(self.workers.policy.export_weights(version, self.inputs.probe_ids)).result()

    def generate(self) -> list[Completion]:
        return self.workers.rollout.generate(self.requests, self.config.sampling)

    def events(self, kind: str) -> list[dict]:
        rows = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return [row for row in rows if row["event"] == kind]


@contextmanager
def launched(
    folder: Path, log: Path, change: Callable[[PpoConfig], PpoConfig] = lambda config: config, **sections: Any
) -> Iterator[Started]:
    from medrl.workers.launch import launch_workers

    values = {
        "critic": {"init": "policy"}, "algorithm": {"advantage": "rloo"}, "sampling": {"max_tokens": 48},
        "data": {"batch_size": 12, "samples_per_prompt": 2}}
    config = change(build_config(PpoConfig, ppo_values(folder, **(values | sections))))
    inputs = prepare(config)
    create_run_dir(config, keep=True)  # nodes are asked whether they see it
    with launch_workers(config, inputs.launch, FaultBudget(5, EventLog(log))) as workers:
        yield Started(config, inputs, workers, log)


def same(a: list[Completion], b: list[Completion]) -> None:
    def identity(c: Completion) -> tuple:
        return c.prompt.id, c.sample, c.ids, c.version

    assert list(map(identity, a)) == list(map(identity, b))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x.logprobs, y.logprobs, atol=1e-4)


def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it never came about"
        time.sleep(0.2)
    return found


def spied(pool: Any) -> list[Command]:
    """The commands that the pool carries out from now on."""
    commands: list[Command] = []
    carry_out = pool._do
    pool._do = lambda command: (commands.append(command), carry_out(command))
    return commands


def test_a_killed_engine_and_a_killed_scorer_change_no_result(ray_cluster, tiny_run: Path, tmp_path: Path) -> None:
    sources = [{"name": "length", "function": "tests.integration.rewards:slow_length"}]
    with launched(tiny_run, tmp_path / "events.jsonl", rollout={"engine": "hf", "workers": 2},
                  reward={"sources": sources, "workers": 2}) as run:
        run.sync(0)
        before = run.generate()
        texts = run.inputs.score_requests(before)
        scores = run.workers.reward.score(texts).result().total
        with struck("RolloutWorker", "generate") as killed:
            same(run.generate(), before)
        assert len(killed) == 1
        with struck("RewardWorker", "score") as killed:
            np.testing.assert_array_equal(run.workers.reward.score(texts).result().total, scores)
        assert len(killed) == 1
        lost = run.events("worker_lost")
        assert [row["role"] for row in lost] == ["rollout", "reward"], lost
        assert all(" on " in row["worker"] and "Error" in row["reason"] for row in lost)
        assert {row["role"]: row["items"] for row in run.events("reissued")} == {"rollout": 12, "reward": 12}

        def both() -> bool:
            run.generate()
            return "rollout" in [row["role"] for row in run.events("worker_joined")]

        eventually(both)  # the replacement has taken over the weights that are there
        assert len(run.sync(1)) == 2 and {c.version for c in run.generate()} == {1}


def test_an_engine_that_joins_gets_prompts_only_after_a_sync(ray_cluster, tiny_run: Path, tmp_path: Path) -> None:
    with launched(tiny_run, tmp_path / "events.jsonl", rollout={"engine": "hf", "workers": 1, "max_workers": 2}) as run:
        rollout = run.workers.rollout
        commands = spied(rollout)
        assert len(run.sync(0)) == 1  # the second is not there yet, and not waited for
        before = run.generate()

        def joined() -> bool:
            same(run.generate(), before)
            return any(isinstance(command, Joined) and command.member == 1 for command in commands)

        eventually(joined)
        same(run.generate(), before)
        second = [command for command in commands if getattr(command, "member", None) == 1]
        assert [type(command) for command in second[1:4]] == [Sync, Joined, Run]
        assert [row["worker"].split(" on ")[0] for row in run.events("worker_joined")] == ["rollout 1"]
        assert len(run.sync(1)) == 2
        rollout.forget()
        assert [report.version for report in run.sync(0)] == [0, 0]
        same(run.generate(), before)
        assert not run.events("worker_lost")


def test_a_call_that_is_given_up_confuses_no_later_one(ray_cluster, tiny_run: Path, tmp_path: Path) -> None:
    sources = [{"name": "length", "function": "tests.integration.rewards:slow_length"}]
    with launched(tiny_run, tmp_path / "events.jsonl", rollout={"engine": "hf"},
                  reward={"sources": sources}) as run:
        run.sync(0)
        texts = run.inputs.score_requests(run.generate())
        first = run.workers.reward.score(texts)
        second = run.workers.reward.score(texts[:3])
        with pytest.raises(WorkerError, match="given up"):
            first.result()
        np.testing.assert_allclose(second.result().total, [len(text.answer) / 10 for text in texts[:3]])
        assert not run.events("worker_lost")


def test_an_error_of_ours_in_a_worker_is_no_fault(ray_cluster, tiny_run: Path, tmp_path: Path) -> None:
    sources = [{"name": "bad", "function": "tests.integration.rewards:raises"}]
    with launched(tiny_run, tmp_path / "events.jsonl", rollout={"engine": "hf"}, reward={"sources": sources}) as run:
        run.sync(0)
        with pytest.raises(RewardError, match="'bad'"):
            run.workers.reward.score(run.inputs.score_requests(run.generate())).result()
        assert not run.events("worker_lost")


@pytest.mark.slow
def test_an_engine_that_falls_silent_is_killed_and_replaced(ray_cluster, tiny_run: Path, tmp_path: Path) -> None:
    with launched(tiny_run, tmp_path / "events.jsonl", rollout={"engine": "hf", "workers": 2},
                  timeouts={"generate": 20.0}) as run:
        run.sync(0)
        before = run.generate()
        with struck("RolloutWorker", "generate", signal.SIGSTOP) as stopped:
            same(run.generate(), before)
        assert [row["reason"] for row in run.events("worker_lost")] == ["no answer within 20 s"]
        import psutil

        eventually(lambda: not psutil.pid_exists(stopped[0]))
