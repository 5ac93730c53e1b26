"""A policy and a reward model with random weights, and all answers."""

from __future__ import annotations

import pytest
import torch

from medrl.models.export import save_calibration, save_model
from tests.benchmarks.closed_form import grammar
from tests.benchmarks.closed_form.exact import Answers
from tests.benchmarks.closed_form.models import model_config


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers.all()


@pytest.fixture(scope="module")
def tokenizer():
    return grammar.make_tokenizer()


def spread(model, seed):
    """Random weights large enough for answers to differ in probability and score."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.copy_(0.15 * torch.randn(p.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def policy(tokenizer):
    from transformers import Qwen3ForCausalLM

    return spread(Qwen3ForCausalLM(model_config(tokenizer)), 0)


@pytest.fixture(scope="module")
def reward_dir(tokenizer, tmp_path_factory):
    from transformers import Qwen3ForSequenceClassification

    path = tmp_path_factory.mktemp("world") / "reward"
    save_model(spread(Qwen3ForSequenceClassification(model_config(tokenizer, num_labels=1)), 1), tokenizer, path)
    save_calibration(path, 0.2, 0.5)
    return path
