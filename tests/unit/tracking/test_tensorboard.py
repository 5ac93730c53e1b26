"""Event files, read back by TensorBoard's own reader."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medrl.tracking.tensorboard import TensorBoardTracker


def scalars(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def run(run_dir: Path, steps: list[int], value: float, resume_step: int | None = None) -> None:
    tracker = TensorBoardTracker(run_dir, resume_step)
    for step in steps:
        tracker.log(step, {"rollout/score_mean": value, "time/update": 2.0})
    tracker.close()


def test_scalars_come_back(tmp_path: Path) -> None:
    run(tmp_path, [1, 2, 3], 0.5)
    assert scalars(tmp_path, "rollout/score_mean") == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert scalars(tmp_path, "time/update") == [(1, 2.0), (2, 2.0), (3, 2.0)]


def test_an_undefined_metric_stays_undefined(tmp_path: Path) -> None:
    run(tmp_path, [1], float("nan"))
    ((step, value),) = scalars(tmp_path, "rollout/score_mean")
    assert step == 1 and math.isnan(value)


def test_resuming_leaves_no_step_twice(tmp_path: Path) -> None:
    run(tmp_path, [1, 2, 3, 4], 1.0)
    run(tmp_path, [3, 4, 5], 2.0, resume_step=2)
    assert scalars(tmp_path, "rollout/score_mean") == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_text_stays_out(tmp_path: Path) -> None:
    tracker = TensorBoardTracker(tmp_path)
    tracker.log_samples(1, [{"answer": "a patient's words"}])
    tracker.close()
    written = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"patient" not in written


def test_neither_torch_nor_tensorflow_is_needed() -> None:
    program = (
        "import sys; import medrl.tracking.base\n"
        "print(sorted({'torch', 'tensorflow', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
