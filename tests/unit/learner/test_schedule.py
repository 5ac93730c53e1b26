"""Row sets and learning rates: properties that hold for any shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.learner.schedule import lr_factor, minibatch_schedule, rank_shares

sizes = st.integers(1, 40)


@given(n=sizes, epochs=st.integers(1, 4), mini_batches=st.integers(1, 8), seed=st.integers(0, 2**63 - 1))
def test_every_epoch_sees_every_row_once(n, epochs, mini_batches, seed):
    schedule = minibatch_schedule(n, epochs, mini_batches, seed)
    assert [len(epoch) for epoch in schedule] == [mini_batches] * epochs
    for epoch in schedule:
        assert sorted(np.concatenate(epoch)) == list(range(n))
        assert max(map(len, epoch)) - min(map(len, epoch)) <= 1


def test_epochs_and_seeds_differ_and_the_same_seed_repeats():
    def flat(seed: int) -> list[list[int]]:
        return [np.concatenate(epoch).tolist() for epoch in minibatch_schedule(32, 2, 4, seed)]

    assert flat(5) == flat(5)
    assert flat(5) != flat(6)
    assert flat(5)[0] != flat(5)[1]


@given(lengths=st.lists(st.integers(1, 99), min_size=1, max_size=40), world=st.integers(1, 9))
def test_ranks_get_about_the_same_number_of_tokens(lengths, world):
    shares = rank_shares(np.array(lengths), world)
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(lengths)))
    tokens = [sum(lengths[row] for row in share) for share in shares]
    assert max(tokens) - min(tokens) <= max(lengths)
    assert len(lengths) < world or all(len(share) for share in shares)


def test_rows_are_dealt_by_hand():
    shares = rank_shares(np.array([3, 9, 4, 4, 1]), 2)
    assert [share.tolist() for share in shares] == [[1, 4], [2, 3, 0]]


def test_linear_schedule_by_hand():
    factor = lr_factor("linear", warmup=3, total=8)
    assert [factor(step) for step in range(10)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0])


def test_constant_schedule_by_hand():
    factor = lr_factor("constant", warmup=1, total=3)
    assert [factor(step) for step in range(5)] == pytest.approx([0.5, 1, 1, 1, 1])


@given(warmup=st.integers(0, 20), total=st.integers(1, 40), schedule=st.sampled_from(["linear", "constant"]))
def test_the_learning_rate_is_positive_on_every_step_of_the_run_and_never_above_the_peak(warmup, total, schedule):
    factors = [lr_factor(schedule, warmup, total)(step) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1]) and factors[peak:] == sorted(factors[peak:], reverse=True)
