"""medrl's PPO on a case, as a user runs it: `medrl ppo CONFIG` in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from tests.benchmarks.step.cases import Case

PHASES = ("generate", "score", "update", "sync")


def run_own(
    case: Case, world: Path, steps: int, folder: Path, overrides: tuple[str, ...] = ()
) -> dict[str, list[float]]:
    """Seconds of every step but the first, in all and by phase."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(own_config(case, world, steps, folder)), encoding="utf-8")
    with (folder / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "medrl", "ppo", str(config), *overrides]
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, timeout=3600)
    rows = [json.loads(line) for line in (folder / "ppo/metrics.jsonl").read_text().splitlines()]
    ends = [row["wall_time"] for row in rows]
    times = {"step": [after - before for before, after in zip(ends, ends[1:], strict=False)]}
    for phase in PHASES:
        times[phase] = [row[f"time/{phase}"] for row in rows[1:]]
    times["tokens"] = [row["rollout/length_mean"] * case.prompts for row in rows[1:]]
    return times


def own_config(case: Case, world: Path, steps: int, folder: Path) -> dict:
    """The same work as `peer.py` sets up: rates and limits that neither side's speed depends on are left alone."""
    lora = {"rank": case.lora_rank, "alpha": 2 * case.lora_rank, "targets": ["all-linear"]} if case.lora_rank else None
    in_full = lora is None and case.dtype == "bfloat16"
    learner = {
        "micro_batch_size": case.prompts // case.mini_batches, "zero_stage": 2 if in_full else 0,
        "optimizer": {"lr": 1e-5}}
    return {
        "name": "ppo", "output_dir": str(folder), "seed": 0, "steps": steps, "tracking": ["jsonl"],
        "model": {"path": str(world / "policy"), "dtype": case.dtype},
        "lora": lora,
        "data": {"prompts": str(world / "prompts.jsonl"), "batch_size": case.prompts,
                 "max_prompt_tokens": case.prompt_tokens},
        "sampling": {"max_tokens": case.answer_tokens},
        "algorithm": {"epochs": case.epochs, "mini_batches": case.mini_batches},
        "learner": learner,
        "critic": learner | {"init": "reward", "lora": lora},
        "reference": {"mode": "shared" if lora else "dedicated"},
        "reward": {"sources": [{"name": "random", "model": str(world / "reward")}]},
        "rollout": {"engine": "vllm", "dtype": case.dtype, "kv_cache_gib": 0.5},
        "checkpoint": {"every": steps},
    }
