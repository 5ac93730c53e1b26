"""The templates that ship with medrl, and the hash that a saved one is known by."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

from medrl.config.common import ModelConfig
from medrl.data.chat import check_tokenizer, encode_conversation, encode_prompt
from medrl.data.templates import NAMES, load_template, stored_template_hash
from medrl.errors import ConfigError, ModelError
from medrl.models.loading import load_tokenizer

SYSTEM = {"role": "system", "content": "Be kind."}
TALK = [{"role": "user", "content": "Cold?"}, {"role": "assistant", "content": "Rest."},
        {"role": "user", "content": "感冒?"}, {"role": "assistant", "content": "多喝水。"}]
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
WITH_TOOL = [TALK[0], {"role": "assistant", "content": "look_up()"}, {"role": "tool", "content": "38.5"},
             {"role": "tool", "content": "39"}, TALK[1]]
WRITTEN = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nCold?<|im_end|>\n<|im_start|>assistant\n"
              "Rest.<|im_end|>\n<|im_start|>user\n感冒?<|im_end|>\n<|im_start|>assistant\n多喝水。<|im_end|>\n",
    "gemma": "<bos><start_of_turn>user\nBe kind.\n\nCold?<end_of_turn>\n<start_of_turn>model\nRest.<end_of_turn>\n"
             "<start_of_turn>user\n感冒?<end_of_turn>\n<start_of_turn>model\n多喝水。<end_of_turn>\n",
    "mistral": "<bos>[INST] Be kind.\n\nCold? [/INST] Rest.<eos>[INST] 感冒? [/INST] 多喝水。<eos>",
    "alpaca": "<bos>Be kind.\n\n### Instruction:\nCold?\n\n### Response:\nRest.<eos>\n\n"
              "### Instruction:\n感冒?\n\n### Response:\n多喝水。<eos>\n\n",
    "vicuna": "<bos>Be kind. USER: Cold? ASSISTANT: Rest.<eos>USER: 感冒? ASSISTANT: 多喝水。<eos>",
}
PUBLISHED = [  # ours, TRL's copy of a published model's template, conversation, tools
    ("chatml", "qwen2_5", [SYSTEM, *TALK], None),
    ("qwen", "qwen2_5", [SYSTEM, *TALK], None),
    ("qwen", "qwen2_5", [SYSTEM, *WITH_TOOL], [TOOL]),
    ("llama3", "llama3", [SYSTEM, *TALK], None),
    ("llama3", "llama3", TALK, None),
    ("gemma", "gemma", TALK, None),
]


@pytest.fixture
def make(make_tokenizer):
    """make(template): a tokenizer with the special tokens of all templates, <bos> and <eos> among them."""

    def with_specials(template: str | None):
        tokenizer = make_tokenizer(template, "<eos>")
        texts = "".join(load_template(name) for name in NAMES)
        names = {name for name in re.findall(r"<[|a-z_0-9]+>", texts)} - {"<tools>", "<tool_call>", "<tool_response>"}
        tokenizer.add_special_tokens({"bos_token": "<bos>", "additional_special_tokens": sorted(names)})
        return tokenizer

    return with_specials


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_template_writes(make, name):
    text = make(load_template(name)).apply_chat_template([SYSTEM, *TALK], tokenize=False)
    assert text == WRITTEN[name]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(("name", "published", "talk", "tools"), PUBLISHED)
def test_templates_of_models_agree_with_the_published_ones(make, name, published, talk, tools, header):
    spec = importlib.util.find_spec("trl")
    assert spec and spec.submodule_search_locations
    theirs = (Path(spec.submodule_search_locations[0]) / f"chat_templates/{published}.jinja").read_text("utf-8")
    talk = talk[:-1] if header else talk
    ours, expected = (make(template).apply_chat_template(talk, tools=tools, tokenize=False,
                                                         add_generation_prompt=header)
                      for template in (load_template(name), theirs))
    assert ours == expected


@pytest.mark.parametrize("talk", [TALK, [SYSTEM, *TALK], WITH_TOOL], ids=["plain", "system", "tool"])
@pytest.mark.parametrize("name", NAMES)
def test_every_template_can_be_trained_with(make, name, talk):
    tokenizer = make(load_template(name))
    check_tokenizer(tokenizer)
    ids, mask = encode_conversation(tokenizer, talk)
    answers = [turn["content"] for turn in talk if turn["role"] == "assistant"]
    learned = tokenizer.decode([token for token, bit in zip(ids, mask, strict=True) if bit])
    parts = [part.strip() for part in re.split(r"<eos>|<\|im_end\|>|<\|eot_id\|>|<end_of_turn>", learned)]
    assert parts == [*answers, ""]
    prompt = encode_prompt(tokenizer, talk[:-1])
    assert ids[: len(prompt)] == prompt and mask[len(prompt)] == 1


@pytest.mark.parametrize("name", ["alpaca", "vicuna", "mistral"])
def test_text_templates_need_no_special_token_but_eos(make_tokenizer, name):
    check_tokenizer(make_tokenizer(load_template(name), "<|eos|>"))


def saved(make_tokenizer, path: Path, template: str | None) -> ModelConfig:
    make_tokenizer(template).save_pretrained(path)
    return ModelConfig(path=str(path))


def test_the_config_chooses_a_template_and_the_saved_tokenizer_keeps_it_and_its_hash(make_tokenizer, tmp_path):
    bare = saved(make_tokenizer, tmp_path / "bare", None)
    chosen = load_tokenizer(bare.model_copy(update={"chat_template": "chatml"}))
    assert chosen.chat_template == load_template("chatml")
    chosen.save_pretrained(tmp_path / "trained")
    again = load_tokenizer(ModelConfig(path=str(tmp_path / "trained")))
    assert again.chat_template == chosen.chat_template
    recorded = json.loads((tmp_path / "trained/tokenizer_config.json").read_text())["chat_template_sha256"]
    assert recorded == hashlib.sha256(chosen.chat_template.encode()).hexdigest()
    assert stored_template_hash(tmp_path / "trained") == recorded
    assert stored_template_hash(Path(bare.path)) is None
    again.save_pretrained(tmp_path / "again")
    assert load_tokenizer(ModelConfig(path=str(tmp_path / "again"))).chat_template == chosen.chat_template


def test_a_template_changed_after_training_is_refused_unless_it_is_asked_for(make_tokenizer, tmp_path):
    model = saved(make_tokenizer, tmp_path / "m", load_template("chatml"))
    load_tokenizer(model).save_pretrained(tmp_path / "m")
    (tmp_path / "m/chat_template.jinja").write_text(load_template("vicuna"))
    with pytest.raises(ModelError, match="not the one the model was trained with"):
        load_tokenizer(model)
    with pytest.raises(ModelError, match="not the one the model was trained with"):
        stored_template_hash(tmp_path / "m")
    other = load_tokenizer(model.model_copy(update={"chat_template": str(tmp_path / "m/chat_template.jinja")}))
    assert other.chat_template == load_template("vicuna")
    other.save_pretrained(tmp_path / "m")
    load_tokenizer(model)


def test_a_missing_template_names_those_that_ship(make_tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="no chat template") as missing:
        check_tokenizer(load_tokenizer(saved(make_tokenizer, tmp_path / "m", None)))
    with pytest.raises(ConfigError, match="neither the name of a template") as unknown:
        load_template("lama3")
    assert all(name in str(missing.value) and name in str(unknown.value) for name in NAMES)
    folder = Path(load_template.__code__.co_filename).with_name("chat_templates")
    assert sorted(NAMES) == sorted(path.stem for path in folder.iterdir())
