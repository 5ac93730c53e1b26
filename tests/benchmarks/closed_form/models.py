"""The two models of the benchmark, trained from scratch on the grammar: a reference LM, and a reward model a task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medrl.models.export import save_calibration, save_model
from tests.benchmarks.closed_form import grammar
from tests.benchmarks.closed_form.grammar import MAX_TOKENS, PROMPT_TOKENS

BATCH = 64


def model_config(tokenizer, **changes):
    """A Qwen3 of 0.2 million parameters."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=256, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=64, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, **changes)


def train_reference(path: Path, prompts: list[str], steps: int, seed: int = 0) -> None:
    """A causal LM that has learned the grammar's walks, loss on the answer only."""
    from transformers import Qwen3ForCausalLM

    tokenizer = grammar.make_tokenizer()
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(model_config(tokenizer))
    ids, mask = _pad([grammar.token_ids(p, grammar.walk(p, rng)) for p in rng.choice(prompts, size=20_000)])
    labels = torch.where(mask, ids, -100)
    labels[:, :PROMPT_TOKENS] = -100

    def loss() -> Tensor:
        rows = torch.from_numpy(rng.integers(len(ids), size=BATCH))
        return model(input_ids=ids[rows], attention_mask=mask[rows].long(), labels=labels[rows]).loss

    _optimise(model, loss, steps)
    save_model(model, tokenizer, path, replace=True)


def train_reward(path: Path, task: str, prompts: list[str], steps: int, seed: int = 0) -> float:
    """A reward model trained on pairs, −log σ(chosen − rejected), and calibrated on the grammar's own answers.

    Returns its accuracy on fresh pairs.
    """
    from transformers import Qwen3ForSequenceClassification

    tokenizer = grammar.make_tokenizer()
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = Qwen3ForSequenceClassification(model_config(tokenizer, num_labels=1))

    def scores(ids: Tensor, mask: Tensor) -> Tensor:
        scalars = model.score(model.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state).squeeze(-1)
        return scalars.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)

    def pairs(count: int) -> tuple[Tensor, Tensor]:
        made = [(p, grammar.make_pair(task, p, rng)) for p in rng.choice(prompts, size=count)]
        ids, mask = _pad([grammar.token_ids(p, pair[side]) for side in (0, 1) for p, pair in made])
        return ids.view(2, count, -1), mask.view(2, count, -1)

    def margins(ids: Tensor, mask: Tensor) -> Tensor:
        chosen, rejected = scores(ids.flatten(0, 1), mask.flatten(0, 1)).chunk(2)
        return chosen - rejected

    ids, mask = pairs(20_000)

    def loss() -> Tensor:
        rows = torch.from_numpy(rng.integers(ids.shape[1], size=BATCH))
        return -nn.functional.logsigmoid(margins(ids[:, rows], mask[:, rows])).mean()

    _optimise(model, loss, steps)
    with torch.no_grad():
        accuracy = (margins(*pairs(2000)) > 0).float().mean().item()
        own = scores(*_pad([grammar.token_ids(p, grammar.walk(p, rng)) for p in rng.choice(prompts, size=2000)]))
    save_model(model, tokenizer, path, replace=True)
    save_calibration(path, own.mean().item(), own.std().item())
    return accuracy


def _pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask [n, T], right-padded with token 0."""
    ids = torch.zeros(len(rows), PROMPT_TOKENS + MAX_TOKENS, dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows])
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = torch.tensor(row)
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def _optimise(model: nn.Module, loss: Callable[[], Tensor], steps: int, lr: float = 2e-3) -> None:
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
