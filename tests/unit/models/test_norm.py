from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNormGated

from medrl.config.common import ModelConfig
from medrl.models.loading import load_causal_lm
from medrl.models.norm import _RmsNorm, _ShortWayBack, shorten_norms
from tests.unit.lora.tiny_families import tiny_model


def _norm(kind: type = Qwen3RMSNorm, width: int = 12, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    norm = kind(width, eps=1e-3)
    nn.init.normal_(norm.weight)
    return norm.to(dtype)


def _results(norm: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, and the gradients of x and of the weight."""
    x = x.clone().requires_grad_(True)
    out = norm(x)
    return [out, *torch.autograd.grad((out.float() ** 3).sum(), [x, norm.weight])]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.sampled_from([1e-3, 1.0, 100.0]))
def test_the_same_as_autograd_s(shape, size):
    norm = _norm()
    x = size * torch.randn(*shape, 12)
    expected = _results(norm, x)
    assert shorten_norms(norm) == 1
    out, *gradients = _results(norm, x)
    assert torch.equal(out, expected[0])  # to the bit
    for ours, theirs in zip(gradients, expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * max(1, theirs.abs().max().item()))


def test_gradients_are_those_of_the_formula():
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 3, 6), (6,)))

    def function(x, weight):
        return _RmsNorm.apply(
            x, weight, 0.1, lambda x: weight * x * (x.square().mean(-1, keepdim=True) + 0.1).rsqrt())

    assert torch.autograd.gradcheck(function, (x, weight))


def test_bfloat16_is_as_near_to_exact_as_autograd_s():
    plain, x = _norm(width=64, dtype=torch.bfloat16), torch.randn(50, 64, dtype=torch.bfloat16)
    short = copy.deepcopy(plain)
    shorten_norms(short)
    exact = _results(copy.deepcopy(plain).double(), x.double())
    ours, theirs = (_results(norm, x) for norm in (short, plain))
    assert torch.equal(ours[0], theirs[0])
    assert all(a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))

    def errors(results: list[torch.Tensor]) -> list[float]:
        return [((a - b).norm() / b.norm()).item() for a, b in zip(results, exact, strict=True)]

    assert all(own < 1.1 * other + 1e-3 for own, other in zip(errors(ours), errors(theirs), strict=True))


def test_only_the_input_is_kept_for_the_backward_pass():
    def kept(norm: nn.Module) -> set[int]:
        storages = set()
        x = torch.randn(5, 12, requires_grad=True)

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.numel() == x.numel():
                storages.add(tensor.data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            norm(x)
        return storages - {x.data_ptr()}

    norm = _norm()
    assert kept(norm)
    shorten_norms(norm)
    assert not kept(norm)


def test_a_frozen_weight_gets_no_gradient():
    norm = _norm()
    shorten_norms(norm)
    norm.weight.requires_grad_(False)
    x = torch.randn(5, 12, requires_grad=True)
    norm(x).sum().backward()
    assert norm.weight.grad is None and x.grad is not None


def test_norms_of_another_formula_stay_as_they_are():
    class Shifted(LlamaRMSNorm):
        def forward(self, x):
            return super().forward(x) + 0.1

    class Larger(LlamaRMSNorm):
        def forward(self, x):
            return super().forward(x) * (1 + self.variance_epsilon)

    class NoEpsilon(LlamaRMSNorm):
        def forward(self, x):
            return self.weight * x * x.square().mean(-1, keepdim=True).rsqrt()

    others = map(_norm, (Gemma2RMSNorm, Qwen3_5RMSNormGated, Shifted, Larger, NoEpsilon))
    for norm in (nn.LayerNorm(12), nn.RMSNorm(12), *others):
        kind = type(norm)
        assert shorten_norms(norm) == 0
        assert type(norm) is kind


@pytest.mark.parametrize("family,norms", [("llama", 5), ("qwen3", 9), ("mistral", 5), ("gemma2", 0), ("gpt2", 0)])
def test_a_whole_model_has_the_same_logits_and_gradients(family, norms):
    model = tiny_model(family)
    ids = torch.arange(3, 27).view(2, 12)

    def results() -> list[torch.Tensor]:
        model.zero_grad()
        logits = model(input_ids=ids, use_cache=False).logits
        logits.square().mean().backward()
        return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    names, expected = [name for name, _ in model.named_parameters()], results()
    assert shorten_norms(model) == norms
    assert shorten_norms(model) == 0  # done already
    assert [name for name, _ in model.named_parameters()] == names
    logits, *gradients = results()
    assert torch.equal(logits, expected[0])
    for ours, theirs in zip(gradients, expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1e-2, theirs.abs().max().item()))


def test_models_are_loaded_so(model_dir):
    model = load_causal_lm(ModelConfig(path=str(model_dir("llama"))))
    assert isinstance(model.model.norm, _ShortWayBack)
