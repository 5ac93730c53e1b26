"""Checkpoints: what was saved goes on bit for bit, and what cannot be restored is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from medrl.errors import CheckpointError, ConfigError

from .conftest import PROBE, STAGES, policy_logprobs

pytestmark = pytest.mark.timeout(1200)  # the first test of the session waits for all ranks


@pytest.fixture(scope="module")
def resumed(run_ranks, two_ranks, one_rank, make_config, experience, checkpoints):
    """New processes that restore what `two_ranks`, and then `one_rank`, saved and go on."""
    after = [("load", (f"{checkpoints}/one/policy",)), ("update", (experience, 0.2, 4)), ("parameters", ())]
    tasks = {"more ranks": ("policy", make_config(micro_batch_size=1), after)}
    for stage in STAGES:
        folder, shape = f"{checkpoints}/{stage}", {"zero_stage": stage, "micro_batch_size": 1}
        go_on = [("parameters", ()), ("update", (experience, 0.2, 4)), ("parameters", ())]
        tasks[f"{stage}-policy"] = ("policy", make_config(**shape), [("load", (f"{folder}/policy",)), *go_on])
        go_on[1] = ("update", (experience, 4))
        tasks[f"{stage}-critic"] = ("critic", make_config(**shape), [("load", (f"{folder}/critic",)), *go_on])
    return run_ranks(2, tasks)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("role", ["policy", "critic"])
def test_a_restored_learner_goes_on_bit_for_bit(two_ranks, resumed, role, stage):
    for straight, restored in zip(two_ranks, resumed, strict=True):
        first_update, calls = straight[f"{stage}-{role}"][3], straight[f"{stage}-{role}"]
        after_second = {"policy": 8, "critic": 6}[role]
        loaded, parameters, metrics, final = restored[f"{stage}-{role}"]
        assert loaded is None
        assert metrics == calls[after_second - 1]
        for name, tensor in first_update.items():
            assert torch.equal(parameters[name], tensor)
            assert torch.equal(final[name], calls[after_second][name])


def close(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=1e-5, atol=1e-6) for name in a)


@pytest.mark.parametrize(("name", "saved", "after"), [("policy", 3, 8), ("full", 3, None), ("critic", 3, 6)])
def test_at_zero_0_fewer_ranks_go_on_as_well(two_ranks, one_rank, name, saved, after):
    calls, (loaded, parameters, *rest) = two_ranks[0][f"0-{name}"], one_rank[f"fewer-{name}"]
    assert loaded is None and all(torch.equal(parameters[n], tensor) for n, tensor in calls[saved].items())
    if after:  # the optimizer's state came along: it shapes the next update
        assert close(rest[-1], calls[after])
        assert not close(rest[-1], calls[saved])


def test_at_zero_0_more_ranks_go_on_as_well(two_ranks, resumed):
    for rank, straight in zip(resumed, two_ranks, strict=True):
        loaded, _, final = rank["more ranks"]
        assert loaded is None and close(final, straight["0-policy"][8])


@pytest.mark.parametrize("task", ["fewer ranks", "other stage", "nothing"])
def test_what_cannot_be_restored_is_refused(one_rank, task):
    (error,) = one_rank[task]
    assert isinstance(error, CheckpointError) and error.remedy


@pytest.mark.parametrize("stage", STAGES)
def test_the_saved_adapter_works_in_plain_peft(two_ranks, checkpoints, folder, experience, make_config, stage):
    base = AutoModelForCausalLM.from_pretrained(folder / "policy")
    model = PeftModel.from_pretrained(base, checkpoints / str(stage) / "policy" / "adapter")
    after = two_ranks[0][f"{stage}-policy"][3]
    assert all(torch.equal(p, after[name]) for name, p in model.named_parameters() if name in after)
    assert len(after) == sum("lora_" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("stage", STAGES)
def test_exported_adapter_probe_and_reference_agree_with_a_plain_merge(two_ranks, folder, experience, stage):
    calls = two_ranks[0][f"{stage}-policy"]
    kind, tensors, scaling, probe = calls[4]
    assert kind == "adapter" and two_ranks[1][f"{stage}-policy"][4] is None
    model = AutoModelForCausalLM.from_pretrained(folder / "policy")
    reference = policy_logprobs(model, experience, 0.7).detach().numpy()
    np.testing.assert_allclose(calls[5], reference, atol=1e-6)
    with torch.no_grad():
        for name, s in scaling.items():
            model.get_submodule(name).weight += s * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
        logits = torch.log_softmax(model(torch.tensor([PROBE])).logits[0].double(), -1)
    assert probe.ids == PROBE
    np.testing.assert_allclose(probe.logprobs, [float(logits[i, t]) for i, t in enumerate(PROBE[1:])], atol=1e-5)
    assert np.abs(policy_logprobs(model, experience, 0.7).detach().numpy() - reference).max() > 1e-3


@pytest.mark.parametrize("stage", STAGES)
def test_full_training_exports_and_saves_the_whole_model(two_ranks, checkpoints, stage):
    kind, tensors, scaling, _ = two_ranks[0][f"{stage}-full"][4]
    after = two_ranks[0][f"{stage}-full"][3]
    assert kind == "full" and scaling == {}
    assert tensors.keys() == after.keys() and all(torch.equal(tensors[name], after[name]) for name in after)
    saved = AutoModelForCausalLM.from_pretrained(checkpoints / str(stage) / "full" / "model")
    assert all(torch.equal(p, after[name]) for name, p in saved.named_parameters())


@pytest.mark.parametrize("stage", STAGES)
def test_a_fully_trained_policy_holds_no_reference(two_ranks, stage):
    assert isinstance(two_ranks[0][f"{stage}-full"][5], ConfigError)
