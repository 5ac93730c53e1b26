from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from medrl.config.common import ModelConfig
from medrl.errors import ModelError
from medrl.models import loading
from medrl.models.loading import check_model_dir, has_flash_attention, load_causal_lm, load_tokenizer
from medrl.setup.machine import Gpu, Machine


def copy(source, target):
    shutil.copytree(source, target)
    return target


def test_a_good_directory_passes(model_dir):
    assert check_model_dir(str(model_dir("qwen3"))) == model_dir("qwen3")


@pytest.mark.parametrize(
    "remove,says",
    [
        ("config.json", "not a model directory"),
        ("model.safetensors", "no complete weights"),
        ("tokenizer*", "no tokenizer"),
    ],
)
def test_what_is_missing_is_named(model_dir, tmp_path, remove, says):
    path = copy(model_dir("qwen3"), tmp_path / "m")
    for file in list(path.glob(remove)):
        file.unlink()
    with pytest.raises(ModelError, match=says) as error:
        check_model_dir(str(path))
    assert error.value.remedy


def test_an_adapter_directory_points_to_merge(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError) as error:
        check_model_dir(str(tmp_path))
    assert "medrl merge" in error.value.remedy


def test_a_missing_shard_is_named(model_dir, tmp_path):
    path = copy(model_dir("qwen3"), tmp_path / "m")
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    (path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})
    )
    with pytest.raises(ModelError) as error:
        check_model_dir(str(path))
    assert "model-00002-of-00002.safetensors" in error.value.got and "00001-of" not in error.value.got


def test_an_empty_weight_file_and_pickled_weights_are_refused(model_dir, tmp_path):
    path = copy(model_dir("qwen3"), tmp_path / "m")
    (path / "model.safetensors").write_bytes(b"")
    (path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError) as error:
        check_model_dir(str(path))
    assert "convert them to safetensors" in error.value.remedy


@pytest.mark.parametrize("text,says", [("{", "not valid JSON"), ("{}", "no model_type")])
def test_a_damaged_config_is_refused(model_dir, tmp_path, text, says):
    path = copy(model_dir("qwen3"), tmp_path / "m")
    (path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=says):
        check_model_dir(str(path))


def test_truncated_weights_are_a_model_error(model_dir, tmp_path):
    path = copy(model_dir("qwen3"), tmp_path / "m")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_causal_lm(ModelConfig(path=str(path)))


@pytest.mark.parametrize("path", ["/no/such/model", "runs/nothing-here", "not a path !"])
def test_a_path_that_is_nowhere(path):
    with pytest.raises(ModelError, match="no model at"):
        check_model_dir(path)


def test_loading_turns_every_dropout_and_the_cache_off(model_dir, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(loading.logger, "warning", lambda text, *values: said.append(text % values))
    path = model_dir("gpt2", attn_pdrop=0.3, embd_pdrop=0.2, resid_pdrop=0.1)
    model = load_causal_lm(ModelConfig(path=str(path)))
    assert not model.training and model.config.use_cache is False
    model.train()
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    ids = torch.randint(3, 90, (1, 8))
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert all(name in " ".join(said) for name in ("attn_pdrop 0.3", "embd_pdrop 0.2", "resid_pdrop 0.1"))


def test_attention_dropout_is_off_in_train_mode(model_dir):
    model = load_causal_lm(ModelConfig(path=str(model_dir("llama", attention_dropout=0.3)))).train()
    ids = torch.randint(3, 90, (1, 8))
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype(model_dir, dtype):
    model = load_causal_lm(ModelConfig(path=str(model_dir("qwen3")), dtype=dtype))
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


def test_tokenizer_of_its_own_directory(model_dir, tmp_path):
    bare = copy(model_dir("qwen3"), tmp_path / "m")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    tokenizer = load_tokenizer(ModelConfig(path=str(bare), tokenizer=str(model_dir("qwen3"))))
    assert tokenizer.chat_template
    with pytest.raises(ModelError, match="no tokenizer"):
        load_tokenizer(ModelConfig(path=str(bare)))


def test_the_quick_check_needs_no_torch():
    code = "import sys, medrl.models.loading; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("flash_attention", [True, False])
def test_the_kernel_is_the_one_chosen_for_this_machine(model_dir, monkeypatch, flash_attention):
    """On a made-up GPU: what transformers is asked for, which refuses flash attention here."""
    machine = Machine("Xeon", (), Gpu("H200", (9, 0)), flash_attention=flash_attention)
    monkeypatch.setattr(loading, "this_machine", lambda: machine)
    model = ModelConfig(path=str(model_dir("qwen3")), dtype="bfloat16")
    if flash_attention:
        with pytest.raises(ModelError, match="cannot be loaded") as error:
            load_causal_lm(model)
        assert "FlashAttention2" in error.value.got
    else:
        assert load_causal_lm(model).config._attn_implementation == "sdpa"


def test_flash_attention_is_asked_of_architectures_that_have_it():
    from transformers import BloomConfig, PreTrainedConfig, Qwen3Config

    assert has_flash_attention(Qwen3Config())
    assert not has_flash_attention(BloomConfig())
    assert not has_flash_attention(PreTrainedConfig())  # what remote code brings
