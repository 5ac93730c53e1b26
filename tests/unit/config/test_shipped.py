"""Every config that is shipped can be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from medrl.config.base import StrictModel, load_config
from medrl.config.evaluate import EvaluateConfig
from medrl.config.pipeline import PipelineConfig
from medrl.config.ppo import PpoConfig
from medrl.config.registry import RegistryConfig
from medrl.config.supervised import DpoConfig, PretrainConfig, RewardConfig, SftConfig

ROOT = Path(__file__).parents[3]
STAGES: dict[str, type[StrictModel]] = {
    "pretrain": PretrainConfig, "sft": SftConfig, "reward": RewardConfig, "dpo": DpoConfig, "ppo": PpoConfig,
    "evaluate": EvaluateConfig, "pipeline": PipelineConfig, "registry": RegistryConfig,
}
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS)
def test_loads(path: str) -> None:
    stage = Path(path).stem.split("-")[0]
    assert stage in STAGES, f"{path}: a config is named after its stage, for example ppo.yaml or ppo-long.yaml"
    load_config(STAGES[stage], ROOT / path)


def test_each_stage_has_a_demo_config() -> None:
    assert {f"configs/demo/{stage}.yaml" for stage in STAGES} <= set(CONFIGS)
