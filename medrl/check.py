"""`medrl check`: everything that can be known about a PPO run before its first real step, and one tiny step."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator
from math import prod
from typing import Any

from rich.console import Console
from rich.table import Table

from medrl.config.common import LoraConfig, ModelConfig
from medrl.config.ppo import PpoConfig
from medrl.config.rewards import RewardPoolConfig, RewardSource
from medrl.errors import ModelError
from medrl.lora.dry_run import dry_run
from medrl.lora.overview import Overview, overview, ranges
from medrl.lora.resolve import skeleton
from medrl.models.loading import local_dir, read_config
from medrl.models.memory import BYTES, GIB, training_memory
from medrl.stages.ppo import run_ppo
from medrl.stages.ppo_inputs import PpoInputs, prepare
from medrl.types import ScoreRequest
from medrl.workers.capacity import RolePlan
from medrl.workers.cluster import connect
from medrl.workers.placement import plan_roles, threads_for, total_cpus
from medrl.workers.scorers import make_scorer
from medrl.workers.setup import look_around, role_choices


def run_check(config: PpoConfig) -> None:
    """Print data, LoRA targets, batch arithmetic, memory and placement, then run one tiny step in a temporary folder.

    Raises the error that the real run would meet.
    """
    console = Console()
    inputs = prepare(config)
    console.print(_data_table(config, inputs))
    for source in config.reward.sources:
        if source.url:
            console.print(_probe(source, config.reward))
    if config.lora:
        console.print(_lora_table(_overview(config.model, config.lora)))
    console.print(_try_layers(config))
    console.print(_batch_table(config))
    console.print(_memory_table(config))
    console.print(_placement_table(config))
    plans = plan_roles(config)
    with connect(config.ray, total_cpus(plans)), tempfile.TemporaryDirectory(prefix="medrl-check-") as folder:
        for table in _setup_tables(config, plans):
            console.print(table)
        summary = run_ppo(tiny_step(config, folder))
    console.print(f"one tiny step ran in {summary['seconds']:.0f} s on {summary['engines']}")


def tiny_step(config: PpoConfig, folder: str) -> PpoConfig:
    """The same run, cut to one step with the fewest answers, short ones, and nothing kept."""
    answers = config.algorithm.mini_batches * config.learner.workers
    batch = max(1, -(-answers // config.data.samples_per_prompt))
    changes: dict[str, Any] = {
        "name": "check",
        "output_dir": folder,
        "steps": 1,
        "tracking": [],
        "data": config.data.model_copy(update={"batch_size": batch, "eval_prompts": None}),
        "sampling": config.sampling.model_copy(
            update={"max_tokens": min(max(8, config.parts), config.sampling.max_tokens)}),
        "algorithm": config.algorithm.model_copy(update={"epochs": 1}),
    }
    return config.model_copy(update=changes)


def _data_table(config: PpoConfig, inputs: PpoInputs) -> Table:
    table = Table("prompts", "count", "tokens (longest)", title="data")
    for name, prompts in (
        (config.data.prompts, inputs.prompts.prompts),
        (config.data.eval_prompts, inputs.eval_prompts),
    ):
        if prompts:
            table.add_row(str(name), str(len(prompts)), str(max(len(p.ids) for p in prompts)))
    return table


def _probe(source: RewardSource, pool: RewardPoolConfig) -> str:
    """Ask a remote scorer for one score. Raises RewardError when it does not answer as it should."""
    question = {"role": "user", "content": "What helps against a cold?"}
    score = make_scorer(source, pool)([ScoreRequest((question,), "Rest, and drink water.", True)])[0]
    return f"reward source {source.name!r} answers at {source.url}: a made-up answer scores {score:.3f}"


def _lora_table(found: Overview) -> Table:
    table = Table("role", "module", "layers", "trains", "trainable parameters", title="LoRA targets of the policy")
    for row in found.rows:
        if row.trains:
            table.add_row(row.role, row.module, ranges(row.layers), row.trains, f"{row.trainable:,}")
    table.add_row("all", "", "", "", f"{found.trainable:,}")
    return table


def _overview(model: ModelConfig, lora: LoraConfig) -> Overview:
    """From the model's config alone: no weights are read."""
    return overview(skeleton(read_config(model.path, model.trust_remote_code), "causal"), lora, "causal")


def _try_layers(config: PpoConfig) -> str:
    """The dry run's result. A model that does not run when it is cut is no error: the tiny step runs it whole."""
    model = config.model
    try:
        tensors = dry_run(
            read_config(model.path, model.trust_remote_code), config.lora, "causal", model.trust_remote_code
        )
    except ModelError as error:
        return f"no dry run: {error}"
    return f"one random layer of each kind: all {tensors} trainable tensors got a gradient"


