"""Rows of a growing metrics.jsonl, handed on to trackers as they come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medrl.tracking.lines import LineTracker
from medrl.workers.follow import Follower, following


def row(step: int, **figures) -> str:
    return json.dumps({"step": step, "wall_time": 1.0, "steps": 4.0, "loss": 1.0, "lr": 0.1} | figures) + "\n"


class Seen:
    """A tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict]] = []

    def log(self, step, metrics) -> None:
        self.rows.append((step, dict(metrics)))

    def log_samples(self, step, rows) -> None: ...

    def close(self) -> None: ...

    @property
    def steps(self) -> list[int]:
        return [step for step, _ in self.rows]


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_a_half_written_line_waits_until_it_is_whole(tmp_path: Path, seen: Seen) -> None:
    file = tmp_path / "metrics.jsonl"
    follower = Follower(file, seen)
    follower.read()
    file.write_text(row(1)[:9])
    follower.read()
    assert seen.rows == []
    file.write_text(row(1))
    follower.read()
    follower.read()
    assert seen.rows == [(1, {"steps": 4.0, "loss": 1.0, "lr": 0.1})]


def test_workers_that_start_again_show_no_step_twice(tmp_path: Path, seen: Seen) -> None:
    file, again = tmp_path / "metrics.jsonl", tmp_path / "again"
    follower = Follower(file, seen)
    file.write_text(row(1) + row(2) + row(3))
    follower.read()
    again.write_text(row(1) + row(2))
    again.replace(file)
    follower.read()
    with file.open("a") as log:
        log.write(row(3) + row(4, grad_norm=None))
    follower.read()
    assert seen.steps == [1, 2, 3, 4] and "grad_norm" not in seen.rows[-1][1]


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "run/metrics.jsonl"
    file.parent.mkdir()
    for resume_step, rows in ((None, row(0) + row(1) + row(2)), (1, row(2) + row(3))):
        with following(["console", "jsonl", "tensorboard"], file, resume_step) as follow:
            with file.open("a") as log:
                log.write(rows)
            follow()
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [0, 1, 2, 3]
    lines = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"run step {step}/4" for step in (0, 1, 2, 2, 3)]
    events = EventAccumulator(str(file.parent / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [0, 1, 2, 3]


def test_about_ten_steps_and_every_evaluation_are_shown(capsys: pytest.CaptureFixture) -> None:
    tracker = LineTracker("sft")
    tracker.log(0, {"steps": 200.0, "eval_loss": 3.0})
    for step in range(1, 201):
        evaluation = {"eval_loss": 0.5} if step == 77 else {}
        tracker.log(step, {"steps": 200.0, "loss": 2.0, "lr": 1e-4, "seconds": 3.2} | evaluation)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sft step 0/200  eval_loss 3.0000"
    assert lines[1] == "sft step 1/200  loss 2.0000  lr 1.00e-04  3 s" and len(lines) == 13
    assert "sft step 77/200  loss 2.0000  lr 1.00e-04  3 s  eval_loss 0.5000" in lines
