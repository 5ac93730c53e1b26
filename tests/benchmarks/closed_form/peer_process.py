"""TRL's side of a task, in its own environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from medrl.config.algorithm import AlgorithmConfig
from medrl.config.learner import OptimizerConfig
from medrl.models.export import load_calibration
from tests.benchmarks.closed_form.grammar import MAX_TOKENS, PROMPT_TOKENS
from tests.benchmarks.closed_form.tasks import EPOCHS, LORA, MINI_BATCHES, Task
from tests.benchmarks.closed_form.world import BETA, SCORE_CLIP, World
from tests.benchmarks.step.peer_process import PYTHON

SCRIPT = Path(__file__).with_name("peer.py")


def train_peer(world: World, task: Task, seed: int, folder: Path) -> Path:
    """Trains; the folder of the model, or with LoRA of the adapter. `folder`/log.txt has TRL's output."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / "settings.json"
    settings.write_text(json.dumps(peer_settings(world, task, seed), indent=2), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [PYTHON, SCRIPT.name, str(settings.absolute()), str(folder.absolute())]
    with (folder / "log.txt").open("w") as log:
        subprocess.run(command, check=True, cwd=SCRIPT.parent, env=environment, stdout=log, stderr=subprocess.STDOUT,
                       timeout=3600)
    return folder / ("adapter" if task.lora else "model")


def peer_settings(world: World, task: Task, seed: int) -> dict:
    """What `peer.py` reads: the same numbers as medrl's config has, its defaults included."""
    algorithm, optimizer = AlgorithmConfig(), OptimizerConfig()
    return {
        "reference": str(world.reference.absolute()), "reward": str(world.reward(task.reward).absolute()),
        "calibration": load_calibration(world.reward(task.reward)), "score_clip": SCORE_CLIP,
        "prompts": str((world.folder / "prompts.jsonl").absolute()), "prompt_tokens": PROMPT_TOKENS,
        "max_tokens": MAX_TOKENS, "batch_size": task.batch_size, "steps": task.steps, "epochs": EPOCHS,
        "mini_batches": MINI_BATCHES, "beta": BETA, "gamma": algorithm.gamma, "lam": algorithm.lam,
        "clip": algorithm.clip_low, "value_clip": algorithm.value_clip, "adam_eps": optimizer.eps,
        "policy_lr": task.policy_lr, "critic_lr": task.critic_lr, "lora": LORA if task.lora else None, "seed": seed,
        "threads": 1,
    }
