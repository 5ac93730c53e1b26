"""Models and prompts of a case: words drawn at random, one token each, so that text and tokens are the same thing."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

from tests.benchmarks.step.cases import Case

VOCABULARY = 4096
COMMON = 512  # words that the text is made of
END, PAD = "<end>", "<pad>"
PRACTICE = 60  # optimizer steps, after which answers end as often as the text's do
PROMPTS = 512


def make_world(case: Case, folder: Path) -> Path:
    """`folder`/<model_key> with policy, reward and prompts.jsonl; made when missing."""
    world = folder / case.model_key
    if not (world / "complete").exists():
        torch.manual_seed(0)
        for name in ("policy", "reward"):
            _tokenizer().save_pretrained(world / name)
        _practised(case).save_pretrained(world / "policy")
        Qwen3ForSequenceClassification(_config(case, num_labels=1)).save_pretrained(world / "reward")
        (world / "reward/calibration.json").write_text(json.dumps({"mean": 0.0, "std": 0.3}))
        words = torch.randint(COMMON, (PROMPTS, case.prompt_tokens))
        rows = [{"prompt": " ".join(f"w{word}" for word in row)} for row in words.tolist()]
        (world / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (world / "complete").touch()
    return world


def _tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [*(f"w{i}" for i in range(VOCABULARY - 2)), PAD, END]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, padding_side="left")
    fast.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %} {{ m['content'] }}<end>"
        "{% else %}{{ m['content'] }}{% endif %}{% endfor %}")
    return fast


def _config(case: Case, **more) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=case.width, intermediate_size=3 * case.width, num_hidden_layers=4,
        num_attention_heads=case.width // 64, num_key_value_heads=max(1, case.width // 128), head_dim=64,
        max_position_embeddings=case.prompt_tokens + case.answer_tokens, tie_word_embeddings=True,
        pad_token_id=VOCABULARY - 2, eos_token_id=VOCABULARY - 1, **more)


def _practised(case: Case) -> Qwen3ForCausalLM:
    """A policy that has seen some text: answers that end anywhere within the limit, or answers without an end."""
    model = Qwen3ForCausalLM(_config(case))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    shape = (32, case.prompt_tokens + case.answer_tokens)
    place = torch.arange(shape[1])
    for _ in range(PRACTICE):
        ids = torch.randint(COMMON, shape)
        labels = ids.clone()
        if case.ends:
            last = case.prompt_tokens + torch.randint(case.answer_tokens, (shape[0], 1))
            ids[place == last] = VOCABULARY - 1
            labels = ids.masked_fill(place > last, -100)
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    return model
