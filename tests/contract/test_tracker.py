"""What every tracker must do, whatever its destination, alone and together with others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest

from medrl.config.common import TrackedConfig
from medrl.tracking.base import TRACKERS, Trackers, open_tracker

SETS = [
    pytest.param(names, id="+".join(names) or "none", marks=pytest.mark.heavy if "mlflow" in names else ())
    for names in [*([name] for name in TRACKERS), list(TRACKERS), []]
]
METRICS = {"rollout/score_mean": 0.5, "rollout/kl_sum_mean": 0.25, "time/generate": 1.5}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One for all: MLflow takes seconds to make one."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture(params=SETS)
def names(
    request: pytest.FixtureRequest, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Sequence[str]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.chdir(tmp_path)  # MLflow's own place for artifacts is the current folder
    return request.param


def test_a_config_can_choose_each_of_them_and_no_other() -> None:
    (choices,) = get_args(TrackedConfig.model_fields["tracking"].annotation)
    assert set(get_args(choices)) == set(TRACKERS)


def test_a_whole_run(names: Sequence[str], tmp_path: Path) -> None:
    with open_tracker(names, tmp_path / "run", total_steps=3) as tracker:
        tracker.log_samples(0, [{"answer": "多休息", "score": 0.5}])
        for step in (1, 2, 3):
            tracker.log(step, METRICS)
            tracker.log_samples(step, [{"answer": "rest", "score": 0.5}, {"answer": "", "score": -1.0}])
        tracker.close()
        tracker.close()


def test_the_number_of_steps_may_be_unknown_at_the_start(names: Sequence[str], tmp_path: Path) -> None:
    with open_tracker(names, tmp_path) as tracker:
        tracker.log(1, METRICS | {"steps": 3.0})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 1e-300, 1e300, 3])
def test_any_number_is_taken(names: Sequence[str], tmp_path: Path, value: float) -> None:
    with open_tracker(names, tmp_path, total_steps=1) as tracker:
        tracker.log(1, {"rollout/score_mean": value, "policy/odd name (%)": value})


def test_numpy_and_torch_numbers_are_taken(names: Sequence[str], tmp_path: Path) -> None:
    import numpy as np
    import torch

    with open_tracker(names, tmp_path, total_steps=1) as tracker:
        tracker.log(1, {"a": np.float32(0.5), "b": torch.tensor(0.5), "c": np.int64(3)})  # pyright: ignore


def test_keys_may_come_and_go(names: Sequence[str], tmp_path: Path) -> None:
    with open_tracker(names, tmp_path, total_steps=3) as tracker:
        tracker.log(1, {})
        tracker.log(2, METRICS | {"eval/score_mean": 1.0})
        tracker.log(3, METRICS)
        tracker.log_samples(3, [])


def test_a_caller_s_values_are_left_alone(names: Sequence[str], tmp_path: Path) -> None:
    metrics, row = dict(METRICS), {"answer": "rest"}
    with open_tracker(names, tmp_path, total_steps=1) as tracker:
        tracker.log(1, metrics)
        tracker.log_samples(1, [row])
    assert metrics == METRICS and row == {"answer": "rest"}


def test_resuming_continues(names: Sequence[str], tmp_path: Path) -> None:
    with open_tracker(names, tmp_path, total_steps=4) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, METRICS)
    with open_tracker(names, tmp_path, total_steps=4, resume_step=2) as tracker:
        for step in (3, 4):
            tracker.log(step, METRICS)


def test_an_error_in_the_run_passes_through(names: Sequence[str], tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with open_tracker(names, tmp_path, total_steps=1) as tracker:
            tracker.log(1, METRICS)
            raise ZeroDivisionError


def test_what_was_logged_before_a_crash_is_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with open_tracker(["console", "jsonl", "tensorboard"], tmp_path, total_steps=9) as tracker:
            tracker.log(1, METRICS)
            raise ZeroDivisionError
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["rollout/score_mean"] == 0.5


def test_all_are_closed_even_if_one_fails_to() -> None:
    closed = []

    class Stub:
        def __init__(self, name: str, fails: bool) -> None:
            self.name, self.fails = name, fails

        def log(self, step, metrics) -> None: ...

        def log_samples(self, step, rows) -> None: ...

        def close(self) -> None:
            closed.append(self.name)
            if self.fails:
                raise OSError(self.name)

    with pytest.raises(OSError, match="b"):
        Trackers([Stub("a", False), Stub("b", True), Stub("c", False)]).close()
    assert sorted(closed) == ["a", "b", "c"]
