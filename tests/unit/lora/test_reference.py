"""R7: the adapter-disabled base is the base, bit for bit, and the toggle leaves no trace."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from torch.nn.functional import logsigmoid

from medrl.config.common import LoraConfig, ModelConfig
from medrl.errors import AdapterError
from medrl.lora.adapter import adapter_tensors, save_adapter
from medrl.lora.manifest import check_manifest, manifest
from medrl.lora.reference import ReferenceSpec, attach_reference, check_explicit_reference, reference_active
from medrl.lora.reference_proofs import (
    canary_batch,
    check_first_loss,
    check_policy_start,
    check_reference_canary,
)
from medrl.lora.wrap import wrap
from medrl.models.forward import policy_forward
from medrl.models.loading import load_causal_lm
from tests.unit.lora.tiny_families import tiny_model, train_a_little

pytestmark = pytest.mark.heavy

BASE = ReferenceSpec("base")
FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "mixtral"]


def canary_logprobs(model):
    ids = torch.tensor(canary_batch(97).ids)
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
        with reference_active(model, BASE):
            check_reference_canary(base, canary_logprobs(model))
        assert model.training
    assert not torch.equal(canary_logprobs(model), base)


def test_flags_are_restored_after_an_exception_too():
    model = wrap(tiny_model("llama"), LoraConfig(rank=2)).train()
    model.get_submodule("base_model.model.lm_head").eval()
    rows, modes = manifest(model), [m.training for m in model.modules()]
    with pytest.raises(RuntimeError), reference_active(model, BASE):
        assert not any(m.training for m in model.modules())
        raise RuntimeError
    check_manifest(model, rows)
    assert [m.training for m in model.modules()] == modes


def test_saved_modules_are_switched_off_too():
    base = tiny_model("llama", tie_word_embeddings=False)
    expected = canary_logprobs(base).detach()
    model = wrap(base, LoraConfig(rank=2, modules_to_save=["lm_head"]))
    train_a_little(model)
    with reference_active(model, BASE):
        check_reference_canary(expected, canary_logprobs(model))


def test_no_gradient_reaches_the_reference():
    model = wrap(tiny_model("llama"), LoraConfig(rank=2))
    with reference_active(model, BASE):
        assert not canary_logprobs(model).requires_grad
    assert canary_logprobs(model).requires_grad


@pytest.mark.parametrize("values", [{"bias": "all"}, {"bias": "lora_only"}, {"init": "pissa"}, {"init": "olora"}])
def test_settings_that_change_the_base_are_refused(values):
    model = wrap(tiny_model("qwen2"), LoraConfig(rank=2, targets=["attention"], **values))
    with pytest.raises(AdapterError, match="not its base"), reference_active(model, BASE):
        pass


def test_canary_check():
    a = torch.tensor([[0.0, -1.0]])
    check_reference_canary(a, a.clone())
    check_reference_canary(a, a + 5e-6, tolerance=1e-5)
    for wrong in (a + 1e-6, a * torch.nan, a[:, :1]):
        with pytest.raises(AdapterError, match="reference has changed"):
            check_reference_canary(a, wrong)


def test_the_canary_is_the_same_everywhere():
    assert canary_batch(1000).ids.tolist() == canary_batch(1000).ids.tolist()
    assert canary_batch(50).ids.shape == (1, 32) and canary_batch(50).ids.max() < 50
    assert canary_batch(50).response_mask.sum() == 31


LORA = LoraConfig(rank=3, alpha=5.0, modules_to_save=["lm_head"])


@pytest.fixture
def sft(model_dir, tmp_path):
    """(base directory, directory of a trained adapter, the SFT model's canary log-probs)."""
    base = model_dir("qwen3", tie_word_embeddings=False)
    model = wrap(load_causal_lm(ModelConfig(path=str(base))), LORA)
    train_a_little(model)
    save_adapter(model, tmp_path / "sft")
    return str(base), str(tmp_path / "sft"), canary_logprobs(model).detach()


class TestNamedAdapter:
    """R8: PPO over an SFT adapter, whose frozen copy is the reference."""

    @pytest.fixture
    def model(self, sft):
        base, adapter, _ = sft
        self.spec = ReferenceSpec("adapter", adapter)
        model = wrap(load_causal_lm(ModelConfig(path=base)), LORA)
        attach_reference(model, self.spec)
        return model

    def test_policy_and_reference_start_at_the_sft_model(self, model, sft):
        with reference_active(model, self.spec):
            reference = canary_logprobs(model)
        assert torch.equal(reference, sft[2]) and torch.equal(canary_logprobs(model), sft[2])
        with model.disable_adapter():
            assert (canary_logprobs(model) - sft[2]).abs().max() > 1e-2, "the base is another model"

    def test_the_reference_stays_while_the_policy_learns(self, model, sft):
        rows = manifest(model)
        assert not any("reference" in row["name"] for row in rows)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(5):
            canary_logprobs(model).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            with reference_active(model, self.spec):
                check_reference_canary(sft[2], canary_logprobs(model))
            check_manifest(model, rows)
        assert (canary_logprobs(model) - sft[2]).abs().max() > 1e-2

    def test_only_the_policy_is_exported_and_saved(self, model, sft, tmp_path):
        plain = wrap(load_causal_lm(ModelConfig(path=sft[0])), LORA)
        train_a_little(plain)
        train_a_little(model, seed=4)
        for wanted, got in zip(adapter_tensors(plain), adapter_tensors(model), strict=True):
            assert wanted.keys() == got.keys()
        save_adapter(model, tmp_path / "ppo")
        again = wrap(load_causal_lm(ModelConfig(path=sft[0])), LORA)
        attach_reference(again, ReferenceSpec("adapter", str(tmp_path / "ppo")))
        assert torch.equal(canary_logprobs(again), canary_logprobs(model))

    def test_an_adapter_of_another_base_is_refused(self, sft, model_dir):
        other = str(model_dir("qwen3", tie_word_embeddings=False, initializer_range=0.1))
        model = wrap(load_causal_lm(ModelConfig(path=other)), LORA)
        with pytest.raises(AdapterError, match="another base"):
            attach_reference(model, ReferenceSpec("adapter", sft[1]))
        with pytest.raises(AdapterError, match="was not made for"):
            check_explicit_reference(other, None, ReferenceSpec("adapter", sft[1]))

    def test_another_lora_section_is_refused(self, sft):
        model = wrap(load_causal_lm(ModelConfig(path=sft[0])), LORA.model_copy(update={"rank": 4}))
        with pytest.raises(AdapterError, match="other settings"):
            attach_reference(model, ReferenceSpec("adapter", sft[1]))

    def test_settings_that_change_what_lies_below_are_refused(self, sft):
        model = wrap(load_causal_lm(ModelConfig(path=sft[0])), LoraConfig(rank=3, init="pissa"))
        with pytest.raises(AdapterError, match="not its base"):
            attach_reference(model, ReferenceSpec("adapter", sft[1]))


class TestExplicitReference:
    """A reference given beside an adapter, as DPO takes one."""

    def test_what_is_allowed(self, sft, tmp_path):
        base, adapter, _ = sft
        shutil.copytree(base, tmp_path / "copy")
        check_explicit_reference(base, None, ReferenceSpec("base"))
        check_explicit_reference(base, None, ReferenceSpec("copy", str(tmp_path / "copy")))
        check_explicit_reference(base, adapter, ReferenceSpec("adapter", adapter))

    def test_another_model_is_refused(self, sft, model_dir):
        other = ReferenceSpec("copy", str(model_dir("qwen3", initializer_range=0.1)))
        with pytest.raises(AdapterError, match="another model than the adapter's base"):
            check_explicit_reference(sft[0], None, other)

    def test_the_base_below_an_adapter_that_goes_on_is_refused(self, sft):
        with pytest.raises(AdapterError, match="would be the base below it") as error:
            check_explicit_reference(sft[0], sft[1], ReferenceSpec("base"))
        assert "medrl merge" in error.value.remedy


def dpo_loss(policy, reference, beta=0.1):
    """From the definition, the first half of a row taken as chosen, the second as rejected."""
    margins = (policy - reference)[:, 1:].view(2, -1).sum(-1)
    return -logsigmoid(beta * (margins[0] - margins[1]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_fresh_start_has_kl_0_and_dpo_loss_ln_2(family):
    model = wrap(tiny_model(family), LoraConfig(rank=2))
    ids = torch.tensor(canary_batch(97, length=33).ids)
    mask = torch.ones_like(ids)

    def logprobs():
        return policy_forward(model, ids, mask, mask, 1.0, entropy=False)[0].detach()

    with reference_active(model, BASE):
        reference = logprobs()
    check_policy_start(logprobs(), reference)
    check_first_loss(dpo_loss(logprobs(), reference).item(), math.log(2))
    train_a_little(model)
    with pytest.raises(AdapterError, match="does not start at the reference"):
        check_policy_start(logprobs(), reference)
    with pytest.raises(AdapterError, match="0.693147"):
        check_first_loss(dpo_loss(logprobs(), reference).item(), math.log(2))
    for wrong in (math.log(2) + 2e-6, math.nan):
        with pytest.raises(AdapterError):
            check_first_loss(wrong, math.log(2))
