"""PPO over an SFT adapter: the learner starts there, and its reference stays there (R8)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from medrl.config.common import LoraConfig, ModelConfig
from medrl.errors import AdapterError
from medrl.lora.adapter import load_adapter_, save_adapter
from medrl.lora.wrap import wrap
from medrl.models.loading import load_causal_lm

from .conftest import PROBE, ROWS, policy_logprobs

SECTION = {"rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def sft(folder, make_config, tmp_path_factory):
    """An adapter on the policy's base, and one on another."""
    make_config()  # writes the models
    path = tmp_path_factory.mktemp("sft")
    model = wrap(load_causal_lm(ModelConfig(path=str(folder / "policy"))), LoraConfig(**SECTION))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    save_adapter(model, path / "adapter")
    return path / "adapter"


@pytest.fixture(scope="module")
def results(run_ranks, make_config, experience, sft, tmp_path_factory):
    saved = str(tmp_path_factory.mktemp("saved") / "policy")
    reference = {"mode": "adapter", "adapter": str(sft)}
    tasks = {}
    for stage in (0, 3):
        config = make_config(zero_stage=stage, micro_batch_size=4) | {"reference": reference}
        scored = [("logprobs", (experience,)), ("ref_logprobs", (experience,))]
        calls = [*scored, ("export_weights", (PROBE,)), ("update", (experience, 0.1, 3)), *scored,
                 ("save", (f"{saved}{stage}",)), ("parameters", ())]
        tasks[f"{stage}"] = ("policy", config, calls)
        tasks[f"{stage}-resumed"] = ("policy", config, [("load", (f"{saved}{stage}",)), ("parameters", ()), *scored])
    tasks["other section"] = ("policy", make_config() | {"reference": reference, "lora": SECTION | {"rank": 3}}, [])
    return run_ranks(2, tasks)[0] | {"saved": saved}


@pytest.mark.parametrize("stage", [0, 3])
def test_the_learner_starts_at_the_sft_model_and_its_reference_stays_there(results, sft, folder, experience, stage):
    start, reference, (kind, tensors, scaling, _), metrics, after, reference_after, *_ = results[f"{stage}"]
    assert np.array_equal(start, reference) and np.array_equal(reference, reference_after)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "policy"), sft)
    expected = policy_logprobs(plain, experience, temperature=0.7).detach().numpy()
    mine = len(start)  # rank 0 was given all rows here
    assert mine == ROWS
    np.testing.assert_allclose(start, expected, atol=1e-5)
    assert np.abs(after - start).max() > 1e-4
    wrapped = wrap(load_causal_lm(ModelConfig(path=str(folder / "policy"))), LoraConfig(**SECTION))
    load_adapter_(wrapped, sft)
    assert kind == "adapter" and len(tensors) == 2 * len(scaling) == sum(p.requires_grad for p in wrapped.parameters())


@pytest.mark.parametrize("stage", [0, 3])
def test_a_resumed_learner_has_the_same_policy_and_reference(results, stage):
    *_, after, reference, _, parameters = results[f"{stage}"]
    loaded, again, after_resume, reference_resumed = results[f"{stage}-resumed"]
    assert loaded is None and all(torch.equal(tensor, again[name]) for name, tensor in parameters.items())
    assert np.array_equal(after, after_resume) and np.array_equal(reference, reference_resumed)


def test_another_lora_section_is_refused(results):
    assert isinstance(results["other section"], AdapterError) and "other settings" in results["other section"].message
