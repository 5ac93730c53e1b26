"""R10 and R11: the merged model is the base with the adapter on, and nothing else."""

from __future__ import annotations

import json
import shutil

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from medrl.config.common import LoraConfig, ModelConfig
from medrl.errors import AdapterError, ModelError
from medrl.lora.adapter import save_adapter
from medrl.lora.merge import merge_adapter
from medrl.lora.wrap import wrap
from medrl.models.export import load_calibration, save_calibration
from medrl.models.loading import load_causal_lm, load_pretrained
from medrl.stages.merge import run_merge
from tests.unit.lora.tiny_families import train_a_little

pytestmark = pytest.mark.heavy

IDS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(5))


def adapted(path, **values):
    model = wrap(load_causal_lm(ModelConfig(path=str(path))), LoraConfig(**({"rank": 3, "alpha": 5.0} | values)))
    train_a_little(model)
    return model


def logprobs(model):
    return model(input_ids=IDS).logits.float().log_softmax(-1)


MERGED = ["llama", "qwen3", "gemma2", "gpt2", "mixtral", "gpt_neox", "qwen3_5_text", "opt"]


@pytest.mark.parametrize("family", MERGED)
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


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "mixtral"])
def test_a_reward_model_from_a_language_model_and_its_adapter(family, model_dir, tmp_path):
    """The head exists only in the adapter: the base has none."""
    base = model_dir(family)
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


def test_ranks_and_scales_that_differ_by_module(model_dir, tmp_path):
    """PEFT's own patterns, from an adapter that medrl did not make."""
    base = model_dir("llama")
    config = peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=["q_proj", "up_proj"], rank_pattern={r"layers\.1\..*q_proj": 5},
        alpha_pattern={"up_proj": 9}, lora_bias=False)
    model = peft.get_peft_model(load_causal_lm(ModelConfig(path=str(base))), config)
    train_a_little(model)
    model.save_pretrained(tmp_path / "adapter")
    merge_adapter(str(tmp_path / "adapter"), str(base), str(tmp_path / "out"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logprobs(merged), logprobs(model), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_adapters_on_fused_experts(family, model_dir, tmp_path):
    """The checkpoint may store each expert by itself: what is written has its form."""
    base = model_dir(family)
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
    model = peft.get_peft_model(load_causal_lm(ModelConfig(path=str(base))), config)
    train_a_little(model)
    model.save_pretrained(tmp_path / "adapter")
    merge_adapter(str(tmp_path / "adapter"), str(base), str(tmp_path / "out"))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logprobs(merged), logprobs(model), atol=1e-4, rtol=0)
    keys = [set(load_file(folder / "model.safetensors")) for folder in (base, tmp_path / "out")]
    assert keys[0] == keys[1]


def test_shards_with_their_index(model_dir, tmp_path, monkeypatch):
    base = model_dir("qwen3")
    save_adapter(adapted(base), tmp_path / "adapter")
    run_merge(str(tmp_path / "adapter"), None, str(tmp_path / "one"))
    monkeypatch.setattr("medrl.lora.merge.SHARD_BYTES", 20_000)
    run_merge(str(tmp_path / "adapter"), None, str(tmp_path / "many"))
    one, many = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("one", "many"))
    assert all(torch.equal(tensor, many[name]) for name, tensor in one.items())
    index = json.loads((tmp_path / "many/model.safetensors.index.json").read_text())
    files = {file.name for file in (tmp_path / "many").glob("*.safetensors")}
    assert len(files) > 3 and files == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for n, t in one.items() if n in index["weight_map"])


def test_the_model_card_tells_names_and_numbers(model_dir, tmp_path):
    base, run = model_dir("qwen3"), tmp_path / "secret-folder/run"
    save_adapter(adapted(base), run / "adapter")
    config = {"model": {"path": str(base)}, "data": {"train": "/data/ward/notes.jsonl", "eval": None}}
    (run / "config.yaml").write_text(json.dumps(config))
    report = {"stage": "sft", "model": str(run), "loss_last": 1e-05, "rows": {"train": {"used": 12}}}
    (run / "report.json").write_text(json.dumps(report))
    run_merge(str(run / "adapter"), None, str(tmp_path / "out"))
    card = (tmp_path / "out/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == base.name
    for row in ("| train | notes.jsonl |", "| train rows | 12 |", "| loss_last | 1e-05 |", "| rank | 3 |"):
        assert row in card
    assert "## Intended use" in card and "Not a medical device" in card
    assert "/" not in card.replace("<", "") and "ward" not in card and "secret" not in card


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

    def test_adapters_that_are_more_than_linear_layers(self, saved):
        file = saved / "adapter/adapter_config.json"
        values = json.loads(file.read_text())
        for change in ({"trainable_token_indices": [1]}, {"init_lora_weights": "loftq"}):
            file.write_text(json.dumps(values | change))
            self.refused(saved, AdapterError, "cannot be merged by medrl")

    def test_a_quantised_base(self, saved, model_dir, tmp_path):
        base = tmp_path / "quantised"
        shutil.copytree(model_dir("qwen3"), base)
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
        self.refused(saved, ModelError, "quantised", base=str(base))

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
