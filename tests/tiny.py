"""Tiny random models with a tokenizer of their own, and configs around them, for tests that run the real libraries."""

from __future__ import annotations

import json
from pathlib import Path

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "What helps against a cold? Rest, drink water, and see a doctor when the fever stays.",
    "When should I go to hospital with chest pain? At once: call an ambulance.",
    "感冒了怎么办？多休息，多喝水，发烧不退请去呼吸科就诊。",
    "胸口疼要不要紧？请立即拨打急救电话。",
]


def save_tokenizer(path: Path, vocab_size: int = 320, texts: list[str] = TEXT):
    """A byte-level BPE tokenizer with a ChatML template, written to `path`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<|im_end|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(path)
    return fast


def tiny_config(tokenizer, **changes):
    """A 2-layer Qwen3 config of some 50 thousand parameters."""
    from transformers import Qwen3Config

    values = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    return Qwen3Config(**(values | changes))


def save_policy(path: Path, seed: int = 0) -> Path:
    """A random causal LM with its tokenizer."""
    import torch
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(seed)
    Qwen3ForCausalLM(tiny_config(save_tokenizer(path))).save_pretrained(path)
    return path


def save_reward_model(path: Path, seed: int = 1, **tokenizer_settings) -> Path:
    """A random reward model with its tokenizer and a calibration."""
    import torch
    from transformers import Qwen3ForSequenceClassification

    torch.manual_seed(seed)
    Qwen3ForSequenceClassification(
        tiny_config(save_tokenizer(path, **tokenizer_settings), num_labels=1)
    ).save_pretrained(path)
    (path / "calibration.json").write_text(json.dumps({"mean": 0.1, "std": 0.5}))
    return path


def save_prompts(path: Path, count: int = 12) -> Path:
    """Short bilingual prompts."""
    questions = [f"{'感冒了怎么办' if i % 2 else 'What helps against a cold'} ({i})?" for i in range(count)]
    path.write_text("".join(json.dumps({"prompt": q}, ensure_ascii=False) + "\n" for q in questions), encoding="utf-8")
    return path


def ppo_values(folder: Path, **sections) -> dict:
    """Plain config values of a PPO run on tiny models below `folder` (made when missing); `sections` are merged in."""
    if not (folder / "policy").exists():
        save_policy(folder / "policy")
        save_reward_model(folder / "reward")
        save_prompts(folder / "prompts.jsonl")
        save_prompts(folder / "eval.jsonl", 4)
    values: dict = {
        "name": "run",
        "output_dir": str(folder / "runs"),
        "seed": 7,
        "steps": 2,
        "model": {"path": str(folder / "policy")},
        "lora": {"rank": 4, "alpha": 8.0},
        "data": {
            "prompts": str(folder / "prompts.jsonl"),
            "eval_prompts": str(folder / "eval.jsonl"),
            "batch_size": 4,
            "max_prompt_tokens": 64,
        },
        "sampling": {"max_tokens": 12},
        "algorithm": {"epochs": 1, "mini_batches": 2},
        "learner": {"micro_batch_size": 2, "optimizer": {"lr": 1e-3}},
        "critic": {
            "init": "reward",
            "micro_batch_size": 2,
            "lora": {"rank": 4, "alpha": 8.0},
            "optimizer": {"lr": 1e-3},
        },
        "reward": {"sources": [{"name": "rm", "model": str(folder / "reward")}]},
        "rollout": {"engine": "vllm", "dtype": "float32", "kv_cache_gib": 0.25},
        "tracking": ["jsonl"],
    }
    for name, section in sections.items():
        values[name] = (
            values[name] | section if isinstance(section, dict) and isinstance(values.get(name), dict) else section
        )
    return values
