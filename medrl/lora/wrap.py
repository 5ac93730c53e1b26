"""Wrapping through PEFT, checked before (R4) and after (R3)."""

from __future__ import annotations

import copy
import logging
import warnings
from typing import Any

import peft
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
from peft.utils.other import ModulesToSaveWrapper
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from medrl.config.common import LoraConfig
from medrl.errors import AdapterError, AmbiguousModuleError
from medrl.lora.families import adaptable, taken_for_experts
from medrl.lora.linear import shorten
from medrl.lora.matching import exact_regex
from medrl.lora.resolve import Targets, Task, resolve

logger = logging.getLogger(__name__)

ADAPTER = "default"  # PEFT's name for the one adapter a model carries
_INIT = {"default": True, "gaussian": "gaussian", "pissa": "pissa", "olora": "olora"}


def wrap(model: nn.Module, lora: LoraConfig, *, task: Task = "causal") -> peft.PeftModel:
    """Put adapters on exactly the modules that `lora` means; everything else is frozen.

    task "causal": a language model; "scalar": a sequence-classification model or ScalarModel, whose head trains too.
    Raises AdapterError (AmbiguousModuleError when PEFT would catch other modules than those meant; the model is then
    untouched).
    """
    targets = resolve(model, lora, task=task)
    for note in targets.notes:
        logger.warning("lora: %s", note)
    return wrap_targets(model, lora, targets, task=task)


def wrap_targets(model: nn.Module, lora: LoraConfig, targets: Targets, *, task: Task = "causal") -> peft.PeftModel:
    """`wrap`, with the modules resolved before."""
    config = _peft_config(model, lora, targets, task)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")  # merging and syncing handle tied ends
        warnings.filterwarnings("ignore", message=".*rank_pattern keys did not match.*")  # PEFT overlooks tensors here
        wrapped = peft.get_peft_model(model, config, adapter_name=ADAPTER)  # pyright: ignore[reportArgumentType]
    config.base_model_name_or_path = getattr(getattr(model, "config", None), "_name_or_path", None) or None
    check_wrapped(wrapped, targets)
    shorten(wrapped)
    return wrapped


def _peft_config(model: nn.Module, lora: LoraConfig, targets: Targets, task: Task) -> peft.LoraConfig:
    """The config that makes PEFT catch exactly `targets`, proved with PEFT's own matching."""
    on_meta = any(parameter.is_meta for parameter in model.parameters())  # PiSSA and OLoRA would read the weights
    config = peft.LoraConfig(
        task_type=_task_type(model, task),
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora.dropout,
        bias=lora.bias,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        init_lora_weights=True if on_meta else _INIT[lora.init],
        modules_to_save=list(targets.save) or None,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in targets.modules),
        rank_pattern=_rank_pattern(targets),
    )
    # Where PEFT takes a linear layer's name for one of fused experts, its weight is named as a tensor instead.
    as_tensors = [name for name in targets.modules if taken_for_experts(model, name)]
    config.target_parameters = [*targets.experts, *(f"{name}.weight" for name in as_tensors)] or None
    if config.target_parameters:
        _check_tensors_can_adapt(lora, config.target_parameters[0])
    plain = [name for name in targets.modules if name not in as_tensors]
    # PEFT rewrites a regex into bare last names for mixture-of-experts types; a list of full names survives there.
    for spelled in (exact_regex(plain), plain) if plain else ([],):
        config.target_modules = spelled
        caught = caught_by_peft(model, config)
        if caught == (set(targets.adapted), set(targets.save)):
            return config
    raise AmbiguousModuleError(
        "PEFT would train other modules than those meant",
        limit=_listing({*targets.adapted, *targets.save}),
        got=f"more: {_listing(caught[0] - set(targets.adapted) | caught[1] - set(targets.save))}; "
        f"fewer: {_listing(set(targets.adapted) - caught[0] | set(targets.save) - caught[1])}",
        remedy="rename the module, or choose targets and modules_to_save that do not end like another module's name",
    )


def _rank_pattern(targets: Targets) -> dict[str, int]:
    """Regex → rank, each matching exactly its names by PEFT's rule (any prefix that ends in a dot, hence the ^)."""
    names: dict[int, list[str]] = {}
    for name, rank in targets.ranks.items():
        names.setdefault(rank, []).append(name)
    return {rf"^(?:{exact_regex(own)})(?:\.weight)?": rank for rank, own in names.items()}


def _check_tensors_can_adapt(lora: LoraConfig, name: str) -> None:
    """AdapterError for settings that PEFT cannot apply to an adapter on a bare tensor."""
    wrong = {"dropout": lora.dropout > 0, "dora": lora.dora, "init": lora.init in ("pissa", "olora")}
    if any(wrong.values()):
        raise AdapterError(
            f"{name} gets its adapter as a tensor, which allows no dropout, DoRA, PiSSA or OLoRA",
            got=", ".join(f"lora.{key} {getattr(lora, key)}" for key, bad in wrong.items() if bad),
            remedy="leave these settings out, or the module out of lora.targets",
        )


