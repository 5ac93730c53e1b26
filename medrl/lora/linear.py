"""The forward and backward pass of a LoRA layer without a detour: half as many passes over memory as PEFT's own.

PEFT's layer gives the same numbers up to rounding; it stays in charge of everything else (switching, merging, saving).
"""

from __future__ import annotations

from typing import Any

import peft
from peft.tuners.lora.layer import Linear
from torch import Tensor, addmm, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class LoraLinear(Linear):
    """PEFT's layer of an nn.Linear; one plain adapter at a time takes the short way."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = self._plain_adapter()
        if name is None or args or kwargs:
            return super().forward(x, *args, **kwargs)
        base, a, b = self.base_layer(x), self.lora_A[name].weight, self.lora_B[name].weight
        added = _AddLowRank.apply(
            base.flatten(0, -2), x.flatten(0, -2), a.to(x.dtype), b.to(x.dtype), self.scaling[name])
        return added.view_as(base)

    def _plain_adapter(self) -> str | None:
        """The one active adapter, if it is y + s·B·A·x and nothing else, with weights that lie here whole."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(active) != 1:
            return None
        name, = active
        a, b = self.lora_A[name], self.lora_B[name]
        plain = name not in self.lora_variant and b.bias is None and isinstance(self.lora_dropout[name], nn.Identity)
        return name if plain and not hasattr(a.weight, "ds_id") else None  # ZeRO 3 fills A and B where they are called


def shorten(model: peft.PeftModel) -> None:
    """Have the model's LoRA layers of linear modules compute as here."""
    for module in model.modules():
        if type(module) is Linear and isinstance(module.get_base_layer(), nn.Linear):
            module.__class__ = LoraLinear


class _AddLowRank(Function):
    """y + s·(x Aᵀ) Bᵀ of y [n, out], x [n, in], A [r, in], B [out, r].

    Every product with the rank as one of its sides has it as the number of rows, which BLAS libraries are up to six
    times faster at than at as many columns. With D = A xᵀ and U = s·Bᵀ ∂yᵀ: ∂x = Uᵀ A, ∂A = U x, ∂B = s·(D ∂y)ᵀ.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        down = a @ x.T
        ctx.scaling = scaling
        ctx.save_for_backward(x, a, b, down)
        return addmm(y, down.T, b.T, alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sum: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, None]:
        x, a, b, down = ctx.saved_tensors
        _, of_x, of_a, of_b, _ = ctx.needs_input_grad
        up = (b.T @ of_sum.T).mul_(ctx.scaling)
        return (of_sum, up.T @ a if of_x else None, up @ x if of_a else None,
                (down @ of_sum).mul_(ctx.scaling).T if of_b else None, None)
