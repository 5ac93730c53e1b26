"""The sending side: weights as a plain payload with a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Literal

import torch

from medrl.types import Probe, Weights


class Fingerprint:
    """sha256 over names, dtypes, shapes and bytes of tensors that are added one at a time, sorted by name."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        tensor = tensor.detach().cpu().contiguous()
        # Header and byte count are fixed by each other, so no two different sets of tensors give the same stream.
        self._digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        if tensor.numel():
            self._digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)

    def hex(self) -> str:
        return self._digest.hexdigest()


def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """The Fingerprint (hex) of a set of tensors. The order of the mapping does not matter."""
    mark = Fingerprint()
    for name in sorted(tensors):
        mark.add(name, tensors[name])
    return mark.hex()


def make_weights(version: int, kind: Literal["adapter", "full"], tensors: dict[str, torch.Tensor],
                 scaling: dict[str, float], probe: Probe) -> Weights:
    """A `Weights` payload (its docstring says how names are built), its tensors on the CPU for the object store."""
    on_cpu = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    return Weights(version, kind, on_cpu, dict(scaling), fingerprint(on_cpu), probe)
