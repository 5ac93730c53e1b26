from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrl.config.ppo import PromptData
from medrl.data.chat import encode_prompt
from medrl.data.prompts import PromptStream, build_prompts
from medrl.errors import CheckpointError, DataError
from medrl.types import Prompt

LONG = "我昨天 slept badly, 今天头疼 and I feel sick. " * 8


def write(tmp_path, *texts: str):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def config(path, **settings) -> PromptData:
    return PromptData(prompts=str(path), **settings)


def test_ids_are_stable_and_repeats_get_a_suffix(tmp_path, tokenizer):
    path = write(tmp_path, "cold?", "flu?", "cold?", "cold?")
    first = build_prompts(path, tokenizer, config(path))
    cold, flu = first[0].id, first[1].id
    assert cold != flu and [p.id for p in first] == [cold, flu, f"{cold}-2", f"{cold}-3"]
    assert cold == "8334a3466a21ea4f"  # ids of old runs must not change
    assert first[0].ids == tuple(encode_prompt(tokenizer, [{"role": "user", "content": "cold?"}]))


def test_too_long_error_names_the_numbers_not_the_text(tmp_path, tokenizer):
    path = write(tmp_path, "cold?", LONG)
    with pytest.raises(DataError, match="prompt 2 is longer") as caught:
        build_prompts(path, tokenizer, config(path, max_prompt_tokens=30))
    assert "≤ 30 tokens" in str(caught.value) and "slept" not in str(caught.value)


def test_too_long_drop_is_counted(tmp_path, tokenizer):
    path = write(tmp_path, LONG, "cold?", LONG + "!")
    notes: list[str] = []
    prompts = build_prompts(path, tokenizer, config(path, max_prompt_tokens=30, too_long="drop"), notes.append)
    assert [p.messages[0]["content"] for p in prompts] == ["cold?"]
    assert len(notes) == 1 and "2 of 3 prompts" in notes[0] and "dropped" in notes[0]
    only_long = write(tmp_path, LONG)
    with pytest.raises(DataError, match="every prompt is longer"):
        build_prompts(only_long, tokenizer, config(only_long, max_prompt_tokens=30, too_long="drop"), notes.append)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("limit", [20, 33, 100])
def test_too_long_cut_keeps_as_much_as_fits(tmp_path, tokenizer, side, limit):
    path = write(tmp_path, LONG, "cold?")
    notes: list[str] = []
    cut, short = build_prompts(path, tokenizer, config(path, max_prompt_tokens=limit, too_long=side), notes.append)
    text = cut.messages[0]["content"]
    assert LONG.endswith(text) if side == "left" else LONG.startswith(text)
    assert limit - 3 <= len(cut.ids) <= limit  # one character is at most 3 tokens here
    assert (
        short.messages[0]["content"] == "cold?"
        and f"1 of 2 prompts were longer than {limit} tokens and were cut on the {side}" in notes[0]
    )


def test_a_prompt_too_long_before_its_last_turn_cannot_be_cut(tmp_path, tokenizer):
    path = tmp_path / "p.jsonl"
    path.write_text(
        json.dumps({"messages": [{"role": "system", "content": LONG}, {"role": "user", "content": "cold?"}]}),
        encoding="utf-8",
    )
    with pytest.raises(DataError, match="does not fit data.max_prompt_tokens"):
        build_prompts(path, tokenizer, config(path, max_prompt_tokens=30, too_long="left"))


def make_prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p{i}", ({"role": "user", "content": str(i)},), (i,)) for i in range(count)]


@settings(deadline=None)
@given(count=st.integers(1, 20), data=st.data(), shuffle=st.booleans())
def test_stream_deals_every_prompt_once_a_pass_and_never_twice_a_batch(count, data, shuffle):
    batch = data.draw(st.integers(1, count))
    stream = PromptStream(make_prompts(count), batch, seed=3, shuffle=shuffle)
    dealt = [stream.next_batch() for _ in range(3 * count)]  # exactly 3 × batch passes
    assert all(len({p.id for p in b}) == batch for b in dealt)
    flat = [p.id for b in dealt for p in b]
    for start in range(0, len(flat), count):
        assert len(set(flat[start : start + count])) == count
    assert set(Counter(flat).values()) == {3 * batch}


def test_stream_order_depends_on_seed_and_pass():
    prompts = make_prompts(16)

    def passes(seed: int, shuffle: bool = True) -> list[list[str]]:
        stream = PromptStream(prompts, 16, seed, shuffle)
        return [[p.id for p in stream.next_batch()] for _ in range(2)]

    assert passes(1) == passes(1) != passes(2)
    assert passes(1)[0] != passes(1)[1]
    assert passes(1, shuffle=False) == [[p.id for p in prompts]] * 2


@pytest.mark.parametrize("done", [0, 1, 5, 9])
def test_stream_continues_from_its_state(done):
    stream = PromptStream(make_prompts(10), 4, seed=1, shuffle=True)
    for _ in range(done):
        stream.next_batch()
    state = json.loads(json.dumps(stream.state()))
    expected = [stream.next_batch() for _ in range(7)]
    other = PromptStream(make_prompts(10), 4, seed=1, shuffle=True)
    other.next_batch()
    other.load(state)
    assert [other.next_batch() for _ in range(7)] == expected


def test_stream_refuses_the_state_of_another_and_too_few_prompts():
    state = PromptStream(make_prompts(10), 4, seed=1, shuffle=True).state()
    for other in (
        PromptStream(make_prompts(11), 4, 1, True),
        PromptStream(make_prompts(10), 5, 1, True),
        PromptStream(make_prompts(10), 4, 2, True),
    ):
        with pytest.raises(CheckpointError, match="other prompts, batch size, seed or order"):
            other.load(state)
    with pytest.raises(DataError, match="fewer prompts than data.batch_size"):
        PromptStream(make_prompts(3), 4, seed=1, shuffle=True)
