"""The sending side: weights as a plain payload with a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal

import torch

from medrl.types import Probe, Weights


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 (hex) over names, dtypes, shapes and bytes. The order of the mapping does not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        # Header and byte count are fixed by each other, so no two different sets of tensors give the same stream.
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def make_weights(version: int, kind: Literal["adapter", "full"], tensors: dict[str, torch.Tensor],
                 scaling: dict[str, float], probe: Probe) -> Weights:
    """A `Weights` payload (its docstring says how names are built), its tensors on the CPU for the object store."""
    on_cpu = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    return Weights(version, kind, on_cpu, dict(scaling), fingerprint(on_cpu), probe)
