"""PPO runs that lose learners half-way: the same numbers as an undisturbed run, and the loss on record."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import WorkerError
from tests.tiny import ppo_values

pytestmark = pytest.mark.ray
STEPS = 4


def config_for(folder: Path, name: str, **sections) -> PpoConfig:
    return build_config(PpoConfig, ppo_values(
        folder, name=name, steps=STEPS, rollout={"engine": "hf"}, learner={"workers": 2}, data={"batch_size": 8},
        timeouts={"collective": 60}, **sections))


def lines(folder: Path, name: str, file: str) -> list[dict]:
    path = folder / "runs" / name / file
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def struck(title: str, ready, signum: int = signal.SIGKILL) -> Iterator[list[psutil.Process]]:
    """The first process whose title begins so gets the signal as soon as `ready()` holds; yields the list of them."""
    victims: list[psutil.Process] = []
    done = threading.Event()

    def hunt() -> None:
        while not done.is_set() and not victims:
            if ready():
                for process in psutil.process_iter(["cmdline"]):
                    if (process.info["cmdline"] or [""])[0].startswith(title):
                        process.send_signal(signum)
                        victims.append(process)
                        return
            time.sleep(0.005)

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield victims
    finally:
        done.set()
        hunter.join()


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, tiny_run: Path) -> list[dict]:
    from medrl.stages.ppo import run_ppo

    assert run_ppo(config_for(tiny_run, "undisturbed", checkpoint={"every": 2}))["workers_lost"] == 0
    return lines(tiny_run, "undisturbed", "metrics.jsonl")


@pytest.mark.parametrize(("title", "checkpoint", "back_to"), [
    ("ray::PolicyWorker.update", {"every": 2}, 2),
    ("ray::CriticWorker", {"every": 2}, 2),
    ("ray::PolicyWorker", {"every": None}, 0),
])
def test_a_lost_learner_is_built_again_and_changes_no_number(
    undisturbed: list[dict], tiny_run: Path, title: str, checkpoint: dict, back_to: int
) -> None:
    from medrl.stages.ppo import run_ppo

    name = f"{title.removeprefix('ray::').replace('.', '-')}-{back_to}"
    with struck(title, lambda: len(lines(tiny_run, name, "metrics.jsonl")) >= 3) as victims:
        summary = run_ppo(config_for(tiny_run, name, checkpoint=checkpoint))
    assert len(victims) == 1 and summary["workers_lost"] == 1 and summary["steps"] == STEPS
    rows, events = lines(tiny_run, name, "metrics.jsonl"), lines(tiny_run, name, "events.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in undisturbed]
    for row, expected in zip(rows, undisturbed, strict=True):
        for key in ("rollout/score_mean", "policy/loss", "critic/loss", "policy/grad_norm", "rollout/kl_sum_mean"):
            assert row[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-7), (row["step"], key)
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["started", "worker_lost"] and kinds[-2:] == ["going_back", "started"]
    back = events[-2]
    assert back["to"] == back_to and back["steps_lost"] == 3 - back_to


def test_a_learner_that_does_not_answer_is_named_and_replaced(ray_cluster, tiny_run: Path) -> None:
    from medrl.stages.ppo import run_ppo

    def started() -> bool:
        return bool(lines(tiny_run, "silent", "metrics.jsonl"))

    config = config_for(tiny_run, "silent")
    config = config.model_copy(update={"timeouts": config.timeouts.model_copy(update={"score": 15.0, "update": 15.0})})
    with struck("ray::PolicyWorker", started, signal.SIGSTOP) as victims:
        summary = run_ppo(config)
    assert summary["steps"] == STEPS and summary["workers_lost"] == 1
    lost = next(event for event in lines(tiny_run, "silent", "events.jsonl") if event["event"] == "worker_lost")
    assert lost["role"] == "policy" and "no answer within 15 s" in lost["reason"]
    assert not victims[0].is_running()


def test_beyond_the_budget_the_run_ends_with_the_losses(ray_cluster, tiny_run: Path) -> None:
    from medrl.stages.ppo import run_ppo

    def started() -> bool:
        return bool(lines(tiny_run, "budget", "metrics.jsonl"))

    with struck("ray::PolicyWorker", started), pytest.raises(WorkerError, match="has lost 1 workers") as caught:
        run_ppo(config_for(tiny_run, "budget", faults={"limit": 0}))
    assert "faults.limit 0" in caught.value.limit and "policy" in caught.value.got


def test_a_run_goes_on_from_shared_storage_alone_and_with_fewer_ranks(
    undisturbed: list[dict], tiny_run: Path, tmp_path: Path
) -> None:
    from medrl.stages.ppo import run_ppo

    config = config_for(tiny_run, "stored", checkpoint={"every": 1, "storage": str(tmp_path / "store")})
    run_ppo(config)
    last = next((tmp_path / "store/stored").glob("*/step-000004"))
    before = last.with_name("step-000003")  # a fast run may have left it out
    shutil.copytree(tiny_run / "runs/stored/checkpoints/step-000003", before, dirs_exist_ok=True)
    shutil.rmtree(tiny_run / "runs/stored")
    (last / "manifest.json").unlink()  # as if the last copy had broken off
    summary = run_ppo(config.model_copy(update={"learner": config.learner.model_copy(update={"workers": 1})}), True)
    assert summary["steps"] == STEPS
    rows = lines(tiny_run, "stored", "metrics.jsonl")
    assert [row["step"] for row in rows] == [STEPS]
    for key in ("rollout/score_mean", "policy/loss", "critic/loss", "policy/grad_norm", "rollout/kl_sum_mean"):
        assert rows[-1][key] == pytest.approx(undisturbed[-1][key], rel=1e-4, abs=1e-6), key
    assert (last / "manifest.json").exists()


def test_a_flipped_byte_is_named_and_the_checkpoint_before_is_used(
    undisturbed: list[dict], tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from medrl.stages.ppo import run_ppo

    config = config_for(tiny_run, "flipped", checkpoint={"every": 1, "keep_last": 4})
    run_ppo(config)
    checkpoints = tiny_run / "runs/flipped/checkpoints"
    (checkpoints / "step-000003/critic/rng_0.pt").unlink()
    file = checkpoints / "step-000004/policy/adapter/adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    capsys.readouterr()
    run_ppo(config, resume=True)
    said = capsys.readouterr().out
    assert "step-000004: policy/adapter/adapter_model.safetensors was changed" in said
    assert "step-000003: rng_0.pt is missing" in said and "continuing after step 2" in said
    rows = lines(tiny_run, "flipped", "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["policy/loss"] == pytest.approx(undisturbed[-1]["policy/loss"], rel=1e-4, abs=1e-7)
