"""Which modules play which role: a table by model_type, and inspection for the types it does not know.

Patterns are regular expressions over a module's path inside its decoder layer. Routers, expert gates, norms, heads and
whatever stands outside the decoder stack (vision towers, projectors) belong to no role.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from medrl.errors import AdapterError

ROLES = ("attention", "mlp", "linear-attention", "experts", "all-linear")


class Family(NamedTuple):
    attention: str
    mlp: str
    linear_attention: str = ""


_QKVO = r"self_attn\.[qkvo]_proj"
_MLA = r"self_attn\.(q_proj|q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj)"
_FUSED_QKV = r"self_attention\.(query_key_value|dense)"
_GATED = r"mlp\.(gate|up|down)_proj"
_FUSED_GATED = r"mlp\.(gate_up|down)_proj"
_SHARED = r"mlp\.(shared_experts?\.)?(gate|up|down)_proj"  # dense layers and the experts every token visits
_H_4H = r"mlp\.dense_(h_to_4h|4h_to_h)"
_NONE = r"(?!)"  # all of the MLP is experts
_DELTA_NET = r"linear_attn\.(in_proj_\w+|out_proj)"

FAMILIES: dict[str, Family] = {
    "llama": Family(_QKVO, _GATED),
    "mistral": Family(_QKVO, _GATED),
    "qwen2": Family(_QKVO, _GATED),
    "qwen3": Family(_QKVO, _GATED),
    "qwen2_5_vl_text": Family(_QKVO, _GATED),
    "gemma": Family(_QKVO, _GATED),
    "gemma2": Family(_QKVO, _GATED),
    "gemma3_text": Family(_QKVO, _GATED),
    "gemma4_text": Family(_QKVO, _GATED),
    "olmo2": Family(_QKVO, _GATED),
    "granite": Family(_QKVO, _GATED),
    "cohere": Family(_QKVO, _GATED),
    "smollm3": Family(_QKVO, _GATED),
    "ernie4_5": Family(_QKVO, _GATED),
    "hunyuan_v1_dense": Family(_QKVO, _GATED),
    "internlm2": Family(r"attention\.(wqkv|wo)", r"feed_forward\.w[123]"),
    "internlm3": Family(_QKVO, _GATED),
    "phi3": Family(r"self_attn\.(qkv|o)_proj", _FUSED_GATED),
    "glm4": Family(_QKVO, _FUSED_GATED),
    "phi": Family(r"self_attn\.([qkv]_proj|dense)", r"mlp\.fc[12]"),
    "minicpm3": Family(_MLA, _GATED),
    "mixtral": Family(_QKVO, _NONE),
    "gpt_oss": Family(_QKVO, _NONE),
    "qwen2_moe": Family(_QKVO, _SHARED),
    "qwen3_moe": Family(_QKVO, _GATED),
    "deepseek_v3": Family(_MLA, _SHARED),
    "qwen3_next": Family(_QKVO, _SHARED, _DELTA_NET),
    "qwen3_5_text": Family(_QKVO, _GATED, _DELTA_NET),
    "gpt2": Family(r"attn\.c_(attn|proj)", r"mlp\.c_(fc|proj)"),
    "gptj": Family(r"attn\.([qkv]_proj|out_proj)", r"mlp\.fc_(in|out)"),
    "gpt_neox": Family(r"attention\.(query_key_value|dense)", _H_4H),
    "opt": Family(r"self_attn\.([qkv]|out)_proj", r"fc[12]"),
    "bloom": Family(_FUSED_QKV, _H_4H),
    "falcon": Family(_FUSED_QKV, _H_4H),
}

_FOREIGN = re.compile(r"(^|[._])(vision|visual|image|img|audio|speech|vit|clip|siglip|mtp|encoder)")


def adaptable(module: nn.Module) -> bool:
    """Whether LoRA in PEFT can wrap this module as we use it."""
    return isinstance(module, nn.Linear | Conv1D | nn.Embedding)


def decoder_stack(model: nn.Module) -> str:
    """Full name of the list of decoder layers (`model.layers`, `transformer.h`). AdapterError unless there is one."""
    lists = [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    ]
    stacks = [
        (n, m) for n, m in lists if not _FOREIGN.search(n) and not any(n.startswith(outer + ".") for outer, _ in lists)
    ]
    depth = getattr(text_config(model), "num_hidden_layers", None)
    if len(stacks) > 1:
        stacks = [(n, m) for n, m in stacks if len(m) == depth]
    if len(stacks) != 1:
        raise AdapterError(
            f"the decoder layers of {type(model).__name__} cannot be told",
            limit="one list of decoder layers",
            got=", ".join(n for n, _ in stacks) or "none",
            remedy="name the modules in lora.targets instead of a role",
        )
    return stacks[0][0]


def fused_experts(model: nn.Module) -> list[str]:
    """Full names of the tensors [E, …, …] that hold all E experts of a decoder layer, as transformers 5 has them."""
    stack = decoder_stack(model)
    return [
        f"{stack}.{name}.{tensor}"
        for name, module in model.get_submodule(stack).named_modules()
        if name.endswith("experts")
        for tensor, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3
    ]


def text_config(model: nn.Module) -> Any:
    """The language part of the model's config; None for a module without one."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def taken_for_experts(model: nn.Module, name: str) -> bool:
    """Whether PEFT redirects a target of this name to the fused experts (it reads it as a name of transformers 4)."""
    model_type = getattr(getattr(model, "config", None), "model_type", "")
    return name.rpartition(".")[2] in _MOE_TARGET_MODULE_MAPPING.get(
        _MODEL_TO_CONVERSION_PATTERN.get(model_type, ""), ()
    )


def roles(model: nn.Module) -> tuple[dict[str, list[str]], bool]:
    """Role → full names of the linear modules that play it, and whether the table knew the model_type.

    The role experts has fused tensors too (`fused_experts`); all-linear leaves these out.
    """
    stack = decoder_stack(model)
    family = FAMILIES.get(getattr(text_config(model), "model_type", ""))
    found: dict[str, list[str]] = {role: [] for role in ROLES}
    for name, module in model.get_submodule(stack).named_modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        inner = name.partition(".")[2]
        role = _by_table(family, inner) if family else _by_inspection(inner)
        if role:
            found[role].append(f"{stack}.{name}")
            found["all-linear"].append(f"{stack}.{name}")
    found["experts"] += fused_experts(model)
    return found, family is not None


def _by_table(family: Family, inner: str) -> str | None:
    for role, pattern in zip(ROLES, family, strict=False):
        if pattern and re.fullmatch(pattern, inner):
            return role
    return None


def _by_inspection(inner: str) -> str | None:
    parts = inner.lower().split(".")
    if parts[-1] in ("gate", "router", "wg") or parts[-1].endswith(("_gate", "router")):
        return None
    if any("linear_att" in part or "mamba" in part or "ssm" in part for part in parts):
        return "linear-attention"
    if any(part == "experts" for part in parts):
        return "experts"
    return "attention" if any("attn" in part or "attention" in part for part in parts) else "mlp"
