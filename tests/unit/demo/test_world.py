from __future__ import annotations

import hashlib
import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from medrl.data.chat import check_tokenizer, decode_answer, encode_conversation, encode_prompt
from medrl.data.datasets import (
    read_conversations,
    read_pairs,
    read_prompts,
    read_texts,
    read_values,
    recognise,
)
from medrl.demo.corpus import REJECTED_KINDS
from medrl.demo.world import build_world

pytestmark = pytest.mark.heavy

EVALUATION = {"exam": "choices", "answers": "references", "safety": "safety"}  # file → kind of its rows
FILES = [
    "pretrain.txt", "articles.txt",
    *(f"{name}.jsonl" for name in ("sft", "sft_eval", "pairs", "pairs_eval", "prompts", "eval_prompts")),
    *(f"{name}.jsonl" for name in EVALUATION),
]


@pytest.fixture(scope="module")
def tokenizer(world):
    return AutoTokenizer.from_pretrained(world[0] / "base")


def test_all_files_are_read_by_the_same_readers_as_real_data(world):
    path, counts = world
    for name in ("pretrain", "articles"):
        assert len(read_texts(path / f"{name}.txt")) == counts[name]
    for name, kind in EVALUATION.items():
        assert recognise(path / f"{name}.jsonl") == kind
        assert len(read_values(path / f"{name}.jsonl", kind)) == counts[name]
    for name in ("sft", "sft_eval"):
        assert len(read_conversations(path / f"{name}.jsonl")) == counts[name]
    for name in ("pairs", "pairs_eval"):
        assert len(read_pairs(path / f"{name}.jsonl")) == counts[name]
        kinds = {json.loads(line)["kind"] for line in (path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()}
        assert kinds == set(REJECTED_KINDS)
    for name in ("prompts", "eval_prompts"):
        assert len(read_prompts(path / f"{name}.jsonl")) == counts[name]


def test_the_same_seed_writes_the_same_bytes(world, tmp_path):
    build_world(tmp_path, seed=0)
    for name in [*FILES, "base/model.safetensors", "base/tokenizer.json", "base/config.json"]:
        first, second = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (world[0], tmp_path))
        assert first == second, name


def test_base_model_is_a_small_qwen3_with_tied_embeddings(world, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(world[0] / "base")
    assert 4_000_000 <= model.num_parameters() <= 8_000_000
    assert model.num_parameters() == world[1]["parameters"]
    assert model.config.model_type == "qwen3" and model.config.tie_word_embeddings
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id and model.config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize(
    "text",
    ["流感是起病很急的呼吸道病毒感染。", "Rest, drink warm fluids.", " 混合 mixed\n\n\t文字 🩺 é ½ ", "𠮷\u200b"],
)
def test_tokenizer_round_trip(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert decode_answer(tokenizer, ids) == text
    assert not set(ids) & set(tokenizer.all_special_ids)


def test_tokenizer_fits_the_stages(world, tokenizer):
    check_tokenizer(tokenizer)
    rows = [row.messages for row in read_conversations(world[0] / "sft.jsonl")[:300]]
    lengths = []
    for messages in rows:
        ids, mask = encode_conversation(tokenizer, messages)
        assert ids[: mask.index(1)] == encode_prompt(tokenizer, messages[:1])
        lengths.append(sum(mask))
    pairs = read_pairs(world[0] / "pairs.jsonl")
    chosen = [len(tokenizer.encode(pair.chosen, add_special_tokens=False)) for pair in pairs]
    assert sum(lengths) / len(lengths) < 60
    assert sum(n <= 96 for n in chosen) / len(chosen) > 0.95  # what PPO is to reach fits its max_tokens
