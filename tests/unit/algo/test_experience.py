"""A rollout batch becomes experience: every number recomputed by hand or by plain loops."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.algo.experience import make_experience
from medrl.config.algorithm import AlgorithmConfig, KlConfig
from medrl.config.rewards import RewardShaping
from medrl.types import RolloutBatch

PLAIN = {"gamma": 1.0, "lam": 1.0, "whiten_advantages": False,
         "reward": RewardShaping(clip=None, missing_eos_penalty=0.0)}


def make_batch(prompt_lengths, answer_lengths, ended, seed=0):
    """Right-padded rows, and the log-probs (new, ref), values and last values a learner would give."""
    rng = np.random.default_rng(seed)
    width, b = max(p + n for p, n in zip(prompt_lengths, answer_lengths, strict=True)), len(ended)
    position = np.arange(width)[None]
    prompt, total = np.array(prompt_lengths)[:, None], np.add(prompt_lengths, answer_lengths)[:, None]
    response = (position >= prompt) & (position < total)
    new, ref, engine, values = np.where(response, rng.normal(-1, 0.5, size=(4, b, width)), 0).astype(np.float32)
    batch = RolloutBatch(rng.integers(1, 9, (b, width)), position < total, response, engine, np.array(ended))
    return batch, new, ref, values, rng.normal(size=b).astype(np.float32)


BATCH, NEW, REF, VALUES, LAST = make_batch([2, 1, 3], [3, 4, 1], [True, False, True])
RAW = np.array([1.0, 5.0, -3.0], np.float32)


def experience(*, kl_coef=0.1, **settings):
    algorithm = AlgorithmConfig(**(PLAIN | settings))
    return make_experience(BATCH, RAW, NEW, REF, (VALUES, LAST), algorithm=algorithm, kl_coef=kl_coef)


def rows_of(array):
    return [array[i, inside].astype(np.float64) for i, inside in enumerate(BATCH.response_mask)]


def test_rewards_advantages_and_returns():
    e, _ = experience()
    per_token = [rows_of(x) for x in (NEW - REF, VALUES, e.rewards, e.advantages, e.returns)]
    for score, k1, v, rewards, advantages, returns in zip(RAW, *per_token, strict=True):
        expected = -0.1 * k1
        expected[-1] += score
        to_go = expected[::-1].cumsum()[::-1]  # γ = λ = 1
        np.testing.assert_allclose(rewards, expected, atol=1e-6)
        np.testing.assert_allclose(returns, to_go, atol=1e-5)
        np.testing.assert_allclose(advantages, to_go - v, atol=1e-5)


def test_nothing_stands_outside_the_response():
    e, _ = experience(whiten_advantages=True)
    for name in ("logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns", "importance"):
        assert (getattr(e, name)[~BATCH.response_mask] == 0).all(), name
        assert getattr(e, name).dtype == np.float32, name


def test_scores_are_clipped_then_penalised():
    e, _ = experience(reward=RewardShaping(clip=2.0, missing_eos_penalty=0.5))
    assert e.scores.tolist() == [1.0, 1.5, -2.0]  # 5 → 2 − 0.5: cut by the token limit
    assert e.raw_scores.tolist() == RAW.tolist()


def test_length_and_repetition_are_taken_off_the_clipped_score():
    ids = np.where(BATCH.response_mask, 7, BATCH.ids)  # row 1 says one 4-gram of 7s, row 0 and 2 are too short for any
    ids[1, :] = [3, 7, 7, 7, 7, *[0] * (ids.shape[1] - 5)]
    batch = dataclasses.replace(BATCH, ids=ids)
    shaping = RewardShaping(clip=2.0, missing_eos_penalty=0.5, length_penalty=0.25, length_allowed=2,
                            repetition_penalty=3.0)
    algorithm = AlgorithmConfig(**(PLAIN | {"reward": shaping}))
    e, metrics = make_experience(batch, RAW, NEW, REF, (VALUES, LAST), algorithm=algorithm, kl_coef=0.0)
    assert e.scores.tolist() == [1 - 0.25, 2 - 0.5 - 0.5, -2.0]  # 3, 4 and 1 tokens; one 4-gram repeats nothing
    assert metrics["penalty_mean"] == pytest.approx((0.25 + 1.0) / 3)


def test_only_the_answer_s_own_words_count_as_repetition():
    batch, new, ref, values, last = make_batch([6], [8], [True])
    ids = np.full_like(batch.ids, 5)  # the prompt repeats itself as well
    ids[0, 6:] = [5, 5, 5, 5, 5, 1, 2, 3]  # 4-grams: 5555 twice, 5551, 5512, 5123
    shaping = RewardShaping(clip=None, repetition_penalty=1.0)
    algorithm = AlgorithmConfig(**(PLAIN | {"reward": shaping}))
    e, _ = make_experience(dataclasses.replace(batch, ids=ids), np.zeros(1, np.float32), new, ref, (values, last),
                           algorithm=algorithm, kl_coef=0.0)
    assert e.scores.tolist() == pytest.approx([-1 / 5])


def test_kl_as_a_loss_leaves_the_rewards_alone():
    e, metrics = experience(kl=KlConfig(use="loss", estimator="k2"))
    assert e.rewards.sum(1).tolist() == RAW.tolist()
    assert metrics["kl_sum_mean"] == pytest.approx((NEW - REF).sum() / 3, rel=1e-5)  # reported all the same


@pytest.mark.parametrize(("estimator", "formula"), [("k2", lambda x: x**2 / 2), ("k3", lambda x: np.exp(-x) - 1 + x)])
def test_other_estimators_in_the_reward(estimator, formula):
    e, metrics = experience(kl=KlConfig(estimator=estimator))
    expected = [-0.1 * formula(x) for x in rows_of(NEW - REF)]
    for row, score in zip(expected, RAW, strict=True):
        row[-1] += score
    np.testing.assert_allclose(np.concatenate(rows_of(e.rewards)), np.concatenate(expected), atol=1e-5)
    assert metrics["kl_sum_mean"] == pytest.approx((NEW - REF).sum() / 3, rel=1e-5)  # k1, for the controller


def test_only_cut_answers_bootstrap():
    plain, _ = experience()
    e, _ = experience(bootstrap_truncated=True)
    gain = [(a - b).tolist() for a, b in zip(rows_of(e.returns), rows_of(plain.returns), strict=True)]
    assert gain[0] == [0, 0, 0] and gain[2] == [0]
    assert gain[1] == pytest.approx([LAST[1]] * 4, abs=1e-5)


def test_whitening_is_over_the_whole_batch_and_spares_the_returns():
    plain, _ = experience()
    e, _ = experience(whiten_advantages=True)
    kept = plain.advantages[BATCH.response_mask].astype(np.float64)
    np.testing.assert_allclose(e.advantages[BATCH.response_mask], (kept - kept.mean()) / kept.std(ddof=1), atol=1e-5)
    np.testing.assert_array_equal(e.returns, plain.returns)


def test_importance_is_learner_over_engine():
    assert (experience()[0].importance == BATCH.response_mask).all()
    e, metrics = experience(importance="truncate", importance_cap=1.2)
    expected = np.minimum(np.exp((NEW - BATCH.engine_logprobs)[BATCH.response_mask]), 1.2)
    np.testing.assert_allclose(e.importance[BATCH.response_mask], expected, rtol=1e-5)
    assert metrics["importance_mean"] == pytest.approx(expected.mean(), rel=1e-5)


def test_metrics():
    e, metrics = experience(reward=RewardShaping(clip=2.0, missing_eos_penalty=0.5), kl_coef=0.3)
    inside = BATCH.response_mask
    gap = (BATCH.engine_logprobs - NEW)[inside].astype(np.float64)
    k1 = (NEW - REF)[inside].astype(np.float64)
    shaped = np.array([1.0, 1.5, -2.0])
    assert metrics == pytest.approx({
        "score_mean": shaped.mean(), "score_std": shaped.std(),
        "raw_score_mean": 1.0, "raw_score_std": RAW.std(),
        "reward_mean": shaped.mean() - 0.3 * k1.sum() / 3,
        "kl_sum_mean": k1.sum() / 3, "kl_token_mean": k1.mean(),
        "returns_mean": e.returns[inside].mean(),
        "length_mean": 8 / 3, "ended_fraction": 2 / 3,
        "engine_gap_mean": np.abs(gap).mean(), "engine_gap_max": np.abs(gap).max(),
        "engine_gap_k3": (np.exp(-gap) - 1 + gap).mean(), "importance_mean": 1.0, "penalty_mean": 0.5 / 3,
    }, rel=1e-4)
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())


def test_arrays_from_shared_memory_are_read_only():
    arrays = [a.copy() for a in (RAW, NEW, REF, VALUES, LAST)]
    for array in arrays:
        array.setflags(write=False)
    algorithm = AlgorithmConfig(**PLAIN)
    e, _ = make_experience(BATCH, *arrays[:3], tuple(arrays[3:]), algorithm=algorithm, kl_coef=0.1)
    np.testing.assert_array_equal(e.advantages, experience()[0].advantages)


ROWS = st.tuples(st.integers(1, 4), st.integers(1, 5), st.booleans())  # prompt tokens, answer tokens, ended


@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(0, 99))
def test_an_answer_does_not_see_its_neighbours(rows, seed):
    """Without whitening, each answer alone gives what it gives in the batch: padding and other rows do not matter."""
    batch, new, ref, values, last = make_batch(*zip(*rows, strict=True), seed=seed)
    raw = np.arange(len(rows), dtype=np.float32)
    settings = {"algorithm": AlgorithmConfig(**(PLAIN | {"lam": 0.9, "bootstrap_truncated": True})),
                "kl_coef": 0.2}
    together, _ = make_experience(batch, raw, new, ref, (values, last), **settings)
    for i in range(len(rows)):
        row = np.array([i])
        width = int(batch.attention_mask[i].sum())
        alone, _ = make_experience(
            batch.rows(row), raw[row], new[row, :width], ref[row, :width], (values[row, :width], last[row]),
            **settings)
        for name in ("rewards", "advantages", "returns", "scores"):
            np.testing.assert_allclose(getattr(alone, name), getattr(together.rows(row), name), atol=1e-6)
