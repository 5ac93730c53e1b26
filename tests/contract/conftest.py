"""A tiny model with confident, varied predictions, an adapter for it, and generators of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medrl.rollout.base import Generator
from tests.contract.generators import CONTEXT, ENGINES, VOCAB, config_of, make_generator, weights_of


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


@pytest.fixture(scope="module", params=ENGINES)
def generator(request: pytest.FixtureRequest, tiny_model: Path) -> Iterator[Generator]:
    generator = make_generator(request.param, config_of(tiny_model))
    assert generator.version is None, "a generator must be born STALE"
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def base(load_base: Callable[[], Any]) -> nn.Module:
    return load_base()


@pytest.fixture(scope="module")
def adapted(load_base: Callable[[], Any]) -> Any:
    """The tiny model with a random rank-stabilised adapter on every projection."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
    model = get_peft_model(load_base(), LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=targets))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture
def at_base(generator: Generator, base: nn.Module) -> Generator:
    generator.receive(weights_of(base, kind="full"))
    return generator
