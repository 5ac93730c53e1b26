"""pretrain, sft, reward and dpo on the real Ray Train and TRL, with a tiny model."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from medrl.config.base import build_config
from medrl.config.supervised import DpoConfig, PretrainConfig, RewardConfig, SftConfig
from medrl.errors import CheckpointError, TrainingError, WorkerError
from medrl.lora.identity import model_hash
from medrl.models.export import load_calibration
from tests.integration.supervised import LORA, conversations, metrics, pairs, save_base, values, write
from tests.tiny import TEXT

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "policy")


def answer_loss(model_dir: str, rows: list[dict]) -> float:
    """Mean negative log-prob of what the assistant says, end token included; written down without medrl."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir).eval(), AutoTokenizer.from_pretrained(model_dir)
    losses = []
    for row in rows:
        ids, learned = [], []
        for turn in row["messages"]:
            head = tokenizer.encode(f"<|im_start|>{turn['role']}\n", add_special_tokens=False)
            body = tokenizer.encode(turn["content"] + "<|im_end|>", add_special_tokens=False)
            tail = tokenizer.encode("\n", add_special_tokens=False)
            ids += head + body + tail
            learned += [False] * len(head) + [turn["role"] == "assistant"] * len(body) + [False] * len(tail)
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        losses += [-logprobs[i - 1, ids[i]].item() for i in range(1, len(ids)) if learned[i]]
    return float(np.mean(losses))


