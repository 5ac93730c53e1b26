"""A tiny training run with its adapter and merged model, and registries whose database is ready."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from medrl.config.registry import RegistryConfig
from medrl.lora.identity import model_hash
from tests.tiny import save_policy, save_prompts


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, prompts.jsonl and ppo/: config.yaml, adapter/, merged/ of a LoRA run."""
    from medrl.config.common import LoraConfig, ModelConfig
    from medrl.lora.adapter import save_adapter
    from medrl.lora.merge import merge_adapter
    from medrl.lora.wrap import wrap
    from medrl.models.loading import load_causal_lm
    from tests.unit.lora.tiny_families import train_a_little

    folder = tmp_path_factory.mktemp("trained")
    base, run = save_policy(folder / "base"), folder / "ppo"
    model = wrap(load_causal_lm(ModelConfig(path=str(base))), LoraConfig(rank=2))
    train_a_little(model)
    save_adapter(model, run / "adapter")
    merge_adapter(str(run / "adapter"), str(base), str(run / "merged"))
    data = {"prompts": str(save_prompts(folder / "prompts.jsonl")), "eval_prompts": "some/hub-data-set"}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": {"path": str(base)}, "lora": {}, "data": data}))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """The run's folder, to be changed."""
    return Path(shutil.copytree(trained / "ppo", tmp_path / "ppo"))


def evaluation(model: Path, reward: float = 1.0, passed: int = 10, low: float | None = 0.5) -> dict:
    """What `medrl evaluate` leaves."""
    return {
        "model": str(model), "model_sha256": model_hash(model), "baseline": None, "seed": 3,
        "results": [{"set": "heldout", "metric": "reward", "value": reward, "low": low, "high": 2.0, "n": 12,
                     "baseline": None}],
        "rules": [{"set": "safety", "rule": "escalates", "passed": passed, "total": 10, "baseline_passed": None}],
        "samples": [{"set": "heldout", "id": "1", "messages": [{"role": "user", "content": "my patient X"}],
                     "reference": None, "answer": "X has a cold", "baseline_answer": None, "score": 1.0,
                     "baseline_score": None}],
        "seconds": {"generate": 1.0},
    }


@pytest.fixture
def evaluate() -> Callable[..., Path]:
    """Write the evaluation of `run`'s merged model into the run."""
    def write(run: Path, **values: float | None) -> Path:
        file = run / "evaluation.json"
        file.write_text(json.dumps(evaluation(run / "merged", **values)))
        return file

    return write


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables: it takes seconds to make them."""
    from medrl.registry.mlflow_client import open_client

    file = tmp_path_factory.mktemp("mlflow") / "registry.db"
    open_client(f"sqlite:///{file}")
    return file


@pytest.fixture
def config(tmp_path: Path, empty_database: Path) -> RegistryConfig:
    """A registry without versions."""
    root = tmp_path / "registry"
    (root / "models").mkdir(parents=True)
    shutil.copy(empty_database, root / "registry.db")
    return RegistryConfig(root=str(root))
