"""Sampling while training: what it saves when the two use different resources, and that it resumes exactly."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.faults.events import EventLog
from medrl.run_dir import create_run_dir
from medrl.stages.ppo import run_ppo, train
from medrl.stages.ppo_inputs import prepare
from medrl.stages.ppo_state import LoopState
from medrl.tracking.base import open_tracker
from medrl.types import Completion, Scores, SyncReport
from medrl.workers.interrupt import Interrupts
from medrl.workers.launch import Workers
from medrl.workers.pool import Call
from medrl.workers.profiler import Profiler
from tests.tiny import ppo_values

pytestmark = pytest.mark.ray
SAMPLING_S, TRAINING_S, STEPS = 0.5, 0.3, 10


class Fakes:
    """All groups of a run; sampling and training wait instead of computing, as on machines of their own."""

    def __init__(self) -> None:
        self.version = 0
        self.threads = ThreadPoolExecutor()
        self.rollout = self.policy = self.reference = self.reward = self

    def workers(self) -> Workers:
        groups: Any = (self.policy, None, self.reference, self.reward, self.rollout)
        return Workers(*groups, engines={}, parameter_bytes={})

    def _after(self, seconds: float, value: Callable[[], Any]) -> Call:
        done = self.threads.submit(time.sleep, seconds)
        return Call(lambda: (done.result(), value())[1])

    def sample(self, requests, sampling) -> Call[list[Completion]]:
        version = self.version
        return self._after(SAMPLING_S, lambda: [
            Completion(r.prompt, r.sample, (5, 2), (-1.0, -1.0), "stop", version) for r in requests])

    def update(self, experience, kl_coef, seed) -> Call[dict[str, float]]:
        return self._after(TRAINING_S, dict)

    def export_weights(self, version, probe_ids) -> int:
        return version

    def sync(self, weights: int) -> list[SyncReport]:
        self.version = weights
        return [SyncReport(weights, "", 0.0, 0.0, 0)]

    def rest(self) -> None:
        return

    def logprobs(self, batch_ref) -> Call[np.ndarray]:
        import ray

        batch: Any = ray.get(batch_ref, timeout=60)
        return Call(lambda: np.where(batch.response_mask, -1.0, 0.0).astype(np.float32))

    def score(self, texts) -> Call[Scores]:
        return Call(lambda: Scores(np.zeros(len(texts), np.float32), {}))

    def canary(self) -> Call[list[float]]:
        return Call(lambda: [0.0])

    def save(self, path: str) -> Call[None]:
        Path(path).mkdir(parents=True)
        (Path(path) / "empty").touch()
        return Call(lambda: None)


def seconds(folder: Path, max_staleness: int) -> float:
    """Of a whole run on the fakes."""
    values = ppo_values(folder, name=f"waiting-{max_staleness}", steps=STEPS, rollout={"max_staleness": max_staleness},
                        algorithm={"importance": "truncate", "advantage": "reinforce_pp"})
    config = build_config(PpoConfig, values)
    config = config.model_copy(update={"data": config.data.model_copy(update={"eval_prompts": None})})
    inputs, fakes = prepare(config), Fakes()
    run_dir = create_run_dir(config, keep=False)
    with open_tracker(config.tracking, run_dir, config.steps) as tracker:
        start = time.monotonic()
        train(config, inputs, LoopState.begin(config, inputs.prompts), fakes.workers(), tracker, Interrupts(),
              EventLog(run_dir / "events.jsonl"), Profiler((), run_dir))
        return time.monotonic() - start


def test_one_step_ahead_saves_nearly_all_of_the_shorter_phase(ray_cluster, tmp_path: Path) -> None:
    in_turn, ahead = seconds(tmp_path, 0), seconds(tmp_path, 1)
    saved = (in_turn - ahead) / (STEPS * min(SAMPLING_S, TRAINING_S))
    print(f"\nin turn {in_turn:.2f} s, ahead {ahead:.2f} s: {saved:.0%} of the shorter phase saved")
    assert 0.8 <= saved <= 1


def test_a_run_that_samples_ahead_resumes_exactly(ray_cluster, tiny_run: Path) -> None:
    values = ppo_values(tiny_run, name="ahead", steps=4, rollout={"engine": "hf", "max_staleness": 1},
                        algorithm={"importance": "truncate"}, checkpoint={"every": 2})
    config = build_config(PpoConfig, values)

    def rows(summary: dict) -> list[dict]:
        return [json.loads(line) for line in (Path(summary["run_dir"]) / "metrics.jsonl").read_text().splitlines()]

    straight = rows(run_ppo(config))
    assert [row["rollout/staleness_max"] for row in straight] == [0, 1, 1, 1]
    assert straight[1]["rollout/engine_gap_max"] > 1e-4 > straight[0]["rollout/engine_gap_max"]
    shutil.rmtree(Path(config.run_dir) / "checkpoints/step-000004")
    resumed = rows(run_ppo(config, resume=True))
    assert [row["step"] for row in resumed] == [1, 2, 3, 4]
    for name in ("rollout/score_mean", "policy/loss", "policy/grad_norm", "critic/loss", "rollout/importance_mean"):
        assert resumed[-1][name] == pytest.approx(straight[-1][name], rel=1e-4, abs=1e-7), name