@pytest.fixture(scope="module")
def sft(ray_cluster, base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    from medrl.stages.sft import run_sft

    folder = tmp_path_factory.mktemp("sft")
    data = {"train": write(folder / "train.jsonl", conversations(8)),
            "eval": write(folder / "eval.jsonl", conversations(5))}
    config = values(folder, base, "sft", data, LORA, training={"epochs": 4.0, "eval_every": 2})
    return run_sft(build_config(SftConfig, config | {"tracking": ["console", "jsonl", "tensorboard", "mlflow"]}))


def test_sft_learns_and_hands_over_a_merged_model(sft: dict, base: Path) -> None:
    run = Path(sft["model"]).parent
    assert Path(sft["model"]) == run / "merged" and (run / "adapter/adapter_model.safetensors").is_file()
    assert json.loads((run / "report.json").read_text()) == sft and (run / "config.yaml").is_file()
    assert [row["step"] for row in metrics(sft)] == [0, 1, 2, 3, 4] and sft["steps"] == 4
    assert sft["loss_last"] < sft["loss_first"] - 0.1
    templates = [AutoTokenizer.from_pretrained(path).chat_template for path in (base, sft["model"], sft["adapter"])]
    assert templates[0] == templates[1] == templates[2]
    assert not (run / "ray_train").exists()


def test_only_assistant_tokens_enter_the_loss(sft: dict, base: Path) -> None:
    # All eight rows are one batch, in two micro-batches of different token counts: the first loss is the base model's.
    assert metrics(sft)[1]["loss"] == pytest.approx(answer_loss(str(base), conversations(8)), rel=1e-5)


def test_the_reported_loss_is_that_of_the_model_handed_over(sft: dict) -> None:
    assert sft["eval_loss"] == pytest.approx(answer_loss(sft["model"], conversations(5)), rel=1e-5)
    assert sft["eval_perplexity"] == pytest.approx(np.exp(sft["eval_loss"]))


def test_every_tracker_has_every_step_and_evaluation(sft: dict, base: Path) -> None:
    run, rows = Path(sft["model"]).parent, {row["step"]: row for row in metrics(sft)}
    assert [step for step, row in rows.items() if "eval_loss" in row] == [0, 2, 4]
    assert rows[0]["eval_loss"] == pytest.approx(answer_loss(str(base), conversations(5)), rel=1e-5)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    with sqlite3.connect(run.parent / "mlflow.db") as database:
        logged = database.execute("SELECT step, value FROM metrics WHERE key = ? ORDER BY step", ("loss",)).fetchall()
        held_out = database.execute("SELECT step, value FROM metrics WHERE key = 'eval_loss' ORDER BY step").fetchall()
        tags = dict(database.execute("SELECT key, value FROM tags").fetchall())
        params = dict(database.execute("SELECT key, value FROM params").fetchall())
        assert database.execute("SELECT name, status FROM runs").fetchall() == [("sft", "FINISHED")]
    assert logged == [(step, rows[step]["loss"]) for step in (1, 2, 3, 4)]
    assert held_out == [(step, rows[step]["eval_loss"]) for step in (0, 2, 4)]
    for key, points in (("loss", logged), ("eval_loss", held_out)):
        assert [(e.step, e.value) for e in events.Scalars(key)] == [(s, pytest.approx(v, rel=1e-6)) for s, v in points]
    assert tags["medrl.base_model.sha256"] == model_hash(base) and params["training.eval_every"] == "2"
    assert {"medrl.data.train.sha256", "medrl.data.eval.sha256", "medrl.version"} <= tags.keys()
    assert {path.name for path in (run.parent / "mlartifacts").rglob("*.*")} == {"config.yaml", "report.json"}


@pytest.fixture(scope="module")
def reward(ray_cluster, base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    from medrl.stages.reward import run_reward

    folder = tmp_path_factory.mktemp("reward")
    data = {"train": write(folder / "train.jsonl", pairs(48)), "eval": write(folder / "eval.jsonl", pairs(60)[48:]),
            "calibration": write(folder / "calibration.jsonl", conversations(7))}
    training = {"epochs": 4.0, "lr": 1e-2}
    return run_reward(build_config(RewardConfig, values(folder, base, "reward", data, LORA, training=training)))


def hf_scores(model_dir: str, texts: list[str]) -> list[float]:
    """Scores as transformers' own classifier gives them, in one padded batch."""
    model = AutoModelForSequenceClassification.from_pretrained(model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right", return_token_type_ids=False)
    with torch.no_grad():
        return model(**batch).logits.squeeze(1).tolist()


def test_the_reward_model_tells_separable_pairs_apart(reward: dict) -> None:
    assert reward["accuracy"] > 0.9 and reward["margin"] > 0 and reward["chosen_mean"] > reward["rejected_mean"]


def test_the_merged_reward_model_is_a_classifier_with_the_trained_head(reward: dict) -> None:
    texts = [f"<|im_start|>user\n{p['prompt']}<|im_end|>\n<|im_start|>assistant\n{p[side]}<|im_end|>"
             for side in ("chosen", "rejected") for p in pairs(60)[48:]]
    scores = np.array(hf_scores(reward["model"], texts))
    assert scores[:12].mean() == pytest.approx(reward["chosen_mean"], rel=1e-4)
    assert (scores[:12] - scores[12:]).mean() == pytest.approx(reward["margin"], rel=1e-4)


def test_calibration_is_the_spread_over_sft_answers(reward: dict) -> None:
    texts = []
    for row in conversations(7):
        *before, last = row["messages"]
        turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in before)
        texts.append(f"{turns}<|im_start|>assistant\n{last['content']}<|im_end|>")
    scores = hf_scores(reward["model"], texts)
    assert load_calibration(reward["model"]) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-4)
    assert load_calibration(reward["adapter"]) == load_calibration(reward["model"])


def test_dpo_on_two_workers_starts_at_its_reference_and_learns_to_prefer(
        ray_cluster, base: Path, tmp_path: Path) -> None:
    from medrl.stages.dpo import run_dpo

    data = {"train": write(tmp_path / "train.jsonl", pairs(32)), "eval": write(tmp_path / "eval.jsonl", pairs(41)[32:])}
    report = run_dpo(build_config(DpoConfig, values(
        tmp_path, base, "dpo", data, LORA, training={"epochs": 2.0, "lr": 1e-2}, scaling={"workers": 2})))
    assert report["loss_first"] == pytest.approx(math.log(2), rel=1e-6) and report["loss_last"] < report["loss_first"]
    assert report["accuracy"] == 1.0 and report["margin"] > 0
    assert Path(report["model"]) == tmp_path / "dpo/merged" and Path(report["adapter"]) == tmp_path / "dpo/adapter"


def test_full_pretraining_on_two_workers(ray_cluster, base: Path, tmp_path: Path) -> None:
    from medrl.stages.pretrain import run_pretrain

    (tmp_path / "train.txt").write_text("\n\n".join(TEXT * 4), encoding="utf-8")
    data = {"train": str(tmp_path / "train.txt"), "eval": str(tmp_path / "train.txt")}
    training = {"max_length": 32, "epochs": 3.0}
    report = run_pretrain(build_config(
        PretrainConfig, values(tmp_path, base, "pt", data, training=training, scaling={"workers": 2})))
    assert Path(report["model"]) == tmp_path / "pt/model" and report["adapter"] is None
    assert report["eval_loss"] < report["loss_first"] - 0.5
    trained = AutoModelForCausalLM.from_pretrained(report["model"])
    assert report["trained_parameters"] == sum(p.numel() for p in trained.parameters())


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_log(ray_cluster, base: Path, tmp_path: Path) -> None:
    from medrl.stages.sft import run_sft

    data = {"train": write(tmp_path / "train.jsonl", conversations(16))}
    config = values(tmp_path, base, "sft", data, training={"lr": 1e38, "epochs": 4.0, "warmup_ratio": 0.0})
    with pytest.raises(TrainingError, match=r"not finite at step \d") as error:
        run_sft(build_config(SftConfig, config))
    assert error.value.got in ("nan", "inf") and error.value.remedy
    assert (tmp_path / "sft/metrics.jsonl").read_text() and not (tmp_path / "sft/report.json").exists()


def test_launch_brings_back_rank_0s_result_and_says_when_a_worker_died(ray_cluster, tmp_path: Path) -> None:
    import pyarrow as pa

    from medrl.workers.capacity import RolePlan
    from medrl.workers.train import launch

    def double(job: int, tables: dict) -> dict:
        import torch.distributed as dist

        total = job * sum(tables["t"]["x"].to_pylist())
        return {"sum": total, "world": dist.get_world_size(), "threads": torch.get_num_threads()}

    def die(job: int, tables: dict) -> dict:
        os._exit(1)

    def run(loop, workers: int = 1) -> dict:
        plan = RolePlan("train", workers, 1.0, 0.0, 1, "PACK")
        return launch(loop, 2, {"t": pa.table({"x": [1, 2, 3]})}, plan, 0, tmp_path, lambda: None)

    assert run(double) == {"sum": 12, "world": 1, "threads": 1}
    with pytest.raises(WorkerError, match="a training worker died"):
        run(die)
    with pytest.raises(WorkerError, match=r"\(1000 CPU, 0 GPU\) asked"):
        run(double, workers=1000)


@pytest.fixture(scope="module")
def straight(ray_cluster, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[float], dict]:
    """Config values of an SFT run on two workers with checkpoints, its losses and its report."""
    from medrl.stages.sft import run_sft

    folder = tmp_path_factory.mktemp("straight")
    data = {"train": write(folder / "train.jsonl", conversations(24)),
            "eval": write(folder / "eval.jsonl", conversations(5))}
    config = values(folder, base, "straight", data, LORA, scaling={"workers": 2, "max_failures": 1}, training={
        "epochs": 4.0, "lr": 1e-3}) | {"checkpoint": {"every": 2, "keep_last": 2}}
    report = run_sft(build_config(SftConfig, config))
    return config, [row["loss"] for row in metrics(report)], report


def kill_a_worker(after: Path) -> threading.Thread:
    """A thread that kills one training worker, by its process id, as soon as `after` exists."""
    def wait_and_kill() -> None:
        while not after.exists():
            time.sleep(0.01)
        workers = [process for process in psutil.Process().children(recursive=True)
                   if "RayTrainWorker" in " ".join(process.cmdline())]
        workers[-1].kill()

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


def test_a_worker_that_dies_is_started_again_and_the_loss_curve_is_the_same(straight: tuple, capsys) -> None:
    from medrl.stages.sft import run_sft

    config, losses, report = straight
    killer = kill_a_worker(Path(config["output_dir"], "killed/checkpoints/step-000004"))
    again = run_sft(build_config(SftConfig, config | {"name": "killed"}))
    killer.join(1)
    assert "starting the workers again: 1 of 1 times" in capsys.readouterr().out
    assert [row["loss"] for row in metrics(again)] == pytest.approx(losses, rel=1e-4)
    assert again["eval_loss"] == pytest.approx(report["eval_loss"], rel=1e-4)
    assert again["tokens_seen"] == report["tokens_seen"]


def test_resume_goes_on_from_the_newest_checkpoint(straight: tuple, capsys) -> None:
    from medrl.stages.sft import run_sft

    config, losses, report = straight
    values = config | {"name": "broken", "scaling": config["scaling"] | {"max_failures": 0}}
    kill_a_worker(Path(config["output_dir"], "broken/checkpoints/step-000006"))
    with pytest.raises(WorkerError):
        run_sft(build_config(SftConfig, values))
    again = run_sft(build_config(SftConfig, values), resume=True)
    assert "continuing after step" in capsys.readouterr().out
    assert [row["loss"] for row in metrics(again)] == pytest.approx(losses, rel=1e-4)
    assert again["eval_loss"] == pytest.approx(report["eval_loss"], rel=1e-4)
    with pytest.raises(CheckpointError, match="another config"):
        run_sft(build_config(SftConfig, values | {"seed": 4}), resume=True)
