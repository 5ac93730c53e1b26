"""What runs on a cluster, by the name of its command."""

from __future__ import annotations

from medrl.config.base import StrictModel
from medrl.config.evaluate import EvaluateConfig
from medrl.config.pipeline import PipelineConfig
from medrl.config.ppo import PpoConfig
from medrl.config.supervised import DpoConfig, PretrainConfig, RewardConfig, SftConfig

CONFIGS: dict[str, type[StrictModel]] = {
    "pretrain": PretrainConfig, "sft": SftConfig, "reward": RewardConfig, "dpo": DpoConfig, "ppo": PpoConfig,
    "evaluate": EvaluateConfig, "pipeline": PipelineConfig,
}
