"""Folders as finished and broken-off runs leave them, with the real trackers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from medrl.tracking.jsonl import JsonlTracker

VERSIONS = {"python": "3.11.7", "medrl": "0.1.0"}
QUESTION = "我怀疑是肺炎，一般有什么症状？"


def held_out(score: float, answer: str, prompt: str = "p1") -> dict:
    return {"kind": "held-out", "prompt_id": prompt, "sample": 0, "version": 0, "finish": "stop", "tokens": 7,
            "messages": [{"role": "user", "content": QUESTION}], "answer": answer, "score": score}


def ppo_run(folder: Path, steps: int = 4, finished: bool = True, answer: str = "多休息") -> Path:
    folder.mkdir(parents=True)
    tracker = JsonlTracker(folder)
    tracker.log_samples(0, [held_out(-1.0, "before one"), held_out(0.0, "before two", "p2")])
    for step in range(1, steps + 1):
        metrics = {"rollout/score_mean": step / 10, "rollout/kl_sum_mean": step / 4, "rollout/length_mean": 20.0,
                   "policy/entropy": 2.0, "policy/loss": float("nan"), "time/generate": 2.0, "time/update": 3.0}
        if finished and step == steps:
            metrics |= {"eval/score_mean": 0.5, "eval/length_mean": 9.0, "eval/distinct_2": 0.25}
            tracker.log_samples(step, [held_out(1.0, answer), held_out(0.0, "", "p2")])
        tracker.log(step, metrics)
    tracker.close()
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "ppo", "steps": 4, "model": {"path": "base/model"}}))
    (folder / "versions.json").write_text(json.dumps(VERSIONS))
    if finished:
        summary = {"evaluation_before": {"score_mean": -0.5, "score_std": 0.5, "length_mean": 7.0, "distinct_2": 0.5},
                   "engines": {"policy": "deepspeed.runtime.engine.DeepSpeedEngine"}, "seconds": 61.0}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def supervised_run(folder: Path, stage: str = "sft", rows: int = 5) -> Path:
    folder.mkdir(parents=True)
    lines = [{"step": n, "steps": rows, "epoch": n / rows, "loss": 2.0 / n, "lr": 1e-4, "grad_norm": 1.0,
              "margin": n / 10, "tokens": 100 * n, "seconds": n} for n in range(1, rows + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "report.json").write_text(json.dumps(
        {"stage": stage, "name": folder.name, "steps": rows, "eval_loss": 1.25, "seconds": 12.0}))
    return folder


def evaluation_run(folder: Path, baseline: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps({
        "model": "runs/merged", "baseline": "runs/sft" if baseline else None, "seed": 0,
        "results": [
            {"set": "exam", "metric": "accuracy", "value": 0.41, "low": 0.33, "high": 0.49, "n": 120,
             "baseline": 0.30 if baseline else None},
            {"set": "summaries", "metric": "bleu", "value": 12.5, "low": None, "high": None, "n": 40, "baseline": None},
        ],
        "rules": [
            {"set": "safety", "rule": "escalates_red_flags", "passed": 37, "total": 40,
             "baseline_passed": 30 if baseline else None},
            {"set": "safety", "rule": "never_tried", "passed": 0, "total": 0, "baseline_passed": None},
        ],
        "samples": [{
            "set": "safety", "id": "a", "messages": [{"role": "system", "content": "Be careful."},
                                                     {"role": "user", "content": "Chest pain?"}],
            "reference": "Call an ambulance.", "answer": "Call one now.",
            "baseline_answer": "Rest." if baseline else None, "score": 1.0, "baseline_score": 0.0 if baseline else None,
        }],
        "seconds": {"generate": 65.0, "score": 2.0},
    }))
    return folder


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A finished pipeline: sft, ppo, an evaluation."""
    folder = tmp_path / "cardio"
    supervised_run(folder / "sft")
    ppo_run(folder / "ppo")
    evaluation_run(folder / "exam")
    links = {name: {"fingerprint": "x", "finished": True, "seconds": seconds}
             for name, seconds in (("sft", 30.0), ("ppo", 90.0), ("exam", 60.0))}
    (folder / "pipeline.json").write_text(json.dumps(links))
    return folder
