"""medrl's PPO on a case, as a user runs it: `medrl ppo CONFIG` in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import yaml

from tests.benchmarks.step.cases import Case
from tests.benchmarks.step.watch import Watched, watch

PHASES = ("generate", "score", "update", "sync")
LIMIT_S = 3600.0


@dataclass(frozen=True)
class OwnRun:
    """What was measured of every step but the first, and of the workers."""

    seconds: dict[str, list[float]]  # "step", each phase, and "busy": in which at least one worker was at work
    tokens: list[float]  # of a step's answers
    sync: dict[str, list[float]]  # "seconds", "bytes": of the slowest engine's part of a weight sync
    peak_bytes: dict[str, int]  # role → the largest resident set of one of its workers
    parameter_bytes: dict[str, int]  # role → what each of its workers holds beyond what it shares with the policy


def run_own(case: Case, world: Path, steps: int, folder: Path, overrides: tuple[str, ...] = ()) -> OwnRun:
    """Raises CalledProcessError or TimeoutExpired when the run fails; `folder`/log.txt says why."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(own_config(case, world, steps, folder)), encoding="utf-8")
    seen = _watched([sys.executable, "-m", "medrl", "ppo", str(config), *case.own, *overrides], folder / "log.txt")
    rows = [json.loads(line) for line in (folder / "ppo/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [row["wall_time"] for row in rows]
    seconds = {
        "step": [after - before for before, after in pairwise(ends)],
        **{phase: [row[f"time/{phase}"] for row in rows[1:]] for phase in PHASES},
        "busy": [seen.busy(before, after) for before, after in pairwise(ends)],
    }
    summary = json.loads((folder / "ppo/summary.json").read_text(encoding="utf-8"))
    return OwnRun(
        seconds, [row["rollout/length_mean"] * case.prompts for row in rows[1:]],
        {name: [row[f"sync/{name}"] for row in rows[1:]] for name in ("seconds", "bytes")},
        seen.peak_bytes, summary["parameter_bytes"])


def _watched(command: list[str], log: Path) -> Watched:
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            with watch(process.pid) as seen:
                code = process.wait(LIMIT_S)
        except BaseException:
            process.kill()
            raise
    if code:
        raise subprocess.CalledProcessError(code, command)
    return seen


def own_config(case: Case, world: Path, steps: int, folder: Path) -> dict:
    """The same work as `peer.py` sets up: rates and limits that neither side's speed depends on are left alone."""
    lora = {"rank": case.lora_rank, "alpha": 2 * case.lora_rank, "targets": ["all-linear"]} if case.lora_rank else None
    in_full = lora is None and case.dtype == "bfloat16"
    learner = {
        "micro_batch_size": case.prompts // case.mini_batches, "zero_stage": 2 if in_full else 0,
        "optimizer": {"lr": 1e-5}}
    return {
        "name": "ppo", "output_dir": str(folder), "seed": 0, "steps": steps, "tracking": ["jsonl"],
        "model": {"path": str(world / "policy"), "dtype": case.dtype, "attn_implementation": case.attention},
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