def _task_type(model: nn.Module, task: Task) -> peft.TaskType | None:
    """PEFT's own word for the task; it has none for a ScalarModel."""
    if type(model).__name__.endswith("ForSequenceClassification"):
        return peft.TaskType.SEQ_CLS
    return peft.TaskType.CAUSAL_LM if task == "causal" else None


def caught_by_peft(model: nn.Module, config: peft.LoraConfig) -> tuple[set[str], set[str]]:
    """(adapted, saved whole): the module names that PEFT's own rules catch with this config."""
    config = copy.deepcopy(config)
    if config.task_type == peft.TaskType.SEQ_CLS:
        config.modules_to_save = [*(config.modules_to_save or []), "classifier", "score"]
    if hasattr(getattr(model, "config", None), "model_type"):
        convert_peft_config_for_transformers(config, model, conversions=None)
    adapted = {name for name, _ in model.named_modules() if name and _hit(config, name)}
    tensors = set(config.target_parameters or ())
    if tensors:
        adapted |= {
            _owner(model, name)
            for name, _ in model.named_parameters()
            if any(name[i:] in tensors for i in _segment_starts(name))
        }
    saved = {
        name
        for name, _ in model.named_modules(remove_duplicate=False)
        if any(name.endswith(key) for key in config.modules_to_save or ())
    }
    return adapted, saved


def _owner(model: nn.Module, tensor: str) -> str:
    """The module whose weight a tensor is, as `Targets` has it; for any other tensor its own name."""
    module, _, last = tensor.rpartition(".")
    return module if last == "weight" and adaptable(model.get_submodule(module)) else tensor


def _segment_starts(name: str) -> list[int]:
    return [0, *(i + 1 for i, letter in enumerate(name) if letter == ".")]


def _hit(config: peft.LoraConfig, name: str) -> bool:
    found: Any = check_target_module_exists(config, name)
    return bool(found) and not isinstance(found, _ExcludedModule)


def check_wrapped(model: peft.PeftModel, targets: Targets) -> None:
    """R3: adapters sit on exactly the resolved modules, with their ranks, and no other parameter trains.

    AdapterError otherwise.
    """
    layers = adapted_layers(model)
    adapted, saved = set(layers), set(base_names(model, ModulesToSaveWrapper))
    if adapted != set(targets.adapted) or saved != set(targets.save):
        raise AdapterError(
            "the wrapped model does not train what was resolved",
            limit=_listing({*targets.adapted, *targets.save}),
            got=f"more: {_listing((adapted | saved) - set(targets.adapted) - set(targets.save))}; "
            f"fewer: {_listing(set(targets.adapted) - adapted | set(targets.save) - saved)}",
            remedy="report this with the model's class",
        )
    rank = model.peft_config[ADAPTER].r  # pyright: ignore[reportAttributeAccessIssue]
    wrong = {name for name in adapted if layers[name].r[ADAPTER] != targets.ranks.get(name, rank)}
    if wrong:
        raise AdapterError("adapters have other ranks than lora.ranks gives", got=_listing(wrong))
    homes = [f"{full}." for kind in (LoraLayer, ModulesToSaveWrapper) for full in base_names(model, kind).values()]
    stray = [n for n, p in model.named_parameters() if p.requires_grad and not n.startswith(tuple(homes))]
    if stray and model.peft_config[ADAPTER].bias != "all":  # pyright: ignore[reportAttributeAccessIssue]
        raise AdapterError("parameters outside the adapter would train", got=", ".join(stray[:5]))


def adapted_layers(model: peft.PeftModel) -> dict[str, Any]:
    """Name of every adapted module or expert tensor, as `Targets` has it → its LoRA layer."""
    layers: dict[str, Any] = {}
    for name, full in base_names(model, LoraLayer).items():
        layer: Any = model.get_submodule(full)
        owner = name.replace(".base_layer", "")  # PEFT nests its wrappers of one module's tensors
        tensor = getattr(layer, "parameter_name", "weight")
        layers[owner if tensor == "weight" else f"{owner}.{tensor}"] = layer
    return layers


def expert_tensors(model: peft.PeftModel) -> list[str]:
    """Names of the adapted fused expert tensors."""
    return [n for n, layer in adapted_layers(model).items() if getattr(layer, "parameter_name", "weight") != "weight"]


def base_names(model: peft.PeftModel, kind: type) -> dict[str, str]:
    """Name in the base model → name in the wrapped model, of the modules of this kind."""
    return {
        name.removeprefix("base_model.model."): name
        for name, module in model.named_modules()
        if isinstance(module, kind)
    }


def _listing(names: set[str]) -> str:
    shown = sorted(names)
    return (", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")) or "none"
