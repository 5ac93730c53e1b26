"""Masked reductions. A position outside the mask never reaches a result, whatever stands there (NaN included)."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if its floating dtype is narrower; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def position_ids(attention_mask: Tensor) -> Tensor:
    """[B, T] mask → [B, T] int64: a token's index among the real tokens of its row, 0 on padding before the first.

    The same sequence gets the same positions whatever the side and amount of padding (Huang 2024, N+ details).
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Scalar sum of `x` [B, T] over the mask [B, T]; 0 when the mask is empty."""
    return _zero_outside(x, mask).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Scalar mean of `x` [B, T] over all masked-in positions (not a mean of row means); 0 when the mask is empty."""
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """(x − mean) / (std + 1e−8) over the mask, variance with Bessel's correction; 0 outside the mask.

    With fewer than two masked-in positions `x` is left as it is. Give it the whole batch: the moments are those of
    all response tokens together (Huang 2024, N+ details).
    """
    x = _zero_outside(x, mask)
    count = int(mask.sum())
    if count < 2:
        return x
    centred = _zero_outside(x - x.sum() / count, mask)
    std = (centred.square().sum() / (count - 1)).sqrt()
    return centred / (std + 1e-8)


def _zero_outside(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.bool(), at_least_float32(x), 0.0)
