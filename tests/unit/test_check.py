"""What `medrl check` prints of a policy, without starting anything."""

from __future__ import annotations

import pytest
from rich.console import Console

from medrl import check
from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.config.rewards import HttpConfig, RewardPoolConfig, RewardSource
from medrl.errors import AdapterError, RewardError
from medrl.setup.choices import Choice
from medrl.setup.machine import Gpu, Machine
from medrl.workers import placement
from medrl.workers.placement import plan_roles
from medrl.workers.setup import NodeFacts
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


def test_the_set_up_of_each_role_is_printed_with_its_reasons(tmp_path, monkeypatch):
    """On made-up nodes: engines on one with a GPU, the policy on one without, and no room for the others."""
    config = build_config(PpoConfig, ppo_values(tmp_path, learner={"threads_per_worker": 3}))
    plans = plan_roles(config)
    nodes = dict.fromkeys(plans) | {
        "policy": NodeFacts(Machine("EPYC", ("avx512_bf16",)), 8, {"allocator": Choice("glibc", "tuned")}, 2.0),
        "rollout": NodeFacts(Machine("Xeon", (), Gpu("H200", (9, 0))), 16, {}, None),
    }
    monkeypatch.setattr(check, "look_around", lambda plans: nodes)
    monkeypatch.setattr(placement, "is_local_cluster", lambda: False)
    shown = dict(zip(plans, map(printed, check._setup_tables(config, plans)), strict=True))
    assert "set-up of policy, on EPYC, 8 cores" in shown["policy"]
    rows = {role: {line.split()[1]: line for line in text.splitlines() if line.startswith("│")}
            for role, text in shown.items()}
    assert rows["policy"]["learner.threads_per_worker"].split()[3:] == "3 │ set by you │".split()
    assert "bfloat16 are 2.0 × as fast: bfloat16 would be faster" in rows["policy"]["model.dtype"]
    assert rows["rollout"]["rollout.enforce_eager"].split()[3] == "false" and "H200" in shown["rollout"]
    assert rows["policy"]["allocator"].split()[3:] == "glibc │ tuned │".split()
    for role in ("critic", "reward"):
        assert "no node could be looked at" in shown[role]
