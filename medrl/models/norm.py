"""RMS norms whose backward pass is written out: a third of autograd's passes over memory, and only the input is kept.

The forward pass stays the model's own, bit for bit. Zhang & Sennrich 2019, "Root Mean Square Layer Normalization".
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from medrl.algo.masking import at_least_float32


def shorten_norms(model: nn.Module) -> int:
    """Have those of the model's norms that are weight · x / √(mean x² + ε) go back the short way; returns how many.

    Which ones are is found out by a probe of each.
    """
    found = [module for module in model.modules() if _is_rms_norm(module)]
    for module in found:
        module.__class__ = _short_way_back(type(module))
    return len(found)


class _ShortWayBack:
    """Mixed into a norm's class."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, x: Tensor) -> Tensor:
        own: Callable[[Tensor], Tensor] = super().forward  # pyright: ignore[reportAttributeAccessIssue]
        if not torch.is_grad_enabled() or hasattr(self.weight, "ds_id"):  # ZeRO 3 empties the weight between the passes
            return own(x)
        return _RmsNorm.apply(x, self.weight, self.variance_epsilon, own)


@cache
def _short_way_back(kind: type[nn.Module]) -> type[nn.Module]:
    """The norm's class under its own name."""
    return type(kind.__name__, (_ShortWayBack, kind), {"__module__": kind.__module__})


class _RmsNorm(Function):
    """`own`(x) = w · s·x for rows x [d], with s = 1 / √(mean x² + ε).

    With t = ∂y · x: ∂x = s · (w · ∂y − x · s²/d · Σ w·t) and ∂w = Σ over rows s·t.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, own: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.epsilon = epsilon
        ctx.save_for_backward(x, weight)
        return own(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_result: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, *_ = ctx.needs_input_grad
        width = x.shape[-1]
        rows, slopes, weights = (at_least_float32(t) for t in (
            x.reshape(-1, width), of_result.reshape(-1, width), weight))
        scales = (torch.linalg.vector_norm(rows, dim=-1).square_() / width + ctx.epsilon).rsqrt_()
        products = slopes * rows
        result = None
        if of_x:
            along = (products @ weights * scales.square()).div_(-width)
            result = torch.addcmul(slopes * weights, rows, along[:, None]).mul_(scales[:, None]).to(x.dtype).view_as(x)
        return result, (products.T @ scales).to(weight.dtype) if of_weight else None, None, None


@torch.no_grad()
def _is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is a norm as `_RmsNorm` means it."""
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if isinstance(module, _ShortWayBack) or not isinstance(weight, nn.Parameter) or not isinstance(epsilon, float):
        return False
    if weight.ndim != 1 or weight.is_meta or len(list(module.parameters())) != 1:
        return False
    if len(inspect.signature(module.forward).parameters) != 1:  # a gate beside the input
        return False
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn((2, 3, len(weight)), generator=generator) * torch.tensor([1.0, epsilon**0.5])[:, None, None]
    norm = copy.deepcopy(module).to("cpu", torch.float32)
    norm.weight = nn.Parameter(torch.randn(len(weight), generator=generator))
    meant = norm.weight * probe * (probe.square().mean(-1, keepdim=True) + epsilon).rsqrt()
    return torch.allclose(norm(probe), meant, rtol=1e-5, atol=1e-5)
