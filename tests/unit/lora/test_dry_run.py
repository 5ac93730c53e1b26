"""One layer of each kind, forward and backward."""

from __future__ import annotations

import pytest
import torch

from medrl.config.common import LoraConfig
from medrl.errors import AdapterError
from medrl.lora import dry_run as module
from medrl.lora.dry_run import dry_run
from medrl.lora.resolve import resolve, skeleton
from tests.unit.lora.tiny_families import ALL, tiny_config

pytestmark = pytest.mark.heavy

HYBRID = {"num_hidden_layers": 8, "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2}


@pytest.fixture
def ran(monkeypatch):
    """Every cut model that ran."""
    models = []
    real = module._check_gradients

    def check(model):
        models.append(model)
        return real(model)

    monkeypatch.setattr(module, "_check_gradients", check)
    return models


def depth(model) -> int:
    return len(model.get_base_model().model.layers)


@pytest.mark.parametrize("family", ALL)
def test_every_trainable_tensor_of_every_family_gets_a_gradient(family):
    config = tiny_config(family)
    names = resolve(skeleton(config, "causal"), LoraConfig()).modules
    kinds = {name.partition(".layers.")[2].partition(".")[2] for name in names}  # the same in layers of one kind
    assert dry_run(config, LoraConfig(rank=2)) >= 2 * len(kinds) > 0


def test_a_deep_model_runs_as_one_layer(ran):
    assert dry_run(tiny_config("llama", num_hidden_layers=40), LoraConfig(rank=2)) == 14
    assert depth(ran[0]) == 1


def test_each_kind_of_layer_is_there_once(ran):
    """A delta net and attention; with `layers`, each of them with adapters and without."""
    whole = dry_run(tiny_config("qwen3_next", **HYBRID), LoraConfig(rank=2))
    half = dry_run(tiny_config("qwen3_next", **HYBRID), LoraConfig(rank=2, layers="4-7"))
    assert half == whole and [depth(model) for model in ran] == [2, 4]


def test_experts_and_a_scalar_head_and_a_fully_trained_model():
    assert dry_run(tiny_config("mixtral"), LoraConfig(rank=2, targets=["experts"])) == 4
    assert dry_run(tiny_config("llama"), LoraConfig(rank=2, targets=["mlp"]), "scalar") == 7
    assert dry_run(tiny_config("llama"), None) == 12


def test_a_projector_that_text_never_meets_is_named():
    lora = LoraConfig(rank=2, targets=["attention", "model.multi_modal_projector.linear_1"])
    with pytest.raises(AdapterError, match="no gradient") as error:
        dry_run(tiny_config("llava"), lora)
    assert "multi_modal_projector.linear_1.lora_A" in error.value.got


def test_a_module_that_the_forward_pass_skips_is_named(monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: self.down_proj(self.up_proj(x)))
    with pytest.raises(AdapterError) as error:
        dry_run(tiny_config("llama"), LoraConfig(rank=2))
    assert "gate_proj" in error.value.got and "up_proj" not in error.value.got


def test_the_widths_are_real_but_the_vocabulary_is_small(ran):
    dry_run(tiny_config("llama", vocab_size=10**9), LoraConfig(rank=2))
    base = ran[0].get_base_model()
    assert base.lm_head.weight.shape == torch.Size([128, 32])
    assert base.model.layers[0].mlp.up_proj.weight.shape == torch.Size([48, 32])
