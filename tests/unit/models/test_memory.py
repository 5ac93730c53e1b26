"""The memory arithmetic against what autograd really keeps."""

from __future__ import annotations

import pytest
import torch

from medrl.config.common import LoraConfig
from medrl.lora.wrap import wrap
from medrl.models.memory import activation_memory, training_memory
from medrl.models.norm import shorten_norms
from tests.unit.lora.tiny_families import tiny_config, tiny_model

WIDE = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 8}
WIDE |= {"max_position_embeddings": 256, "num_key_value_heads": 2}
BATCH, LENGTH = 2, 128


def kept_bytes(model) -> int:
    """Bytes of the distinct storages that autograd saves in a forward pass, the model's own left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    ids = torch.randint(3, 97, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        torch.log_softmax(model(input_ids=ids, use_cache=False).logits.float(), -1).sum()
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "head"), [("llama", {}), ("qwen3", {"head_dim": 24})])
def test_activations_are_within_a_fifth_of_what_autograd_keeps(family, head, dtype):
    model = tiny_model(family, **WIDE, **head).to(getattr(torch, dtype))
    shorten_norms(model)
    wrapped = wrap(model, LoraConfig(rank=2))
    estimate = activation_memory(model.config, BATCH, LENGTH, dtype, checkpointing=False)
    assert estimate == pytest.approx(kept_bytes(wrapped), rel=0.2)


def test_checkpointing_keeps_the_layers_inputs():
    model = tiny_model("llama", **WIDE)
    wrapped = wrap(model, LoraConfig(rank=2)).train()
    estimate = activation_memory(model.config, BATCH, LENGTH, "float32", checkpointing=True)
    one = tiny_config("llama", **WIDE | {"num_hidden_layers": 1})
    layer = activation_memory(one, BATCH, LENGTH, "float32", checkpointing=False, logits=False)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert estimate - layer == pytest.approx(kept_bytes(wrapped), rel=0.2)


@pytest.mark.parametrize(
    ("family", "width"),
    [("llama", 48), ("gpt2", 128), ("mixtral", 96), ("qwen2_moe", 48), ("deepseek_v3", 48)],
)
def test_the_mlp_width_is_what_one_token_visits(family, width):
    """A wider MLP costs 4 bytes times 4 widths a token in float32: the slope gives the width back."""
    config = tiny_config(family)
    now = activation_memory(config, 1, 1, "float32", checkpointing=False, logits=False)
    q = k = config.num_attention_heads * (getattr(config, "head_dim", None) or 8)
    k = k if family in ("gpt2", "deepseek_v3") else k // 2
    layer = now // config.num_hidden_layers
    assert (layer - 8 * 32 - 4 * (2 * q + 2 * k + 2 * 32 + q)) / 16 == width


def test_a_config_with_names_of_its_own_has_no_estimate():
    from transformers import PreTrainedConfig

    sizes = {"n_heads": 4, "dim": 32}
    assert activation_memory(PreTrainedConfig(**sizes), 1, 1, "float32", checkpointing=False) is None


def test_what_adam_needs():
    assert training_memory(1000, 10, "bfloat16", lora=True) == (2000 + 40, 40, 80)
    assert training_memory(1000, 1000, "bfloat16", lora=False) == (2000 + 4000, 4000, 8000)
    assert training_memory(1000, 1000, "float32", lora=False) == (4000, 4000, 8000)
