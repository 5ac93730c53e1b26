"""R7: the adapter-disabled base is the base, bit for bit, and the toggle leaves no trace."""

from __future__ import annotations

import pytest
import torch

from medrl.config.common import LoraConfig
from medrl.errors import AdapterError
from medrl.lora.manifest import check_manifest, manifest
from medrl.lora.reference import adapter_disabled, canary_ids, check_reference_canary
from medrl.lora.wrap import wrap
from medrl.models.forward import policy_forward
from tests.unit.lora.tiny_families import tiny_model, train_a_little

FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "mixtral"]


def canary_logprobs(model):
    ids = canary_ids(97)
    mask = torch.ones_like(ids)
    return policy_forward(model, ids, mask, mask, 1.0, entropy=False)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_canary_is_bit_identical_through_updates(family):
    base = canary_logprobs(tiny_model(family)).detach()
    model = wrap(tiny_model(family), LoraConfig(rank=2))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(10):
        model.train()
        canary_logprobs(model).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        with adapter_disabled(model):
            check_reference_canary(base, canary_logprobs(model))
        assert model.training
    assert not torch.equal(canary_logprobs(model), base)


def test_plain_peft_unfreezes_on_exit_and_ours_does_not():
    def frozen_half():
        model = wrap(tiny_model("llama"), LoraConfig(rank=2, modules_to_save=["lm_head"]))
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)
        return model, manifest(model)

    model, rows = frozen_half()
    with model.disable_adapter():
        pass
    with pytest.raises(AdapterError, match="manifest"):
        check_manifest(model, rows)

    model, rows = frozen_half()
    with adapter_disabled(model):
        pass
    check_manifest(model, rows)


def test_flags_are_restored_after_an_exception_too():
    model = wrap(tiny_model("llama"), LoraConfig(rank=2)).train()
    model.get_submodule("base_model.model.lm_head").eval()
    rows, modes = manifest(model), [m.training for m in model.modules()]
    with pytest.raises(RuntimeError), adapter_disabled(model):
        assert not any(m.training for m in model.modules())
        raise RuntimeError
    check_manifest(model, rows)
    assert [m.training for m in model.modules()] == modes


def test_saved_modules_are_switched_off_too():
    base = tiny_model("llama", tie_word_embeddings=False)
    expected = canary_logprobs(base).detach()
    model = wrap(base, LoraConfig(rank=2, modules_to_save=["lm_head"]))
    train_a_little(model)
    with adapter_disabled(model):
        check_reference_canary(expected, canary_logprobs(model))


def test_no_gradient_reaches_the_reference():
    model = wrap(tiny_model("llama"), LoraConfig(rank=2))
    with adapter_disabled(model):
        assert not canary_logprobs(model).requires_grad
    assert canary_logprobs(model).requires_grad


@pytest.mark.parametrize("values", [{"bias": "all"}, {"bias": "lora_only"}, {"init": "pissa"}, {"init": "olora"}])
def test_settings_that_change_the_base_are_refused(values):
    model = wrap(tiny_model("qwen2"), LoraConfig(rank=2, targets=["attention"], **values))
    with pytest.raises(AdapterError, match="not its base"), adapter_disabled(model):
        pass


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_and_they_do_change_it(init):
    base = canary_logprobs(tiny_model("qwen2")).detach()
    model = wrap(tiny_model("qwen2"), LoraConfig(rank=2, init=init))
    with model.disable_adapter():
        assert (canary_logprobs(model) - base).abs().max() > 1e-3


def test_canary_check():
    a = torch.tensor([[0.0, -1.0]])
    check_reference_canary(a, a.clone())
    check_reference_canary(a, a + 5e-6, tolerance=1e-5)
    for wrong in (a + 1e-6, a * torch.nan, a[:, :1]):
        with pytest.raises(AdapterError, match="reference has changed"):
            check_reference_canary(a, wrong)


def test_canary_ids_are_the_same_everywhere():
    assert canary_ids(1000).tolist() == canary_ids(1000).tolist()
    assert canary_ids(50).shape == (1, 32) and canary_ids(50).max() < 50
