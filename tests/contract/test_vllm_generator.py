"""What only the vLLM generator can get wrong: its start, bfloat16, and a head that is not tied."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medrl.errors import ModelError, WorkerError
from medrl.rollout.base import GenerateRequest, Generator
from medrl.types import Prompt
from tests.contract.generators import MANY, SAMPLING, config_of, gap, make_generator, weights_of

pytestmark = pytest.mark.vllm


@contextmanager
def running(model: Path, **rollout) -> Iterator[Generator]:
    generator = make_generator("vllm", config_of(model, **rollout))
    try:
        yield generator
    finally:
        generator.close()


def test_in_bfloat16_the_adapter_is_merged_before_it_is_rounded(
        tiny_model: Path, load_base: Callable[[], Any], adapted: Any) -> None:
    base = load_base()
    with running(tiny_model, dtype="bfloat16") as generator:
        generator.receive(weights_of(base, kind="full"))
        before = [c.ids for c in generator.generate(MANY, SAMPLING)]
        for _ in range(3):  # merging into a rounded matrix again and again would drift
            report = generator.receive(weights_of(adapted))
            assert 0 < report.probe_gap < 0.15
        assert max(gap(c, adapted) for c in generator.generate(MANY, SAMPLING)) < 0.3
        generator.receive(weights_of(adapted, zero_b=True))
        assert [c.ids for c in generator.generate(MANY, SAMPLING)] == before


def test_a_head_that_is_not_tied_is_replaced_too(tmp_path: Path) -> None:
    from transformers import Qwen3ForCausalLM

    from tests.tiny import save_tokenizer, tiny_config

    config = tiny_config(save_tokenizer(tmp_path), tie_word_embeddings=False, max_position_embeddings=512,
                         initializer_range=0.2)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    with running(tmp_path) as generator:
        for parameter in (model.lm_head.weight, model.model.embed_tokens.weight):
            nn.init.normal_(parameter, std=0.3)
            generator.receive(weights_of(model, kind="full"))
            assert max(gap(c, model) for c in generator.generate(MANY[:6], SAMPLING)) < 1e-3


def test_prompts_of_more_tokens_than_one_scheduler_step_holds(tiny_model: Path, adapted: Any) -> None:
    """vLLM would cut the prompt that meets the limit in two, and a seeded CPU generator cannot be rewound."""
    length = 250  # not a divisor of vLLM's 4,096 tokens a step on CPU
    requests = [
        GenerateRequest(Prompt(f"long-{i}", (), tuple(3 + (i + j) % 300 for j in range(length))), 0, seed=i)
        for i in range(40)
    ]
    assert sum(len(r.prompt.ids) for r in requests) > 2 * 4096
    with running(tiny_model) as generator:
        generator.receive(weights_of(adapted))
        together = generator.generate(requests, SAMPLING)
        assert max(gap(c, adapted) for c in together) < 1e-3
        assert together[20:24] == generator.generate(requests[20:24], SAMPLING)


def test_a_cache_too_small_for_one_answer_is_a_worker_error(tiny_model: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        make_generator("vllm", config_of(tiny_model, kv_cache_gib=1e-5))
    assert "kv_cache_gib" in caught.value.limit and caught.value.remedy


def test_a_model_that_vllm_does_not_know_is_a_model_error(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["architectures"] = ["NoSuchForCausalLM"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        make_generator("vllm", config_of(tmp_path / "model"))
    assert "NoSuchForCausalLM" in caught.value.got


def test_the_config_and_not_the_environment_sizes_the_cache(
        tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "9999")  # GiB: no machine would start
    with running(tiny_model):
        assert "rollout.kv_cache_gib" in caplog.text
