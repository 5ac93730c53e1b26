"""How much memory training takes: arithmetic on counts and shapes, before anything is allocated."""

from __future__ import annotations

from typing import Any, NamedTuple

BYTES = {"float32": 4, "bfloat16": 2}
ADAPTER_BYTES = 4  # adapters are float32 whatever the base is
GRADIENT_BYTES = 4  # float32, per trainable parameter
ADAM_BYTES = 8  # two float32 moments per trainable parameter
GIB = 2**30


class TrainingMemory(NamedTuple):
    """Bytes on one worker that shards nothing."""

    weights: int
    gradients: int
    optimizer: int


def training_memory(parameters: int, trained: int, dtype: str, lora: bool) -> TrainingMemory:
    """weights = parameters · bytes(dtype) + 4 · trained for what is kept in float32 beside them (adapters and modules
    trained whole under LoRA, master weights of a bfloat16 model that trains in full); gradients = 4 · trained;
    optimizer = 8 · trained.

    `parameters`: of the base model; `trained`: of adapters and whole modules, or of the model.
    """
    beside = ADAPTER_BYTES * trained if lora or dtype == "bfloat16" else 0
    return TrainingMemory(parameters * BYTES[dtype] + beside, GRADIENT_BYTES * trained, ADAM_BYTES * trained)


def activation_memory(
    text: Any, batch: int, length: int, dtype: str, *, checkpointing: bool, logits: bool = True
) -> int | None:
    """Bytes that the backward pass of `batch` sequences of `length` tokens needs, by the text part of a model's config;
    None when the config has no sizes by transformers' names.

    With N = batch · length, b = bytes(dtype), hidden size d, query and key widths q, k = heads · head_dim, MLP width f
    (of a mixture: of the experts one token visits), L layers, V entries in the vocabulary:

    one layer = N · b · (2·d + 2·q + 2·k + 3·f + inputs): the inputs of two norms; queries, keys, values and the
      attention's output; the MLP's gate, its activation and its up projection.
    inputs, of the linear layers = 2·d + q + f, since layers and their adapters share them (with dropout each adapter
      keeps a copy of its own).
    head = N · V · (b + 8): logits, and log-probs with their gradient in float32; 0 for a scalar head (`logits` false).
    all = L · one layer + head; with gradient checkpointing L · N · d · b (each layer's input) + one layer + head.

    Counted as in Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4,
    for norms as `medrl.models.norm` shortens them, a gated MLP, no dropout and attention without a T × T matrix (sdpa,
    flash). An estimate elsewhere.
    """
    d, layers, heads = (number(text, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    if not (d and layers and heads):
        return None
    n, b = batch * length, BYTES[dtype]
    head = number(text, "head_dim") or d // heads
    q, k, f = heads * head, (number(text, "num_key_value_heads") or heads) * head, _mlp_width(text)
    layer = n * b * (2 * d + 2 * q + 2 * k + 3 * f + 2 * d + q + f)
    out = n * number(text, "vocab_size") * (b + 8) if logits else 0
    return (layers * n * d * b + layer if checkpointing else layers * layer) + out


def _mlp_width(text: Any) -> int:
    width = next(filter(None, (number(text, name) for name in ("intermediate_size", "ffn_dim", "n_inner"))), None)
    width = width or 4 * text.hidden_size
    if visited := number(text, "num_experts_per_tok"):
        each = number(text, "moe_intermediate_size") or width
        return (visited + number(text, "n_shared_experts")) * each + number(text, "shared_expert_intermediate_size")
    return width


def number(text: Any, name: str) -> int:
    """A size in the config; of layers that differ the largest; 0 when there is none."""
    if name in (getattr(text, "per_layer_attributes", None) or ()):
        return max(number(layer, name) for layer in text.per_layer_config)
    value = getattr(text, name, None)
    return max(value) if isinstance(value, list | tuple) else value or 0
