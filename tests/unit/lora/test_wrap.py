"""R1, R3, R4: what PEFT really wraps. Where plain PEFT does something else, the test shows it."""

from __future__ import annotations

import peft
import pytest
import torch
from torch import nn

from medrl.config.common import LoraConfig
from medrl.errors import AdapterError
from medrl.lora.manifest import check_manifest, format_manifest, manifest
from medrl.lora.wrap import wrap
from medrl.models.scalar_head import ScalarModel
from tests.unit.lora.tiny_families import tiny_model


def trained(model: nn.Module) -> set[str]:
    return {name.removeprefix("base_model.model.") for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3"])
def test_layers_hold_for_mixture_of_experts(family):
    """For these types plain PEFT turns a regex into bare last names, and adapts every layer."""
    regex = r"model\.layers\.0\.self_attn\.o_proj"
    plain = peft.get_peft_model(tiny_model(family), peft.LoraConfig(target_modules=regex))
    assert any("layers.1" in name for name in trained(plain)), "plain PEFT ignores the layer"
    model = wrap(tiny_model(family), LoraConfig(targets=["model.layers.0.self_attn.o_proj"]))
    assert trained(model) == {f"model.layers.0.self_attn.o_proj.lora_{side}.default.weight" for side in "AB"}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "mixtral", "gpt_neox"])
@pytest.mark.parametrize("task", ["causal", "scalar"])
def test_nothing_but_the_adapter_and_the_head_trains(family, task):
    model = wrap(tiny_model(family, task), LoraConfig(rank=2, targets=["attention"]), task=task)
    assert {n for n in trained(model) if "lora_" not in n} == (
        {"score.modules_to_save.default.weight"} if task == "scalar" else set()
    )
    assert not any(name.startswith("score.original") for name in trained(model))


def test_the_critic_s_head_trains():
    classifier = tiny_model("qwen3", "scalar")
    model = wrap(ScalarModel(classifier.base_model, nn.Linear(32, 1)), LoraConfig(rank=2), task="scalar")
    assert {n for n in trained(model) if "lora_" not in n} == {
        f"head.modules_to_save.default.{x}" for x in ("weight", "bias")
    }


def test_a_bf16_base_gets_float32_adapters():
    rows = manifest(wrap(tiny_model("qwen3").bfloat16(), LoraConfig(rank=2)))
    assert {row["dtype"] for row in rows} == {"float32"}


@pytest.mark.parametrize("values,scaling", [({}, 2.0), ({"rslora": True}, 4.0)])
def test_scaling(values, scaling):
    model = wrap(tiny_model("llama"), LoraConfig(rank=4, alpha=8.0, **values))
    assert model.get_submodule("base_model.model.model.layers.0.mlp.up_proj").scaling == {"default": scaling}


class TestManifest:
    def test_rows_name_shape_and_count_of_what_trains(self):
        rows = manifest(wrap(tiny_model("llama"), LoraConfig(rank=2, targets=["model.layers.1.mlp.up_proj"])))
        stem = "base_model.model.model.layers.1.mlp.up_proj.lora_"
        assert rows == [
            {"name": f"{stem}A.default.weight", "shape": [2, 32], "dtype": "float32", "count": 64},
            {"name": f"{stem}B.default.weight", "shape": [48, 2], "dtype": "float32", "count": 96},
        ]

    def test_any_difference_is_named(self):
        model = wrap(tiny_model("llama"), LoraConfig(rank=2, targets=["attention"]))
        rows = manifest(model)
        check_manifest(model, rows)
        name, parameter = next((n, p) for n, p in model.named_parameters() if p.requires_grad)
        parameter.requires_grad_(False)
        with pytest.raises(AdapterError) as error:
            check_manifest(model, rows)
        assert "no longer trains" in error.value.got and name in error.value.got
        parameter.requires_grad_(True)
        model.get_submodule("base_model.model.lm_head").weight.requires_grad_(True)
        with pytest.raises(AdapterError, match="manifest") as error:
            check_manifest(model, rows)
        assert "trains now: base_model.model.lm_head.weight" in error.value.got
        with pytest.raises(AdapterError) as error:
            check_manifest(wrap(tiny_model("llama"), LoraConfig(rank=3, targets=["attention"])), rows)
        assert "changed shape" in error.value.got

    def test_the_table_sums_up_layers(self):
        text = format_manifest(manifest(wrap(tiny_model("llama"), LoraConfig(rank=2, targets=["mlp"]))))
        lines = [line.split() for line in text.splitlines()]
        assert lines[1] == ["model.layers.*.mlp.down_proj.lora_A.default.weight", "2×48", "float32", "2", "192"]
        assert lines[-1] == ["total", "12", "960"]


def test_wrapping_works_for_a_model_that_lives_nowhere_on_disk():
    assert wrap(tiny_model("llama"), LoraConfig()).peft_config["default"].base_model_name_or_path is None


def test_forward_is_unchanged_by_a_fresh_adapter():
    model = tiny_model("gemma2")
    ids = torch.randint(3, 97, (2, 8))
    before = model(input_ids=ids).logits
    assert torch.equal(wrap(model, LoraConfig())(input_ids=ids).logits, before)
