"""What a critic starts from."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.errors import ConfigError
from medrl.learner.critic import load_value_model
from tests.tiny import ppo_values, save_reward_model

IDS = torch.arange(3, 15)[None]
REAL = torch.ones_like(IDS, dtype=torch.bool)
POSITIONS = torch.arange(IDS.shape[1])[None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    ppo_values(folder)
    return folder


def scalars(folder, **sections) -> torch.Tensor:
    with torch.no_grad():
        return load_value_model(build_config(PpoConfig, ppo_values(folder, **sections)))(IDS, REAL, POSITIONS)


@pytest.mark.parametrize("calibrate", [True, False])
@pytest.mark.parametrize("weight", [1.0, -0.5])
def test_from_the_reward_model_values_are_on_the_scale_of_the_score(folder, weight, calibrate):
    source = {"name": "rm", "model": str(folder / "reward"), "weight": weight}
    values = scalars(folder, reward={"sources": [source]}, algorithm={"reward": {"calibrate": calibrate}})
    with torch.no_grad():
        raw = AutoModelForSequenceClassification.from_pretrained(folder / "reward")(IDS).logits[:, 0]
    calibration = json.loads((folder / "reward" / "calibration.json").read_text())
    score = (raw - calibration["mean"]) / calibration["std"] if calibrate else raw
    torch.testing.assert_close(values[:, -1], weight * score, atol=1e-5, rtol=1e-5)


def test_from_the_policy_every_value_is_zero(folder):
    assert not scalars(folder, critic={"init": "policy"}).any()


def test_a_reward_model_with_another_tokenizer_is_refused(folder):
    other = save_reward_model(folder / "other", vocab_size=280)
    with pytest.raises(ConfigError, match="tokenizer"):
        scalars(folder, reward={"sources": [{"name": "rm", "model": str(other)}]})
