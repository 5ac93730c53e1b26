"""Known ways to go wrong without noticing. Each test shows first that the plain library does, then what medrl does."""

from __future__ import annotations

import math

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Qwen3_5Config, Qwen3_5ForConditionalGeneration

from medrl.config.common import LoraConfig, ModelConfig
from medrl.errors import AdapterError, AmbiguousModuleError
from medrl.lora.adapter import adapter_tensors, load_adapter_, save_adapter
from medrl.lora.manifest import check_manifest, manifest
from medrl.lora.merge import merge_adapter
from medrl.lora.reference import ReferenceSpec, attach_reference, check_explicit_reference, reference_active
from medrl.lora.reference_proofs import check_first_loss, check_policy_start
from medrl.lora.wrap import wrap
from medrl.models.loading import load_causal_lm
from tests.tiny import save_tokenizer
from tests.unit.lora.tiny_families import tiny_config, tiny_model, train_a_little

pytestmark = pytest.mark.heavy

IDS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(5))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(self.q_proj(x))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])


class Twins(nn.Module):
    """A language model beside an image model and a vision wrapper with the same names inside."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Stack()
        self.img_model = Stack()
        self.vision = nn.ModuleDict({"model": Stack()})
        self.score = nn.Linear(4, 1)
        self.sub_score = nn.Linear(4, 1)

    def prepare_inputs_for_generation(self):
        """PEFT asks a language model for it."""


def trained(model: nn.Module) -> set[str]:
    return {name.removeprefix("base_model.model.") for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def logprobs(model) -> torch.Tensor:
    return model(input_ids=IDS, use_cache=False).logits.float().log_softmax(-1)


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


MEANT = {f"model.layers.0.q_proj.lora_{side}.default.weight" for side in "AB"}


def test_no_target_modules_on_an_architecture_that_peft_does_not_know():
    with pytest.raises(ValueError, match="target_modules"):
        peft.get_peft_model(tiny_model("smollm3"), peft.LoraConfig())

    assert len(wrap(tiny_model("smollm3"), LoraConfig()).targeted_module_names) == 14


def test_one_unmatched_name_among_good_ones():
    plain = peft.get_peft_model(tiny_model("llama"), peft.LoraConfig(target_modules=["q_proj", "qv_proj"]))
    assert trained(plain), "plain PEFT goes on without a word"

    with pytest.raises(AdapterError, match="qv_proj") as error:
        wrap(tiny_model("llama"), LoraConfig(targets=["q_proj", "qv_proj"], match="suffix"))
    assert "q_proj" in error.value.remedy


def test_a_path_beside_the_same_path_in_an_image_model():
    plain = peft.get_peft_model(Twins(), peft.LoraConfig(target_modules=["model.layers.0.q_proj"]))
    assert any(name.startswith("vision.model") for name in trained(plain)), "plain PEFT reaches into the vision model"

    assert trained(wrap(Twins(), LoraConfig(targets=["model.layers.0.q_proj"]))) == MEANT


def test_a_saved_module_beside_the_same_path_in_an_image_model():
    plain = peft.get_peft_model(
        Twins(), peft.LoraConfig(target_modules=r"model\.layers\.0\.q_proj", modules_to_save=["model.layers.1.norm"])
    )
    for twin in ("img_model.layers.1", "vision.model.layers.1"):
        assert any(name.startswith(twin) for name in trained(plain)), "plain PEFT trains the image models too"

    model = Twins()
    before = [name for name, _ in model.named_modules()]
    with pytest.raises(AmbiguousModuleError) as error:
        wrap(model, LoraConfig(targets=["model.layers.0.q_proj"], modules_to_save=["model.layers.1.norm"]))
    assert "img_model.layers.1.norm" in error.value.got and "vision.model.layers.1.norm" in error.value.got
    assert "model.layers.1.norm" in error.value.limit
    assert [name for name, _ in model.named_modules()] == before


def test_score_beside_sub_score():
    plain = peft.get_peft_model(
        Twins(), peft.LoraConfig(target_modules=r"model\.layers\.0\.q_proj", modules_to_save=["score"]))
    assert any(name.startswith("sub_score") for name in trained(plain)), "plain PEFT trains sub_score too"

    with pytest.raises(AmbiguousModuleError, match="other modules") as error:
        wrap(Twins(), LoraConfig(targets=["model.layers.0.q_proj"], modules_to_save=["score"]))
    assert "sub_score" in error.value.got
    model = wrap(Twins(), LoraConfig(targets=["model.layers.0.q_proj"], modules_to_save=["sub_score"]))
    assert trained(model) == MEANT | {f"sub_score.modules_to_save.default.{x}" for x in ("weight", "bias")}


@pytest.fixture(scope="module")
def qwen3_5(tmp_path_factory):
    """A tiny Qwen3.5 with its vision tower, on disk."""
    path = tmp_path_factory.mktemp("qwen3_5")
    vocab = len(save_tokenizer(path))
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
              "num_position_embeddings": 16}
    torch.manual_seed(0)
    Qwen3_5ForConditionalGeneration(Qwen3_5Config(
        text_config=tiny_config("qwen3_5_text", vocab_size=vocab).to_dict(), vision_config=vision,
        image_token_id=vocab - 4, video_token_id=vocab - 3, vision_start_token_id=vocab - 2,
        vision_end_token_id=vocab - 1)).save_pretrained(path)
    return path


def test_a_vision_tower(qwen3_5):
    def model():
        return Qwen3_5ForConditionalGeneration.from_pretrained(qwen3_5)

    plain = peft.get_peft_model(model(), peft.LoraConfig(target_modules="all-linear"))
    assert any("visual" in name for name in trained(plain)), "plain PEFT adapts the vision tower"

    ours = trained(wrap(model(), LoraConfig(targets=["all-linear"])))
    assert ours and all(name.startswith("model.language_model.layers.") for name in ours)


def test_a_gate_that_chooses_among_experts():
    plain = peft.get_peft_model(
        tiny_model("qwen2_moe"), peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert any("shared_expert_gate" in name for name in trained(plain)), "plain PEFT adapts the gate"

    ours = trained(wrap(tiny_model("qwen2_moe"), LoraConfig(targets=["all-linear"])))
    assert ours and not any("gate." in name.replace("gate_proj", "") for name in ours)


def test_linear_attention_layers_of_qwen3_5():
    usual = ["q_proj", "k_proj", "v_proj", "o_proj"]
    plain = peft.get_peft_model(tiny_model("qwen3_5_text"), peft.LoraConfig(target_modules=usual))
    assert not any("layers.0" in name for name in trained(plain)), "plain PEFT leaves whole layers out"

    ours = trained(wrap(tiny_model("qwen3_5_text"), LoraConfig(targets=["attention", "linear-attention"])))
    assert any(".layers.0.linear_attn." in name for name in ours)
    assert any(".layers.1.self_attn." in name for name in ours)


def test_dpo_with_an_adapter_and_an_explicit_reference(model_dir, tmp_path):
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    base, other = model_dir("llama"), model_dir("llama", initializer_range=0.1)
    model = wrap(load_causal_lm(ModelConfig(path=str(base))), LoraConfig(rank=2))
    rows = Dataset.from_list([{"prompt": "fever?", "chosen": " rest", "rejected": " run"}] * 2)
    trainer = DPOTrainer(
        model, AutoModelForCausalLM.from_pretrained(other), processing_class=AutoTokenizer.from_pretrained(base),
        train_dataset=rows, args=DPOConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False))
    loss = trainer.compute_loss(model, next(iter(trainer.get_train_dataloader()))).item()
    assert abs(loss - math.log(2)) > 1e-3, "TRL measures against the other model without a word"

    with pytest.raises(AdapterError, match="another model than the adapter's base"):
        check_explicit_reference(str(base), None, ReferenceSpec("copy", str(other)))
    with pytest.raises(AdapterError, match="does not start at its reference"):
        check_first_loss(loss, math.log(2))


def test_an_sft_adapter_below_a_ppo_adapter(model_dir, tmp_path):
    base = str(model_dir("llama"))
    sft = wrap(load_causal_lm(ModelConfig(path=base)), LoraConfig(rank=2, alpha=4.0))
    train_a_little(sft)
    save_adapter(sft, tmp_path / "sft")
    plain = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "sft"), is_trainable=True)
    with plain.disable_adapter():
        reference = logprobs(plain)
    assert gap(reference, logprobs(sft)) > 1e-2, "with the adapter off, the reference is not the SFT model"
    assert torch.equal(reference, logprobs(load_causal_lm(ModelConfig(path=base))))

    with pytest.raises(AdapterError, match="does not start at the reference"):
        check_policy_start(logprobs(plain), reference)
    with pytest.raises(AdapterError, match="would be the base below it"):
        check_explicit_reference(base, str(tmp_path / "sft"), ReferenceSpec("base"))
    model, spec = wrap(load_causal_lm(ModelConfig(path=base)), LoraConfig(rank=2, alpha=4.0)), ReferenceSpec(
        "adapter", str(tmp_path / "sft"))
    attach_reference(model, spec)
    train_a_little(model, seed=3)
    with reference_active(model, spec):
        assert torch.equal(logprobs(model), logprobs(sft))


@pytest.mark.parametrize("values", [{"init": "pissa"}, {"init": "olora"}, {"bias": "all"}])
def test_settings_that_change_what_lies_below_the_adapter(values):
    base = logprobs(tiny_model("qwen2"))
    model = wrap(tiny_model("qwen2"), LoraConfig(rank=2, **values))
    train_a_little(model)
    with model.disable_adapter():
        assert gap(logprobs(model), base) > 1e-3, "plain PEFT's base is not the base"

    with pytest.raises(AdapterError, match="not its base"), reference_active(model, ReferenceSpec("base")):
        pass


def test_dropout_of_the_base_itself(model_dir):
    path = str(model_dir("llama", attention_dropout=0.3))
    plain = AutoModelForCausalLM.from_pretrained(path).train()
    assert gap(logprobs(plain), logprobs(plain)) > 1e-3, "old and new log-probs of the same weights differ"

    model = load_causal_lm(ModelConfig(path=path)).train()
    assert torch.equal(logprobs(model), logprobs(model))


def test_trainable_flags_after_the_reference_was_used():
    def half_frozen():
        model = wrap(tiny_model("llama"), LoraConfig(rank=2, modules_to_save=["lm_head"]))
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)
        return model, manifest(model)

    model, rows = half_frozen()
    with model.disable_adapter():
        pass
    assert any("lora_A" in name for name in trained(model)), "plain PEFT un-freezes on exit"
    with pytest.raises(AdapterError, match="manifest"):
        check_manifest(model, rows)

    model, rows = half_frozen()
    with reference_active(model, ReferenceSpec("base")):
        pass
    check_manifest(model, rows)


def test_lora_on_both_tied_ends(model_dir, tmp_path):
    base = str(model_dir("qwen3", tie_word_embeddings=True))
    model = wrap(load_causal_lm(ModelConfig(path=base)), LoraConfig(rank=2, targets=["model.embed_tokens", "lm_head"]))
    train_a_little(model)
    save_adapter(model, tmp_path / "adapter")
    expected = logprobs(model)
    with pytest.raises(AdapterError, match="embeddings that the model ties"):
        adapter_tensors(model)
    merge_adapter(str(tmp_path / "adapter"), base, str(tmp_path / "out"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert gap(logprobs(merged), expected) <= 1e-4 and not merged.config.tie_word_embeddings

    assert gap(logprobs(model.merge_and_unload()), expected) > 1e-2, "plain PEFT merges both changes into one tensor"


def test_an_adapter_of_qwen3_5_merged_into_the_wrong_class(qwen3_5, tmp_path):
    text = AutoModelForCausalLM.from_pretrained(qwen3_5)
    plain = peft.get_peft_model(text, peft.LoraConfig(target_modules=["q_proj", "out_proj"]))
    train_a_little(plain)
    plain.save_pretrained(tmp_path / "plain")
    whole = Qwen3_5ForConditionalGeneration.from_pretrained(qwen3_5)
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    wrong = peft.PeftModel.from_pretrained(whole, str(tmp_path / "plain")).merge_and_unload()
    assert all(torch.equal(t, before[name]) for name, t in wrong.state_dict().items()), "plain PEFT merges nothing"

    lora = LoraConfig(rank=2, targets=["attention"])
    ours = wrap(Qwen3_5ForConditionalGeneration.from_pretrained(qwen3_5), lora)
    train_a_little(ours)
    save_adapter(ours, tmp_path / "ours")
    with pytest.raises(AdapterError, match="another class"):
        merge_adapter(str(tmp_path / "ours"), str(qwen3_5), str(tmp_path / "out"))
    with pytest.raises(AdapterError, match="another class"):
        load_adapter_(wrap(load_causal_lm(ModelConfig(path=str(qwen3_5))), lora), tmp_path / "ours")
    (tmp_path / "ours/medrl_adapter.json").unlink()  # as from elsewhere
    with pytest.raises(AdapterError, match="does not fit"):
        merge_adapter(str(tmp_path / "ours"), str(qwen3_5), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
