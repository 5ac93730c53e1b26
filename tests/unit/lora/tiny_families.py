"""Tiny random models of many families, from their real transformers config classes."""

from __future__ import annotations

import torch
from torch import nn

_COMMON = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
_HEAD = {"head_dim": 8}
_GPT = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
_MOE_QWEN = _HEAD | {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_MLA = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}

CONFIGS: dict[str, dict] = {
    "llama": _COMMON,
    "mistral": _COMMON,
    "qwen2": _COMMON,
    "qwen3": _COMMON | _HEAD,
    "gemma": _COMMON | _HEAD,
    "gemma2": _COMMON | _HEAD | {"query_pre_attn_scalar": 8},
    "gemma3_text": _COMMON | _HEAD | {"query_pre_attn_scalar": 8},
    "gemma4_text": _COMMON
    | _HEAD
    | {
        "layer_types": ["sliding_attention", "full_attention"],
        "vocab_size_per_layer_input": 97,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0,
    },
    "minicpm3": _COMMON | _MLA,
    "hunyuan_v1_dense": _COMMON | _HEAD,
    "olmo2": _COMMON,
    "granite": _COMMON,
    "cohere": _COMMON,
    "smollm3": _COMMON,
    "ernie4_5": _COMMON | _HEAD,
    "phi3": _COMMON,
    "phi": _COMMON,
    "glm4": _COMMON | _HEAD,
    "gpt_oss": _COMMON | _HEAD | _MOE,
    "mixtral": _COMMON | _MOE,
    "qwen2_moe": _COMMON | _MOE_QWEN,
    "qwen3_moe": _COMMON | _MOE_QWEN,
    "deepseek_v3": _COMMON
    | _MLA
    | {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
    },
    "qwen3_next": _COMMON | _MOE_QWEN | _DELTA,
    "qwen3_5_text": _COMMON | _HEAD | _DELTA,
    "gpt2": _GPT,
    "gptj": _GPT | {"rotary_dim": 4},
    "gpt_neox": _COMMON,
    "opt": _COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {k: _COMMON[k] for k in ("vocab_size", "hidden_size", "initializer_range", "pad_token_id")}
    | {"n_layer": 2, "n_head": 4},
    "falcon": _COMMON,
}


_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_QWEN_VISION = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# model_type → (model_type of its text_config, vision_config, the rest)
MULTIMODAL: dict[str, tuple[str, dict, dict]] = {
    "llava": ("llama", _VISION | {"model_type": "clip_vision_model"}, _TOKENS | {"image_token_index": 90}),
    "qwen2_5_vl": ("qwen2", _QWEN_VISION, _TOKENS | {"image_token_id": 90, "video_token_id": 91}),
    "gemma3": ("gemma3_text", _VISION | {"model_type": "siglip_vision_model"}, _TOKENS | {"image_token_index": 90}),
}
ALL = [*CONFIGS, *MULTIMODAL]


def tiny_config(model_type: str, **changes):
    from transformers import CONFIG_MAPPING

    if model_type not in MULTIMODAL:
        return CONFIG_MAPPING[model_type](**(CONFIGS[model_type] | changes))
    text, vision, rest = MULTIMODAL[model_type]
    text_values = CONFIGS[text] | ({"model_type": text} if model_type == "llava" else {}) | changes
    if model_type == "qwen2_5_vl":
        text_values |= {"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    return CONFIG_MAPPING[model_type](text_config=text_values, vision_config=vision, **rest)


def classifier_families() -> list[str]:
    """Those of ALL that have a sequence-classification class."""
    from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

    return [family for family in ALL if CONFIG_MAPPING[family] in AutoModelForSequenceClassification._model_mapping]


def tiny_model(model_type: str, task: str = "causal", seed: int = 0, **changes) -> nn.Module:
    """A random model whose weights are large enough that adapters and padding visibly matter."""
    from medrl.models.loading import auto_class

    torch.manual_seed(seed)
    config = tiny_config(model_type, **changes)
    if task == "scalar":
        config.num_labels = changes.get("num_labels", 1)
    return auto_class(config, task).from_config(config).eval()


def train_a_little(model: nn.Module, seed: int = 0) -> None:
    """Random values in every trainable tensor, as if it had been trained (lora_B starts at 0)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
