"""Ranks of their own for some modules: lora.ranks."""

from __future__ import annotations

import math

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer

from medrl.config.common import LoraConfig, ModelConfig
from medrl.errors import AdapterError
from medrl.lora.adapter import adapter_tensors, save_adapter
from medrl.lora.merge import merge_adapter
from medrl.lora.resolve import resolve
from medrl.lora.wrap import check_wrapped, wrap
from medrl.models.loading import load_causal_lm
from tests.unit.lora.tiny_families import tiny_model, train_a_little

pytestmark = pytest.mark.heavy

DOWN = "model.layers.*.mlp.down_proj"
LORA = {"targets": ["attention", "mlp"], "rank": 2, "alpha": 6.0, "ranks": {DOWN: 4, "model.layers.1.mlp.up_proj": 1}}
EXPECTED = {"model.layers.0.mlp.down_proj": 4, "model.layers.1.mlp.down_proj": 4, "model.layers.1.mlp.up_proj": 1}


def real_ranks(model) -> dict[str, int]:
    return {
        name.removeprefix("base_model.model."): layer.lora_A["default"].weight.shape[0]
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


@pytest.mark.parametrize("rslora", [False, True])
def test_each_module_has_its_rank_and_the_scale_of_its_rank(rslora):
    model = wrap(tiny_model("llama"), LoraConfig(**LORA, rslora=rslora))
    ranks = real_ranks(model)
    assert len(ranks) == 14 and {name: r for name, r in ranks.items() if r != 2} == EXPECTED
    tensors, scaling = adapter_tensors(model)
    assert scaling == {name: 6 / (math.sqrt(r) if rslora else r) for name, r in ranks.items()}
    assert {name: tensors[f"{name}.lora_B.weight"].shape[1] for name in ranks} == ranks


def test_a_rank_reaches_tensors_that_peft_adapts_as_parameters():
    ranks = {"model.layers.1.mlp.experts.down_proj": 3, "model.layers.0.mlp.up_proj": 5}
    lora = LoraConfig(targets=["mlp", "experts"], rank=2, ranks=ranks)
    model = wrap(tiny_model("deepseek_v3"), lora)
    outer = model.get_submodule("base_model.model.model.layers.1.mlp.experts")
    assert {layer.parameter_name: layer.r["default"] for layer in (outer, outer.base_layer)} == {
        "gate_up_proj": 2,
        "down_proj": 3,
    }
    assert real_ranks(model)["model.layers.0.mlp.up_proj"] == 5


def test_a_pattern_means_no_module_with_a_longer_name():
    """PEFT reads a rank pattern after any prefix: `model.layers.0.q` would mean `img_model.model.layers.0.q` too."""
    tree = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "b": torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4)})})
    tree.prepare_inputs_for_generation = None
    model = wrap(tree, LoraConfig(targets=["a", "b.a"], rank=2, ranks={"a": 1}))
    assert real_ranks(model) == {"a": 1, "b.a": 2}
    plain = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "b": torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4)})})
    config = peft.LoraConfig(target_modules=["a", "b.a"], r=2, rank_pattern={"a": 1})
    assert real_ranks(peft.get_peft_model(plain, config)) == {"a": 1, "b.a": 1}


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ({"model.layers.*.mlp.dwn_proj": 4}, "lora.ranks: .* matches no module"),
        ({"lm_head": 4}, "lora.ranks: 'lm_head' matches no module"),
        ({DOWN: 4, "model.layers.0.mlp.down_proj": 3}, "two ranks"),
    ],
)
def test_a_pattern_that_means_nothing_adapted_or_two_ranks_is_an_error(ranks, message):
    with pytest.raises(AdapterError, match=message):
        resolve(tiny_model("llama"), LoraConfig(targets=["mlp"], ranks=ranks))


def test_a_rank_that_peft_did_not_apply_is_found_after_wrapping():
    base = tiny_model("llama")
    targets = resolve(base, LoraConfig(**LORA))
    model = wrap(base, LoraConfig(**LORA | {"ranks": {}}))
    with pytest.raises(AdapterError, match="other ranks") as error:
        check_wrapped(model, targets)
    assert "model.layers.0.mlp.down_proj" in error.value.got


def test_ranks_go_through_saving_plain_peft_and_merging(model_dir, tmp_path):
    path = model_dir("qwen3")
    model = wrap(load_causal_lm(ModelConfig(path=str(path))), LoraConfig(**LORA))
    train_a_little(model)
    save_adapter(model, tmp_path / "adapter")
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        base = load_causal_lm(ModelConfig(path=str(path)))
        again = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
        torch.testing.assert_close(again(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-5)
        merge_adapter(str(tmp_path / "adapter"), str(path), str(tmp_path / "merged"))
        merged = load_causal_lm(ModelConfig(path=str(tmp_path / "merged")))
        assert (merged(input_ids=ids).logits - expected).abs().max() <= 1e-4
