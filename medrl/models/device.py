"""Where a worker computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def pick_device() -> torch.device:
    """The accelerator this process was given, else the CPU. Ray shows a worker only the GPUs it reserved."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator if accelerator is not None else torch.device("cpu")


def pass_tokens(device: torch.device) -> int:
    """What a pass through a model costs beside its tokens, in tokens.

    A CPU's was measured (docs/LOG.md); elsewhere it is what a GPU needs at a time to be busy.
    """
    return {"cpu": 64}.get(device.type, 1024)
