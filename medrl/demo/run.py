"""`medrl demo`: the whole road on a tiny medical world, through the same stages and configs as a real run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from medrl.demo.memory import watch_memory
from medrl.demo.world import build_world
from medrl.errors import WorkerError
from medrl.run_dir import library_versions, write_json

STAGES = ("pretrain", "sft", "reward", "ppo")
SHOWN_ANSWERS = 4


def run_demo(seed: int, output_dir: str, config_dir: str = "configs/demo") -> dict:
    """Build the world, run every stage as `medrl <stage>`, merge, and write <output_dir>/summary.json.

    Each stage is a process of its own, as it is in real use: memory is freed between stages, and a stage can be run
    again by hand with the very command that is printed. Raises WorkerError when a stage fails.
    """
    out, console = Path(output_dir), Console()
    seconds: dict[str, float] = {}
    with watch_memory() as peak:
        console.rule("a small medical world")
        started = time.monotonic()
        world = build_world(out / "world", seed)
        seconds["world"] = round(time.monotonic() - started, 1)
        for stage in STAGES:
            overrides = [f"seed={seed}", *_paths(stage, out)]
            seconds[stage] = _medrl(console, stage, f"{config_dir}/{stage}.yaml", *overrides)
        adapter, base, merged = (str(out / name) for name in ("ppo/adapter", "sft/merged", "merged"))
        seconds["merge"] = _medrl(console, "merge", adapter, "--base", base, "--out", merged)
    summary = summarise(out, seconds, world) | {"peak_memory_gib": round(peak.gib, 2)}
    write_json(out / "summary.json", summary)
    _show(console, out, summary)
    return summary


def _paths(stage: str, out: Path) -> list[str]:
    """Overrides that move a stage's inputs and outputs from runs/demo to `out`."""
    world, models = f"{out}/world", {"pretrain": "world/base", "sft": "pretrain/model", "reward": "sft/merged", "ppo": "sft/merged"}
    overrides = [f"output_dir={out}", f"model.path={out}/{models[stage]}"]
    files = {"pretrain": {"train": "pretrain.txt"}, "sft": {"train": "sft.jsonl", "eval": "sft_eval.jsonl"},
             "reward": {"train": "pairs.jsonl", "eval": "pairs_eval.jsonl", "calibration": "sft_eval.jsonl"},
             "ppo": {"prompts": "prompts.jsonl", "eval_prompts": "eval_prompts.jsonl"}}
    overrides += [f"data.{key}={world}/{name}" for key, name in files[stage].items()]
    if stage == "ppo":
        overrides.append(f"reward.sources=[{{name: medical, model: {out}/reward/merged}}]")
    return overrides


def _medrl(console: Console, *arguments: str) -> float:
    """Run one `medrl` command; seconds it took."""
    console.rule(f"medrl {arguments[0]}")
    console.print("medrl", *arguments, style="dim", highlight=False)
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "medrl", *arguments])
    if done.returncode:
        raise WorkerError(f"medrl {arguments[0]} failed", got=f"exit code {done.returncode}", remedy="its error is printed above")
    return round(time.monotonic() - started, 1)


def summarise(out: Path, seconds: dict[str, float], world: dict) -> dict:
    """The figures of the whole road, read from what the stages wrote."""
    reports = {stage: json.loads((out / stage / "report.json").read_text()) for stage in ("pretrain", "sft", "reward")}
    ppo = json.loads((out / "ppo/summary.json").read_text())
    steps = [json.loads(line) for line in (out / "ppo/metrics.jsonl").read_text().splitlines()]
    merge = json.loads((out / "merged/merge.json").read_text())
    before, after = ppo["evaluation_before"], ppo["evaluation_after"]
    return {
        "versions": library_versions(),
        "engines": ppo["engines"],
        "world": world,
        "stages": {name: {k: v for k, v in report.items() if isinstance(v, int | float)} for name, report in reports.items()},
        "reward_model_pair_accuracy": reports["reward"]["accuracy"],
        "ppo": {
            "held_out_reward_before": before["score_mean"], "held_out_reward_after": after["score_mean"],
            "held_out_reward_std_before": before["score_std"],
            "gain_in_sft_deviations": (after["score_mean"] - before["score_mean"]) / before["score_std"],
            "mean_kl": sum(s["rollout/kl_sum_mean"] for s in steps) / len(steps), "last_kl": steps[-1]["rollout/kl_sum_mean"],
            "length_before": before["length_mean"], "length_after": after["length_mean"],
            "distinct_2_before": before["distinct_2"], "distinct_2_after": after["distinct_2"],
            "ended_before": before["ended_fraction"], "ended_after": after["ended_fraction"],
        },
        "merge_check": merge,
        "seconds": seconds | {"total": round(sum(seconds.values()), 1)},
    }


def _show(console: Console, out: Path, summary: dict) -> None:
    """Answers before and after, side by side, then the figures."""
    rows = [json.loads(line) for line in (out / "ppo/samples.jsonl").read_text(encoding="utf-8").splitlines()]
    first, last = 0, max(row["step"] for row in rows)
    before = {row["prompt_id"]: row for row in rows if row["step"] == first}
    after = {row["prompt_id"]: row for row in rows if row["step"] == last and row["prompt_id"] in before}
    table = Table("question", "after SFT", "after PPO", title="held-out questions", show_lines=True)
    for prompt_id in list(after)[:SHOWN_ANSWERS]:
        b, a = before[prompt_id], after[prompt_id]
        table.add_row(b["messages"][-1]["content"], f"{b['answer']}\n[{b['score']:+.2f}]", f"{a['answer']}\n[{a['score']:+.2f}]")
    console.print(table)
    p = summary["ppo"]
    figures = Table("figure", "value", title="summary")
    for name, value in (("reward model, held-out pairs", f"{summary['reward_model_pair_accuracy']:.3f}"),
                        ("held-out reward", f"{p['held_out_reward_before']:+.2f} → {p['held_out_reward_after']:+.2f} "
                                            f"({p['gain_in_sft_deviations']:+.2f} deviations)"),
                        ("mean KL", f"{p['mean_kl']:.2f}"), ("answer length", f"{p['length_before']:.1f} → {p['length_after']:.1f} tokens"),
                        ("distinct-2", f"{p['distinct_2_before']:.3f} → {p['distinct_2_after']:.3f}"),
                        ("peak memory", f"{summary['peak_memory_gib']:.1f} GiB"),
                        ("seconds", ", ".join(f"{k} {v:.0f}" for k, v in summary["seconds"].items()))):
        figures.add_row(name, value)
    console.print(figures)
    console.print(f"everything is in {out}; figures in {out}/summary.json")
