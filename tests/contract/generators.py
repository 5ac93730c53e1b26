"""Generators of the tiny model, the weights they are given, the requests they answer, and what transformers says."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from medrl.config.base import build_config
from medrl.config.ppo import PpoConfig
from medrl.config.rollout import SamplingConfig
from medrl.rollout.base import GenerateRequest, Generator, request_seed
from medrl.types import Completion, Probe, Prompt, Weights
from medrl.weight_sync.publisher import make_weights
from medrl.weight_sync.receiver import Receiver

VOCAB, CONTEXT = 320, 512
ENGINES = ["hf", pytest.param("vllm", marks=pytest.mark.vllm)]
STOP_IDS = (7, 11, 13, 17, 19, 23, 29, 31)
PROBE_IDS = (40, 41, 42, 43, 44, 45, 46, 47)
LONG = tuple(3 + i * 7 % 300 for i in range(300))  # longer than two blocks of a prefix cache
SAMPLING = SamplingConfig(max_tokens=12)


def config_of(model: Path, **rollout) -> PpoConfig:
    return build_config(PpoConfig, {
        "name": "contract", "model": {"path": str(model)}, "lora": {}, "sampling": {"max_tokens": 40},
        "data": {"prompts": "none.jsonl", "max_prompt_tokens": 300},
        "critic": {"init": "policy"}, "reward": {"sources": [{"name": "f", "function": "m:f"}]},
        "rollout": {"dtype": "float32", "kv_cache_gib": 0.25} | rollout})


def make_generator(engine: str, config: PpoConfig, stop_ids: tuple[int, ...] = STOP_IDS) -> Generator:
    receiver = Receiver(config.model, config.rollout)
    if engine == "vllm":
        from medrl.rollout.vllm_generator import VllmGenerator

        return VllmGenerator(config, stop_ids, receiver)
    from medrl.rollout.hf_generator import HfGenerator

    return HfGenerator(config, stop_ids, receiver)


@torch.no_grad()
def oracle_logprobs(model: nn.Module, ids: Sequence[int], temperature: float = 1.0) -> torch.Tensor:
    """[n - 1] log p(ids[i + 1] | ids[:i + 1]), the softmax in float64."""
    logits = model(input_ids=torch.tensor([list(ids)])).logits[0, :-1].double() / temperature
    return (logits - logits.logsumexp(-1, keepdim=True)).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


_versions = itertools.count(1)


def weights_of(model: nn.Module, *, kind: str = "adapter", zero_b: bool = False, version: int | None = None) -> Weights:
    """The payload for `model`, named by hand: PEFT's names less its wrappers."""
    state = {name.replace("base_model.model.", "").replace(".default", ""): tensor.detach().clone()
             for name, tensor in model.state_dict().items() if kind == "full" or "lora_" in name}
    if zero_b:
        state = {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in state.items()}
    scaling = {name.removesuffix(".lora_A.weight"): 6 / 4**0.5 for name in state if name.endswith("lora_A.weight")}
    oracle = model.get_base_model() if zero_b else model
    context = model.disable_adapter() if zero_b else torch.no_grad()
    with context:
        logprobs = oracle_logprobs(oracle, PROBE_IDS)
    number = next(_versions) if version is None else version
    return make_weights(number, kind, state, scaling, Probe(PROBE_IDS, tuple(logprobs.tolist())))


def requests_for(*prompts: tuple[int, ...], samples: int = 1, seed: int = 0) -> list[GenerateRequest]:
    made = [Prompt(f"p{i}", ({"role": "user", "content": "?"},), ids) for i, ids in enumerate(prompts)]
    return [GenerateRequest(prompt, k, request_seed(seed, 1, prompt.id, k)) for prompt in made for k in range(samples)]


MANY = requests_for((40, 50), (60, 61, 62, 63), (70,), LONG, (80, 81), samples=3)


def gap(completion: Completion, model: nn.Module, temperature: float = 1.0) -> float:
    """The largest difference between a completion's log-probs and what transformers computes for the same sequence."""
    right = oracle_logprobs(model, (*completion.prompt.ids, *completion.ids), temperature)[-len(completion.ids):]
    return float((right - torch.tensor(completion.logprobs)).abs().max())
