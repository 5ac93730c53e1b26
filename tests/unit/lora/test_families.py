from __future__ import annotations

import re

import pytest
from torch import nn

from medrl.config.common import LoraConfig
from medrl.config.inspect import inspect_config
from medrl.errors import AdapterError
from medrl.inspect import inspect_model
from medrl.lora import families
from medrl.lora.dry_run import dry_run
from medrl.lora.families import FAMILIES, decoder_stack, roles
from medrl.lora.resolve import resolve
from tests.unit.lora.custom_family import OddConfig, OddForCausalLM
from tests.unit.lora.tiny_families import ALL, CONFIGS, MULTIMODAL, tiny_model

pytestmark = pytest.mark.heavy

MOE = {"mixtral", "gpt_oss", "qwen2_moe", "qwen3_moe", "deepseek_v3", "qwen3_next"}
# per-layer inputs are linear layers outside attention and MLP: the table leaves them out, inspection does not
UNLIKE_INSPECTION = {"gemma4_text"}


@pytest.mark.parametrize("family", sorted(set(ALL) - UNLIKE_INSPECTION))
def test_the_table_finds_what_inspection_finds(family, monkeypatch):
    model = tiny_model(family)
    table, known = roles(model)
    assert known
    monkeypatch.setattr(families, "FAMILIES", {})
    inspected, known = roles(model)
    assert not known
    assert table == inspected


@pytest.mark.parametrize("family", sorted(set(ALL) - UNLIKE_INSPECTION))
def test_all_linear_reaches_every_linear_layer_but_heads_and_gates(family):
    model = tiny_model(family)
    stack = decoder_stack(model)
    expected = {
        name
        for name, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D", "FalconLinear")
        and name.startswith(stack)
        and not name.endswith("_gate")
    }
    assert set(resolve(model, LoraConfig()).modules) == expected


def test_every_family_of_the_table_is_tested_or_known_to_be_absent():
    from transformers import CONFIG_MAPPING

    untested = set(FAMILIES) - set(CONFIGS)
    assert untested <= {"qwen2_5_vl_text", "internlm2", "internlm3"}  # the first is the language part of qwen2_5_vl
    assert "qwen2_5_vl" in MULTIMODAL
    assert not {"internlm2", "internlm3"} & set(CONFIG_MAPPING)  # remote code


@pytest.mark.parametrize("family", ["qwen3_next", "qwen3_5_text"])
def test_linear_attention_is_a_role_of_its_own(family):
    model = tiny_model(family)
    linear = resolve(model, LoraConfig(targets=["linear-attention"])).modules
    attention = resolve(model, LoraConfig(targets=["attention"])).modules
    assert linear and all(name.startswith("model.layers.0.linear_attn.") for name in linear)
    assert attention and all(name.startswith("model.layers.1.self_attn.") for name in attention)


@pytest.mark.parametrize("family", sorted(MOE))
def test_routers_stay_untouched_and_experts_train_only_when_asked_for(family):
    model = tiny_model(family)
    targets = resolve(model, LoraConfig())
    assert not any(re.search(r"gate$|router", name) for name in targets.adapted)
    assert not targets.experts and any("fused" in note for note in targets.notes)
    assert not resolve(model, LoraConfig(targets=["attention", "experts"])).notes
    experts = resolve(model, LoraConfig(targets=["experts"]))
    assert not experts.modules
    assert set(experts.experts) == {name for name, p in model.named_parameters() if p.ndim == 3 and "conv" not in name}


@pytest.mark.parametrize("family", sorted(MULTIMODAL))
def test_a_vision_tower_and_its_projector_stay_untouched(family):
    model = tiny_model(family)
    modules = resolve(model, LoraConfig()).modules
    assert len(modules) == 14 and all(name.startswith("model.language_model.layers.") for name in modules)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert any("visi" in name or "visual" in name for name in names)


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


@pytest.mark.parametrize("model_type", ["odd_lm", "internlm2"])
def test_a_config_class_of_its_own_is_inspected_trained_and_said_so(model_type, tmp_path):
    """The table has InternLM 2, whose code comes with its weights; another name is inspected, with the same result."""
    config = OddConfig()
    config.save_pretrained(tmp_path)
    model = OddForCausalLM(config)
    model.config.model_type = model_type
    targets = resolve(model, LoraConfig())
    parts = {"attention": ("wqkv", "wo"), "feed_forward": ("w1", "w3", "w2")}
    assert targets.modules == tuple(
        f"model.layers.{i}.{part}.{name}" for i in range(3) for part, names in parts.items() for name in names
    )
    attention = resolve(model, LoraConfig(targets=["attention"])).modules
    assert {name.rpartition(".")[2] for name in attention} == {"wqkv", "wo"}
    assert bool(targets.notes) == (model_type == "odd_lm")
    if model_type == "odd_lm":
        report = inspect_model(inspect_config(str(tmp_path), None, None))
        assert "not in the table" in report["notes"][0]
        assert report["peft_rule"]["names"] is None
        assert dry_run(config, LoraConfig(rank=2)) == 10


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
