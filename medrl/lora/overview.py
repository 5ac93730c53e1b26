"""What is in a model and what would train in it, on the meta device: the facts behind `medrl inspect`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import peft
import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from medrl.algo.roofline import ModelSize
from medrl.config.common import LoraConfig
from medrl.errors import AdapterError
from medrl.lora.families import ROLES, decoder_stack, fused_experts, roles
from medrl.lora.manifest import manifest
from medrl.lora.resolve import Task, resolve
from medrl.lora.wrap import adapted_layers, base_names, caught_by_peft, wrap_targets
from medrl.models.size import model_size

LAYER_ROLES = (*ROLES, "router", "norm", "other")  # roles that stand in the decoder layers


@dataclass
class Row:
    """Modules of one kind: the same name but for the layer number, the same shape, the same fate."""

    role: str  # a LoRA role, or embedding, router, norm, other (all beside or in the decoder layers), head, outside
    module: str  # full name, layer and expert numbers as *
    shape: str
    layers: list[int]  # of the decoder; empty outside it
    count: int  # modules
    parameters: int
    trains: str  # "", "rank 16" or "whole"
    trainable: int  # parameters that train
    peft: bool  # PEFT's own rule would give it an adapter

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"layers": ranges(self.layers)}


@dataclass(frozen=True)
class Overview:
    """All of a model's parameters, row by row."""

    rows: list[Row]
    total: int  # parameters of the base, tied ones once
    trainable: int
    size: ModelSize | None  # None: its config or its modules do not tell
    peft_rule: list[str] | None  # the last names PEFT targets for this model_type; None: it has no rule
    notes: tuple[str, ...]


class _Leaf(NamedTuple):
    """A module (or fused expert tensor) with parameters of its own."""

    name: str
    parameters: int
    shape: tuple[int, ...]


def overview(model: nn.Module, lora: LoraConfig | None, task: Task) -> Overview:
    """The modules of `model` (on the meta device; it is wrapped in place), and which of them `lora` trains.

    `lora` None: all. Raises AdapterError where `wrap` would.
    """
    stack, found, fused = _decoder(model)
    leaves, kinds, rule = list(_leaves(model, fused)), _kinds(model, stack, found), peft_rule(model)
    caught = _caught_by_rule(model, rule)
    total = sum(parameter.numel() for parameter in model.parameters())
    size, notes = model_size(model, stack), _notes(model, stack)
    if lora is None:
        trains = {leaf.name: ("whole", leaf.parameters) for leaf in leaves}
        trainable = total
    else:
        targets = resolve(model, lora, task=task)
        notes = [*targets.notes, *notes]
        with torch.device("meta"):
            wrapped = wrap_targets(model, lora, targets, task=task)
        trains = _trained(wrapped, leaves)
        trainable = sum(row["count"] for row in manifest(wrapped))
        if lora.bias != "none":
            notes.append(f"biases train too (lora.bias: {lora.bias}); the total counts them, the rows do not")
    rows = _rows(leaves, kinds, trains, caught, _trunk(stack))
    return Overview(rows, total, trainable, size, rule, tuple(notes))


def peft_rule(model: nn.Module) -> list[str] | None:
    """The names PEFT itself would target for this model_type when it is given none; None when it would raise."""
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    names = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type or "")
    return list(names) if names else None


def _caught_by_rule(model: nn.Module, rule: list[str] | None) -> set[str]:
    return caught_by_peft(model, peft.LoraConfig(target_modules=rule))[0] if rule else set()


def _decoder(model: nn.Module) -> tuple[str, dict[str, list[str]], set[str]]:
    """(name of the decoder layers, role → names, fused expert tensors); all empty for a model without such layers."""
    try:
        return decoder_stack(model), roles(model)[0], set(fused_experts(model))
    except AdapterError:  # targets that are patterns need none
        return "", {}, set()


def _trunk(stack: str) -> str:
    """The module that holds the decoder layers, its embeddings and its last norm."""
    return stack.rpartition(".")[0]


