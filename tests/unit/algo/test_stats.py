"""Losses and metrics do not depend on how a mini-batch's rows are shared among micro-batches and ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medrl.algo.losses import (
    finish_stats,
    merge_stats,
    policy_loss,
    policy_stats,
    token_weights,
    value_loss,
    value_stats,
)

CLIPS = {"clip_low": 0.2, "clip_high": 0.3}


def make_rows(seed, b, t):
    rng = np.random.default_rng(seed)
    data = {name: torch.tensor(rng.normal(size=(b, t))) for name in ("advantages", "old_values", "values", "returns")}
    data["old"] = -torch.tensor(rng.exponential(size=(b, t)))
    data["new"] = data["old"] + torch.tensor(rng.normal(scale=0.4, size=(b, t)))
    data["entropy"] = torch.tensor(rng.exponential(size=(b, t)))
    data["mask"] = torch.tensor(rng.random((b, t)) < rng.choice([0.0, 0.3, 1.0], size=(b, 1)))
    return data


def policy_part(d, rows):
    d = {name: x[rows] for name, x in d.items()}
    loss = policy_loss(d["new"], d["old"], d["advantages"], **CLIPS)
    return loss, policy_stats(d["new"], d["old"], d["advantages"], d["mask"], loss=loss, entropy=d["entropy"], **CLIPS)


def value_part(d, rows):
    d = {name: x[rows] for name, x in d.items()}
    loss = value_loss(d["values"], d["old_values"], d["returns"], 0.5)
    return loss, value_stats(d["values"], d["old_values"], d["returns"], d["mask"], clip=0.5, loss=loss)


@st.composite
def shared_rows(draw):
    b, t = draw(st.integers(1, 8)), draw(st.integers(1, 5))
    order = draw(st.permutations(range(b)))
    cuts = sorted(draw(st.lists(st.integers(0, b), max_size=4)))  # equal cuts: a share without rows
    shares = np.split(np.array(order), cuts)
    return make_rows(draw(st.integers(0, 2**32 - 1)), b, t), shares


@pytest.mark.parametrize("part", [policy_part, value_part])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "token_sum"])
@given(shared_rows())
def test_shares_add_up_to_the_whole(part, aggregation, case):
    data, shares = case
    everything = np.arange(len(data["mask"]))
    weights = token_weights(data["mask"], aggregation, max_tokens=9)
    whole_loss, whole = part(data, everything)
    parts = [(rows, *part(data, rows)) for rows in shares]
    assert sum((weights[rows] * loss).sum().item() for rows, loss, _ in parts) == pytest.approx(
        (weights * whole_loss).sum().item(), abs=1e-9)
    expected = finish_stats(whole)
    assert finish_stats(merge_stats(stats for *_, stats in parts)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_policy_metrics_by_hand():
    ratio = torch.tensor([[1.0, 1.5, 0.5, 1.5, 0.5, 99.0]], dtype=torch.float64)
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0, 1.0, 1.0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    old = torch.full_like(ratio, -3.0)
    stats = policy_stats(
        old + ratio.log(), old, advantages, mask,
        loss=torch.arange(6.0)[None], entropy=torch.full((1, 6), 0.7), **CLIPS)
    metrics = finish_stats(stats)
    kept = ratio[0, :5].numpy()
    assert metrics == pytest.approx({
        "policy_loss": 2.0,
        "ratio_mean": kept.mean(),
        "ratio_max": 1.5,
        "clip_fraction_low": 1 / 5,  # 0.5 with A < 0 alone
        "clip_fraction_high": 1 / 5,  # 1.5 with A > 0 alone
        "approx_kl": (kept - 1 - np.log(kept)).mean(),
        "entropy": 0.7,
    })


def test_approx_kl_is_the_kl_from_old_to_new():
    """Its mean over the old policy's tokens, summed exactly over a vocabulary, is KL(old‖new)."""
    old, new = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).log_softmax(-1)
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    k3 = [policy_stats(new[:, v:v + 1], old[:, v:v + 1], zero, one, loss=zero, **CLIPS)["approx_kl"] for v in range(6)]
    exact = (old.exp() * (old - new)).sum().item()
    assert float(np.dot(old.exp().numpy()[0], k3)) == pytest.approx(exact, abs=1e-12)


def test_value_metrics_by_hand():
    old_values = torch.tensor([[1.0, 2.0, 3.0, 50.0]])
    values = torch.tensor([[1.0, 2.4, 3.8, 50.0]])
    returns = torch.tensor([[1.0, 3.0, 5.0, -50.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    loss = torch.tensor([[3.0, 4.0, 5.0, 9.0]])
    metrics = finish_stats(value_stats(values, old_values, returns, mask, clip=0.5, loss=loss))
    variance = np.var([1, 3, 5])
    assert metrics == pytest.approx({
        "value_loss": 4.0,
        "value_mean": 2.4,
        "returns_mean": 3.0,
        "value_clip_fraction": 1 / 3,
        "explained_variance": 1 - np.var([0, 1, 2]) / variance,
    })


def test_explained_variance_of_constant_returns_is_zero():
    ones = torch.ones(1, 3)
    assert finish_stats(value_stats(0 * ones, 0 * ones, ones, ones, clip=None, loss=ones))["explained_variance"] == 0


def test_no_tokens_at_all_give_finite_metrics():
    empty = torch.zeros(2, 3)
    policy = policy_stats(empty, empty, empty, empty, loss=empty, entropy=empty, **CLIPS)
    value = value_stats(empty, empty, empty, empty, clip=0.2, loss=empty)
    for stats in (policy, value):
        assert set(finish_stats(stats).values()) == {0.0}
