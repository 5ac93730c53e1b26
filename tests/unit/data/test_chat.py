from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrl.data.chat import (
    check_tokenizer,
    decode_answer,
    encode_answer,
    encode_conversation,
    encode_prompt,
    end_token_ids,
)
from medrl.errors import ConfigError, DataError

SYSTEM = {"role": "system", "content": "Be kind."}
ASK = {"role": "user", "content": "What helps with a cold?"}
SAY = {"role": "assistant", "content": "Rest and drink water."}
ASK_AGAIN = {"role": "user", "content": "感冒了怎么办？"}
SAY_AGAIN = {"role": "assistant", "content": "多休息，多喝水。"}
TALK = (ASK, SAY, ASK_AGAIN, SAY_AGAIN)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# begins with a bos token, trims contents, ends turns with another token than eos (as Llama 3 does)
TRIMMING = (
    "<|bos|>{% for m in messages %}<|im_start|>{{ m['role'] }}\n\n{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
# no header before answers, eos after them (as Mistral does)
BRACKETS = (
    "<|bos|>{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
# an empty thought before the last answer only (as Qwen 3 does): rendering a prefix is no prefix of the rendering
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {  # name: template, eos_token, token after an answer, what the template writes before a last answer
    "chatml": (CHATML, "<|im_end|>", "<|im_end|>", ""),
    "trimming": (TRIMMING, "<|eos|>", "<|im_end|>", ""),
    "brackets": (BRACKETS, "<|eos|>", "<|eos|>", " "),
    "thinking": (THINKING, "<|im_end|>", "<|im_end|>", "<think>\n\n</think>\n\n"),
}


def masked_spans(tokenizer, ids: list[int], mask: list[int]) -> list[str]:
    """Text of each run of masked tokens."""
    spans: list[list[int]] = [[]]
    for token, bit in zip(ids, mask, strict=True):
        if bit:
            spans[-1].append(token)
        elif spans[-1]:
            spans.append([])
    return [tokenizer.decode(span) for span in spans if span]


@pytest.mark.parametrize("name", TEMPLATES)
def test_mask_covers_the_answers_and_their_end_tokens_only(make_tokenizer, name):
    template, eos, end, lead = TEMPLATES[name]
    tokenizer = make_tokenizer(template, eos)
    ids, mask = encode_conversation(tokenizer, TALK)
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(list(TALK), tokenize=False)
    first_lead = lead if name == "brackets" else ""
    assert masked_spans(tokenizer, ids, mask) == [first_lead + SAY["content"] + end, lead + SAY_AGAIN["content"] + end]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_is_a_token_prefix_of_its_conversation(make_tokenizer, name):
    template, eos, end, _ = TEMPLATES[name]
    tokenizer = make_tokenizer(template, eos)
    for turns in (1, 3):
        prompt = encode_prompt(tokenizer, TALK[:turns])
        ids, mask = encode_conversation(tokenizer, TALK[: turns + 1])
        assert ids[: len(prompt)] == prompt
        assert mask[len(prompt)] == 1 and mask[len(prompt) - 1] == 0


@settings(max_examples=60, deadline=None)
@given(
    answer=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<>|"), min_size=1).filter(
        lambda s: s.strip()
    )
)
def test_any_answer_is_masked_whole(tokenizer, answer):
    messages = (SYSTEM, ASK, {"role": "assistant", "content": answer})
    ids, mask = encode_conversation(tokenizer, messages)
    assert masked_spans(tokenizer, ids, mask) == [answer + "<|im_end|>"]
    assert ids[: mask.index(1)] == encode_prompt(tokenizer, messages[:2])  # "\n" + "\n" must not merge over the border


@pytest.mark.parametrize("name", ["chatml", "trimming", "thinking"])
def test_what_a_reward_model_reads(make_tokenizer, name):
    template, eos, end, _ = TEMPLATES[name]
    tokenizer = make_tokenizer(template, eos)
    prompt = encode_prompt(tokenizer, [ASK])
    cut = encode_answer(tokenizer, [ASK], SAY["content"], ended=False)
    whole = encode_answer(tokenizer, [ASK], SAY["content"], ended=True)
    assert tokenizer.decode(cut) == tokenizer.decode(prompt) + SAY["content"]
    assert whole == [*cut, tokenizer.convert_tokens_to_ids(end)]
    assert (
        decode_answer(tokenizer, whole[len(prompt) :]) == decode_answer(tokenizer, cut[len(prompt) :]) == SAY["content"]
    )


def test_decoding_stops_at_either_end_token(make_tokenizer):
    tokenizer = make_tokenizer(TRIMMING, "<|eos|>")
    stop, eos = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "<|eos|>"))
    assert end_token_ids(tokenizer) == (stop, eos)
    words = tokenizer.encode("Rest.", add_special_tokens=False)
    for end in (stop, eos):
        assert decode_answer(tokenizer, [*words, end, *words]) == "Rest."
    assert decode_answer(tokenizer, [stop]) == ""


