"""The runs of the benchmark, scored exactly afterwards: `medrl ppo` on Ray, DeepSpeed and vLLM, or TRL's trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from tests.benchmarks.closed_form.exact import Quality
from tests.benchmarks.closed_form.grammar import MAX_TOKENS, PROMPT_TOKENS
from tests.benchmarks.closed_form.peer_process import train_peer
from tests.benchmarks.closed_form.permuted import REWARD_DIR
from tests.benchmarks.closed_form.tasks import EPOCHS, LORA, MINI_BATCHES, TASKS
from tests.benchmarks.closed_form.world import BETA, SCORE_CLIP, World, policy_logprobs

REPOSITORY = Path(__file__).parents[3]
RUN_LIMIT = 3600.0  # seconds
PERMUTED = "tests.benchmarks.closed_form.permuted:score"


@dataclass(frozen=True)
class Outcome:
    """One run: which share of the gap to J* it closed, and what its policy is like."""

    task: str
    seed: int
    gap_closed: float
    quality: Quality
    seconds: float

    @classmethod
    def load(cls, path: Path) -> Outcome:
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**values | {"quality": Quality(**values["quality"])})


def run(world: World, name: str, seed: int) -> Outcome:
    """Train, then list every answer; or the outcome that the world's folder holds of this run.

    Raises RuntimeError with the run's last words if it fails.
    """
    task, start, folder = TASKS[name], time.monotonic(), world.folder / "runs" / f"{name}_{seed}"
    if (folder / "outcome.json").exists():
        return Outcome.load(folder / "outcome.json")
    if task.trainer == "trl":
        trained = train_peer(world, task, seed, folder)
    else:
        trained = train_own(world, name, seed)
    if task.lora:
        logprobs = policy_logprobs(world.reference, world.held_out, adapter=trained)
    else:
        logprobs = policy_logprobs(trained, world.held_out)
    bound = world.bounds[task.reward]
    quality = bound.quality(logprobs)
    outcome = Outcome(name, seed, bound.gap_closed(quality), quality, round(time.monotonic() - start, 1))
    (folder / "outcome.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    return outcome


def train_own(world: World, name: str, seed: int) -> Path:
    """`medrl ppo` in a process of its own; the folder of the model, or with LoRA of the adapter."""
    task, values = TASKS[name], ppo_values(world, name, seed)
    path = world.folder / f"{name}_{seed}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    environment = os.environ | {REWARD_DIR: str(world.reward(task.reward)), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "medrl", "ppo", str(path)], cwd=REPOSITORY, env=environment, timeout=RUN_LIMIT,
        capture_output=True, text=True)
    if done.returncode:
        last_words = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        raise RuntimeError(f"run {name}, seed {seed}: exit code {done.returncode}\n{last_words}")
    return Path(values["output_dir"], values["name"], "adapter" if task.lora else "model")


def ppo_values(world: World, name: str, seed: int) -> dict:
    """The config of a run, as YAML holds it."""
    task = TASKS[name]
    reward = {"model": str(world.reward(task.reward))}
    if task.permuted:
        reward = {"function": PERMUTED}
    values = {
        "name": f"{name}_{seed}",
        "output_dir": str(world.folder / "runs"),
        "seed": seed,
        "steps": task.steps,
        "model": {"path": str(world.reference)},
        "data": {
            "prompts": str(world.folder / "prompts.jsonl"), "batch_size": task.batch_size,
            "max_prompt_tokens": PROMPT_TOKENS},
        "sampling": {"max_tokens": MAX_TOKENS},
        "algorithm": {
            "epochs": EPOCHS, "mini_batches": MINI_BATCHES, "kl": {"coef": BETA},
            "importance": "truncate" if task.max_staleness else "off",
            "reward": {"clip": SCORE_CLIP, "missing_eos_penalty": 0.0}},
        "learner": {"micro_batch_size": 128, "optimizer": {"lr": task.policy_lr}},
        "critic": {"init": "policy", "micro_batch_size": 128, "optimizer": {"lr": task.critic_lr}},
        "reference": {"mode": "shared" if task.lora else "dedicated"},
        "reward": {"sources": [{"name": "reward"} | reward], "micro_batch_size": 128},
        "rollout": {"dtype": "float32", "kv_cache_gib": 0.25, "max_staleness": task.max_staleness},
        "tracking": ["jsonl"],
    }
    if task.lora:
        values["lora"] = LORA
    if task.value_head:
        values["critic"]["mode"] = "head"
    return values
