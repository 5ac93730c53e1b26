from __future__ import annotations

import json
import math

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from medrl.config.common import LoraConfig, ModelConfig
from medrl.errors import AdapterError
from medrl.lora.adapter import adapter_keys, adapter_tensors, load_adapter_, save_adapter
from medrl.lora.identity import model_hash, read_record
from medrl.lora.manifest import manifest
from medrl.lora.wrap import wrap
from medrl.models.loading import load_causal_lm
from medrl.models.scalar_head import ScalarModel
from tests.unit.lora.tiny_families import tiny_model, train_a_little

pytestmark = pytest.mark.heavy

FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "mixtral", "phi3", "qwen3_5_text"]
IDS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(5))


def trained_adapter(family: str, **values):
    model = wrap(tiny_model(family), LoraConfig(**({"rank": 3, "alpha": 5.0} | values)))
    train_a_little(model)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("values", [{}, {"rslora": True}, {"targets": ["attention"], "layers": "1"}])
def test_exported_tensors_rebuild_the_adapted_model(family, values):
    """W = W₀ + s·B·A, computed here by hand into a plain base model, gives the adapter's logits."""
    model = trained_adapter(family, **values)
    tensors, scaling = adapter_tensors(model)
    plain = tiny_model(family)
    with torch.no_grad():
        for module, s in scaling.items():
            plain.get_submodule(module).weight += s * (
                tensors.pop(f"{module}.lora_B.weight") @ tensors.pop(f"{module}.lora_A.weight")
            )
    assert not tensors
    expected = model(input_ids=IDS).logits
    torch.testing.assert_close(plain(input_ids=IDS).logits, expected, atol=1e-4 * expected.abs().max().item(), rtol=0)


def test_whole_modules_and_embeddings_are_exported_too():
    model = trained_adapter(
        "llama", targets=["model.embed_tokens", "attention"], modules_to_save=["lm_head", "model.norm"]
    )
    tensors, scaling = adapter_tensors(model)
    plain = tiny_model("llama")
    with torch.no_grad():
        for module, s in scaling.items():
            plain.get_submodule(module).weight += s * (
                tensors.pop(f"{module}.lora_B.weight") @ tensors.pop(f"{module}.lora_A.weight")
            )
        assert tensors.keys() == {"lm_head.weight", "model.norm.weight"}
        plain.load_state_dict(tensors, strict=False)
    torch.testing.assert_close(plain(input_ids=IDS).logits, model(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)


def test_exported_tensors_are_float32_cpu_copies():
    model = trained_adapter("gpt2")
    tensors, scaling = adapter_tensors(model)
    assert all(t.dtype == torch.float32 and t.is_contiguous() and not t.requires_grad for t in tensors.values())
    assert set(scaling.values()) == {5 / 3}
    before = {name: t.clone() for name, t in tensors.items()}
    train_a_little(model, seed=9)
    assert all(torch.equal(before[name], t) for name, t in tensors.items())


def test_gathered_tensors_stand_in_for_sharded_parameters():
    model = trained_adapter("qwen3")
    expected, _ = adapter_tensors(model)
    names = set(adapter_keys(model).values())
    gathered = {name: p.detach().clone() for name, p in model.named_parameters() if name in names}
    for name, p in model.named_parameters():
        if name in names:
            p.data = torch.empty(0)  # what is left of a ZeRO-3 parameter
    got, _ = adapter_tensors(model, gathered)
    assert got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in got)


