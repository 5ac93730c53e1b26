"""The demo's starting point on disk: data files, and a random model with its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from medrl.demo import corpus, exams
from medrl.demo.facts import Condition, load_conditions
from medrl.demo.tokenizer import PAD, TURN_END, train_tokenizer
from medrl.run_dir import write_json


def build_world(out_dir: str | Path, seed: int) -> dict[str, int]:
    """Write data files and `base/` (a model of random weights) into `out_dir`; the same seed gives the same files.

    Returns the number of rows in each file, the tokens of the pre-training text and the model's parameters.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    conditions = load_conditions()
    splits = corpus.split_questions(conditions, seed)
    passages = corpus.pretraining_passages(conditions, splits["sft"], seed)
    rows = {
        "sft": corpus.conversations(splits["sft"], seed, "sft"),
        "sft_eval": corpus.conversations(splits["sft_eval"], seed, "sft_eval"),
        "pairs": corpus.preference_pairs(splits["pairs"], conditions, seed, "pairs"),
        "pairs_eval": corpus.preference_pairs(splits["pairs_eval"], conditions, seed, "pairs_eval"),
        "prompts": [{"prompt": q.text} for q in splits["prompts"]],
        "eval_prompts": [{"prompt": q.text} for q in splits["eval_prompts"]],
        "exam": exams.exam_rows(splits["eval_prompts"], conditions, seed),
        "answers": exams.answer_rows(splits["eval_prompts"], seed),
        "safety": exams.safety_rows(conditions, seed),
    }
    unseen = exams.articles(conditions, seed, passages)
    for name, texts in (("pretrain", passages), ("articles", unseen)):
        (out_dir / f"{name}.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    for name, items in rows.items():
        _write_jsonl(out_dir / f"{name}.jsonl", items)
    tokenizer = train_tokenizer(passages, _names(conditions))
    model = random_model(tokenizer, seed)
    tokenizer.save_pretrained(out_dir / "base")
    model.save_pretrained(out_dir / "base")
    counts = {
        "conditions": len(conditions),
        "pretrain": len(passages),
        "articles": len(unseen),
        **{name: len(items) for name, items in rows.items()},
        "pretrain_tokens": sum(len(ids) for ids in tokenizer(passages)["input_ids"]),
        "parameters": model.num_parameters(),
    }
    write_json(out_dir / "world.json", counts)
    return counts


def _names(conditions: Sequence[Condition]) -> list[str]:
    """The names of all conditions as they stand in text: inside a Chinese or English sentence, and at its start."""
    names = [condition.facts["zh"].name for condition in conditions]
    for english in (condition.facts["en"].name for condition in conditions):
        names += [f" {english}", english[0].upper() + english[1:]]
    return names


def random_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """A Qwen3 of about 4.3 million parameters with random weights, input and output embeddings tied."""
    vocabulary = tokenizer.get_vocab()
    config = Qwen3Config(
        vocab_size=len(vocabulary),
        hidden_size=256,
        intermediate_size=896,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=vocabulary[PAD],
        eos_token_id=vocabulary[TURN_END],
        bos_token_id=None,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def _write_jsonl(path: Path, rows: Sequence[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
