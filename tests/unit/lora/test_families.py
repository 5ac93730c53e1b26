from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from medrl.config.common import LoraConfig
from medrl.errors import AdapterError
from medrl.lora import families
from medrl.lora.families import FAMILIES, decoder_stack, roles
from medrl.lora.manifest import manifest
from medrl.lora.resolve import resolve
from medrl.lora.wrap import wrap
from tests.unit.lora.tiny_families import CONFIGS, tiny_config, tiny_model

MOE = {"mixtral", "gpt_oss", "qwen2_moe", "qwen3_moe", "deepseek_v3", "qwen3_next"}
# per-layer inputs are linear layers outside attention and MLP: the table leaves them out, inspection does not
UNLIKE_INSPECTION = {"gemma4_text"}


@pytest.mark.parametrize("family", sorted(set(CONFIGS) - UNLIKE_INSPECTION))
def test_the_table_finds_what_inspection_finds(family, monkeypatch):
    model = tiny_model(family)
    table, known = roles(model)
    assert known
    monkeypatch.setattr(families, "FAMILIES", {})
    inspected, known = roles(model)
    assert not known
    assert table == inspected


@pytest.mark.parametrize("family", sorted(set(CONFIGS) - UNLIKE_INSPECTION))
def test_all_linear_reaches_every_linear_layer_but_heads_and_gates(family):
    model = tiny_model(family)
    stack = decoder_stack(model)
    redirected = ("gate_proj", "up_proj", "down_proj") if family in {"deepseek_v3", "qwen3_next", "qwen3_moe"} else ()
    expected = {
        name
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D", "FalconLinear")
        and name.startswith(stack)
        and not name.endswith(("_gate", *redirected))
    }
    assert set(resolve(model, LoraConfig()).modules) == expected


@pytest.mark.parametrize(
    "family",
    [
        f if f in {"llama", "gpt2", "mixtral", "qwen3_5_text"} else pytest.param(f, marks=pytest.mark.slow)
        for f in CONFIGS
    ],
)
def test_two_steps_change_exactly_the_manifest(family):
    model = wrap(tiny_model(family), LoraConfig(rank=2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=10.0)
    ids = torch.randint(3, 97, (4, 16), generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # the first step moves B only: A's gradient is B's
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {row["name"] for row in manifest(model)}


def test_every_family_of_the_table_is_tested_or_known_to_be_absent():
    from transformers import CONFIG_MAPPING

    untested = set(FAMILIES) - set(CONFIGS)
    assert untested <= {"qwen2_5_vl_text", "internlm3"}
    assert "internlm3" not in CONFIG_MAPPING  # remote code


@pytest.mark.parametrize("family", ["qwen3_next", "qwen3_5_text"])
def test_linear_attention_is_a_role_of_its_own(family):
    model = tiny_model(family)
    linear = resolve(model, LoraConfig(targets=["linear-attention"])).modules
    attention = resolve(model, LoraConfig(targets=["attention"])).modules
    assert linear and all(name.startswith("model.layers.0.linear_attn.") for name in linear)
    assert attention and all(name.startswith("model.layers.1.self_attn.") for name in attention)


@pytest.mark.parametrize("family", sorted(MOE))
def test_routers_stay_untouched_and_fused_experts_are_refused_with_a_reason(family):
    model = tiny_model(family)
    targets = resolve(model, LoraConfig())
    assert not any(re.search(r"gate$|router", name) for name in targets.modules)
    assert any("fused" in note for note in targets.notes)
    with pytest.raises(AdapterError, match="fused"):
        resolve(model, LoraConfig(targets=["experts"]))


def test_a_vision_tower_stays_untouched():
    from transformers import AutoModelForCausalLM, Gemma3Config

    text = {
        k: v
        for k, v in tiny_config("gemma3_text").to_dict().items()
        if k not in ("model_type", "architectures", "layer_types")
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Gemma3Config(text_config=text, vision_config=vision))
    modules = resolve(model, LoraConfig()).modules
    assert len(modules) == 14 and all(name.startswith("model.language_model.layers.") for name in modules)
    assert any(name.startswith("model.vision_tower") and name.endswith("q_proj") for name, _ in model.named_modules())


def test_an_unknown_model_type_is_inspected_and_said_so():
    def layer():
        attention, ffn = {"wqkv": nn.Linear(4, 12)}, {"w1": nn.Linear(4, 8), "score_gate": nn.Linear(4, 1)}
        parts = {"my_attention": nn.ModuleDict(attention), "router": nn.Linear(4, 2), "ffn": nn.ModuleDict(ffn)}
        return nn.ModuleDict(parts)

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.vision_tower = nn.ModuleDict({"layers": nn.ModuleList([layer(), layer()])})
            self.blocks = nn.ModuleList([layer(), layer()])
            self.out = nn.Linear(4, 9)

    targets = resolve(Odd(), LoraConfig())
    assert targets.modules == (
        "blocks.0.my_attention.wqkv",
        "blocks.0.ffn.w1",
        "blocks.1.my_attention.wqkv",
        "blocks.1.ffn.w1",
    )
    assert "not in the table" in targets.notes[0]


def test_two_stacks_that_cannot_be_told_apart_are_refused():
    model = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(2, 2)]), "b": nn.ModuleList([nn.Linear(2, 2)])})
    with pytest.raises(AdapterError, match="cannot be told"):
        resolve(model, LoraConfig())


def test_a_config_is_resolved_without_weights():
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64
    )  # 70B shape
    targets = resolve(config, LoraConfig())
    assert len(targets.modules) == 560
    assert resolve(config, LoraConfig(), task="scalar").save == ("score",)
