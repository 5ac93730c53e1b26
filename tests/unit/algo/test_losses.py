"""PPO's losses against scalar Python, token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medrl.algo.losses import importance_weights, policy_loss, policy_ratio, token_weights, value_loss

LOG = st.floats(-30, 0)
REAL = st.floats(-10, 10)


def f64(*values):
    return [torch.tensor([[v]], dtype=torch.float64) for v in values]


@given(LOG, LOG, REAL, st.floats(0.01, 0.9), st.floats(0.01, 2.0), st.none() | st.floats(1.01, 5))
def test_policy_loss_is_the_formula(new, old, advantage, low, high, dual):
    ratio = math.exp(min(max(new - old, -20), 20))
    expected = max(-advantage * ratio, -advantage * min(max(ratio, 1 - low), 1 + high))
    if dual is not None and advantage < 0:
        expected = min(expected, -advantage * dual)
    ours = policy_loss(*f64(new, old, advantage), clip_low=low, clip_high=high, dual_clip=dual)
    assert ours.item() == pytest.approx(expected, rel=1e-12)


# (ratio, A) → loss and d loss / d log π, ε_low 0.2, ε_high 0.3, dual clip 3
CASES = [
    (1.0, 2.0, -2.0, -2.0),  # ratio 1: the plain policy gradient
    (1.25, 2.0, -2.5, -2.5),  # inside the upper bound
    (1.5, 2.0, -2.6, 0.0),  # above it with A > 0: cut
    (0.5, 2.0, -1.0, -1.0),  # A > 0 below: pulled back up
    (0.5, -2.0, 1.6, 0.0),  # below with A < 0: cut
    (0.9, -2.0, 1.8, 1.8),
    (1.5, -2.0, 3.0, 3.0),  # A < 0 above: pushed back down
    (4.0, -2.0, 6.0, 0.0),  # dual clip
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient"), CASES)
def test_policy_loss_and_gradient_by_hand(ratio, advantage, loss, gradient):
    new, old, a = f64(math.log(ratio), 0.0, advantage)
    ours = policy_loss(new.requires_grad_(), old, a, clip_low=0.2, clip_high=0.3, dual_clip=3.0)
    ours.sum().backward()
    assert ours.item() == pytest.approx(loss)
    assert new.grad.item() == pytest.approx(gradient, abs=1e-12)


def test_the_dual_clip_is_off_by_default():
    new, old, a = f64(math.log(4.0), 0.0, -2.0)
    assert policy_loss(new, old, a, clip_low=0.2, clip_high=0.2).item() == pytest.approx(8.0)


def test_importance_multiplies_and_is_detached():
    new, old, a, w = f64(0.0, 0.0, 2.0, 0.5)
    new.requires_grad_(), w.requires_grad_()
    loss = policy_loss(new, old, a, clip_low=0.2, clip_high=0.2, importance=w)
    loss.sum().backward()
    assert loss.item() == -1.0 and new.grad.item() == -1.0 and w.grad is None


def test_the_ratio_is_one_at_the_old_policy_and_finite_far_from_it():
    logprobs = torch.tensor([[-1.25, -300.0, 0.0]])
    assert policy_ratio(logprobs, logprobs).tolist() == [[1, 1, 1]]
    far = policy_ratio(torch.tensor([[0.0, -1e4]]), torch.tensor([[-1e4, 0.0]]))
    assert far.tolist()[0] == pytest.approx([math.exp(20), math.exp(-20)])


def test_bf16_log_probs_are_subtracted_in_float32():
    new, old = torch.tensor([[-100.0]], dtype=torch.bfloat16), torch.tensor([[-99.5]], dtype=torch.bfloat16)
    loss = policy_loss(new, old, torch.ones(1, 1, dtype=torch.bfloat16), clip_low=0.9, clip_high=0.2)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-math.exp(-0.5))


@given(REAL, REAL, REAL, st.none() | st.floats(0.01, 5))
def test_value_loss_is_the_formula(value, old, target, clip):
    expected = (value - target) ** 2
    if clip is not None:
        expected = max(expected, (min(max(value, old - clip), old + clip) - target) ** 2)
    assert value_loss(*f64(value, old, target), clip).item() == pytest.approx(expected / 2, rel=1e-12, abs=1e-15)


# V, V_old, R, ε_v → loss and gradient
VALUE_CASES = [
    (1.0, 1.0, 3.0, 0.2, 2.0, -2.0),
    (2.0, 1.0, 3.0, 0.2, 0.5 * 1.8**2, 0.0),  # moved too far towards the return: cut
    (0.0, 1.0, 3.0, 0.2, 4.5, -3.0),  # moved away from it: pulled back
    (2.0, 1.0, 3.0, None, 0.5, -1.0),
]


@pytest.mark.parametrize(("value", "old", "target", "clip", "loss", "gradient"), VALUE_CASES)
def test_value_loss_and_gradient_by_hand(value, old, target, clip, loss, gradient):
    v, v_old, r = f64(value, old, target)
    ours = value_loss(v.requires_grad_(), v_old, r, clip)
    ours.sum().backward()
    assert ours.item() == pytest.approx(loss)
    assert v.grad.item() == pytest.approx(gradient, abs=1e-12)


MASK = torch.tensor([
    [0, 1, 1, 1, 0],
    [0, 0, 0, 0, 1],
    [0, 0, 0, 0, 0],  # an answer without response tokens is no answer
])
LOSSES = torch.tensor([[9.0, 1.0, 2.0, 3.0, 9.0], [9.0, 9.0, 9.0, 9.0, 10.0], [9.0] * 5])


@pytest.mark.parametrize(("aggregation", "expected"), [
    ("token_mean", 16 / 4),
    ("sequence_mean", (2 + 10) / 2),
    ("token_sum", 16 / (2 * 8)),
])
def test_aggregation_by_hand(aggregation, expected):
    weights = token_weights(MASK, aggregation, max_tokens=8)
    assert (weights * LOSSES).sum().item() == pytest.approx(expected)


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "token_sum"])
def test_a_mini_batch_without_tokens_weighs_nothing(aggregation):
    assert token_weights(torch.zeros(2, 3), aggregation, max_tokens=4).tolist() == [[0] * 3] * 2


def importance(old, engine, mode, cap=2.0, mask=1):
    return importance_weights(*f64(old, engine), torch.tensor([[mask]]), mode, cap).item()


@pytest.mark.parametrize(("mode", "log_weight", "expected"), [
    ("off", 5.0, 1.0),
    ("truncate", 0.0, 1.0),
    ("truncate", math.log(1.5), 1.5),
    ("truncate", math.log(3.0), 2.0),  # the cap
    ("truncate", math.log(0.1), 0.1),  # no lower bound
    ("truncate", -1e4, math.exp(-20)),
    ("mask", math.log(1.9), 1.9),
    ("mask", math.log(2.1), 0.0),
    ("mask", math.log(0.51), 0.51),
    ("mask", math.log(0.49), 0.0),
])
def test_importance_weights_by_hand(mode, log_weight, expected):
    assert importance(log_weight - 1.0, -1.0, mode) == pytest.approx(expected)
    assert importance(log_weight - 1.0, -1.0, mode, mask=0) == 0.0


def test_importance_weights_make_engine_samples_stand_for_the_learner():
    rng = torch.Generator().manual_seed(1)
    learner, engine, f = torch.randn(3, 1, 7, generator=rng, dtype=torch.float64)
    learner, engine = learner.log_softmax(-1), engine.log_softmax(-1)
    weights = importance_weights(learner, engine, torch.ones(1, 7), "truncate", cap=1e9)
    ours = (engine.exp() * weights * f).sum().item()  # E_engine[w f]
    assert ours == pytest.approx(float(np.dot(learner.exp().numpy()[0], f.numpy()[0])), abs=1e-12)


def test_sequence_level_weights_are_the_product_over_the_answer():
    old = torch.tensor([[-1.0, -2.0, -0.5, 9.0], [-1.0, 9.0, 9.0, 9.0]]).double()
    engine = torch.tensor([[-1.2, -1.9, -0.9, 0.0], [-1.5, 0.0, 0.0, 0.0]]).double()
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    first, second = math.exp(0.2 - 0.1 + 0.4), math.exp(0.5)
    for mode, cap, expected in (("truncate", 9.0, [first, second]), ("truncate", 1.5, [1.5, 1.5]),
                                ("mask", 1.648, [0.0, 0.0]), ("mask", 1.65, [first, second])):
        weights = importance_weights(old, engine, mask, mode, cap, "sequence")
        np.testing.assert_allclose(weights, mask * np.array(expected)[:, None], rtol=1e-6)


def test_importance_weights_carry_no_gradient():
    old = torch.zeros(1, 1, requires_grad=True)
    assert not importance_weights(old, torch.zeros(1, 1), torch.ones(1, 1), "truncate", 2.0).requires_grad
