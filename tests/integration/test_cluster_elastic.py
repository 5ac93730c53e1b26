"""Rollout engines that join a run when nodes do, and leave it with them: 1, 3, and 1 again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest
import yaml

from tests.clusters import Raylets, finished, raylets, submitted, wait_until
from tests.runs import Row, answers, rows, same
from tests.tiny import ppo_values

pytestmark = pytest.mark.slow

STEPS = 30
STEPS_A_PHASE = 4
SECONDS = 250.0  # for a whole run
ADDED = 2  # nodes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    """Room for one rollout engine."""
    with raylets(tmp_path_factory.mktemp("home"), cpus=3, label="head") as started:
        started.add(1, "rollout")
        yield started


def write_config(folder: Path, name: str, max_workers: int) -> Path:
    here, there = {"medrl": "head"}, {"medrl": "rollout"}
    values = ppo_values(
        folder, name=name, steps=STEPS, data={"batch_size": 12}, sampling={"max_tokens": 32},
        learner={"micro_batch_size": 12}, critic={"micro_batch_size": 12},
        rollout={"engine": "hf", "workers": 1, "max_workers": max_workers},
        ray={"labels": {"rollout": there, "policy": here, "critic": here, "reward": here}})
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def straight(cluster: Raylets, tiny_run: Path) -> Path:
    """The folder of a run with one engine from beginning to end."""
    log = tiny_run / "straight.log"
    with submitted(cluster, write_config(tiny_run, "straight", 1), log) as job:
        finished(job, log, SECONDS)
    return tiny_run / "runs/straight"


def events(run: Path, name: str) -> int:
    """How many rollout workers it happened to."""
    return len([e for e in rows(run, "events.jsonl") if e["event"] == name and e["role"] == "rollout"])


def speed(metrics: list[Row], since: float, until: float) -> float:
    """Tokens a second of the steps that were generated within, on average."""
    began = [(row["wall_time"] - sum(v for n, v in row.items() if n.startswith("time/")), row) for row in metrics]
    return mean(row["rollout/tokens_per_second"] for start, row in began
                if since <= start and row["wall_time"] <= until)


def test_engines_join_and_leave_while_the_steps_go_on(cluster: Raylets, straight: Path, tiny_run: Path) -> None:
    run, log = tiny_run / "runs/elastic", tiny_run / "elastic.log"
    with submitted(cluster, write_config(tiny_run, "elastic", 1 + ADDED), log) as job:

        def wait_for_steps(more: int) -> None:
            wanted = len(rows(run)) + more
            wait_until(lambda: len(rows(run)) >= wanted, job, log, SECONDS)

        wait_for_steps(STEPS_A_PHASE)
        alone, joined = time.time(), events(run, "worker_joined")
        nodes = [cluster.add(1, "rollout") for _ in range(ADDED)]
        wait_until(lambda: events(run, "worker_joined") >= joined + ADDED, job, log, SECONDS)
        grown = time.time()
        wait_for_steps(STEPS_A_PHASE)
        shrinking = time.time()
        for node in nodes:
            cluster.remove(node)
        wait_until(lambda: events(run, "worker_lost") >= ADDED, job, log, SECONDS)
        shrunk = time.time()
        finished(job, log, SECONDS)
    metrics = rows(run)
    same(rows(straight), metrics)
    assert answers(run) == answers(straight)
    assert len([row for row in metrics if row["wall_time"] > shrunk]) >= STEPS_A_PHASE
    for engines, since, until in ((1, 0.0, alone), (3, grown, shrinking), (1, shrunk, time.time())):
        print(f"\n{engines} engine{'s' * (engines > 1)}: {speed(metrics, since, until):.0f} tokens/s", end="")
