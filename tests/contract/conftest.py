"""A tiny model with confident, varied predictions, and the adapters and log-probs that oracles need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

PAD, VOCAB, CONTEXT = 0, 320, 512


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a 2-layer Qwen3, embeddings tied, with a tokenizer; large weights make its predictions differ."""
    from transformers import Qwen3ForCausalLM

    from tests.tiny import save_tokenizer, tiny_config

    path = tmp_path_factory.mktemp("model")
    config = tiny_config(save_tokenizer(path), vocab_size=VOCAB, max_position_embeddings=CONTEXT, initializer_range=0.2)
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def load_base(tiny_model: Path) -> Callable[[], nn.Module]:
    """Fresh copies of the tiny model in float32, by transformers alone."""
    from transformers import AutoModelForCausalLM

    return lambda: AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()


@torch.no_grad()
def oracle_logprobs(model: nn.Module, ids: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    """[n - 1] log p(ids[i + 1] | ids[:i + 1]), the softmax in float64."""
    logits = model(input_ids=torch.tensor([list(ids)])).logits[0, :-1].double() / temperature
    return (logits - logits.logsumexp(-1, keepdim=True)).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
