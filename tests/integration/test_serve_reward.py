"""`medrl serve-reward` as a user starts it: on the real Ray Serve, asked through the remote scorer and by PPO."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.config.rewards import HttpConfig, RewardPoolConfig, RewardSource
from medrl.errors import RewardError
from medrl.types import ScoreRequest
from medrl.workers.scorers import make_scorer
from tests.services import Running, running_service
from tests.tiny import ppo_values

VARIABLE, KEY = "MEDRL_TEST_SCORING_KEY", "tiny-key"
CALIBRATION = (0.1, 0.5)  # what tests.tiny writes


@pytest.fixture(scope="module", autouse=True)
def key() -> Iterator[None]:
    """In the environment before any Ray starts: workers inherit it from there."""
    os.environ[VARIABLE] = KEY
    yield
    del os.environ[VARIABLE]


@pytest.fixture(scope="module")
def service(key: None, tiny_run: Path) -> Iterator[Running]:
    command = ["serve-reward", str(tiny_run / "reward"), f"--api-key-env={VARIABLE}", "max_items=1500"]
    with running_service(command, os.environ) as running:
        assert "scores (calibrated)" in running.said
        yield running


def source(service: Running, **http) -> RewardSource:
    settings = {"api_key_env": VARIABLE, "batch_size": 3} | http
    return RewardSource(name="rm", url=f"{service.url}/score", http=HttpConfig(**settings))


def requests_of(count: int) -> list[ScoreRequest]:
    question = {"role": "user", "content": "感冒了怎么办?"}
    return [ScoreRequest((question,), "Rest. 多休息 " * i, i % 2 == 0) for i in range(1, count + 1)]


def test_the_remote_scores_are_those_of_the_model_here_calibrated(service: Running, tiny_run: Path) -> None:
    pool = RewardPoolConfig(sources=[source(service)])
    here = RewardSource(name="rm", model=str(tiny_run / "reward"))
    local = (make_scorer(here, pool)(requests_of(8)) - CALIBRATION[0]) / CALIBRATION[1]
    remote = make_scorer(source(service), pool)(requests_of(8))
    assert local.std() > 1e-3
    np.testing.assert_allclose(remote, local, atol=1e-5)


def test_only_health_answers_without_the_key(service: Running) -> None:
    body = {"items": [{"messages": [{"role": "user", "content": "?"}], "answer": "!"}]}
    health = httpx.get(f"{service.url}/health")
    assert health.json() == {"status": "ok", "calibrated": True}
    assert httpx.post(f"{service.url}/score", json=body).status_code == 401
    wrong = {"Authorization": "Bearer tiny-kez"}
    assert httpx.post(f"{service.url}/score", json=body, headers=wrong).status_code == 401
    assert httpx.get(f"{service.url}/docs").status_code == 401


def test_limits_come_back_as_readable_errors(service: Running) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    item = {"messages": [{"role": "user", "content": "?"}], "answer": "!"}
    many = httpx.post(f"{service.url}/score", json={"items": [item] * 1501}, headers=headers)
    assert many.status_code == 413 and "1501 items are more than max_items 1500" in many.json()["error"]["message"]
    long = [ScoreRequest(({"role": "user", "content": "?"},), "Mustermann " * 2000, True)]
    with pytest.raises(RewardError, match="HTTP 422"):
        make_scorer(source(service), RewardPoolConfig(sources=[source(service)]))(long)
    items = [item | {"answer": "Mustermann " * 2000}]
    reply = httpx.post(f"{service.url}/score", json={"items": items}, headers=headers)
    assert "max_length 1024" in reply.json()["error"]["message"] and "Mustermann" not in reply.text


def test_ppo_takes_a_step_with_it_as_its_reward(service: Running, ray_cluster, tiny_run: Path) -> None:
    from medrl.stages.ppo import run_ppo

    values = ppo_values(tiny_run, name="remote", steps=1, rollout={"engine": "hf"}, critic={"init": "policy"})
    values["reward"] = {"sources": [source(service).model_dump(exclude_defaults=True)]}
    summary = run_ppo(build_config(PpoConfig, values))
    run = Path(summary["run_dir"])
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert row["rollout/raw_score_std"] > 0
    assert row["source/rm"] == pytest.approx(row["rollout/raw_score_mean"], rel=1e-5)  # not calibrated a second time
    assert not any(KEY in file.read_text(errors="ignore") for file in run.rglob("*") if file.is_file())


def test_sigterm_lets_a_running_request_finish_and_frees_the_port(service: Running) -> None:
    pool = RewardPoolConfig(sources=[source(service)])
    scorer = make_scorer(source(service, batch_size=1500, attempts=1), pool)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(scorer, requests_of(10) * 150)
        time.sleep(0.5)
        service.process.send_signal(signal.SIGTERM)
        assert len(running.result(60)) == 1500
    assert service.process.wait(60) == 128 + signal.SIGTERM
    with pytest.raises(httpx.ConnectError):
        httpx.get(service.url)
