"""How much memory training takes: arithmetic on counts and shapes, before anything is allocated."""

from __future__ import annotations

from typing import Any, NamedTuple

BYTES = {"float32": 4, "bfloat16": 2}
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
    beside = 4 * trained if lora or dtype == "bfloat16" else 0
    return TrainingMemory(parameters * BYTES[dtype] + beside, GRADIENT_BYTES * trained, ADAM_BYTES * trained)


def activation_memory(text: Any, batch: int, length: int, dtype: str, checkpointing: bool, vocabulary: bool) -> int:
    """Bytes that the backward pass of `batch` sequences of `length` tokens needs, by the text part of a model's config.

    With N = batch · length, b = bytes(dtype), hidden size d, query and key widths q, k = heads · head_dim, MLP width f
    (of a mixture: of the experts one token visits), L layers, V entries in the vocabulary:

    one layer = N · (8·d + b · (2·d + 3·q + 2·k + 4·f)): the float32 inputs of two norms, the inputs of attention and
      MLP, queries, keys, values and two layouts of the attention's output, and the MLP's gate, its activation, its up
      projection and their product. Attention without a T × T matrix (sdpa, flash) is assumed.
    logits = N · V · (b + 8): the logits, and log-probs and their gradient in float32; `vocabulary` false: no logits.
    all = L · one layer + logits; with gradient checkpointing L · N · d · b (each layer's input) + one layer + logits.

    Source of the counting: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models",
    section 4, redone for gated MLPs without dropout. An estimate: kernels keep more or less.
    """
    n, b, d, layers = batch * length, BYTES[dtype], text.hidden_size, text.num_hidden_layers
    heads = text.num_attention_heads
    head = _number(text, "head_dim") or d // heads
    q, k = heads * head, (_number(text, "num_key_value_heads") or heads) * head
    one = n * (8 * d + b * (2 * d + 3 * q + 2 * k + 4 * _mlp_width(text)))
    logits = n * text.vocab_size * (b + 8) if vocabulary else 0
    return (layers * n * d * b + one if checkpointing else layers * one) + logits


def _mlp_width(text: Any) -> int:
    width = next(filter(None, (_number(text, name) for name in ("intermediate_size", "ffn_dim", "n_inner"))), None)
    width = width or 4 * text.hidden_size
    if visited := _number(text, "num_experts_per_tok"):
        each = _number(text, "moe_intermediate_size") or width
        return (visited + _number(text, "n_shared_experts")) * each + _number(text, "shared_expert_intermediate_size")
    return width


def _number(text: Any, name: str) -> int:
    """A size in the config; of layers that differ the largest; 0 when there is none."""
    if name in (getattr(text, "per_layer_attributes", None) or ()):
        return max(_number(layer, name) for layer in text.per_layer_config)
    value = getattr(text, name, None)
    return max(value) if isinstance(value, list | tuple) else value or 0
