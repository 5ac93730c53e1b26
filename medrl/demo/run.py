"""`medrl demo`: the whole road on a tiny medical world, through the same stages and configs as a real run."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import medrl
from medrl.config.base import load_config
from medrl.config.common import RayConfig
from medrl.config.ppo import PpoConfig
from medrl.config.supervised import PretrainConfig, RewardConfig, SftConfig
from medrl.demo.memory import watch_memory
from medrl.demo.world import build_world
from medrl.run_dir import library_versions, write_json
from medrl.stages.merge import run_merge
from medrl.stages.ppo import run_ppo
from medrl.stages.pretrain import run_pretrain
from medrl.stages.reward import run_reward
from medrl.stages.sft import run_sft
from medrl.workers.cluster import connect

STAGES: dict[str, tuple[type, Callable[[Any], dict]]] = {
    "pretrain": (PretrainConfig, run_pretrain),
    "sft": (SftConfig, run_sft),
    "reward": (RewardConfig, run_reward),
    "ppo": (PpoConfig, run_ppo),
}
LOGICAL_CPUS = 8  # what PPO's roles reserve; they take turns on fewer cores
SHOWN_ANSWERS = 4


def run_demo(seed: int, output_dir: str) -> dict:
    """Build the world, run every stage as `medrl <stage>` does, merge, and write <output_dir>/summary.json.

    The stages share one Ray cluster. Each can be run again by hand with the very command that is printed.
    """
    out, console, configs = Path(output_dir), Console(), demo_configs()
    if (out / "merged").exists():  # the one folder that no stage moves aside
        shutil.rmtree(out / "merged")
    seconds: dict[str, float] = {}

    @contextmanager
    def part(name: str, *command: str) -> Iterator[None]:
        console.rule(name)
        if command:
            console.print(*command, style="dim", highlight=False)
        started = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - started, 1)

    with watch_memory() as peak:
        with part("world"):
            world = build_world(out / "world", seed)
        with connect(RayConfig(num_cpus=LOGICAL_CPUS)):
            for name, (config_class, run) in STAGES.items():
                file, overrides = configs / f"{name}.yaml", [f"seed={seed}", *_paths(name, out)]
                with part(name, "medrl", name, str(file), *overrides):
                    run(load_config(config_class, file, overrides))
        adapter, base, merged = (str(out / name) for name in ("ppo/adapter", "sft/merged", "merged"))
        with part("merge", "medrl merge", adapter, "--base", base, "--out", merged):
            run_merge(adapter, base, merged)
    summary = summarise(out, seconds, world) | {"peak_memory_gib": round(peak.gib, 2)}
    write_json(out / "summary.json", summary)
    _show(console, out, summary)
    return summary


def demo_configs() -> Path:
    """The folder of the demo's YAML files: in a checkout beside the package, else where the wheel put them."""
    checkout = Path(medrl.__file__).parents[1] / "configs/demo"
    return checkout if checkout.is_dir() else Path(sys.prefix, "share/medrl/configs/demo")


def _paths(stage: str, out: Path) -> list[str]:
    """Overrides that move a stage's inputs and outputs from runs/demo to `out`."""
    models = {"pretrain": "world/base", "sft": "pretrain/model", "reward": "sft/merged", "ppo": "sft/merged"}
    files = {
        "pretrain": {"train": "pretrain.txt"},
        "sft": {"train": "sft.jsonl", "eval": "sft_eval.jsonl"},
        "reward": {"train": "pairs.jsonl", "eval": "pairs_eval.jsonl", "calibration": "sft_eval.jsonl"},
        "ppo": {"prompts": "prompts.jsonl", "eval_prompts": "eval_prompts.jsonl"},
    }
    overrides = [f"output_dir={out}", f"model.path={out}/{models[stage]}"]
    overrides += [f"data.{key}={out}/world/{name}" for key, name in files[stage].items()]
    if stage == "ppo":
        overrides.append(f"reward.sources=[{{name: medical, model: {out}/reward/merged}}]")
    return overrides


def summarise(out: Path, seconds: dict[str, float], world: dict) -> dict:
    """The figures of the whole road, read from what the stages wrote."""
    reports = {stage: _read(out / stage / "report.json") for stage in ("pretrain", "sft", "reward")}
    ppo = _read(out / "ppo/summary.json")
    steps = [json.loads(line) for line in (out / "ppo/metrics.jsonl").read_text().splitlines()]
    before, after = ppo["evaluation_before"], ppo["evaluation_after"]
    kl = [step["rollout/kl_sum_mean"] for step in steps]
    return {
        "versions": library_versions(),
        "engines": ppo["engines"],
        "world": world,
        "stages": {
            name: {key: value for key, value in report.items() if isinstance(value, int | float)}
            for name, report in reports.items()
        },
        "reward_model_pair_accuracy": reports["reward"]["accuracy"],
        "ppo": {
            "held_out_reward_before": before["score_mean"],
            "held_out_reward_after": after["score_mean"],
            "held_out_reward_std_before": before["score_std"],
            "gain_in_sft_deviations": (after["score_mean"] - before["score_mean"]) / before["score_std"],
            "mean_kl": sum(kl) / len(kl),
            "last_kl": kl[-1],
            **{f"{name}_before": before[name] for name in ("length_mean", "distinct_2", "ended_fraction")},
            **{f"{name}_after": after[name] for name in ("length_mean", "distinct_2", "ended_fraction")},
        },
        "merge_check": _read(out / "merged/merge.json"),
        "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
    }


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _show(console: Console, out: Path, summary: dict) -> None:
    """Answers before and after, side by side, then the figures."""
    rows = [json.loads(line) for line in (out / "ppo/samples.jsonl").read_text(encoding="utf-8").splitlines()]
    held_out = [row for row in rows if row["kind"] == "held-out"]
    last = max(row["step"] for row in held_out)
    before, after = ({row["prompt_id"]: row for row in held_out if row["step"] == step} for step in (0, last))
    answers = Table(title="held-out questions", show_lines=True)
    for column in ("question", "after SFT", "after PPO"):
        answers.add_column(column, overflow="fold")  # Chinese has no spaces to break a line at
    for prompt_id in list(after)[:SHOWN_ANSWERS]:
        pair = (before[prompt_id], after[prompt_id])
        question = pair[0]["messages"][-1]["content"]
        answers.add_row(question, *(f"{row['answer']}\n[{row['score']:+.2f}]" for row in pair))
    console.print(answers)
    p = summary["ppo"]
    reward = f"{p['held_out_reward_before']:+.2f} → {p['held_out_reward_after']:+.2f}"
    figures = Table("figure", "value", title="summary")
    figures.add_row("reward model, held-out pairs", f"{summary['reward_model_pair_accuracy']:.3f}")
    figures.add_row("held-out reward", f"{reward} ({p['gain_in_sft_deviations']:+.2f} deviations)")
    figures.add_row("mean KL", f"{p['mean_kl']:.2f}")
    figures.add_row("answer length", f"{p['length_mean_before']:.1f} → {p['length_mean_after']:.1f} tokens")
    figures.add_row("distinct-2", f"{p['distinct_2_before']:.3f} → {p['distinct_2_after']:.3f}")
    figures.add_row("peak memory", f"{summary['peak_memory_gib']:.1f} GiB")
    figures.add_row("seconds", ", ".join(f"{name} {value:.0f}" for name, value in summary["seconds"].items()))
    console.print(figures)
    console.print(f"everything is in {out}; figures in {out}/summary.json")
