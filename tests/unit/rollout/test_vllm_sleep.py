"""When the vLLM generator sleeps and wakes, over a fake of vLLM's `LLM`: the real one sleeps on GPUs only."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from medrl.config.base import build_config
from medrl.config.evaluate import EvaluateConfig
from medrl.config.ppo import PpoConfig
from medrl.config.rollout import SamplingConfig
from medrl.errors import WeightSyncError
from medrl.rollout import base, vllm_generator
from medrl.rollout.base import GenerateRequest
from medrl.rollout.vllm_generator import VllmGenerator, sleep_level
from medrl.types import Probe, Prompt, Weights
from medrl.weight_sync.publisher import make_weights
from medrl.weight_sync.receiver import Receiver
from medrl.weight_sync.stream import notice_of
from tests.unit.weight_sync.channels import loaded_wire

IDS = (0, 2, 1, 3)
REQUESTS = [GenerateRequest(Prompt("p", (), (0, 1)), 0, 1)]
SAMPLING = SamplingConfig(max_tokens=1)


class FakeLLM:
    """p(next | token) is a row of one table; whatever touches it asleep breaks, and level 2 leaves garbage behind."""

    def __init__(self) -> None:
        self.table, self.level, self.calls = torch.full((4, 4), torch.nan), 0, []

    def sleep(self, level: int) -> None:
        assert not self.level, "asleep already"
        self.level = level
        self.calls.append(f"sleep {level}")
        if level == 2:
            self.table = torch.full((4, 4), torch.nan)

    def wake_up(self) -> None:
        assert self.level, "awake already"
        self.level = 0
        self.calls.append("wake")

    def collective_rpc(self, method: Any, args: tuple[Iterator[tuple[str, torch.Tensor]]]) -> None:
        self._awake("load")
        self.table = dict(args[0])["table.weight"].clone()

    def reset_prefix_cache(self) -> bool:
        return True

    def generate(self, prompts: list[dict], params: list[Any], use_tqdm: bool) -> list[Any]:
        self._awake("run")
        return [self._answer(prompt["prompt_token_ids"]) for prompt in prompts]

    def _answer(self, ids: list[int]) -> Any:
        pairs = zip(ids, ids[1:], strict=False)
        prompt = [None, *({b: SimpleNamespace(logprob=float(self.table[a].log_softmax(-1)[b]))} for a, b in pairs)]
        output = SimpleNamespace(token_ids=[3], logprobs=[{3: SimpleNamespace(logprob=-1.0)}])
        return SimpleNamespace(prompt_logprobs=prompt, outputs=[output])

    def _awake(self, call: str) -> None:
        assert not self.level, f"{call} while asleep"
        self.calls.append(call)


@pytest.fixture
def table(tmp_path: Path) -> torch.Tensor:
    torch.manual_seed(0)
    table = torch.randn(4, 4)
    save_file({"table.weight": table}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bigram"}))
    return table


@pytest.fixture
def make(table: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A generator over a fake engine, at a sleep level."""
    monkeypatch.setattr(base, "check_context", lambda model, length: None)
    monkeypatch.setattr(vllm_generator, "start_engine", lambda config: FakeLLM())
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(TokensPrompt=dict, SamplingParams=SimpleNamespace))

    def make(level: int) -> tuple[VllmGenerator, FakeLLM]:
        config = build_config(PpoConfig, {
            "name": "sleep", "model": {"path": str(tmp_path)}, "lora": {}, "data": {"prompts": "none.jsonl"},
            "critic": {"init": "policy"}, "reward": {"sources": [{"name": "f", "function": "m:f"}]},
            "rollout": {"dtype": "float32", "gpus_per_worker": 0.5, "sleep_level": level}})
        generator = VllmGenerator(config, (3,), Receiver(config.model, config.rollout))
        return generator, generator._llm  # pyright: ignore[reportReturnType]

    return make


def weights_of(table: torch.Tensor, version: int) -> Weights:
    table = table + version
    rows = table.double().log_softmax(-1)
    probe = Probe(IDS, tuple(float(rows[a, b]) for a, b in zip(IDS, IDS[1:], strict=False)))
    return make_weights(version, "full", {"table.weight": table}, {}, probe)


def test_at_level_0_it_never_sleeps(make, table: torch.Tensor) -> None:
    generator, llm = make(0)
    generator.receive(weights_of(table, 1))
    generator.rest()
    assert generator.generate(REQUESTS, SAMPLING) and llm.calls == ["load", "run", "run"]


def test_at_level_1_it_wakes_with_the_weights_it_had(make, table: torch.Tensor) -> None:
    generator, llm = make(1)
    generator.receive(weights_of(table, 1))
    generator.rest()
    generator.rest()  # asleep already
    assert generator.version == 1 and llm.calls == ["load", "run", "sleep 1"]
    assert generator.generate(REQUESTS, SAMPLING)[0].version == 1
    assert llm.calls[3:] == ["wake", "run"]
    generator.rest()
    generator.receive(weights_of(table, 2))
    assert llm.calls[5:] == ["sleep 1", "wake", "load", "run"] and generator.version == 2


def test_at_level_2_it_is_stale_until_a_sync(make, table: torch.Tensor) -> None:
    generator, llm = make(2)
    generator.receive(weights_of(table, 3))
    generator.rest()
    assert generator.version is None
    with pytest.raises(WeightSyncError, match="stale") as caught:
        generator.generate(REQUESTS, SAMPLING)
    assert "slept without its weights" in caught.value.got
    assert llm.calls == ["load", "run", "sleep 2"]  # nobody woke it for that
    with pytest.raises(WeightSyncError, match="older"):
        generator.receive(weights_of(table, 2))
    assert generator.receive(weights_of(table, 3)).version == 3
    assert generator.generate(REQUESTS, SAMPLING)[0].version == 3
    assert llm.calls[3:] == ["wake", "load", "run", "run"] and math.isfinite(float(llm.table.sum()))


def test_a_stream_wakes_it_too(make, table: torch.Tensor) -> None:
    generator, llm = make(2)
    generator.rest()
    weights = weights_of(table, 1)
    wire = loaded_wire(weights.tensors)
    assert generator.receive_stream(notice_of(weights), lambda: wire.receiver).version == 1
    assert llm.calls == ["sleep 2", "wake", "load", "run"]


def test_engines_that_evaluate_never_sleep(tmp_path: Path) -> None:
    config = build_config(EvaluateConfig, {
        "name": "e", "model": {"path": str(tmp_path)}, "rollout": {"gpus_per_worker": 1},
        "sets": [{"name": "a", "task": "text", "path": "a.jsonl", "metrics": ["perplexity"]}]})
    assert sleep_level(config) == 0
