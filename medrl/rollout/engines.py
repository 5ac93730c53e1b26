"""The generator that a config asks for."""

from __future__ import annotations

from collections.abc import Sequence

from medrl.rollout.base import Generator, GeneratorConfig, WeightReceiver


def make_generator(config: GeneratorConfig, stop_ids: Sequence[int], receiver: WeightReceiver) -> Generator:
    """Start the engine `config.rollout.engine`; only its own libraries are imported."""
    if config.rollout.engine == "vllm":
        from medrl.rollout.vllm_generator import VllmGenerator as Engine
    else:
        from medrl.rollout.hf_generator import HfGenerator as Engine
    return Engine(config, stop_ids, receiver)