def test_what_no_engine_could_take_is_refused():
    with pytest.raises(AdapterError, match="DoRA"):
        adapter_tensors(trained_adapter("llama", dora=True))
    for values in ({"targets": ["lm_head"]}, {"modules_to_save": ["model.embed_tokens"]}):
        with pytest.raises(AdapterError, match="ties") as error:
            adapter_tensors(trained_adapter("gemma2", **values))
        assert "lm_head" in error.value.got or "embed_tokens" in error.value.got


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_loads_in_plain_peft_with_its_logits(family, tmp_path):
    model = trained_adapter(family)
    save_adapter(model, tmp_path)
    plain = peft.PeftModel.from_pretrained(tiny_model(family), str(tmp_path))
    torch.testing.assert_close(plain(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "values", [{"dora": True}, {"rslora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "lora_only"}]
)
def test_every_kind_of_adapter_loads_in_plain_peft(values, tmp_path):
    model = trained_adapter("qwen2", **values)
    save_adapter(model, tmp_path)
    plain = peft.PeftModel.from_pretrained(tiny_model("qwen2"), str(tmp_path))
    torch.testing.assert_close(plain(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_reward_adapter_brings_its_head_to_plain_peft(family, tmp_path):
    model = wrap(tiny_model(family, "scalar"), LoraConfig(rank=2), task="scalar")
    train_a_little(model)
    save_adapter(model, tmp_path)
    fresh = tiny_model(family, "scalar")
    nn.init.normal_(fresh.score.weight)  # as a newly initialised head
    plain = peft.PeftModel.from_pretrained(fresh, str(tmp_path))
    torch.testing.assert_close(plain(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("values", [{}, {"dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_round_trip_in_place(values, tmp_path):
    model = trained_adapter("qwen2", **values)
    save_adapter(model, tmp_path)
    other = wrap(tiny_model("qwen2"), LoraConfig(**({"rank": 3, "alpha": 5.0} | values)))
    parameters = dict(other.named_parameters())
    load_adapter_(other, tmp_path)
    assert all(parameters[name] is p for name, p in other.named_parameters())
    assert all(torch.equal(p, other.state_dict()[name]) for name, p in model.state_dict().items())


def test_a_critic_s_adapter_round_trip(tmp_path):
    def critic():
        classifier = tiny_model("qwen3", "scalar")
        torch.manual_seed(0)
        return wrap(ScalarModel(classifier.base_model, nn.Linear(32, 1)), LoraConfig(rank=2), task="scalar")

    model, other = critic(), critic()
    train_a_little(model)
    save_adapter(model, tmp_path)
    load_adapter_(other, tmp_path)
    assert all(torch.equal(p, other.state_dict()[name]) for name, p in model.state_dict().items())


class TestRefusals:
    @pytest.fixture
    def saved(self, tmp_path):
        save_adapter(trained_adapter("llama"), tmp_path)
        return tmp_path

    @staticmethod
    def edit(path, change):
        tensors = load_file(path / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, path / "adapter_model.safetensors")

    KEY = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"

    @pytest.mark.parametrize(
        "change,says",
        [
            (lambda t: t.pop(TestRefusals.KEY), "missing: "),
            (lambda t: t.update(extra=torch.zeros(1)), "unexpected: extra"),
            (lambda t: t.update({TestRefusals.KEY: torch.zeros(1, 1)}), "other shape: "),
        ],
    )
    def test_keys_and_shapes(self, saved, change, says):
        self.edit(saved, change)
        model = wrap(tiny_model("llama"), LoraConfig(rank=3, alpha=5.0))
        before = {name: t.clone() for name, t in model.state_dict().items()}
        with pytest.raises(AdapterError, match="does not fit") as error:
            load_adapter_(model, saved)
        assert says in error.value.got
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())

    def test_numbers_that_are_not_finite(self, saved):
        self.edit(saved, lambda t: t[self.KEY].fill_(math.nan))
        with pytest.raises(AdapterError, match="not finite"):
            load_adapter_(trained_adapter("llama"), saved)

    def test_another_scale(self, saved):
        with pytest.raises(AdapterError, match="other settings") as error:
            load_adapter_(trained_adapter("llama", alpha=6.0), saved)
        assert "lora_alpha" in error.value.got

    def test_another_class(self, saved):
        with pytest.raises(AdapterError, match="another class"):
            load_adapter_(trained_adapter("mistral"), saved)

    def test_a_damaged_file(self, saved):
        (saved / "adapter_model.safetensors").write_bytes(b"123")
        with pytest.raises(AdapterError, match="damaged"):
            load_adapter_(trained_adapter("llama"), saved)

    def test_no_adapter(self, tmp_path):
        with pytest.raises(AdapterError, match="not an adapter directory"):
            load_adapter_(trained_adapter("llama"), tmp_path)


def test_the_record_names_class_hash_and_manifest_of_the_base(model_dir, tmp_path):
    source = ModelConfig(path=str(model_dir("qwen3")))
    model = wrap(load_causal_lm(source), LoraConfig(rank=2))
    save_adapter(model, tmp_path)
    record = read_record(tmp_path)
    assert record == {
        "base_class": "Qwen3ForCausalLM",
        "base_path": source.path,
        "base_sha256": model_hash(source.path),
        "manifest": manifest(model),
    }
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == source.path


def test_another_base_is_refused(model_dir, tmp_path):
    save_adapter(wrap(load_causal_lm(ModelConfig(path=str(model_dir("qwen3")))), LoraConfig(rank=2)), tmp_path)
    other = model_dir("qwen3", initializer_range=0.1)
    with pytest.raises(AdapterError, match="another base"):
        load_adapter_(wrap(load_causal_lm(ModelConfig(path=str(other))), LoraConfig(rank=2)), tmp_path)


def test_the_hash_sees_one_changed_byte_and_nothing_else(model_dir, tmp_path):
    path = model_dir("qwen3")
    copied = tmp_path / "copy"
    copied.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copied / name).write_bytes((path / name).read_bytes())
    assert model_hash(copied) == model_hash(path)
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copied / "model.safetensors").write_bytes(data)
    assert model_hash(copied) != model_hash(path)
