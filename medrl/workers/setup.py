"""The set-up of each role of a PPO run, as its workers will choose it, for people to read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from medrl.config.common import ModelConfig
from medrl.config.ppo import PpoConfig
from medrl.config.rewards import RewardSource
from medrl.config.rollout import RolloutConfig
from medrl.models.loading import has_flash_attention, read_config
from medrl.setup.choices import (
    SET_BY_YOU,
    Choice,
    choose_allocator,
    choose_attention,
    choose_eager,
    choose_spins,
    explain_device,
    explain_dtype,
)
from medrl.setup.cores import usable_cores
from medrl.setup.machine import Machine, bfloat16_gain, this_machine
from medrl.workers.capacity import RolePlan

LOOK_S = 60.0  # for a place on a node, and to import torch there


@dataclass(frozen=True)
class NodeFacts:
    """What a process on a node found out for the workers that go there."""

    machine: Machine
    cores: int
    environment: dict[str, Choice[str]]  # what follows from a worker's variables
    bfloat16_gain: float | None  # None: with a GPU


def look() -> NodeFacts:
    """At the node of this process."""
    machine, cores = this_machine(), usable_cores()
    environment = {"allocator": choose_allocator(os.environ, machine)}
    if machine.gpu is None:
        environment["GOMP_SPINCOUNT"] = choose_spins(os.environ)
    return NodeFacts(machine, cores, environment, None if machine.gpu else bfloat16_gain(cores))


def look_around(plans: dict[str, RolePlan]) -> dict[str, NodeFacts | None]:
    """A node where each role's workers may go, seen with the GPUs they will have. None: no room was found, or a task
    cannot run there; the start of the workers says why."""
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    kinds = {role: (plan.gpus, tuple(sorted(plan.labels.items()))) for role, plan in plans.items()}
    calls = {(gpus, labels): task.options(num_gpus=gpus, label_selector=dict(labels) or None).remote()
             for gpus, labels in set(kinds.values())}
    ray.wait(list(calls.values()), num_returns=len(calls), timeout=LOOK_S)
    found = {kind: _found(call) for kind, call in calls.items()}
    return {role: found[kind] for role, kind in kinds.items()}


def _found(call: ray.ObjectRef) -> NodeFacts | None:
    try:
        return ray.get(call, timeout=0)
    except (RayError, TimeoutError):
        ray.cancel(call, force=True)
        return None


def role_choices(config: PpoConfig, plan: RolePlan, threads: Choice[int], node: NodeFacts) -> dict[str, Choice[Any]]:
    """Setting → what a worker of the role chooses on the node."""
    section = "learner" if plan.role == "policy" else plan.role
    choices: dict[str, Choice[Any]] = {
        f"{section}.gpus_per_worker": explain_device(plan.gpus, node.machine),
        f"{section}.threads_per_worker": threads,
    }
    rest = _rollout(config, node) if plan.role == "rollout" else _models(config, plan.role, node)
    return choices | node.environment | dict(rest)


def _rollout(config: PpoConfig, node: NodeFacts) -> Iterator[tuple[str, Choice[Any]]]:
    rollout, on_cpu = config.rollout, node.machine.gpu is None
    yield "rollout.dtype", _dtype(rollout, node)
    if rollout.engine == "vllm":
        yield "rollout.enforce_eager", choose_eager(rollout.enforce_eager, on_cpu)
    if rollout.engine == "vllm" and not on_cpu:
        why = SET_BY_YOU if "sleep_level" in rollout.model_fields_set else (
            "the default; 1 or 2 frees memory while learners train that share the GPU")
        yield "rollout.sleep_level", Choice(rollout.sleep_level, why)


def _models(config: PpoConfig, role: str, node: NodeFacts) -> Iterator[tuple[str, Choice[Any]]]:
    """Of the models that the role's workers load."""
    if role == "reward":
        for source in config.reward.sources:
            if source.model:
                name, model = f"reward.sources {source.name}", ModelConfig(path=source.model, dtype=source.dtype)
                yield f"{name} dtype", _dtype(source, node)
                yield f"{name} attention", _attention(model, node)
        return
    model, start = config.model, next((source.model for source in config.reward.sources if source.model), None)
    if role == "critic" and config.critic.init == "reward":
        model = model.model_copy(update={"path": start})
    yield "model.dtype", _dtype(model, node)
    yield "model.attn_implementation", _attention(model, node)


def _dtype(section: ModelConfig | RewardSource | RolloutConfig, node: NodeFacts) -> Choice[Any]:
    return explain_dtype(section.dtype, "dtype" in section.model_fields_set, node.machine, node.bfloat16_gain)


def _attention(model: ModelConfig, node: NodeFacts) -> Choice[str]:
    architecture = read_config(model.path, model.trust_remote_code)
    return choose_attention(model, node.machine, has_flash_attention(architecture))
