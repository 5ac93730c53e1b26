"""What `medrl check` prints of a policy, without starting anything."""

from __future__ import annotations

import pytest
from rich.console import Console

from medrl import check
from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.config.rewards import HttpConfig, RewardPoolConfig, RewardSource
from medrl.errors import AdapterError, RewardError
from tests.scoring_server import Reply, scoring_service
from tests.tiny import ppo_values


def printed(table) -> str:
    console = Console(width=200, record=True)
    console.print(table)
    return console.export_text()


def test_targets_memory_and_the_dry_run_of_a_policy(tmp_path):
    config = build_config(PpoConfig, ppo_values(tmp_path, lora={"targets": ["mlp"], "rank": 2, "layers": "1"}))
    table = printed(check._lora_table(check._overview(config.model, config.lora)))
    assert "mlp.up_proj" in table and "rank 2" in table and f"{3 * 2 * (64 + 96)}" in table
    assert check._try_layers(config) == "one random layer of each kind: all 6 trainable tensors got a gradient"
    parameters = check.parameter_count(config.model.path)
    trained = 3 * 2 * (64 + 96)
    assert check._training(config.model, config.lora, parameters) == (4 * parameters + 4 * trained, 12 * trained)
    assert "policy" in printed(check._memory_table(config))


def test_a_tensor_without_a_gradient_stops_the_check(tmp_path, monkeypatch):
    from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

    monkeypatch.setattr(Qwen3MLP, "forward", lambda self, x: self.down_proj(self.up_proj(x)))
    with pytest.raises(AdapterError, match="no gradient"):
        check._try_layers(build_config(PpoConfig, ppo_values(tmp_path)))


def test_a_model_that_cannot_be_cut_is_said_so(tmp_path, monkeypatch):
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

    def forward(self, *_args, **_kwargs):
        return self.layers[self.config.num_hidden_layers - 1]

    monkeypatch.setattr(Qwen3Model, "forward", forward)
    assert check._try_layers(build_config(PpoConfig, ppo_values(tmp_path))).startswith("no dry run: Qwen3ForCausalLM")


def test_a_remote_scorer_is_asked_for_one_score():
    with scoring_service(lambda item: 0.25) as service:
        source = RewardSource(name="gold", url=service.url, http=HttpConfig(attempts=1))
        pool = RewardPoolConfig(sources=[source])
        assert check._probe(source, pool).endswith("scores 0.250") and len(service.requests[0]["items"]) == 1
        service.replies = [Reply(404)]
        with pytest.raises(RewardError, match="'gold'"):
            check._probe(source, pool)
