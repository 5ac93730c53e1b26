"""The smallest configs that are valid, as plain values to be broken one key at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

PPO: dict[str, Any] = {
    "name": "run",
    "model": {"path": "policy"},
    "lora": {"rank": 8},
    "data": {"prompts": "prompts.jsonl", "batch_size": 8},
    "reward": {"sources": [{"name": "medical", "model": "rm"}]},
}
SFT: dict[str, Any] = {"name": "run", "model": {"path": "base"}, "data": {"train": "train.jsonl"}}

EVALUATE: dict[str, Any] = {
    "name": "run",
    "model": {"path": "merged"},
    "sets": [{"name": "exam", "task": "choice", "path": "exam.jsonl"},
             {"name": "prompts", "task": "prompts", "path": "prompts.jsonl"}],
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes a config file."""
    def write_values(values: dict[str, Any]) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write_values


@pytest.fixture
def ppo_file(write: Callable[[dict[str, Any]], Path]) -> Path:
    return write(PPO)


@pytest.fixture
def sft_file(write: Callable[[dict[str, Any]], Path]) -> Path:
    return write(SFT)


@pytest.fixture
def evaluate_file(write: Callable[[dict[str, Any]], Path]) -> Path:
    return write(EVALUATE)