def test_a_template_that_is_not_prefix_stable_is_refused(make_tokenizer):
    counting = "{{ messages | length }}" + CHATML
    with pytest.raises(ConfigError, match="not prefix-stable"):
        encode_conversation(make_tokenizer(counting), TALK)


def test_a_template_that_rewrites_answers_is_refused(make_tokenizer):
    shouting = CHATML.replace("m['content']", "m['content'] | upper")
    with pytest.raises(ConfigError, match="rewrites answers"):
        encode_conversation(make_tokenizer(shouting), TALK)
    partly = CHATML.replace("m['content']", "m['content'].replace('water', 'WATER')")
    with pytest.raises(ConfigError, match="rewrites answers"):
        encode_conversation(make_tokenizer(partly), TALK)


def test_a_template_that_never_ends_answers_is_refused(make_tokenizer):
    endless = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(ConfigError, match="no special token after an answer"):
        check_tokenizer(make_tokenizer(endless))


def test_a_template_that_refuses_a_role_gives_its_own_reason_and_no_text(make_tokenizer):
    strict = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
    )
    with pytest.raises(DataError, match="System role not supported") as caught:
        encode_prompt(make_tokenizer(strict), [SYSTEM, ASK])
    assert "system, user" in str(caught.value) and ASK["content"] not in str(caught.value)


def test_check_tokenizer(make_tokenizer):
    check_tokenizer(make_tokenizer())
    with pytest.raises(ConfigError, match="no chat template"):
        check_tokenizer(make_tokenizer(template=None))
    same = make_tokenizer()
    same.pad_token = "<|im_end|>"
    with pytest.raises(ConfigError, match="pad_token also ends answers"):
        check_tokenizer(same)
    for missing in ("pad_token", "eos_token"):
        tokenizer = make_tokenizer()
        setattr(tokenizer, missing, None)
        with pytest.raises(ConfigError, match=f"no {missing}"):
            check_tokenizer(tokenizer)


def trl_template(name: str) -> str:
    """A published model's chat template, as TRL ships it (found without importing TRL, which takes seconds)."""
    spec = importlib.util.find_spec("trl")
    assert spec and spec.submodule_search_locations
    return (Path(spec.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_instruct_2507", "llama3", "gemma3", "cohere"])
def test_masks_agree_with_templates_that_mark_answers_themselves(make_tokenizer, name):
    template = trl_template(f"{name}_training")  # the same template with {% generation %} around answers
    tokenizer = make_tokenizer(template, "<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(re.findall(r"<[|a-z_A-Z]+>", template)))})
    ids, mask = encode_conversation(tokenizer, TALK)
    marked = tokenizer.apply_chat_template(list(TALK), return_dict=True, return_assistant_tokens_mask=True)
    spans = masked_spans(tokenizer, marked["input_ids"], marked["assistant_masks"])
    assert [s.strip() for s in masked_spans(tokenizer, ids, mask)] == [s.strip() for s in spans]


def test_answers_may_end_with_other_tokens_inside_a_conversation_than_at_its_end(make_tokenizer):
    template = trl_template("gptoss")
    tokenizer = make_tokenizer(template, "<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(re.findall(r"<[|a-z_A-Z]+>", template)))})
    spans = masked_spans(tokenizer, *encode_conversation(tokenizer, TALK))
    lead = "<|channel|>final<|message|>"
    assert spans == [lead + SAY["content"] + "<|end|>", lead + SAY_AGAIN["content"] + "<|return|>"]
