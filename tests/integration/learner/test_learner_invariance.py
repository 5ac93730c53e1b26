"""How work is shared out must not show: 1 rank × 1 micro-batch against 2 ranks × 4, at ZeRO 0, 2 and 3."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medrl.errors import ConfigError, MedrlError, TrainingError

from .conftest import STAGES, TARGET_KL

pytestmark = pytest.mark.timeout(1200)  # the first test of the session waits for all ranks


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """‖a − b‖ over all tensors."""
    assert a.keys() == b.keys()
    return sum(float((a[name].double() - b[name].double()).square().sum()) for name in a) ** 0.5


def size(a: dict[str, torch.Tensor]) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in a.values()) ** 0.5


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("task", ["policy", "full", "critic", "head"])
def test_parameters_do_not_depend_on_ranks_and_micro_batches(one_rank, two_ranks, task, stage):
    before, outputs, metrics, after = one_rank[task][:4]
    for rank in two_ranks:
        other_before, other_outputs, other_metrics, other_after = rank[f"{stage}-{task}"][:4]
        assert equal(other_before, before)
        np.testing.assert_allclose(other_outputs[0], outputs[0], atol=2e-6)
        assert distance(other_after, after) <= 1e-5 * size(after)
        assert distance(other_after, after) <= 1e-3 * distance(after, before)  # of what was learned, too
        assert other_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("task", ["policy", "full", "critic", "head"])
def test_every_rank_reports_the_same(two_ranks, task, stage):
    first, second = (rank[f"{stage}-{task}"] for rank in two_ranks)
    assert first[2] == second[2]
    assert equal(first[3], second[3])


@pytest.mark.parametrize("stage", STAGES)
def test_recomputed_activations_change_nothing(two_ranks, stage):
    plain, recomputed = (two_ranks[0][f"{stage}-{task}"][1] for task in ("undisturbed", "checkpointed"))
    assert distance(recomputed, plain) <= 1e-5 * size(plain)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("task", ["policy", "full"])
def test_chunks_of_logits_change_nothing(two_ranks, task, stage):
    """Also where ranks have different numbers of positions, and the head is partitioned between them (ZeRO 3)."""
    for rank in two_ranks:
        before, outputs, metrics, after = rank[f"{stage}-{task}"][:4]
        _, other_outputs, other_metrics, other_after, _ = rank[f"{stage}-chunked-{task}"]
        np.testing.assert_allclose(other_outputs, outputs, atol=2e-6)
        assert distance(other_after, after) <= 1e-5 * size(after)
        assert distance(other_after, after) <= 1e-3 * distance(after, before)
        assert other_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("task", ["policy", "critic"])
def test_packing_changes_nothing(two_ranks, task, stage):
    for rank in two_ranks:
        before, outputs, metrics, after = rank[f"{stage}-{task}"][:4]
        other_outputs, other_metrics, other_after = rank[f"{stage}-packed-{task}"]
        if task == "critic":
            other_outputs, outputs = other_outputs[0], outputs[0]
        np.testing.assert_allclose(other_outputs, outputs, atol=1e-5)
        assert distance(other_after, after) <= 1e-5 * size(after)
        assert distance(other_after, after) <= 1e-3 * distance(after, before)
        assert other_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_not_finite_stops_all_ranks_before_parameters_change(two_ranks, stage):
    for rank in two_ranks:
        start, loss_error, after_loss, *_, before_norm, norm_error, after_norm = rank[f"{stage}-disturbed"]
        assert isinstance(loss_error, TrainingError) and "the loss" in loss_error.message
        assert equal(start, after_loss)
        assert isinstance(norm_error, TrainingError) and "gradient norm" in norm_error.message
        assert equal(before_norm, after_norm)


@pytest.mark.parametrize("stage", STAGES)
def test_the_early_stop_takes_no_further_step(two_ranks, stage):
    for rank in two_ranks:
        _, _, before, metrics, after, *_ = rank[f"{stage}-disturbed"]
        assert metrics["approx_kl"] > TARGET_KL and metrics["optimizer_steps"] == 0
        assert equal(before, after)


@pytest.mark.parametrize("stage", STAGES)
def test_a_discarded_mini_batch_leaves_no_trace_in_the_next_update(two_ranks, stage):
    for rank in two_ranks:
        metrics, parameters = rank[f"{stage}-undisturbed"]
        *_, same_metrics, same_parameters, _, _ = rank[f"{stage}-disturbed"]
        assert metrics["optimizer_steps"] == 4 and same_metrics == metrics
        assert equal(parameters, same_parameters)


@pytest.mark.parametrize("stage", STAGES)
def test_the_canary_is_bit_identical_after_ten_updates(two_ranks, stage):
    for rank in two_ranks:
        before, *metrics, after = rank[f"{stage}-canary"]
        assert before == after and len(before) > 10
        assert metrics[-1]["approx_kl"] != pytest.approx(metrics[0]["approx_kl"], rel=1e-2)  # while the policy moved


@pytest.mark.parametrize("stage", STAGES)
def test_a_bfloat16_base_trains_float32_adapters_from_its_reference(two_ranks, stage):
    logprobs, ref_logprobs, metrics, adapter = two_ranks[0][f"{stage}-half"]
    np.testing.assert_array_equal(logprobs, ref_logprobs)
    assert all(tensor.dtype == torch.float32 for tensor in adapter.values())
    assert np.isfinite(list(metrics.values())).all()
    assert max(float(t.abs().max()) for name, t in adapter.items() if "lora_B" in name) > 0


@pytest.mark.parametrize("stage", STAGES)
def test_full_bfloat16_training_needs_float32_master_weights(two_ranks, stage):
    answers = two_ranks[0][f"{stage}-half-full"]
    if stage == 0:
        assert isinstance(answers, ConfigError) and "zero_stage" in str(answers)
        return
    before, metrics, after = answers
    assert not isinstance(metrics, MedrlError) and metrics["optimizer_steps"] == 4
    assert all(tensor.dtype == torch.bfloat16 for tensor in after.values())
    assert not equal(before, after)
