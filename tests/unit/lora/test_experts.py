"""Experts that transformers keeps as one tensor a layer, and the linear layers that PEFT takes for them."""

from __future__ import annotations

import peft
import pytest
import torch

from medrl.config.common import LoraConfig, ModelConfig
from medrl.errors import AdapterError
from medrl.lora.adapter import adapter_tensors, load_adapter_, save_adapter
from medrl.lora.merge import merge_adapter
from medrl.lora.resolve import resolve
from medrl.lora.wrap import expert_tensors, wrap
from medrl.models.loading import load_causal_lm
from tests.unit.lora.tiny_families import tiny_model, train_a_little

pytestmark = pytest.mark.heavy

FUSED = ["mixtral", "gpt_oss", "qwen2_moe", "qwen3_moe", "deepseek_v3", "qwen3_next"]
IDS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(0))


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("family", FUSED)
def test_an_expert_adapter_is_a_low_rank_change_of_each_expert_and_merges_exactly(family):
    base, model = tiny_model(family), wrap(tiny_model(family), LoraConfig(targets=["experts"], rank=2, alpha=3.0))
    train_a_little(model)
    expected, names = logits(model), expert_tensors(model)
    assert (expected - logits(base)).abs().max() > 1e-2
    merged = model.merge_and_unload()
    assert (logits(merged) - expected).abs().max() <= 1e-4
    for name, tensor in base.state_dict().items():
        change = merged.state_dict()[name] - tensor
        if name in names:
            assert all(torch.linalg.matrix_rank(expert, tol=1e-4) == 2 for expert in change)
        else:
            assert not change.any()


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen3_next"])
def test_dense_and_shared_mlps_train_though_peft_reads_their_names_as_experts(family):
    lora = LoraConfig(targets=["mlp"], rank=2, alpha=6.0)
    names = resolve(tiny_model(family), lora).modules
    plain = peft.get_peft_model(
        tiny_model(family), peft.LoraConfig(target_modules=list(names), r=2, task_type="CAUSAL_LM")
    )
    assert any(".experts." in name for name, p in plain.named_parameters() if p.requires_grad)

    model = wrap(tiny_model(family), lora)
    assert not any(".experts." in name for name, p in model.named_parameters() if p.requires_grad)
    train_a_little(model)
    tensors, scaling = adapter_tensors(model)
    assert set(scaling) == set(names)
    synced = tiny_model(family)
    with torch.no_grad():
        for name in names:
            delta = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
            synced.get_submodule(name).weight += scaling[name] * delta
    assert (logits(synced) - logits(model)).abs().max() <= 1e-4


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_expert_adapters_are_saved_loaded_and_merged(family, model_dir, tmp_path):
    path = model_dir(family)
    lora = LoraConfig(targets=["all-linear", "experts"], rank=2)
    model = wrap(load_causal_lm(ModelConfig(path=str(path))), lora)
    train_a_little(model)
    save_adapter(model, tmp_path / "adapter")
    again = wrap(load_causal_lm(ModelConfig(path=str(path))), lora)
    load_adapter_(again, tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))
    report = merge_adapter(str(tmp_path / "adapter"), str(path), str(tmp_path / "merged"))
    assert report["merge_gap"] <= 1e-4
    merged = load_causal_lm(ModelConfig(path=str(tmp_path / "merged")))
    assert (logits(merged) - logits(model)).abs().max() <= 1e-3


@pytest.mark.parametrize("setting", [{"dropout": 0.1}, {"dora": True}, {"init": "pissa"}, {"init": "olora"}])
def test_settings_that_a_tensor_cannot_have_are_refused_before_wrapping(setting):
    model = tiny_model("mixtral")
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(AdapterError, match="as a tensor") as error:
        wrap(model, LoraConfig(targets=["experts"], **setting))
    assert next(iter(setting)) in error.value.got
    assert [name for name, _ in model.named_modules()] == before


def test_a_tree_of_modules_with_experts_in_it_says_that_they_are_left_out():
    model = tiny_model("mixtral")
    assert "fused" in resolve(model, LoraConfig(targets=["model.layers.1"], match="subtree")).notes[0]
    assert not resolve(model, LoraConfig(targets=["model.layers.1.self_attn"], match="subtree")).notes


def test_layers_and_freeze_choose_among_experts():
    model = tiny_model("mixtral")
    lora = LoraConfig(targets=["experts"], layers="1", freeze=["model.layers.*.mlp.experts.down_proj"])
    assert resolve(model, lora).experts == ("model.layers.1.mlp.experts.gate_up_proj",)


def test_a_model_without_experts_says_so():
    with pytest.raises(AdapterError, match="no module for the role 'experts'"):
        resolve(tiny_model("llama"), LoraConfig(targets=["experts"]))
