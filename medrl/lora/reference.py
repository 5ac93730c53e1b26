"""The exact reference: the base model with the adapter off, and the canary that proves it stays so (R7)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import peft
import torch
from torch import Tensor

from medrl.errors import AdapterError
from medrl.lora.wrap import ADAPTER


def check_reference(model: peft.PeftModel) -> None:
    """AdapterError when switching the adapter off would not give back the base model."""
    config = model.peft_config[ADAPTER]
    bias, init = config.bias, config.init_lora_weights  # pyright: ignore[reportAttributeAccessIssue]
    if bias != "none" or (isinstance(init, str) and init.startswith(("pissa", "olora"))):
        raise AdapterError(
            "with the adapter off this model is not its base: its biases or base weights change",
            limit="bias none, init default or gaussian",
            got=f"bias {bias}, init {init}",
            remedy="use reference.mode: dedicated",
        )


@contextmanager
def adapter_disabled(model: peft.PeftModel) -> Iterator[peft.PeftModel]:
    """The model as its base, without gradients and in eval mode; every flag is put back as it was.

    PEFT's own `disable_adapter()` turns `requires_grad` on for all adapter parameters when it ends, frozen ones too.
    """
    check_reference(model)
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with model.disable_adapter(), torch.no_grad():
            yield model
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


def canary_ids(vocab_size: int, length: int = 32) -> Tensor:
    """[1, length] token ids that are the same in every process and run."""
    generator = torch.Generator().manual_seed(20240229)
    return torch.randint(vocab_size, (1, length), generator=generator)


def check_reference_canary(expected: Tensor, got: Tensor, tolerance: float = 0.0) -> None:
    """AdapterError unless the canary's reference log-probs are the recorded ones (bit-identical within a process; after
    a resume within 1e-5)."""
    same_shape = expected.shape == got.shape
    gap = (expected - got).abs().max().item() if same_shape else float("inf")
    if not gap <= tolerance:  # NaN is a difference too
        raise AdapterError(
            "the reference has changed since the start of the run",
            limit=f"canary log-probs within {tolerance:g}",
            got=f"largest difference {gap:g}",
            remedy="the base weights were written to: restart from the last checkpoint",
        )
