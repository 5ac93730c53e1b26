"""PPO as a process of its own: killed, interrupted, resumed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from tests.runs import answers, rows, same
from tests.tiny import ppo_values

pytestmark = pytest.mark.ray

STEPS = 6
WAIT_SECONDS = 240


def write_config(folder: Path, name: str, **sections) -> Path:
    values = ppo_values(folder, name=name, steps=STEPS, checkpoint={"every": 3, "keep_last": 2}, **sections)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(config: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "medrl", "ppo", str(config), *arguments],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "the run did not get that far"
        time.sleep(0.1)


def run(folder: Path, name: str) -> Path:
    return folder / "runs" / name


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=120)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def straight(tiny_run: Path) -> list[dict]:
    """The metrics of a run that nothing disturbs."""
    process = start(write_config(tiny_run, "straight"))
    output, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 0, output
    return rows(run(tiny_run, "straight"))


def test_killed_and_resumed_equals_straight(straight: list[dict], tiny_run: Path) -> None:
    config = write_config(tiny_run, "killed", tracking=["jsonl", "mlflow"])
    process = start(config)
    wait_for((tiny_run / "runs/killed/checkpoints/step-000003").is_dir, process)
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    resumed = start(config, "--resume")
    output, _ = resumed.communicate(timeout=WAIT_SECONDS)
    assert resumed.returncode == 0 and "continuing after step 3" in output, output
    same(straight, rows(run(tiny_run, "killed")))
    assert gone(below), "processes outlived the driver"  # workers go at once, Ray's own agents within a minute or so
    assert answers(run(tiny_run, "killed")) == answers(run(tiny_run, "straight"))
    with sqlite3.connect(tiny_run / "runs/mlflow.db") as database:
        logged = database.execute("SELECT step FROM metrics WHERE key = 'rollout/score_mean' ORDER BY step").fetchall()
        assert logged == [(step,) for step in range(1, STEPS + 1)]
        assert database.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143)])
def test_a_signal_saves_frees_the_workers_and_exits(
    straight: list[dict], tiny_run: Path, signum: int, code: int
) -> None:
    config = write_config(tiny_run, f"signal-{code}")
    process = start(config)
    wait_for(lambda: len(rows(run(tiny_run, f"signal-{code}"))) >= 1, process)
    below = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert gone(below)
    done = len(rows(run(tiny_run, f"signal-{code}")))
    saved = sorted(p.name for p in (tiny_run / f"runs/signal-{code}/checkpoints").iterdir())
    assert saved and saved[-1].endswith(f"{done:06d}"), saved
