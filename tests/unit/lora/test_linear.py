from __future__ import annotations

import copy

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.lora.layer import Linear
from torch import nn

from medrl.lora.linear import LoraLinear, _AddLowRank, shorten


def _layer(dtype: torch.dtype = torch.float32, wide: int = 12, high: int = 20, **settings) -> LoraLinear:
    """One adapted layer whose B is no longer 0."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(wide, high, bias=settings.pop("with_bias", True))).to(dtype)
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["0"], r=4, lora_alpha=7, **settings))
    shorten(model)
    layer = model.get_submodule("base_model.model.0")
    nn.init.normal_(layer.lora_B["default"].weight)
    return layer


def _results(layer: nn.Module, x: torch.Tensor, forward) -> list[torch.Tensor]:
    """Output, and the gradients of x and of all that trains."""
    x = x.clone().requires_grad_(True)
    trained = [p for p in layer.parameters() if p.requires_grad]
    out = forward(layer, x)
    return [out, *torch.autograd.grad((out.float() ** 2).sum(), [x, *trained])]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.booleans())
def test_the_same_as_peft_s_own_layer(shape, with_bias):
    layer = _layer(with_bias=with_bias)
    x = torch.randn(*shape, 12)
    for ours, theirs in zip(_results(layer, x, LoraLinear.forward), _results(layer, x, Linear.forward), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * max(1, theirs.abs().max().item()))


def test_gradients_are_those_of_the_formula():
    y, x, a, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True)
                  for shape in ((5, 6), (5, 3), (2, 3), (6, 2)))
    torch.testing.assert_close(_AddLowRank.apply(y, x, a, b, 1.5), y + 1.5 * x @ a.T @ b.T)
    assert torch.autograd.gradcheck(lambda *tensors: _AddLowRank.apply(*tensors, 1.5), (y, x, a, b))


def test_bfloat16_is_as_near_to_exact_as_peft_s():
    layer, x = _layer(torch.bfloat16, 64, 64), torch.randn(50, 64, dtype=torch.bfloat16)
    exact = _results(copy.deepcopy(layer).double(), x.double(), LoraLinear.forward)
    ours, theirs = (_results(layer, x, forward) for forward in (LoraLinear.forward, Linear.forward))
    assert all(a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))

    def errors(results: list[torch.Tensor]) -> list[float]:
        return [((a - b).norm() / b.norm()).item() for a, b in zip(results, exact, strict=True)]

    assert all(own < 2 * other + 2**-8 for own, other in zip(errors(ours), errors(theirs), strict=True))


def test_nothing_flows_where_nothing_is_asked():
    layer = _layer()
    layer.lora_A["default"].requires_grad_(False)
    layer(torch.randn(3, 12)).sum().backward()
    assert layer.lora_A["default"].weight.grad is None
    assert layer.lora_B["default"].weight.grad is not None


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}], ids=str)
def test_what_is_more_than_a_plain_adapter_is_left_to_peft(settings):
    layer, x = _layer(**settings).train(), torch.randn(3, 12)
    torch.manual_seed(1)
    ours = layer(x)
    torch.manual_seed(1)
    assert torch.equal(ours, Linear.forward(layer, x))


def test_off_another_one_two_at_once_and_merged():
    layer, x = _layer(with_bias=False), torch.randn(3, 12)
    layer.update_layer("other", 2, lora_alpha=3, config=peft.LoraConfig(r=2, init_lora_weights=False))
    for adapters in (["default"], ["other"], ["default", "other"], []):
        layer.set_adapter(adapters)
        torch.testing.assert_close(layer(x), Linear.forward(layer, x))
    layer.set_adapter(["default"])
    before = layer(x)
    layer.merge()
    torch.testing.assert_close(layer(x), before)
    layer.unmerge()
    layer.enable_adapters(False)
    assert torch.equal(layer(x), layer.base_layer(x))
