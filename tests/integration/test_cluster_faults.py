"""PPO on a cluster of four raylets, submitted as a job, while SIGKILL takes one part after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.clusters import Raylets, finished, raylets, submitted, wait_until
from tests.runs import answers, rows, same
from tests.tiny import ppo_values

pytestmark = pytest.mark.slow

STEPS = 6
STRIKE_AFTER = 3  # steps: the newest checkpoint is of step 2 then
SECONDS = 250.0  # for a whole run
DRIVER = "-m medrl ppo"


@dataclass(frozen=True)
class Case:
    """Whom to kill while it does what."""

    title: str  # in the victim's command line at that moment
    role: str = ""  # of the worker_lost event; empty: none is due
    node: bool = False  # kill the raylet below the victim instead


CASES = {
    "rollout-node": Case("ray::RolloutWorker.generate", "rollout", node=True),
    "reward-worker": Case("ray::RewardWorker.score", "reward"),
    "learner-rank": Case("ray::PolicyWorker.update", "policy"),
    "critic": Case("ray::CriticWorker.update", "critic"),
    "learner-node": Case("ray::PolicyWorker.update", "policy", node=True),
    "driver": Case(DRIVER),
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    """The head has room for critic and rewards. Of three nodes the learner fills one, the rollouts half of the others.

    So whichever of the three goes, what ran on it finds room on the other two.
    """
    with raylets(tmp_path_factory.mktemp("home"), cpus=3, label="head") as started:
        for _ in range(3):
            started.add(2, "work")
        yield started


def write_config(folder: Path, name: str) -> Path:
    here, there = {"medrl": "head"}, {"medrl": "work"}
    seconds = dict.fromkeys(("generate", "score", "update", "sync", "checkpoint", "collective"), 60)
    values = ppo_values(
        folder, name=name, steps=STEPS, checkpoint={"every": 2, "keep_last": 2}, learner={"workers": 2},
        data={"batch_size": 8}, sampling={"max_tokens": 24}, timeouts=seconds | {"start": 180},
        rollout={"engine": "hf", "workers": 2},
        ray={"labels": {"policy": there, "rollout": there, "critic": here, "reward": here}})
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def straight(cluster: Raylets, tiny_run: Path) -> Path:
    """The folder of a run that nothing disturbs."""
    log = tiny_run / "straight.log"
    with submitted(cluster, write_config(tiny_run, "straight"), log) as job:
        finished(job, log, SECONDS)
    run = tiny_run / "runs/straight"
    assert [row["step"] for row in rows(run)] == list(range(1, STEPS + 1))
    return run


def strike(cluster: Raylets, case: Case) -> float:
    """Kill the victim if there is one at this moment; returns when, 0.0 if there is none."""
    victims = cluster.processes(case.title)
    if not victims:
        return 0.0
    struck = time.time()
    if case.node:
        cluster.kill(next(process.pid for process in victims[0].parents() if process.pid in cluster.nodes))
    else:
        victims[0].kill()
    return struck


@pytest.fixture
def whole(cluster: Raylets) -> Iterator[Raylets]:
    """The cluster, which gets back a node that the test kills."""
    before = cluster.nodes.copy()
    yield cluster
    for _ in before - cluster.nodes:
        cluster.add(2, "work")


@pytest.mark.parametrize("name", CASES)
def test_a_killed_part_is_replaced_and_the_numbers_stay(
    whole: Raylets, straight: Path, tiny_run: Path, name: str
) -> None:
    case, run, log = CASES[name], tiny_run / "runs" / name, tiny_run / f"{name}.log"
    with submitted(whole, write_config(tiny_run, name), log, "--retries", "2") as job:
        wait_until(lambda: len(rows(run)) >= STRIKE_AFTER, job, log, SECONDS)
        struck = wait_until(lambda: strike(whole, case), job, log, 60.0, pause=0.0)
        output = finished(job, log, SECONDS)
    metrics = rows(run)
    same(rows(straight), metrics)
    assert answers(run) == answers(straight)
    events = rows(run, "events.jsonl")
    lost = [event for event in events if event["event"] == "worker_lost"]
    assert {event["role"] for event in lost} == ({case.role} if case.role else set()), lost
    assert ("starting again" in output) == (name == "driver"), output
    noticed = min(event["time"] for event in events if event["time"] > struck)
    logged = min(row["wall_time"] for row in metrics if row["wall_time"] > noticed)
    print(f"\n{name}: noticed {noticed - struck:.1f} s, the next step done {logged - struck:.1f} s after the kill")
