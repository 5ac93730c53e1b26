"""What the driver refuses before any worker starts: continuing an adapter of another base."""

from __future__ import annotations

import pytest

from medrl.config.base import build_config
from medrl.config.common import LoraConfig, ModelConfig
from medrl.config.ppo import PpoConfig
from medrl.errors import AdapterError, ModelError
from medrl.lora.adapter import save_adapter
from medrl.lora.wrap import wrap
from medrl.models.loading import load_causal_lm
from medrl.stages.ppo_inputs import prepare
from tests.tiny import ppo_values, save_policy


def adapter_of(base, path) -> str:
    save_adapter(wrap(load_causal_lm(ModelConfig(path=str(base))), LoraConfig(rank=4, alpha=8.0)), path)
    return str(path)


def config_with(folder, **sections) -> PpoConfig:
    return build_config(PpoConfig, ppo_values(folder, **sections))


def test_a_named_reference_must_be_an_adapter_of_the_model(tmp_path):
    ppo_values(tmp_path)  # writes the models
    own = adapter_of(tmp_path / "policy", tmp_path / "sft")
    prepare(config_with(tmp_path, reference={"mode": "adapter", "adapter": own}))
    foreign = adapter_of(save_policy(tmp_path / "other", seed=5), tmp_path / "foreign")
    with pytest.raises(AdapterError, match="was not made for") as error:
        prepare(config_with(tmp_path, reference={"mode": "adapter", "adapter": foreign}))
    assert "merge it there first" in error.value.remedy
    (tmp_path / "sft/medrl_adapter.json").unlink()
    with pytest.raises(AdapterError, match="was not made for") as error:
        prepare(config_with(tmp_path, reference={"mode": "adapter", "adapter": own}))
    assert error.value.got == "no record"


def test_an_adapter_in_place_of_the_model_is_to_be_merged_first(tmp_path):
    ppo_values(tmp_path)
    adapter = adapter_of(tmp_path / "policy", tmp_path / "sft")
    with pytest.raises(ModelError, match="not a model directory") as error:
        prepare(config_with(tmp_path, model={"path": adapter}))
    assert "medrl merge" in error.value.remedy
