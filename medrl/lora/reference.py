"""The exact reference: what it may be, and how a PeftModel becomes it for a while (R7, R8)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import peft
import torch
from peft.tuners.lora import LoraLayer

from medrl.errors import AdapterError
from medrl.lora.adapter import load_adapter_
from medrl.lora.identity import check_adapter_of, model_hash
from medrl.lora.wrap import ADAPTER, base_names

REFERENCE = "reference"  # PEFT's name for the frozen adapter of a named reference


@dataclass(frozen=True)
class ReferenceSpec:
    """Which frozen model a policy is measured against.

    base: the policy's base with the adapter off; adapter: that base under the adapter in directory `path`, which the
    policy starts from; copy: a model of its own in directory `path`.
    Example: `ReferenceSpec("adapter", "runs/sft/adapter")`.
    """

    kind: Literal["base", "adapter", "copy"]
    path: str | None = None


def attach_reference(model: peft.PeftModel, spec: ReferenceSpec) -> None:
    """Make ready what `reference_active` switches to, on a model as `wrap` returns it; the policy then starts there.

    For a named adapter: its tensors become the trainable adapter's and, a second time, a frozen adapter's.
    Raises AdapterError for an adapter of another base or other settings, and where no switch gives the exact reference.
    """
    check_reference(model, spec)
    if spec.kind != "adapter":
        return
    load_adapter_(model, _adapter_path(spec))
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.add_adapter(REFERENCE, copy.deepcopy(model.peft_config[ADAPTER]))
    policy = {name for name, layer in base_names(model, LoraLayer).items() if ADAPTER in _adapters(model, layer)}
    frozen = {name for name, layer in base_names(model, LoraLayer).items() if REFERENCE in _adapters(model, layer)}
    if policy != frozen:
        raise AdapterError(
            "PEFT gives the reference other modules than the policy", limit=f"{len(policy)} modules",
            got=", ".join(sorted(policy ^ frozen)[:5]), remedy="merge the adapter first and use reference.mode: shared")
    tensors = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in tensors.items():
            source = tensors.get(name.replace(f".{REFERENCE}", f".{ADAPTER}"))
            if source is not None and source is not parameter:
                parameter.copy_(source)
                parameter.requires_grad_(False)
    for parameter, flag in flags:
        parameter.requires_grad_(flag)


def check_reference(model: peft.PeftModel, spec: ReferenceSpec) -> None:
    """AdapterError when no switch of adapters would give the reference exactly."""
    config = model.peft_config[ADAPTER]
    bias, init = config.bias, config.init_lora_weights  # pyright: ignore[reportAttributeAccessIssue]
    if spec.kind == "copy":
        raise AdapterError("a reference of its own is not inside the policy", remedy="load it apart")
    if bias != "none" or (isinstance(init, str) and init.startswith(("pissa", "olora"))):
        raise AdapterError(
            "with the adapter off this model is not its base: its biases or base weights change",
            limit="bias none, init default or gaussian",
            got=f"bias {bias}, init {init}",
            remedy="use reference.mode: dedicated",
        )


@contextmanager
def reference_active(model: peft.PeftModel, spec: ReferenceSpec) -> Iterator[peft.PeftModel]:
    """The model as its reference, without gradients and in eval mode; every flag is put back as it was.

    PEFT's own switches do not: `disable_adapter()` turns `requires_grad` on for all adapter parameters when it ends,
    frozen ones too, and `set_adapter()` on for those of the adapter it turns to.
    """
    check_reference(model, spec)
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        if spec.kind == "adapter":
            model.set_adapter(REFERENCE)
        with model.disable_adapter() if spec.kind == "base" else nullcontext(), torch.no_grad():
            yield model
    finally:
        if spec.kind == "adapter":
            model.set_adapter(ADAPTER)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


def check_explicit_reference(base_path: str, adapter: str | None, spec: ReferenceSpec) -> None:
    """Whether a run that trains an adapter may take this reference (R9): its base, a named adapter of that base, or a
    frozen copy of it.

    `base_path`: what the adapter sits on; `adapter`: the directory that it continues from, if any.
    Raises AdapterError: another model beside an adapter is a silent mistake, since "adapter off" is there already.
    """
    if spec.kind == "base" and adapter is not None:
        raise AdapterError(
            f"the policy continues from {adapter}, but with the adapter off the reference would be the base below it",
            limit="the policy starts at its reference",
            remedy=f"name the adapter as the reference, or merge it first: medrl merge {adapter}",
        )
    if spec.kind == "adapter":
        check_adapter_of(base_path, _adapter_path(spec))
    if spec.kind == "copy" and model_hash(spec.path or "") != model_hash(base_path):
        raise AdapterError(
            f"the reference {spec.path} is another model than the adapter's base {base_path}",
            limit=f"sha256 {model_hash(base_path)[:12]}…", got=f"sha256 {model_hash(spec.path or '')[:12]}…",
            remedy="leave the reference out: with LoRA it is the base with the adapter off",
        )


def _adapters(model: peft.PeftModel, layer: str) -> set[str]:
    """Names of the adapters on one adapted layer."""
    adapted: Any = model.get_submodule(layer)
    return set(adapted.r)


def _adapter_path(spec: ReferenceSpec) -> str:
    if spec.path is None:
        raise AdapterError("a named reference needs its adapter's directory", remedy="set reference.adapter")
    return spec.path
