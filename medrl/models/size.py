"""A model's shape as the roofline needs it."""

from __future__ import annotations

from typing import Any

from torch import nn

from medrl.algo.roofline import ModelSize
from medrl.models.memory import number


def model_size(model: nn.Module, stack: str) -> ModelSize | None:
    """Sizes of a decoder (on the meta device or not) whose list of layers has the full name `stack`.

    A mixture counts the experts that one token visits. None when the config has no sizes by transformers' names.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    hidden, layers, heads = (number(text, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    if not (stack and hidden and layers and heads):
        return None
    head = number(text, "head_dim") or hidden // heads
    return ModelSize(
        products=_products(model.get_submodule(stack), number(text, "num_experts_per_tok")),
        layers=layers,
        attention=heads * head,
        keys=(number(text, "num_key_value_heads") or heads) * head,
        hidden=hidden,
        vocabulary=number(text, "vocab_size"),
    )


def _products(layers: nn.Module, visited: int) -> int:
    """Weights that take part in a token's matrix products: matrices [out, in], and fused experts [E, …, …]."""
    total = 0
    for name, module in layers.named_modules():
        if isinstance(module, nn.Embedding):
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.ndim == 3 and name.endswith("experts"):
                total += visited * parameter.numel() // len(parameter)
            elif parameter.ndim == 2:
                total += parameter.numel()
    return total
