"""The two models of the benchmark, trained from scratch on the grammar: a reference LM and a reward model a task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from medrl.data.chat import encode_answer
from medrl.models.export import save_calibration, save_model
from tests.benchmarks.closed_form import grammar
from tests.benchmarks.closed_form.grammar import Answer


def model_config(tokenizer, **changes):
    """A Qwen3 of 0.2 million parameters."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=192, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=64, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, **changes)


def encode(tokenizer, prompt: str, answer: Answer) -> list[int]:
    """Token ids as the policy writes them and the reward model reads them."""
    return encode_answer(tokenizer, [{"role": "user", "content": prompt}], answer.text, answer.ended)


def train_reference(path: Path, prompts: list[str], steps: int = 1500, seed: int = 0) -> None:
    """A causal LM that has learned the grammar's walks, loss on the answer only."""
    from transformers import Qwen3ForCausalLM

    tokenizer = grammar.make_tokenizer()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Qwen3ForCausalLM(model_config(tokenizer))

    def loss() -> torch.Tensor:
        chosen = rng.choice(prompts, size=128)
        rows = [torch.tensor(encode(tokenizer, p, grammar.walk(p, rng))) for p in chosen]
        ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        labels = pad_sequence(rows, batch_first=True, padding_value=-100)
        labels[:, : len(chosen[0].split()) + 3] = -100  # markers and prompt: every prompt has the same length
        return model(input_ids=ids, attention_mask=(labels != -100) | (ids != tokenizer.pad_token_id), labels=labels).loss

    _optimise(model, loss, steps)
    save_model(model, tokenizer, path, replace=True)


def train_reward(path: Path, task: str, prompts: list[str], steps: int = 1500, seed: int = 0) -> float:
    """A reward model trained on pairs (−log σ(chosen − rejected)), calibrated on the grammar's own answers.

    Returns its accuracy on fresh pairs.
    """
    from transformers import Qwen3ForSequenceClassification

    tokenizer = grammar.make_tokenizer()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Qwen3ForSequenceClassification(model_config(tokenizer, num_labels=1))

    def scores(rows: list[list[int]]) -> torch.Tensor:
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=tokenizer.pad_token_id)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        scalars = model.score(model.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state).squeeze(-1)
        return scalars.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)

    def margins(count: int) -> torch.Tensor:
        pairs = [(p, grammar.make_pair(task, p, rng)) for p in rng.choice(prompts, size=count)]
        chosen, rejected = ([encode(tokenizer, p, pair[side]) for p, pair in pairs] for side in (0, 1))
        return scores(chosen) - scores(rejected)

    _optimise(model, lambda: -nn.functional.logsigmoid(margins(128)).mean(), steps)
    with torch.no_grad():
        accuracy = (margins(2000) > 0).float().mean().item()
        own = scores([encode(tokenizer, p, grammar.walk(p, rng)) for p in rng.choice(prompts, size=2000)])
    save_model(model, tokenizer, path, replace=True)
    save_calibration(path, own.mean().item(), own.std().item())
    return accuracy


def _optimise(model: nn.Module, loss, steps: int, lr: float = 2e-3) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
