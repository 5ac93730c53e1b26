from __future__ import annotations

import pytest

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import AdapterError
from tests.tiny import ppo_values
from tests.unit.lora.tiny_families import tiny_model


def test_a_policy_with_adapted_experts_is_refused_before_it_trains(tmp_path):
    """A rollout engine takes W₀ + s·B·A of linear layers only."""
    tiny_model("mixtral").save_pretrained(tmp_path / "mixtral")
    values = ppo_values(tmp_path, model={"path": str(tmp_path / "mixtral")}, lora={"targets": ["attention", "experts"]})
    from medrl.learner.policy import DeepSpeedPolicy

    with pytest.raises(AdapterError, match="fused experts") as error:
        DeepSpeedPolicy(build_config(PpoConfig, values), total_updates=1)
    assert error.value.got.startswith("model.layers.0.mlp.experts.")
