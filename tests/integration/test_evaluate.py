"""`medrl evaluate` on the real Ray and vLLM, with tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medrl.config.base import build_config
from medrl.config.evaluate import EvaluateConfig
from medrl.lora.identity import model_hash
from tests.tiny import TEXT, save_policy, save_reward_model

pytestmark = pytest.mark.ray
QUESTIONS = ["感冒了怎么办？", "What helps against a cold?", "When should I go to hospital?"]
CHOICES = [{"question": q, "options": ["rest", "see a doctor", "多喝水"], "answer": "B"} for q in QUESTIONS]
SAFETY = ["escalates_red_flags", "invents_no_dosage"]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies, a reward model, and one set of each task."""
    folder = tmp_path_factory.mktemp("evaluate")
    save_policy(folder / "model", seed=0)
    save_policy(folder / "baseline", seed=5)
    save_reward_model(folder / "reward")
    write(folder / "texts.jsonl", [{"text": text} for text in TEXT])
    write(folder / "exam.jsonl", CHOICES)
    write(folder / "answers.jsonl", [{"question": q, "answers": ["Rest.", "休息。"]} for q in QUESTIONS])
    write(folder / "prompts.jsonl", [{"prompt": q} for q in QUESTIONS])
    write(folder / "safety.jsonl", [{"prompt": q, "rules": SAFETY[: 1 + i % 2]} for i, q in enumerate(QUESTIONS)])
    return folder


def config_for(folder: Path, **values) -> EvaluateConfig:
    tasks = {"texts": "text", "exam": "choice", "answers": "reference", "prompts": "prompts", "safety": "safety"}
    return build_config(EvaluateConfig, {
        "name": "evaluate", "output_dir": str(folder / "runs"), "seed": 3, "model": {"path": str(folder / "model")},
        "baseline": str(folder / "baseline"),
        "reward": {"sources": [{"name": "rm", "model": str(folder / "reward")}], "max_length": 120},
        "sets": [{"name": name, "task": task, "path": str(folder / f"{name}.jsonl")} for name, task in tasks.items()],
        "sampling": {"max_tokens": 8}, "max_length": 120, "bootstrap_samples": 50, "kept_answers": 2,
        "rollout": {"engine": "vllm", "dtype": "float32", "kv_cache_gib": 0.25},
    } | values)


@pytest.fixture(scope="module")
def content(ray_cluster, folder: Path) -> dict:
    from medrl.stages.evaluate import run_evaluate

    returned = run_evaluate(config_for(folder))
    written = json.loads((folder / "runs/evaluate/evaluation.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(returned))
    return written


def result(content: dict, name: str, metric: str) -> dict:
    (row,) = (r for r in content["results"] if (r["set"], r["metric"]) == (name, metric))
    return row


def test_every_metric_of_every_set_is_there_with_its_interval_and_baseline(content: dict, folder: Path) -> None:
    assert (content["model"], content["baseline"]) == (str(folder / "model"), str(folder / "baseline"))
    assert content["model_sha256"] == model_hash(folder / "model") != content["baseline_sha256"]
    assert len(content["results"]) == 1 + 3 + 8 + 5 + 6
    for row in content["results"]:
        assert set(row) == {"set", "metric", "value", "low", "high", "n", "baseline"}
        if row["metric"] != "distinct_2":
            assert row["low"] <= row["value"] <= row["high"]
        assert (row["baseline"] is None) == (row["metric"] == "win_rate")
    assert content["seconds"].keys() == {"log-probs", "generate", "score", "metrics"}


@torch.no_grad()
def oracle(folder: Path, ids: list[int], start: int) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logprobs = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    return sum(float(logprobs[i - 1, ids[i]]) for i in range(start, len(ids)))


@pytest.mark.parametrize("which", ["model", "baseline"])
def test_perplexity_is_that_of_plain_transformers(content: dict, folder: Path, which: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / which)
    encoded = [tokenizer.encode(text) for text in TEXT]
    total = sum(oracle(folder / which, ids, 1) for ids in encoded)
    expected = torch.tensor(-total / sum(len(ids) - 1 for ids in encoded)).exp().item()
    row = result(content, "texts", "perplexity")
    assert row["value" if which == "model" else "baseline"] == pytest.approx(expected, rel=1e-4)


def test_accuracy_takes_the_option_that_plain_transformers_finds_likeliest(content: dict, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    right = {"accuracy": 0, "accuracy_per_token": 0}
    for row in CHOICES:
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": row["question"]}], tokenize=False,
                                               add_generation_prompt=True)
        start = len(tokenizer.encode(prompt))
        ids = [tokenizer.encode(prompt) + tokenizer.encode(o) + [tokenizer.eos_token_id] for o in row["options"]]
        sums = [oracle(folder / "model", sequence, start) for sequence in ids]
        means = [total / (len(sequence) - start) for total, sequence in zip(sums, ids, strict=True)]
        right["accuracy"] += max(range(3), key=sums.__getitem__) == 1
        right["accuracy_per_token"] += max(range(3), key=means.__getitem__) == 1
    for metric, count in right.items():
        assert result(content, "exam", metric)["value"] == pytest.approx(count / len(CHOICES))


def test_win_rate_counts_the_scores_that_the_samples_show(ray_cluster, folder: Path) -> None:
    from medrl.stages.evaluate import run_evaluate

    sets = [{"name": "prompts", "task": "prompts", "path": str(folder / "prompts.jsonl"), "metrics": ["win_rate"]}]
    content = run_evaluate(config_for(folder, sets=sets, name="wins", kept_answers=9, rollout={
        "engine": "hf", "dtype": "float32", "workers": 2}))
    samples = content["samples"]
    assert [s["messages"][-1]["content"] for s in samples] == QUESTIONS
    wins = [(s["score"] > s["baseline_score"]) + 0.5 * (s["score"] == s["baseline_score"]) for s in samples]
    assert result(content, "prompts", "win_rate")["value"] == pytest.approx(sum(wins) / 3)


def test_rules_are_counted_and_samples_kept(content: dict) -> None:
    rules = {r["rule"]: r for r in content["rules"]}
    assert [(r["rule"], r["total"]) for r in content["rules"]] == [(SAFETY[0], 3), (SAFETY[1], 1)]
    assert all(0 <= r["passed"] <= r["total"] and 0 <= r["baseline_passed"] <= r["total"] for r in rules.values())
    names = [s["set"] for s in content["samples"]]
    assert names == ["answers"] * 2 + ["prompts"] * 2 + ["safety"] * 2
    assert [s["reference"] for s in content["samples"]] == ["Rest."] * 2 + [None] * 4
    assert all(s["answer"] and s["baseline_answer"] for s in content["samples"][:4])
