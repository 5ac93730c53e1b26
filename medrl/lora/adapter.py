"""The adapter's tensors: on their way to the rollout engines, and on disk in plain PEFT format."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.lora import LoraLayer
from peft.utils.other import ModulesToSaveWrapper
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medrl.errors import AdapterError
from medrl.lora.identity import RECORD_FILE, WEIGHTS_FILE, adapter_record, check_base
from medrl.lora.manifest import manifest
from medrl.lora.wrap import ADAPTER, base_names

CONFIG_FILE = "adapter_config.json"
_PREFIX = "base_model.model."


def adapter_keys(model: peft.PeftModel) -> dict[str, str]:
    """Name in a PEFT file → name in `model.named_parameters()` (or buffers), for everything the adapter consists of.

    These are the tensors a learner that shards its parameters has to gather before it saves or exports.
    """
    names: Any = {name: name for name in model.state_dict()}  # PEFT sorts out names; it does not look at the values
    keys: Any = get_peft_model_state_dict(model, state_dict=names, adapter_name=ADAPTER, save_embedding_layers=False)
    return keys


def adapter_tensors(
    model: peft.PeftModel, state: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """(tensors, scaling) of `Weights(kind="adapter")`: float32 CPU copies under the base model's module names.

    `<module>.lora_A.weight` [r, in], `<module>.lora_B.weight` [out, r] with W = W₀ + s·B·A in the orientation the base
    stores W in (transposed for GPT-2's Conv1D and for embeddings); other names are whole replacements.
    `state`: the gathered tensors by the model's own parameter names, when the model's parameters are shards.
    Raises AdapterError for an adapter that is no such sum (DoRA) or touches tied embeddings.
    """
    _check_exportable(model)
    state = model.state_dict() if state is None else state
    layers = {base: model.get_submodule(name) for base, name in base_names(model, LoraLayer).items()}
    scaling = {base: float(layer.scaling[ADAPTER]) for base, layer in layers.items()}  # pyright: ignore[reportIndexIssue, reportArgumentType]
    tensors: dict[str, Tensor] = {}
    for key, own in adapter_keys(model).items():
        name = key.removeprefix(_PREFIX).replace(".base_layer.", ".")
        tensor = state[own].detach().to("cpu", torch.float32)
        module, side = _lora_side(name)
        if module in layers and side:
            base = layers[module].get_base_layer()  # pyright: ignore[reportCallIssue]
            if isinstance(base, nn.Embedding) or layers[module].fan_in_fan_out:
                side, tensor = {"A": "B", "B": "A"}[side], tensor.T
            name = f"{module}.lora_{side}.weight"
        tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
    return tensors, scaling


def _lora_side(name: str) -> tuple[str, str]:
    for mark in (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B"):
        if name.endswith(mark):
            return name.removesuffix(mark), "A" if "_A" in mark else "B"
    return name, ""


def _check_exportable(model: peft.PeftModel) -> None:
    if model.peft_config[ADAPTER].use_dora:  # pyright: ignore[reportAttributeAccessIssue]
        raise AdapterError(
            "a DoRA adapter is not W₀ + s·B·A and cannot be sent to a rollout engine", remedy="set lora.dora: false"
        )
    touched = tied_ends(model.get_base_model()) & {
        *base_names(model, LoraLayer),
        *base_names(model, ModulesToSaveWrapper),
    }
    if touched:
        raise AdapterError(
            "the adapter touches embeddings that the model ties: a rollout engine would change both ends",
            got=", ".join(sorted(touched)),
            remedy="take them out of lora.targets and lora.modules_to_save",
        )


def tied_ends(model: nn.Module) -> set[str]:
    """Names of the input and output embeddings when they are one tensor, else nothing."""
    if not hasattr(model, "get_output_embeddings"):
        return set()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())  # pyright: ignore[reportCallIssue]
    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False) and ends[1] is not None  # pyright: ignore
    if not tied:
        return set()
    inner = [
        getattr(end, "base_layer", None) or getattr(end, "original_module", None) for end in ends
    ]  # under an adapter
    return {name for name, module in model.named_modules(remove_duplicate=False) if module in (*ends, *inner)}


def save_adapter(model: peft.PeftModel, path: str | Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the adapter into directory `path` so that plain PEFT loads it, beside a record of its base and manifest.

    `state`: gathered tensors by the model's own parameter names, when the model's parameters are shards.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if state is None else state
    tensors = {
        key: state[own].detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, own in adapter_keys(model).items()
    }
    save_file(tensors, path / WEIGHTS_FILE, metadata={"format": "pt"})
    config = copy.deepcopy(model.peft_config[ADAPTER])
    config.inference_mode = True
    config.save_pretrained(str(path))
    record = adapter_record(model.get_base_model(), config.base_model_name_or_path, manifest(model))
    (path / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")


def load_adapter_(model: peft.PeftModel, path: str | Path) -> None:
    """Read the adapter in directory `path` into `model`, in place.

    Raises AdapterError, before anything is written, when the files are missing, made for another base, or differ from
    the model's adapter in keys, shapes or scale.
    """
    path = Path(path)
    tensors, config = read_adapter(path)
    check_base(path, model.get_base_model(), model.peft_config[ADAPTER].base_model_name_or_path)
    own_config = model.peft_config[ADAPTER].to_dict()
    differing = [
        key for key in ("r", "lora_alpha", "use_rslora", "use_dora", "bias") if config.get(key) != own_config[key]
    ]
    if differing:
        raise AdapterError(
            f"the adapter in {path} was made with other settings",
            limit=", ".join(f"{key} {own_config[key]}" for key in differing),
            got=", ".join(f"{key} {config.get(key)}" for key in differing),
            remedy="use the lora section it was trained with",
        )
    keys, own = check_fits(model, path, tensors), model.state_dict()
    with torch.no_grad():
        for key, name in keys.items():
            own[name].copy_(tensors[key])


def check_fits(model: peft.PeftModel, path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """`adapter_keys(model)`; AdapterError unless the tensors of the adapter in `path` have these names and shapes."""
    keys, own = adapter_keys(model), model.state_dict()
    problems = {
        "missing": sorted(keys.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - keys.keys()),
        "other shape": sorted(k for k in keys.keys() & tensors.keys() if own[keys[k]].shape != tensors[k].shape),
    }
    if any(problems.values()):
        raise AdapterError(
            f"the adapter in {path} does not fit the model",
            limit=f"{len(keys)} tensors",
            got="; ".join(f"{what}: {', '.join(names[:3])}" for what, names in problems.items() if names),
            remedy="use the lora section it was trained with",
        )
    return keys


def read_adapter(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, adapter_config.json) of an adapter directory. AdapterError when it is none, or not finite."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise AdapterError(f"{path} is not an adapter directory", limit=f"a {name} in it", remedy="check the path")
    try:
        tensors, config = load_file(path / WEIGHTS_FILE), json.loads((path / CONFIG_FILE).read_text())
    except (SafetensorError, ValueError) as error:
        raise AdapterError(
            f"the adapter in {path} is damaged", got=str(error), remedy="restore it from a checkpoint"
        ) from error
    bad = [key for key, tensor in tensors.items() if not math.isfinite(tensor.float().abs().sum().item())]
    if bad:
        raise AdapterError(f"the adapter in {path} has numbers that are not finite", got=", ".join(bad[:3]))
    return tensors, config
