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
    config = _peft_config(model, lora, targets, task)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")  # merging and syncing handle tied ends
        wrapped = peft.get_peft_model(model, config, adapter_name=ADAPTER)  # pyright: ignore[reportArgumentType]
    config.base_model_name_or_path = getattr(getattr(model, "config", None), "_name_or_path", None) or None
    check_wrapped(wrapped, targets)
    return wrapped


def _peft_config(model: nn.Module, lora: LoraConfig, targets: Targets, task: Task) -> peft.LoraConfig:
    """The config that makes PEFT catch exactly `targets`, proved with PEFT's own matching."""
    config = peft.LoraConfig(
        task_type=_task_type(model, task),
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora.dropout,
        bias=lora.bias,
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        init_lora_weights=_INIT[lora.init],
        modules_to_save=list(targets.save) or None,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in targets.modules),
    )
    # PEFT rewrites a regex into bare last names for mixture-of-experts types; a list of full names survives there.
    for spelled in (targets.regex, list(targets.modules)):
        config.target_modules = spelled
        caught = caught_by_peft(model, config)
        if caught == (set(targets.modules), set(targets.save)):
            return config
    raise AmbiguousModuleError(
        "PEFT would train other modules than those meant",
        limit=_listing(set(targets.modules) | set(targets.save)),
        got=f"more: {_listing(caught[0] - set(targets.modules) | caught[1] - set(targets.save))}; "
        f"fewer: {_listing(set(targets.modules) - caught[0] | set(targets.save) - caught[1])}",
        remedy="rename the module, or choose targets and modules_to_save that do not end like another module's name",
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
    adapted = {name for name, _ in model.named_modules() if name and _hit(config, name)} | set(
        config.target_parameters or ()
    )
    saved = {
        name
        for name, _ in model.named_modules(remove_duplicate=False)
        if any(name.endswith(key) for key in config.modules_to_save or ())
    }
    return adapted, saved


def _hit(config: peft.LoraConfig, name: str) -> bool:
    found: Any = check_target_module_exists(config, name)
    return bool(found) and not isinstance(found, _ExcludedModule)


def check_wrapped(model: peft.PeftModel, targets: Targets) -> None:
    """R3: adapters sit on exactly the resolved modules, and no other parameter trains. AdapterError otherwise."""
    adapted = set(base_names(model, LoraLayer))
    saved = set(base_names(model, ModulesToSaveWrapper))
    if adapted != set(targets.modules) or saved != set(targets.save):
        raise AdapterError(
            "the wrapped model does not train what was resolved",
            limit=_listing(set(targets.modules) | set(targets.save)),
            got=f"more: {_listing((adapted | saved) - set(targets.modules) - set(targets.save))}; "
            f"fewer: {_listing(set(targets.modules) - adapted | set(targets.save) - saved)}",
            remedy="report this with the model's class",
        )
    homes = [f"{full}." for kind in (LoraLayer, ModulesToSaveWrapper) for full in base_names(model, kind).values()]
    stray = [n for n, p in model.named_parameters() if p.requires_grad and not n.startswith(tuple(homes))]
    if stray and model.peft_config[ADAPTER].bias != "all":  # pyright: ignore[reportAttributeAccessIssue]
        raise AdapterError("parameters outside the adapter would train", got=", ".join(stray[:5]))


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
