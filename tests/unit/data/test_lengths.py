"""Rows longer than training.max_length under each policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrl.data.chat import encode_answer, encode_conversation, encode_prompt
from medrl.data.lengths import Fitter
from medrl.types import Conversation

SYSTEM = {"role": "system", "content": "Be kind."}
TALK = [
    {"role": "user", "content": "What helps with a cold?"}, {"role": "assistant", "content": "Rest and drink water."},
    {"role": "user", "content": "感冒了怎么办？"}, {"role": "assistant", "content": "多休息，多喝水。"},
    {"role": "user", "content": "And now?"}, {"role": "assistant", "content": "Rest."},
]
ROW = Conversation((SYSTEM, *TALK))
HEADER = "<|im_start|>assistant\n"


def whole(tokenizer, messages) -> tuple[list[int], list[int]]:
    return encode_conversation(tokenizer, messages)


@given(limit=st.integers(1, 150))
def test_left_leaves_out_the_oldest_turns_and_never_the_systems(tokenizer, limit):
    candidates = [whole(tokenizer, [SYSTEM, *TALK[start:]]) for start in (0, 2, 4)]
    fitter = Fitter(tokenizer, limit, "left")
    expected = next((found for found in candidates if len(found[0]) <= limit), candidates[0])
    assert fitter.conversation(ROW) == expected
    assert fitter.cut == int(expected in candidates[1:])


@given(limit=st.integers(1, 150))
def test_right_ends_within_an_answer_or_after_one(tokenizer, limit):
    ids, mask = whole(tokenizer, ROW.messages)
    fitter = Fitter(tokenizer, limit, "right")
    kept, learned = fitter.conversation(ROW)
    if limit >= len(ids) or not any(mask[:limit]):
        assert (kept, learned, fitter.cut) == (ids, mask, 0)  # as it is: too long to be shortened
        return
    assert kept == ids[: len(kept)] and learned == mask[: len(kept)] and fitter.cut == 1
    assert learned[-1] == 1 and sum(learned) == sum(mask[:limit])
    first = learned.index(1)
    assert tokenizer.decode(kept[:first]).endswith(HEADER) and mask[first - 1] == 0


@given(limit=st.integers(1, 150), too_long=st.sampled_from(["drop", "left", "right"]))
def test_no_policy_touches_a_row_that_fits_and_every_answer_keeps_its_start(tokenizer, limit, too_long):
    ids, mask = whole(tokenizer, ROW.messages)
    kept, learned = Fitter(tokenizer, limit, too_long).conversation(ROW)
    if len(ids) <= limit or too_long == "drop":
        assert (kept, learned) == (ids, mask)
    for start in (i for i in range(1, len(learned)) if learned[i] and not learned[i - 1]):
        header = tokenizer.encode(HEADER, add_special_tokens=False)
        assert kept[start - len(header) : start] == header


def whole_answers(fitter: Fitter, context, answers) -> list[list[int]]:
    prompt, replies = fitter.answers(context, answers)
    return [prompt + reply for reply in replies]


@pytest.mark.parametrize("limit", range(10, 90, 7))
def test_both_answers_of_a_pair_keep_the_same_prompt(tokenizer, limit):
    context, answers = (SYSTEM, *TALK[:3]), ("多休息，多喝水。", "Rest and drink water, and rest.")
    full = [encode_answer(tokenizer, context, answer, ended=True) for answer in answers]
    later = [encode_answer(tokenizer, (SYSTEM, TALK[2]), answer, ended=True) for answer in answers]
    longest, prompt = max(map(len, full)), encode_prompt(tokenizer, context)
    left, right = (whole_answers(Fitter(tokenizer, limit, side), context, answers) for side in ("left", "right"))
    assert left == (full if longest <= limit or max(map(len, later)) > limit else later)
    assert right == (full if longest <= limit or limit <= len(prompt) else [ids[:limit] for ids in full])
    assert all(ids[: len(prompt)] == prompt for ids in right)


def test_a_pair_whose_answers_differ_only_where_they_would_be_cut_is_not_cut(tokenizer):
    answers = ("Rest and drink water.", "Rest and drink tea.")
    full = [encode_answer(tokenizer, TALK[:1], answer, ended=True) for answer in answers]
    limit = len(encode_prompt(tokenizer, TALK[:1])) + 1
    fitter = Fitter(tokenizer, limit, "right")
    assert whole_answers(fitter, TALK[:1], answers) == full and fitter.cut == 0
