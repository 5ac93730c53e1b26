"""Merging holds little more than one decoder layer and one shard, however large the model."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from medrl.config.common import LoraConfig, ModelConfig
from medrl.lora.adapter import save_adapter
from medrl.lora.wrap import wrap
from medrl.models.loading import load_causal_lm
from tests.tiny import save_tokenizer

GIB = 2**30
MERGE = """
import json, resource, sys
import medrl.lora.merge as merge
import peft, transformers
from transformers import AutoModelForCausalLM, LlamaForCausalLM

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

before = status("VmRSS")
merge.merge_adapter(*sys.argv[1:])
print(json.dumps({"before": before, "peak": status("VmHWM")}))
"""


def stored_bytes(folder) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_model_of_1_gib_merges_within_2_gib(dtype, tmp_path):
    vocab = len(save_tokenizer(tmp_path / "base"))
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=1024, intermediate_size=2816, num_attention_heads=8, num_key_value_heads=8,
        num_hidden_layers=42 if dtype == "bfloat16" else 21)
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(tmp_path / "base")
    assert stored_bytes(tmp_path / "base") > GIB
    source = ModelConfig(path=str(tmp_path / "base"), dtype=dtype)
    adapted = wrap(load_causal_lm(source), LoraConfig(rank=4))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=1e-3)
    save_adapter(adapted, tmp_path / "adapter")
    del adapted
    arguments = [str(tmp_path / "adapter"), str(tmp_path / "base"), str(tmp_path / "out"), dtype]
    done = subprocess.run([sys.executable, "-c", MERGE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout.splitlines()[-1])
    print(f"{dtype}: {(memory['peak'] - memory['before']) / GIB:.2f} GiB above {memory['before'] / GIB:.2f} GiB")
    assert memory["peak"] - memory["before"] < 2 * GIB
    assert stored_bytes(tmp_path / "out") > GIB
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    for name, file in list(index["weight_map"].items())[::50]:
        with safe_open(tmp_path / "out" / file, "pt") as stored:
            assert stored.get_tensor(name).dtype == getattr(torch, dtype)
