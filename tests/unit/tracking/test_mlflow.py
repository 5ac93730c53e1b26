"""Runs in MLflow, read back from its SQLite file with SQL: not through MLflow."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from medrl.config.base import build_config
from medrl.config.common import MlflowConfig
from medrl.errors import ConfigError, MedrlError
from medrl.tracking.base import check_trackers

SECRET = "chest pain since Monday"
pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once: MLflow takes seconds for it."""
    folder = tmp_path_factory.mktemp("template")
    track(folder)
    with sqlite3.connect(folder / "mlflow.db") as database:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs", "experiments"):
            database.execute(f"DELETE FROM {table} WHERE {'experiment_id != 0' if table == 'experiments' else '1'}")
    return folder / "mlflow.db"


@pytest.fixture
def run_dir(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    folder = tmp_path / "ppo"
    folder.mkdir()
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "x"}\n')
    (folder / "config.yaml").write_text(yaml.safe_dump({
        "name": "ppo", "steps": 4, "model": {"path": str(base)}, "lora": None, "seed": 3,
        "data": {"prompts": str(tmp_path / "prompts.jsonl"), "eval_prompts": None, "shuffle": True},
        "reward": {"sources": [{"name": "rm", "weight": 0.5}]}, "mlflow": {"uri": None}}))
    yield folder


def read(folder: Path, query: str) -> list[tuple]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return database.execute(query).fetchall()


def log(folder: Path, steps: list[int], resume_step: int | None = None, finish: bool = False) -> None:
    from medrl.tracking.mlflow import MlflowTracker

    tracker = MlflowTracker(folder, resume_step)
    for step in steps:
        tracker.log(step, {"rollout/score_mean": step / 10, "policy/odd (%)": 1.0, "eval/x": float("nan")})
        tracker.log_samples(step, [{"messages": [{"role": "user", "content": SECRET}], "answer": SECRET}])
    if finish:
        (folder / "summary.json").write_text('{"steps": 4}')
    tracker.close()


def track(folder: Path) -> None:
    from medrl.tracking.mlflow import MlflowTracker

    (folder / "run").mkdir()
    MlflowTracker(folder / "run").close()


def register(folder: Path) -> None:
    from medrl.registry.mlflow_client import open_client

    open_client(f"sqlite:///{folder / 'mlflow.db'}").search_registered_models()


def test_a_finished_run_leaves_settings_metrics_results_and_lineage(run_dir: Path, tmp_path: Path) -> None:
    log(run_dir, [1, 2], finish=True)
    assert read(tmp_path, "SELECT name, status FROM runs") == [("ppo", "FINISHED")]
    params = dict(read(tmp_path, "SELECT key, value FROM params"))
    assert params["seed"] == "3" and params["lora"] == "null" and params["data.shuffle"] == "true"
    assert json.loads(params["reward.sources"]) == [{"name": "rm", "weight": 0.5}]
    assert sorted(read(tmp_path, "SELECT key, step, value FROM metrics WHERE key != 'step'")) == [
        ("policy/odd ___", 1, 1.0), ("policy/odd ___", 2, 1.0),
        ("rollout/score_mean", 1, 0.1), ("rollout/score_mean", 2, 0.2)]
    tags = dict(read(tmp_path, "SELECT key, value FROM tags"))
    inner = hashlib.sha256(b'{"prompt": "x"}\n').hexdigest()
    assert tags["medrl.data.prompts.sha256"] == hashlib.sha256(f". {inner}\n".encode()).hexdigest()
    assert tags["medrl.base_model.sha256"] == hashlib.sha256(b"{}model.safetensorsweights").hexdigest()
    assert tags["medrl.version"] and "medrl.data.eval_prompts.sha256" not in tags
    kept = {path.name for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()}
    assert kept == {"config.yaml", "summary.json"}


def test_a_resumed_run_goes_on_in_the_same_place_and_leaves_no_step_twice(run_dir: Path, tmp_path: Path) -> None:
    log(run_dir, [1, 2, 3])
    assert read(tmp_path, "SELECT status FROM runs") == [("KILLED",)]
    log(run_dir, [3, 4], resume_step=2, finish=True)  # its newest checkpoint was of step 2
    assert read(tmp_path, "SELECT status FROM runs") == [("FINISHED",)]
    steps = read(tmp_path, "SELECT step FROM metrics WHERE key = 'rollout/score_mean' ORDER BY step")
    assert steps == [(1,), (2,), (3,), (4,)]


def test_the_evaluation_before_the_first_step_is_a_step(run_dir: Path, tmp_path: Path) -> None:
    log(run_dir, [0, 1])
    log(run_dir, [1, 2], resume_step=0)
    assert read(tmp_path, "SELECT step FROM metrics WHERE key = 'rollout/score_mean'") == [(0,), (1,), (2,)]


def test_a_run_that_starts_anew_is_another(run_dir: Path, tmp_path: Path) -> None:
    log(run_dir, [1])
    log(run_dir, [1])
    assert read(tmp_path, "SELECT count(*) FROM runs") == [(2,)]


def test_no_answer_leaves_the_run(run_dir: Path, tmp_path: Path) -> None:
    log(run_dir, [1], finish=True)
    assert SECRET.encode() not in (tmp_path / "mlflow.db").read_bytes()
    for file in (tmp_path / "mlartifacts").rglob("*"):
        assert not file.is_file() or SECRET not in file.read_text()


def test_its_own_telemetry_is_off(run_dir: Path) -> None:
    log(run_dir, [1])
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled() and os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.parametrize("open_database", [track, register])
def test_a_new_database_silences_no_logger(open_database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Alembic's own template for migrations, which MLflow's stem from, disables every logger that exists.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    names = ("medrl", "medrl.models.loading", "serve.app", "somebody.else")
    before = {name: logging.getLogger(name) for name in names}
    open_database(tmp_path)
    assert read(tmp_path, "SELECT count(*) FROM registered_models") == [(0,)]
    for logger in before.values():
        assert not logger.disabled and logger.isEnabledFor(logging.WARNING) and logger.propagate
    assert logging.root.manager.disable < logging.WARNING


def test_an_error_names_no_address(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://user:hunter2@host/db")
    with pytest.raises(MedrlError) as caught:
        log(run_dir, [1])
    assert "hunter2" not in str(caught.value) and "tracking" in str(caught.value)


def test_a_password_has_no_place_in_a_config() -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI") as caught:
        build_config(MlflowConfig, {"uri": "postgresql://me:hunter2@host/db"})
    assert "hunter2" not in str(caught.value)
    assert build_config(MlflowConfig, {"uri": "http://mlflow:5000"}).uri == "http://mlflow:5000"


def test_a_missing_package_is_known_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers(["mlflow"])
    monkeypatch.setattr("medrl.tracking.base.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"medrl\[mlflow\]"):
        check_trackers(["console", "mlflow"])
    check_trackers(["console"])
