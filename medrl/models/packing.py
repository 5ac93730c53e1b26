"""The proof that sequences packed into one row do not see each other.

What keeps them apart are position ids that start again, from which transformers makes a block-diagonal mask (flash
attention: bounds). Models that build their own masks, or carry a state along, need not heed them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medrl.errors import ConfigError

BOUNDS = {"float32": 1e-5, "bfloat16": 0.05}  # mean change that rounding may make
_LENGTHS = (7, 12)


@torch.no_grad()
def check_packing(outputs: Callable[[Tensor, Tensor, bool], Tensor], vocabulary: int, **words: str) -> None:
    """ConfigError unless two fixed sequences in one row come out as in rows of their own.

    `outputs(ids, real, packed)`, of ids and mask [2, T]: log-probs [n] or hidden states [n, d] of the real tokens, row
    by row. `words`: those of `check_apart`.
    """
    real = torch.arange(max(_LENGTHS)) < torch.tensor(_LENGTHS)[:, None]
    ids = torch.randint(vocabulary, real.shape, generator=torch.Generator().manual_seed(11)) * real
    check_apart(outputs(ids, real, True), outputs(ids, real, False), **words)


def check_apart(packed: Tensor, apart: Tensor, *, dtype: str, setting: str, model: str) -> None:
    """ConfigError with the `setting` and the `model` unless both tensors are equal but for rounding in `dtype`."""
    gap = float((packed - apart).abs().mean())
    if not gap <= BOUNDS[dtype]:
        raise ConfigError(
            f"{setting}: {model} lets the sequences of a row see each other",
            limit=f"numbers as in rows of their own, within {BOUNDS[dtype]:g} on average", got=f"{gap:.3g}",
            remedy=f"set {setting} to false")
