"""GAE against the O(n²) definition in float64, sequence by sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medrl.algo.advantages import gae


def oracle(rewards, values, gamma, lam, last):
    """A_t = Σ_l (γλ)^l δ_{t+l} as a double loop over one sequence's response tokens, float64."""
    n = len(rewards)
    following = [*values[1:], last]
    deltas = [rewards[t] + gamma * following[t] - values[t] for t in range(n)]
    return np.array([sum((gamma * lam) ** (u - t) * deltas[u] for u in range(t, n)) for t in range(n)])


@st.composite
def batches(draw):
    """Rows with a response anywhere in them, garbage everywhere else."""
    b, t = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = np.zeros((b, t), bool)
    for row in mask:
        start = draw(st.integers(0, t))
        row[start : start + draw(st.integers(0, t))] = True
    rewards, values = rng.normal(size=(2, b, t))
    garbage = rng.choice([np.nan, np.inf, 1e30], size=(b, t))
    unit = st.floats(0, 1)
    last = rng.normal(size=b) if draw(st.booleans()) else None
    return np.where(mask, rewards, garbage), np.where(mask, values, garbage), mask, draw(unit), draw(unit), last


@given(batches())
def test_against_the_definition(case):
    rewards, values, mask, gamma, lam, last = case
    args = (torch.tensor(x) for x in (rewards, values, mask))
    advantages, returns = gae(*args, gamma, lam, None if last is None else torch.tensor(last))
    assert advantages.dtype == returns.dtype == torch.float64
    for row, inside in enumerate(mask):
        expected = oracle(rewards[row, inside], values[row, inside], gamma, lam, 0.0 if last is None else last[row])
        np.testing.assert_allclose(advantages[row].numpy()[inside], expected, atol=1e-12)
        np.testing.assert_allclose(returns[row].numpy()[inside], expected + values[row, inside], atol=1e-12)
        assert (advantages[row].numpy()[~inside] == 0).all() and (returns[row].numpy()[~inside] == 0).all()


def test_by_hand():
    rewards, values = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.5, 1.0, 4.0]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3), 0.5, 0.5)
    # δ = 0 + ½·1 − ½, 1 + ½·4 − 1, 2 − 4 = 0, 2, −2; A = 0.375, 1.5, −2
    assert advantages.tolist() == [[0.375, 1.5, -2.0]]
    assert returns.tolist() == [[0.875, 2.5, 2.0]]


def test_lambda_one_gives_the_return_to_go():
    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[9.0, -4.0, 0.5]])
    _, returns = gae(rewards, values, torch.ones(1, 3), 1.0, 1.0)
    assert returns.tolist() == [[6.0, 5.0, 3.0]]


def test_length_one_and_nothing():
    mask = torch.tensor([[0, 1, 0], [0, 0, 0]])
    advantages, returns = gae(torch.full((2, 3), 2.0), torch.full((2, 3), 0.5), mask, 0.9, 0.9)
    assert advantages.tolist() == [[0, 1.5, 0], [0, 0, 0]]
    assert returns.tolist() == [[0, 2, 0], [0, 0, 0]]


@pytest.mark.parametrize("left", [0, 1, 3])
def test_padding_on_either_side_changes_nothing(left):
    rewards, values = torch.randn(2, 4), torch.randn(2, 4)
    padded = [torch.nn.functional.pad(x, (left, 3 - left)) for x in (rewards, values, torch.ones(2, 4))]
    plain = gae(rewards, values, torch.ones(2, 4), 0.97, 0.9)
    for ours, expected in zip(gae(*padded, 0.97, 0.9), plain, strict=True):
        torch.testing.assert_close(ours[:, left : left + 4], expected, atol=0, rtol=0)


def test_only_rows_with_a_bootstrap_value_go_on_after_the_last_token():
    ones = torch.ones(2, 2)
    advantages, _ = gae(ones, 0 * ones, ones, 1.0, 1.0, torch.tensor([0.0, 10.0]))
    assert advantages.tolist() == [[2, 1], [12, 11]]


def test_bf16_inputs_are_summed_in_float32():
    rewards = torch.full((1, 1000), 1.0, dtype=torch.bfloat16)
    advantages, _ = gae(rewards, torch.zeros_like(rewards), torch.ones(1, 1000), 1.0, 1.0)
    assert advantages[0, 0].item() == 1000 and advantages.dtype == torch.float32
