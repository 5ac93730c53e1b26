"""Every config that is shipped can be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from medrl.config.base import StrictModel, load_config, parse_yaml
from medrl.config.evaluate import EvaluateConfig
from medrl.config.pipeline import PipelineConfig
from medrl.config.ppo import PpoConfig
from medrl.config.registry import RegistryConfig
from medrl.config.serving import ServeConfig, service_config
from medrl.config.supervised import DpoConfig, PretrainConfig, RewardConfig, SftConfig
from medrl.serving import CHAT_APP

ROOT = Path(__file__).parents[3]
STAGES: dict[str, type[StrictModel]] = {
    "pretrain": PretrainConfig, "sft": SftConfig, "reward": RewardConfig, "dpo": DpoConfig, "ppo": PpoConfig,
    "evaluate": EvaluateConfig, "pipeline": PipelineConfig, "registry": RegistryConfig,
}
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").glob("demo/*.yaml"))
SERVED = sorted((ROOT / "configs/serve").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS)
def test_loads(path: str) -> None:
    stage = Path(path).stem.split("-")[0]
    assert stage in STAGES, f"{path}: a config is named after its stage, for example ppo.yaml or ppo-long.yaml"
    load_config(STAGES[stage], ROOT / path)


def test_each_stage_has_a_demo_config() -> None:
    assert {f"configs/demo/{stage}.yaml" for stage in STAGES} <= set(CONFIGS)


@pytest.mark.parametrize("path", SERVED, ids=lambda path: path.name)
def test_a_service_loads_here_and_in_ray_serve(path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    config = service_config(ServeConfig, str(path), ["port=8123"], {"host": None})
    schema = ServeDeploySchema.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    assert (config.host, config.port) == (schema.http_options.host, 8123)
    assert [app.import_path for app in schema.applications] == [CHAT_APP]
    assert ServeConfig.model_validate(schema.applications[0].args).model == config.model
