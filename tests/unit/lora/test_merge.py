"""R10 and R11: the merged model is the base with the adapter on, and nothing else."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from medrl.config.common import LoraConfig, ModelConfig
from medrl.errors import AdapterError, ModelError
from medrl.lora.adapter import save_adapter
from medrl.lora.wrap import wrap
from medrl.models.export import load_calibration, save_calibration
from medrl.models.loading import load_causal_lm, load_pretrained
from medrl.stages.merge import run_merge
from tests.unit.lora.tiny_families import train_a_little

IDS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(5))


def adapted(path, **values):
    model = wrap(load_causal_lm(ModelConfig(path=str(path))), LoraConfig(**({"rank": 3, "alpha": 5.0} | values)))
    train_a_little(model)
    return model


def logprobs(model):
    return model(input_ids=IDS).logits.float().log_softmax(-1)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2", "mixtral", "gpt_neox", "qwen3_5_text"])
def test_merged_equals_adapter_on(family, model_dir, tmp_path):
    model = adapted(model_dir(family))
    save_adapter(model, tmp_path / "adapter")
    report = run_merge(str(tmp_path / "adapter"), None, str(tmp_path / "out"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logprobs(merged), logprobs(model), atol=1e-4, rtol=0)
    assert report["base_verified"] and report["merge_gap"] <= 1e-4 and report["change_from_base"] > 1e-2
    assert type(merged).__name__ == json.loads((tmp_path / "adapter/medrl_adapter.json").read_text())["base_class"]


ANYWHERE = [{"rslora": True}, {"dora": True}, {"init": "pissa"}, {"init": "olora"}, {"bias": "all"}]
AT_THE_ENDS = [
    {"modules_to_save": ["lm_head"]},
    {"targets": ["lm_head", "attention"]},
    {"targets": ["model.embed_tokens", "attention"]},
    {"targets": ["model.embed_tokens", "lm_head"]},
    {"modules_to_save": ["model.embed_tokens", "lm_head"]},
]
KINDS = [(v, tied) for v in AT_THE_ENDS for tied in (True, False)] + [(v, i % 2 == 0) for i, v in enumerate(ANYWHERE)]


@pytest.mark.parametrize("values,tied", KINDS, ids=lambda v: str(v))
def test_every_kind_of_adapter_tied_and_untied(values, tied, model_dir, tmp_path):
    base = model_dir("qwen3", tie_word_embeddings=tied)
    model = adapted(base, **values)
    save_adapter(model, tmp_path / "adapter")
    report = run_merge(str(tmp_path / "adapter"), str(base), str(tmp_path / "out"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logprobs(merged), logprobs(model), atol=1e-4, rtol=0)
    touched = any("embed" in x or "head" in x for x in [*values.get("targets", []), *values.get("modules_to_save", [])])
    assert report["untied_embeddings"] == (tied and touched)
    assert merged.config.tie_word_embeddings == (tied and not touched)


def test_bf16_is_cast_last_and_stays_near(model_dir, tmp_path):
    model = adapted(model_dir("qwen3"))
    save_adapter(model, tmp_path / "adapter")
    report = run_merge(str(tmp_path / "adapter"), None, str(tmp_path / "out"), "bfloat16")
    run_merge(str(tmp_path / "adapter"), None, str(tmp_path / "exact"), "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    exact = AutoModelForCausalLM.from_pretrained(tmp_path / "exact").state_dict()
    assert all(
        tensor.dtype == torch.bfloat16 and torch.equal(tensor, exact[name].bfloat16())
        for name, tensor in merged.items()
    )
    assert 0 < report["saved_gap_mean"] <= 0.05


def test_tokenizer_template_and_generation_config_come_along(model_dir, tmp_path):
    base = model_dir("qwen3")
    save_adapter(adapted(base), tmp_path / "adapter")
    run_merge(str(tmp_path / "adapter"), None, str(tmp_path / "out"))
    before, after = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert after.chat_template == before.chat_template and after.get_vocab() == before.get_vocab()
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == 2
    assert json.loads((tmp_path / "out/config.json").read_text())["use_cache"] is True


def test_a_reward_model_from_a_language_model_and_its_adapter(model_dir, tmp_path):
    """The head exists only in the adapter: the base has none."""
    base = model_dir("qwen3")
    torch.manual_seed(0)
    fresh = load_pretrained(
        AutoModelForSequenceClassification, ModelConfig(path=str(base)), may_miss=("score.weight",), num_labels=1
    )
    model = wrap(fresh, LoraConfig(rank=3), task="scalar")
    train_a_little(model)
    save_adapter(model, tmp_path / "adapter")
    save_calibration(tmp_path / "adapter", 0.5, 2.0)
    run_merge(str(tmp_path / "adapter"), str(base), str(tmp_path / "out"))
    merged, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and merged.config.num_labels == 1
    torch.testing.assert_close(merged(input_ids=IDS).logits, model(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)
    assert load_calibration(tmp_path / "out") == (0.5, 2.0)


class TestRefusals:
    @pytest.fixture
    def saved(self, model_dir, tmp_path):
        save_adapter(adapted(model_dir("qwen3")), tmp_path / "adapter")
        return tmp_path

    def refused(self, folder, error, says, **values):
        arguments = {"adapter": str(folder / "adapter"), "base": None, "out": str(folder / "out")} | values
        with pytest.raises(error, match=says):
            run_merge(**arguments)
        assert not any(p.name.startswith((".out", "out")) for p in folder.iterdir())

    def test_an_existing_output_is_never_overwritten(self, saved):
        (saved / "out").mkdir()
        (saved / "out/mine").write_text("x")
        with pytest.raises(ModelError, match="exists already"):
            run_merge(str(saved / "adapter"), None, str(saved / "out"))
        assert [p.name for p in (saved / "out").iterdir()] == ["mine"]

    def test_another_base(self, saved, model_dir):
        self.refused(saved, AdapterError, "another base", base=str(model_dir("qwen3", initializer_range=0.1)))

    def test_another_class(self, saved, model_dir):
        self.refused(saved, AdapterError, "another class", base=str(model_dir("llama")))

    def test_an_untrained_adapter(self, saved, model_dir):
        model = wrap(load_causal_lm(ModelConfig(path=str(model_dir("qwen3")))), LoraConfig(rank=3))
        save_adapter(model, saved / "adapter")
        self.refused(saved, AdapterError, "changes nothing")

    def test_an_adapter_with_a_missing_tensor(self, saved):
        """Plain PEFT warns, and merges the rest."""
        from safetensors.torch import load_file, save_file

        file = saved / "adapter/adapter_model.safetensors"
        tensors = load_file(file)
        tensors.pop("base_model.model.model.layers.0.mlp.up_proj.lora_B.weight")
        save_file(tensors, file)
        self.refused(saved, AdapterError, "does not fit")

    def test_a_reward_adapter_without_its_head(self, saved, model_dir):
        from safetensors.torch import load_file, save_file

        fresh = load_pretrained(
            AutoModelForSequenceClassification,
            ModelConfig(path=str(model_dir("qwen3"))),
            may_miss=("score.weight",),
            num_labels=1,
        )
        model = wrap(fresh, LoraConfig(rank=3), task="scalar")
        save_adapter(model, saved / "adapter")
        file = saved / "adapter/adapter_model.safetensors"
        tensors = load_file(file)
        tensors.pop("base_model.model.score.weight")
        save_file(tensors, file)
        self.refused(saved, ModelError, "start at random")

    def test_an_adapter_that_names_no_base(self, saved):
        file = saved / "adapter/adapter_config.json"
        values = json.loads(file.read_text())
        file.write_text(json.dumps(values | {"base_model_name_or_path": None}))
        self.refused(saved, AdapterError, "names no base")

    def test_no_adapter_at_all(self, saved, model_dir):
        self.refused(
            saved,
            AdapterError,
            "not an adapter directory",
            adapter=str(model_dir("qwen3")),
            base=str(model_dir("qwen3")),
        )


def test_an_adapter_from_elsewhere_merges_but_its_base_is_not_verified(model_dir, tmp_path):
    save_adapter(adapted(model_dir("llama")), tmp_path / "adapter")
    (tmp_path / "adapter/medrl_adapter.json").unlink()
    assert (
        run_merge(str(tmp_path / "adapter"), str(model_dir("llama")), str(tmp_path / "out"))["base_verified"] is False
    )