def _leaves(model: nn.Module, fused: set[str]) -> Iterator[_Leaf]:
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        for tensor in [t for t in own if f"{name}.{t}" in fused]:
            parameter = own.pop(tensor)
            yield _Leaf(f"{name}.{tensor}", parameter.numel(), tuple(parameter.shape))
        if own:
            count = sum(parameter.numel() for parameter in own.values() if id(parameter) not in seen)
            seen |= {id(parameter) for parameter in own.values()}
            yield _Leaf(name, count, max((tuple(parameter.shape) for parameter in own.values()), key=len))


def _kinds(model: nn.Module, stack: str, found: dict[str, list[str]]) -> dict[str, str]:
    """Name → role of every module, LoRA's roles first."""
    kinds = {name: role for role in found if role != "all-linear" for name in found[role]}
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    for name, module in model.named_modules():
        last = name.rpartition(".")[2].lower()
        if module is head or name in ("score", "classifier"):
            kinds[name] = "head"
        elif name.rpartition(".")[0] == _trunk(stack) and isinstance(module, nn.Embedding):
            kinds[name] = "embedding"
        elif name not in kinds and name.startswith(_trunk(stack) + "."):
            routes = last in ("gate", "router", "wg") or last.endswith("router")
            kinds[name] = "router" if routes else "norm" if "norm" in last or last.startswith("ln_") else "other"
    return kinds


def _trained(wrapped: peft.PeftModel, leaves: list[_Leaf]) -> dict[str, tuple[str, int]]:
    trains: dict[str, tuple[str, int]] = {}
    for name, layer in adapted_layers(wrapped).items():
        own = [p for key in layer.adapter_layer_names for p in getattr(layer, key, nn.ModuleDict()).parameters()]
        trains[name] = (f"rank {layer.r['default']}", sum(p.numel() for p in own if p.requires_grad))
    whole = tuple(base_names(wrapped, ModulesToSaveWrapper))
    for leaf in leaves:
        if any(leaf.name == name or leaf.name.startswith(name + ".") for name in whole):
            trains[leaf.name] = ("whole", leaf.parameters)
    return trains


def _rows(
    leaves: list[_Leaf], kinds: dict[str, str], trains: dict[str, tuple[str, int]], caught: set[str], trunk: str
) -> list[Row]:
    rows: dict[tuple, Row] = {}
    for leaf in leaves:
        role, (how, trainable) = kinds.get(leaf.name, "outside"), trains.get(leaf.name, ("", 0))
        module, shape = re.sub(r"\.\d+(?=\.|$)", ".*", leaf.name), " × ".join(map(str, leaf.shape))
        if role == "outside":
            module, shape = _container(leaf.name, trunk), ""
        key = (role, module, shape, how, leaf.name in caught)
        row = rows.setdefault(key, Row(role, module, shape, [], 0, 0, how, 0, leaf.name in caught))
        number = re.search(r"\.(\d+)(\.|$)", leaf.name) if role in LAYER_ROLES else None
        if number and int(number[1]) not in row.layers:
            row.layers.append(int(number[1]))
        row.count += 1
        row.parameters += leaf.parameters
        row.trainable += trainable
    return list(rows.values())


def _container(name: str, trunk: str) -> str:
    """What stands beside the trunk, as one: beside `model.language_model`, `model.vision_tower.blocks.3.attn.qkv` is
    part of `model.vision_tower`."""
    parts, beside = name.split("."), trunk.split(".")
    same = next((i for i, (a, b) in enumerate(zip(parts, beside, strict=False)) if a != b), len(beside))
    return ".".join(parts[: same + 1])


def _notes(model: nn.Module, stack: str) -> list[str]:
    notes = []
    config: Any = getattr(model, "config", None)
    if getattr(config, "tie_word_embeddings", False) and getattr(model, "_tied_weights_keys", None):
        notes.append("input and output embeddings are one tensor: it is counted once")
    trunk = _trunk(stack)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and "." in name]
    foreign = {_container(name, trunk): None for name in linear if trunk and not name.startswith(trunk + ".")}
    if foreign:
        notes.append(f"{', '.join(foreign)}: outside the language model, in no role")
    return notes


def ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] → "0-2,5"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
