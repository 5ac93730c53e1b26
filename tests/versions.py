"""Registries with tiny versions whose greedy answers tell them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medrl.config.registry import RegistryConfig
from medrl.registry.store import Registry
from tests.tiny import save_tokenizer, tiny_config

PROMPT = "What helps?"
TOKENS = 12


def tiny_registry(folder: Path, count: int, **changes) -> Registry:
    """`count` registered models of one kind, the first of them promoted."""
    registry = Registry(RegistryConfig(root=str(folder / "registry")), create=True)
    for seed in range(count):
        registry.register(save_version(folder / f"model{seed}", seed, **changes), copy=False)
    promote(registry, 1)
    return registry


def save_version(path: Path, seed: int, **changes) -> Path:
    """A random model with tied embeddings, large enough that it does not just repeat the last token."""
    import torch
    from transformers import Qwen3ForCausalLM

    torch.manual_seed(seed)
    Qwen3ForCausalLM(tiny_config(save_tokenizer(path), initializer_range=0.3, **changes)).save_pretrained(path)
    return path


def promote(registry: Registry, number: int) -> None:
    registry.promote(str(number), force=True, reason="a test")


def greedy_answer(model: Path, prompt: str = PROMPT, tokens: int = TOKENS) -> list[int]:
    """The tokens of transformers' own generation."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = torch.tensor([AutoTokenizer.from_pretrained(model).encode(prompt)])
    return network.generate(ids, do_sample=False, max_new_tokens=tokens, eos_token_id=-1)[0, ids.shape[1]:].tolist()
