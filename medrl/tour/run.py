"""`medrl demo`: the whole road on a tiny medical world, and what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

import medrl
from medrl.config.base import load_config
from medrl.config.pipeline import PipelineConfig
from medrl.pipeline.run import run_pipeline
from medrl.run_dir import library_versions, write_json
from medrl.tour.memory import watch_memory

SHOWN_ANSWERS = 4


def run_demo(seed: int, output_dir: str) -> dict:
    """Run the pipeline configs/demo/pipeline.yaml and write <output_dir>/summary.json. What is done is not redone."""
    out, file = Path(output_dir), demo_configs() / "pipeline.yaml"
    config = load_config(PipelineConfig, file, [f"output_dir={out}", f"seed={seed}"])
    with watch_memory() as peak:
        links = run_pipeline(config, file.parent)
    seconds = {name: link["seconds"] for name, link in links.items()}
    summary = summarise(out, seconds)
    # A call that had little left to do says little about memory: the peak of all calls counts.
    before = _read(out / "summary.json")["peak_memory_gib"] if (out / "summary.json").exists() else 0.0
    summary["peak_memory_gib"] = max(before, round(peak.gib, 2))
    write_json(out / "summary.json", summary)
    _show(Console(), out, summary)
    return summary


def demo_configs() -> Path:
    """The folder of the demo's YAML files: in a checkout beside the package, else where the wheel put them."""
    checkout = Path(medrl.__file__).parents[1] / "configs/demo"
    return checkout if checkout.is_dir() else Path(sys.prefix, "share/medrl/configs/demo")


def summarise(out: Path, seconds: dict[str, float]) -> dict:
    """The figures of the whole road, read from what the stages wrote."""
    reports = {stage: _read(out / stage / "report.json") for stage in ("pretrain", "sft", "reward")}
    ppo = _read(out / "ppo/summary.json")
    steps = [json.loads(line) for line in (out / "ppo/metrics.jsonl").read_text().splitlines()]
    before, after = ppo["evaluation_before"], ppo["evaluation_after"]
    kl = [step["rollout/kl_sum_mean"] for step in steps]
    return {
        "versions": library_versions(),
        "engines": ppo["engines"],
        "world": _read(out / "world/world.json"),
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
    console.print(f"everything is in {out}; figures in {out}/summary.json, curves in {out}/report/report.html")
