from __future__ import annotations

import pytest

from tests.tiny import save_tokenizer
from tests.unit.lora.tiny_families import tiny_model


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """model_dir("qwen3", task="causal") → a directory with a tiny random model and a tokenizer, made once."""
    made = {}

    def make(model_type: str, task: str = "causal", **changes):
        key = (model_type, task, tuple(sorted(changes.items())))
        if key not in made:
            path = tmp_path_factory.mktemp(f"{model_type}_{task}")
            vocab = len(save_tokenizer(path))
            tiny_model(model_type, task, **({"vocab_size": vocab} | changes)).save_pretrained(path)
            made[key] = path
        return made[key]

    return make
