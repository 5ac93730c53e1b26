"""The runs of the benchmark: each is one `medrl ppo` on Ray, DeepSpeed and vLLM, scored exactly afterwards."""

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
from tests.benchmarks.closed_form.permuted import REWARD_DIR
from tests.benchmarks.closed_form.world import BETA, SCORE_CLIP, World, policy_logprobs

REPOSITORY = Path(__file__).parents[3]
STEPS = 40
RUN_LIMIT = 3600.0  # seconds
PERMUTED = "tests.benchmarks.closed_form.permuted:score"


@dataclass(frozen=True)
class Task:
    """One row of the table. `target` is what the mean gap closed over seeds must reach (control: must not exceed)."""

    reward: str  # which reward model
    target: float
    batch_size: int = 64
    permuted: bool = False
    lora: bool = False
    policy_lr: float = 1e-3
    critic_lr: float = 1e-3


TASKS = {
    "full": Task(reward="plain", target=0.68),
    "permuted": Task(reward="plain", target=0.1, permuted=True),
    "lora": Task(reward="plain", target=0.3, lora=True, policy_lr=3e-3),
    "conditional": Task(reward="conditional", target=0.6, batch_size=256),
}


@dataclass(frozen=True)
class Outcome:
    """One run: which share of the gap to J* it closed, and what its policy is like."""

    task: str
    seed: int
    gap_closed: float
    quality: Quality
    seconds: float


def run(world: World, name: str, seed: int) -> Outcome:
    """Train with the real stage, then list every answer. Raises RuntimeError with the run's last words if it fails."""
    task, start = TASKS[name], time.monotonic()
    values = ppo_values(world, name, seed)
    path = world.folder / f"{name}_{seed}.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    environment = os.environ | {REWARD_DIR: str(world.reward(task.reward)), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "medrl", "ppo", str(path)], cwd=REPOSITORY, env=environment, timeout=RUN_LIMIT,
        capture_output=True, text=True)
    if done.returncode:
        last_words = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        raise RuntimeError(f"run {name}, seed {seed}: exit code {done.returncode}\n{last_words}")
    result = Path(values["output_dir"], values["name"])
    if task.lora:
        logprobs = policy_logprobs(world.reference, world.held_out, adapter=result / "adapter")
    else:
        logprobs = policy_logprobs(result / "model", world.held_out)
    bound = world.bounds[task.reward]
    quality = bound.quality(logprobs)
    outcome = Outcome(name, seed, bound.gap_closed(quality), quality, round(time.monotonic() - start, 1))
    (result / "outcome.json").write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    return outcome


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
        "steps": STEPS,
        "model": {"path": str(world.reference)},
        "data": {
            "prompts": str(world.folder / "prompts.jsonl"), "batch_size": task.batch_size,
            "max_prompt_tokens": PROMPT_TOKENS},
        "sampling": {"max_tokens": MAX_TOKENS},
        "algorithm": {
            "epochs": 4, "mini_batches": 2, "kl": {"coef": BETA},
            "reward": {"clip": SCORE_CLIP, "missing_eos_penalty": 0.0}},
        "learner": {"micro_batch_size": 128, "optimizer": {"lr": task.policy_lr}},
        "critic": {"init": "policy", "micro_batch_size": 128, "optimizer": {"lr": task.critic_lr}},
        "reference": {"mode": "shared" if task.lora else "dedicated"},
        "reward": {"sources": [{"name": "reward"} | reward], "micro_batch_size": 128},
        "rollout": {"dtype": "float32", "kv_cache_gib": 0.25},
        "tracking": ["jsonl"],
    }
    if task.lora:
        values["lora"] = {"rank": 8, "alpha": 16.0}
    return values
