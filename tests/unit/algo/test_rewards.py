"""Score shaping and token rewards, by hand."""

from __future__ import annotations

import pytest
import torch

from medrl.algo.rewards import answer_penalties, shape_scores, token_rewards


def shape(raw, penalties=(0.0, 0.0, 0.0, 0.0), clip=None):
    return shape_scores(torch.tensor(raw), torch.tensor(penalties), clip=clip).tolist()


def test_clip_on_both_sides():
    assert shape([-9.0, -1.0, 1.0, 9.0], clip=2.0) == [-2, -1, 1, 2]


def test_the_penalty_comes_after_the_clip():
    assert shape([9.0, -9.0, 9.0, -9.0], (0.0, 0.0, 1.0, 1.0), clip=2.0) == [2, -2, 1, -3]


def test_bf16_scores_are_shaped_in_float32():
    shaped = shape_scores(torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([0.001]), clip=None)
    assert shaped.dtype == torch.float32 and shaped.item() == pytest.approx(0.999)


def test_each_penalty_is_of_its_own_quantity():
    ended, lengths = torch.tensor([True, False, True]), torch.tensor([9, 12, 10])
    repeated = torch.tensor([0.5, 0.0, 0.25])

    def penalties(missing_eos=0.0, length=0.0, repetition=0.0):
        return answer_penalties(ended, lengths, repeated, missing_eos=missing_eos, length=length, length_allowed=10,
                                repetition=repetition).tolist()

    assert penalties() == [0, 0, 0]
    assert penalties(missing_eos=1.5) == [0, 1.5, 0]
    assert penalties(length=0.25) == [0, 0.5, 0]  # two tokens too many
    assert penalties(repetition=2.0) == [1, 0, 0.5]
    assert penalties(1.5, 0.25, 2.0) == [1, 2, 0.5]


MASK = torch.tensor([
    [0, 0, 1, 1, 0],  # padded on the right
    [0, 0, 0, 1, 1],  # ends with the array
    [0, 1, 0, 0, 0],  # length 1
    [0, 0, 0, 0, 0],  # nothing
])


def test_score_on_the_last_token_and_kl_on_every_token():
    kl = torch.full((4, 5), 2.0)
    kl[0, 3] = -1.0  # an estimate may be negative
    rewards = token_rewards(torch.tensor([10.0, 20.0, 30.0, 40.0]), kl, MASK, 0.5)
    assert rewards.tolist() == [
        [0, 0, -1, 10.5, 0],
        [0, 0, 0, -1, 19],
        [0, 29, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_no_leash_and_no_leak():
    kl = torch.where(MASK == 1, 7.0, float("nan"))
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0, 4.0]), kl, MASK, 0.0)
    assert rewards.sum(1).tolist() == [1, 2, 3, 0]


def test_a_mask_with_a_hole_still_has_one_last_token():
    rewards = token_rewards(torch.tensor([5.0]), torch.zeros(1, 5), torch.tensor([[1, 0, 1, 0, 0]]), 1.0)
    assert rewards.tolist() == [[0, 0, 5, 0, 0]]
