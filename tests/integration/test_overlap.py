"""Sampling while training: what it saves when the two use different resources, and that it resumes exactly."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import cycle
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
from medrl.stages.ppo_rollouts import Rollouts
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


def at_once(value: Any) -> Call[Any]:
    return Call(lambda seconds: True, lambda: value)


class Fakes:
    """All groups of a run; sampling and training wait instead of computing, as on machines of their own.

    `sampling`: seconds of the batches in turn, over and over; `scoring`: of each step.
    """

    def __init__(self, sampling: Sequence[float], scoring: float) -> None:
        self.version = 0
        self.sampling, self.scoring = cycle(sampling), scoring
        self.scored: list[list[str]] = []  # the questions
        self.threads = ThreadPoolExecutor()
        self.rollout = self.policy = self.reference = self.reward = self

    def workers(self) -> Workers:
        groups: Any = (self.policy, None, self.reference, self.reward, self.rollout)
        return Workers(*groups, engines={}, parameter_bytes={})

    def _after(self, seconds: float, value: Callable[[], Any]) -> Call:
        done = self.threads.submit(time.sleep, seconds)
        return Call(lambda limit: bool(wait([done], limit).done), value)

    def sample(self, requests, sampling) -> Call[list[Completion]]:
        version = self.version
        return self._after(next(self.sampling), lambda: [
            Completion(r.prompt, r.sample, (5, 2), (-1.0, -1.0), "stop", version) for r in requests])

    def update(self, experience, kl_coef, seed) -> Call[dict[str, float]]:
        return self._after(TRAINING_S, dict)

    def export_weights(self, version, probe_ids) -> int:
        return version

    def sync(self, weights: int) -> Call[list[SyncReport]]:
        self.version = weights
        return at_once([SyncReport(weights, "", 0.0, 0.0, 0)])

    def rest(self) -> None:
        return

    def logprobs(self, batch_ref) -> Call[np.ndarray]:
        import ray

        batch: Any = ray.get(batch_ref, timeout=60)
        return at_once(np.where(batch.response_mask, -1.0, 0.0).astype(np.float32))

    def score(self, texts) -> Call[Scores]:
        self.scored.append([text.messages[-1]["content"] for text in texts])
        return self._after(self.scoring, lambda: Scores(np.zeros(len(texts), np.float32), {}))

    def canary(self) -> Call[list[float]]:
        return at_once([0.0])

    def save(self, path: str) -> Call[None]:
        Path(path).mkdir(parents=True)
        (Path(path) / "empty").touch()
        return at_once(None)


def timed(
    folder: Path, max_staleness: int, sampling: Sequence[float] = (SAMPLING_S,), scoring: float = 0.0
) -> tuple[float, Fakes]:
    """Seconds of a whole run on the fakes."""
    values = ppo_values(folder, name=f"waiting-{max_staleness}", steps=STEPS, rollout={"max_staleness": max_staleness},
                        algorithm={"importance": "truncate", "advantage": "reinforce_pp"})
    config = build_config(PpoConfig, values)
    config = config.model_copy(update={"data": config.data.model_copy(update={"eval_prompts": None})})
    inputs, fakes = prepare(config), Fakes(sampling, scoring)
    state, workers = LoopState.begin(config, inputs.prompts), fakes.workers()
    run_dir = create_run_dir(config, keep=False)
    with open_tracker(config.tracking, run_dir, config.steps) as tracker:
        start = time.monotonic()
        train(config, inputs, state, Rollouts(config, state, workers.rollout), workers, tracker, Interrupts(),
              EventLog(run_dir / "events.jsonl"), Profiler((), run_dir))
        return time.monotonic() - start, fakes


def test_one_step_ahead_saves_nearly_all_of_the_shorter_phase(ray_cluster, tmp_path: Path) -> None:
    in_turn, ahead = timed(tmp_path, 0)[0], timed(tmp_path, 1)[0]
    saved = (in_turn - ahead) / (STEPS * min(SAMPLING_S, TRAINING_S))
    print(f"\nin turn {in_turn:.2f} s, ahead {ahead:.2f} s: {saved:.0%} of the shorter phase saved")
    assert 0.8 <= saved <= 1


def test_two_steps_ahead_even_out_batches_that_take_longer_than_others(ray_cluster, tmp_path: Path) -> None:
    sampling = (0.05, 0.55)  # as long as training on average
    one, two = (timed(tmp_path, k, sampling)[0] for k in (1, 2))
    # One step ahead, every other step waits for the difference: the longer batch and training begin together.
    saved = (one - two) / (STEPS / 2 * (max(sampling) - TRAINING_S))
    print(f"\none step ahead {one:.2f} s, two {two:.2f} s: {saved:.0%} of the waits saved")
    assert 0.4 <= saved <= 1.2


def test_answers_that_are_there_are_scored_while_the_step_before_trains(ray_cluster, tmp_path: Path) -> None:
    (in_turn, one), (ahead, other) = (timed(tmp_path, k, (0.05,), scoring=0.25) for k in (0, 1))
    saved = (in_turn - ahead) / (STEPS * (0.25 + 0.05))  # scoring and sampling, less those of the first step
    print(f"\nin turn {in_turn:.2f} s, ahead {ahead:.2f} s: {saved:.0%} of sampling and scoring saved")
    assert 0.5 <= saved <= 1
    assert one.scored == other.scored and len(one.scored) == STEPS, "the same answers, once each, in the same order"


@pytest.mark.parametrize(("k", "at_sync"), [(1, "finish"), (2, "finish"), (2, "continue")])
def test_a_run_that_samples_ahead_resumes_exactly(ray_cluster, tiny_run: Path, k: int, at_sync: str) -> None:
    values = ppo_values(tiny_run, name=f"ahead-{k}-{at_sync}", steps=4,
                        rollout={"engine": "hf", "max_staleness": k, "at_sync": at_sync},
                        algorithm={"importance": "truncate"}, checkpoint={"every": 2})
    config = build_config(PpoConfig, values)

    def rows(summary: dict) -> list[dict]:
        return [json.loads(line) for line in (Path(summary["run_dir"]) / "metrics.jsonl").read_text().splitlines()]

    straight = rows(run_ppo(config))
    assert [row["rollout/staleness_max"] for row in straight] == [min(k, n) for n in range(4)]
    assert straight[1]["rollout/engine_gap_max"] > 1e-4 > straight[0]["rollout/engine_gap_max"]
    shutil.rmtree(Path(config.run_dir) / "checkpoints/step-000004")
    resumed = rows(run_ppo(config, resume=True))
    assert [row["step"] for row in resumed] == [1, 2, 3, 4]
    for name in ("rollout/score_mean", "policy/loss", "policy/grad_norm", "critic/loss", "rollout/importance_mean"):
        assert resumed[-1][name] == pytest.approx(straight[-1][name], rel=1e-4, abs=1e-7), name
