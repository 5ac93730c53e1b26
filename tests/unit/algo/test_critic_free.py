"""Critic-free advantages against the papers' definitions, written as loops over answers in float64."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medrl.algo.critic_free import GROUP_ADVANTAGES, returns_to_go
from medrl.algo.experience import make_experience
from medrl.config.algorithm import AlgorithmConfig
from medrl.config.rewards import RewardShaping
from tests.unit.algo.test_experience import make_batch

BETA = 0.1


def rloo_oracle(group: list[float]) -> list[float]:
    return [x - statistics.fmean(group[:i] + group[i + 1 :]) for i, x in enumerate(group)]


def grpo_oracle(group: list[float]) -> list[float]:
    return [(x - statistics.fmean(group)) / (statistics.stdev(group) + 1e-6) for x in group]


def centred_oracle(group: list[float]) -> list[float]:
    return [x - statistics.fmean(group) for x in group]


ORACLES = {
    "rloo": rloo_oracle, "grpo": grpo_oracle, "dr_grpo": centred_oracle, "reinforce_pp_baseline": centred_oracle,
}
SCORES = st.floats(-5, 5, allow_subnormal=False)


def test_every_group_advantage_has_an_oracle():
    assert GROUP_ADVANTAGES.keys() == ORACLES.keys()


@pytest.mark.parametrize("name", ORACLES)
@given(data=st.data())
def test_against_the_definition(name, data):
    size, groups = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 4))
    scores = [data.draw(st.lists(SCORES, min_size=size, max_size=size)) for _ in range(groups)]
    expected = [a for group in scores for a in ORACLES[name](group)]
    got = GROUP_ADVANTAGES[name](torch.tensor(scores, dtype=torch.float64).flatten(), size)
    assert got.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ORACLES)
def test_equal_answers_teach_nothing_and_bfloat16_scores_are_widened(name):
    got = GROUP_ADVANTAGES[name](torch.full((6,), 2.5, dtype=torch.bfloat16), 3)
    assert got.dtype == torch.float32 and got.tolist() == [0.0] * 6


def test_by_hand():
    scores = torch.tensor([1.0, 3.0, -1.0, -1.0])
    assert GROUP_ADVANTAGES["rloo"](scores, 2).tolist() == [-2.0, 2.0, 0.0, 0.0]
    assert GROUP_ADVANTAGES["grpo"](scores, 2).tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5, 0, 0], rel=1e-5)
    assert GROUP_ADVANTAGES["dr_grpo"](scores, 2).tolist() == [-1.0, 1.0, 0.0, 0.0]


def test_returns_to_go_sums_what_follows_inside_the_response_only():
    rewards = torch.tensor([[9.0, 1.0, 2.0, 3.0, float("nan")], [float("nan")] * 5, [0.0, 0.0, 0.0, 0.0, 4.0]])
    mask = torch.tensor([[0, 1, 1, 1, 0], [0] * 5, [0, 0, 0, 0, 1]])
    expected = [[0, 6, 5, 3, 0], [0] * 5, [0, 0, 0, 0, 4]]
    assert returns_to_go(rewards, mask).tolist() == expected


BATCH, NEW, REF, _, _ = make_batch([2, 2, 1, 1], [3, 1, 4, 2], [True, True, False, True])
RAW = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
MASK = BATCH.response_mask


def experience(advantage: str, **settings):
    algorithm = AlgorithmConfig.model_validate(
        {"advantage": advantage, "reward": RewardShaping(clip=None, missing_eos_penalty=0.0)} | settings)
    return make_experience(BATCH, RAW, NEW, REF, None, algorithm=algorithm, kl_coef=BETA, group_size=2)[0]


def spread(per_answer: list[float]) -> np.ndarray:
    return np.where(MASK, np.array(per_answer)[:, None], 0.0)


def whitened(x: np.ndarray) -> np.ndarray:
    return np.where(MASK, (x - x[MASK].mean()) / x[MASK].std(ddof=1), 0.0)


K1 = np.where(MASK, NEW.astype(np.float64) - REF, 0.0)
AFTER_KL = (RAW - BETA * K1.sum(1)).tolist()  # s′ = s − β·Σ k1


def groups_of(scores: list[float], oracle) -> list[float]:
    return oracle(scores[:2]) + oracle(scores[2:])


def test_rloo_takes_the_kl_off_the_score_first():
    e = experience("rloo")
    np.testing.assert_allclose(e.advantages, spread(groups_of(AFTER_KL, rloo_oracle)), atol=1e-5)
    assert (e.values == 0).all()


def test_grpo_keeps_the_kl_for_the_loss():
    e = experience("grpo")
    np.testing.assert_allclose(e.advantages, spread(groups_of(RAW.tolist(), grpo_oracle)), atol=1e-5)


def test_dr_grpo_does_not_divide_by_the_deviation():
    e = experience("dr_grpo")
    np.testing.assert_allclose(e.advantages, spread(groups_of(RAW.tolist(), centred_oracle)), atol=1e-6)


def test_reinforce_pp_whitens_the_score_less_the_kl_to_come():
    e = experience("reinforce_pp")
    to_go = np.zeros(MASK.shape)
    for i, t in zip(*MASK.nonzero(), strict=True):
        to_go[i, t] = RAW[i] - BETA * sum(K1[i, u] for u in range(t, MASK.shape[1]))
    np.testing.assert_allclose(e.advantages, whitened(to_go), atol=1e-5)
    np.testing.assert_allclose(e.returns, to_go * MASK, atol=1e-5)


def test_reinforce_pp_baseline_whitens_the_centred_scores():
    e = experience("reinforce_pp_baseline")
    np.testing.assert_allclose(e.advantages, whitened(spread(groups_of(RAW.tolist(), centred_oracle))), atol=1e-5)
