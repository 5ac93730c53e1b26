"""What is known before Ray Serve starts."""

from __future__ import annotations

import socket

import pytest

from medrl.config.common import ModelConfig
from medrl.config.serving import ServeConfig, ServeRewardConfig
from medrl.errors import ConfigError, ModelError
from medrl.models.loading import load_tokenizer
from medrl.serving import run_serve, run_serve_reward
from tests.tiny import save_policy, save_reward_model


def test_a_directory_without_a_model(tmp_path):
    with pytest.raises(ModelError, match="not a model directory"):
        run_serve_reward(ServeRewardConfig(model=str(tmp_path)))


def test_another_chat_template_than_in_training(tmp_path):
    model = save_policy(tmp_path / "policy")
    load_tokenizer(ModelConfig(path=str(model))).save_pretrained(model)
    template = model / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(ModelError, match="not the one the model was trained with"):
        run_serve(ServeConfig(model=str(model)))


def test_a_key_that_is_not_set_and_a_port_that_is_taken(tmp_path, monkeypatch):
    monkeypatch.delenv("SCORING_KEY", raising=False)
    model = str(save_reward_model(tmp_path / "rm"))
    with pytest.raises(ConfigError, match="SCORING_KEY"):
        run_serve_reward(ServeRewardConfig(model=model, api_key_env="SCORING_KEY"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
            run_serve_reward(ServeRewardConfig(model=model, port=port))
