"""The least time each phase of a step can take on this machine: its work over rates measured here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from medrl.algo.roofline import (
    ModelSize,
    Rates,
    Work,
    decode_work,
    forward_flops,
    optimizer_work,
    prefill_work,
    training_flops,
)
from medrl.models.size import model_size
from tests.benchmarks.step.cases import Case

BYTES = {"float32": 4, "bfloat16": 2}
MATRIX, COPY = 2048, 1 << 26  # rows and columns; float32 numbers


def measured_rates(dtype: str, threads: int) -> Rates:
    """FLOPs a second of a square matrix product, bytes a second (read and written) of a copy too large for caches."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        a = torch.rand(MATRIX, MATRIX).to(getattr(torch, dtype))
        source, target = torch.rand(COPY), torch.empty(COPY)
        return Rates(2 * MATRIX**3 / _seconds(lambda: a @ a), 2 * 4 * COPY / _seconds(lambda: target.copy_(source)))
    finally:
        torch.set_num_threads(before)


def _seconds(work: Callable[[], object], times: int = 7) -> float:
    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    once()
    return median(once() for _ in range(times))


def bounds(case: Case, world: Path, tokens: float, rates: Rates) -> dict[str, float]:
    """Seconds a phase, all on the same cores. `tokens`: of all answers of a step."""
    model, trained, adapter = _size(case, world)
    answers, one = [round(tokens / case.prompts)] * case.prompts, BYTES[case.dtype]
    prompts, lengths = [case.prompt_tokens] * case.prompts, [case.prompt_tokens + answers[0]] * case.prompts
    critics = 0 if case.value_head else 1
    score = 2 * forward_flops(model, lengths, round(tokens)) + (1 + critics) * forward_flops(model, lengths, 0)
    epoch = training_flops(model, lengths, round(tokens), adapter=adapter)
    epoch += critics * training_flops(model, lengths, 0, adapter=adapter)
    steps = case.epochs * case.mini_batches
    work = {
        "generate": [prefill_work(model, prompts, one), decode_work(model, prompts, answers, one, one)],
        "score": [Work(flops=score)],
        "update": [Work(flops=case.epochs * epoch), *[optimizer_work((1 + critics) * trained)] * steps],
    }
    return {phase: sum(rates.seconds(part) for part in parts) for phase, parts in work.items()}


def base_bytes(case: Case, world: Path) -> int:
    """Of the policy's parameters, without adapters."""
    return BYTES[case.dtype] * sum(p.numel() for p in _policy(world).parameters())


def _policy(world: Path) -> torch.nn.Module:
    """Without its numbers."""
    config = AutoConfig.from_pretrained(world / "policy")
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _size(case: Case, world: Path) -> tuple[ModelSize, int, int]:
    """Of the policy; how many parameters train; how many of them are an adapter's."""
    model = _policy(world)
    size = model_size(model, "model.layers")
    assert size is not None
    if case.lora_rank is None:
        return size, sum(p.numel() for p in model.parameters()), 0
    linear = [m for m in model.get_submodule("model.layers").modules() if isinstance(m, torch.nn.Linear)]
    adapter = sum(case.lora_rank * (m.in_features + m.out_features) for m in linear)
    return size, adapter, adapter
