"""Models that hold the same frozen weights once."""

from __future__ import annotations

import re

import torch
from torch import nn

from medrl.errors import ModelError

_WRAPPING = re.compile(r"^base_model\.model\.|\.(base_layer|original_module)(?=\.)")  # what PEFT adds to names


def share_weights(trunk: nn.Module, owner: nn.Module) -> None:
    """Make every parameter of `trunk` use the storage of the same frozen parameter in `owner`, and freeze it.

    `trunk`: a transformers base model, loaded from the same files as `owner`, a causal LM with or without adapters.
    Raises ModelError, with nothing changed, when `owner` lacks a parameter, holds other numbers or trains it.
    """
    whole: nn.Module = owner.get_base_model() if hasattr(owner, "get_base_model") else owner  # pyright: ignore
    prefix = f"{whole.base_model_prefix}."
    own = {_WRAPPING.sub("", name).removeprefix(prefix): p for name, p in owner.named_parameters()}
    for name, parameter in trunk.named_parameters():
        other = own.get(name)
        if other is None or other.requires_grad or other.shape != parameter.shape or other.dtype != parameter.dtype \
                or not torch.equal(other.detach().to(parameter.device), parameter):
            raise ModelError(
                f"{type(trunk).__name__} cannot share the weights of {type(whole).__name__}",
                limit="the same frozen parameters, name by name", got=f"{name} is missing, trains or differs",
                remedy="set critic.mode: separate")
    for name, parameter in trunk.named_parameters():
        parameter.data = own[name].data
        parameter.requires_grad_(False)


def storage_bytes(*modules: nn.Module) -> int:
    """Bytes of all parameters of the modules, storage that several of them use counted once."""
    storages = [p.untyped_storage() for module in modules for p in module.parameters()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