def _batch_table(config: PpoConfig) -> Table:
    a, answers = config.algorithm, config.answers_per_step
    per_mini = answers // a.mini_batches
    per_rank = -(-per_mini // config.learner.workers)
    limits = config.learner
    micro = f"{-(-per_rank // limits.micro_batch_size)} of up to {limits.micro_batch_size}"
    if limits.micro_batch_tokens:
        micro = f"at least {micro}, each of up to {limits.micro_batch_tokens:,} tokens"
    table = Table("quantity", "value", title="batch arithmetic")
    for name, value in (
        ("answers a step", f"{config.data.batch_size} prompts × {config.data.samples_per_prompt} = {answers}"),
        ("optimizer steps a step", f"{a.epochs} epochs × {a.mini_batches} mini-batches = {a.epochs * a.mini_batches}"),
        ("answers a mini-batch", f"{per_mini} (about {per_rank} on each of {limits.workers} ranks, by their tokens)"),
        ("micro-batches a mini-batch and rank", micro),
        ("optimizer steps in all", f"{config.steps * a.epochs * a.mini_batches:,}"),
    ):
        table.add_row(name, value)
    return table


def _memory_table(config: PpoConfig) -> Table:
    """Weights, gradients and optimizer of each worker; activations come on top and grow with the micro-batch."""
    policy, dtype = parameter_count(config.model.path), config.model.dtype
    scorers = sum(parameter_count(s.model) * BYTES[s.dtype] for s in config.reward.sources if s.model)
    rows = {
        "policy": _training(config.model, config.lora, policy),
        "reward": (scorers, 0),
        "rollout": (policy * BYTES[config.rollout.dtype] + int(config.rollout.kv_cache_gib * GIB), 0),
        "reference": (policy * BYTES[dtype] if config.reference.mode == "dedicated" else 0, 0),
    }
    if config.has_critic and not config.has_value_head:
        held, training = _training(config.model, config.critic.lora, policy)
        rows["critic"] = (held - policy * BYTES[dtype] if config.critic_inside else held, training)
    table = Table(
        "role",
        "weights and caches (GiB a worker)",
        "gradients and optimizer (GiB a worker)",
        title="memory, without activations",
    )
    for role, (held, training) in rows.items():
        table.add_row(role, f"{held / GIB:.2f}", f"{training / GIB:.2f}")
    return table


def _training(model: ModelConfig, lora: LoraConfig | None, parameters: int) -> tuple[int, int]:
    """(weights, gradients and optimizer) in bytes of a model that trains."""
    trained = _overview(model, lora).trainable if lora else parameters
    memory = training_memory(parameters, trained, model.dtype, lora is not None)
    return memory.weights, memory.gradients + memory.optimizer


def _placement_table(config: PpoConfig) -> Table:
    table = Table("role", "workers", "CPUs each", "GPUs each", "placement", title="placement")
    for plan in plan_roles(config).values():
        workers = f"{plan.workers} to {plan.most}" if plan.extra else str(plan.workers)
        table.add_row(plan.role, workers, f"{plan.cpus:g}", f"{plan.gpus:g}", plan.strategy)
    inside = {"reference": config.reference.mode != "dedicated", "critic": config.critic_inside}
    for role in (role for role, is_inside in inside.items() if is_inside):
        table.add_row(role, "inside the policy", "0", "0", "")
    return table


def _setup_tables(config: PpoConfig, plans: dict[str, RolePlan]) -> Iterator[Table | str]:
    """What the workers of each role will choose by themselves. Ray must be connected."""
    threads, nodes = threads_for(plans), look_around(plans)
    for role, plan in plans.items():
        if (node := nodes[role]) is None:
            yield f"set-up of {role}: no node could be looked at, the step below says why"
            continue
        table = Table("setting", "chosen", "why", title=f"set-up of {role}, on {node.machine.cpu}, {node.cores} cores")
        for setting, choice in role_choices(config, plan, threads[role], node).items():
            value = str(choice.value)
            table.add_row(setting, value.lower() if isinstance(choice.value, bool) else value, choice.why)
        yield table


def parameter_count(path: str) -> int:
    """Parameters in a directory's safetensors files, read from their headers."""
    total = 0
    for file in local_dir(path).glob("*.safetensors"):
        with file.open("rb") as f:
            header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        total += sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total
