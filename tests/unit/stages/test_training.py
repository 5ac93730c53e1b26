"""Held-out evaluation in training, the best weights, and exact resume: every supervised stage, in one process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from medrl.config.base import build_config
from medrl.config.common import SupervisedConfig
from medrl.config.supervised import DpoConfig, PretrainConfig, RewardConfig, SftConfig
from medrl.data.tables import pair_rows
from medrl.errors import CheckpointError, TrainingError
from medrl.lora.reference import ReferenceSpec
from medrl.models.loading import load_tokenizer
from medrl.stages import dpo, pretrain, reward, sft
from medrl.workers.supervised import Job
from tests.tiny import TEXT

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("one_rank")]
LORA = {"rank": 4, "alpha": 8.0}
CONFIGS: dict[str, type[SupervisedConfig]] = {
    "pretrain": PretrainConfig, "sft": SftConfig, "reward": RewardConfig, "dpo": DpoConfig}
LOOPS: dict[str, Callable[[Job, dict], dict[str, Any]]] = {
    "pretrain": pretrain._train, "sft": sft._train, "reward": reward._train,
    "dpo": partial(dpo._train, reference=ReferenceSpec("base"))}
CASES = [("pretrain", None), ("sft", LORA), ("reward", LORA), ("dpo", LORA), ("dpo", None)]
IDS = ["pretrain", "sft", "reward", "dpo", "dpo-full"]


def job(stage: str, base: Path, folder: Path, lora: dict | None, every: int | None = None, **training) -> Job:
    training = {"batch_size": 4, "micro_batch_size": 2, "max_length": 64, "lr": 1e-2, "epochs": 3.0} | training
    values = {"name": stage, "model": {"path": str(base)}, "lora": lora, "data": {"train": "a", "eval": "b"},
              "training": training, "checkpoint": {"every": every, "keep_last": 9}}
    folder.mkdir(exist_ok=True)
    return Job(stage, build_config(CONFIGS[stage], values), folder)


def tables(stage: str, own: Job, folder: Path, against: int = 0) -> dict:
    """Twelve rows to train on, and four held out, of which the first `against` are the worse for it."""
    tokenizer, found = load_tokenizer(own.config.model), {}
    for name, count in {"train": 12, "eval": 4}.items():
        rows = []
        for i in range(count):
            worse = name == "eval" and i < against
            answer = TEXT[1] if worse else "Rest. " * (1 + i % 3)
            sides = ["See a doctor. " * (1 + i % 3), "Never mind."]
            chosen, rejected = sides[::-1] if worse else sides
            rows.append({"pretrain": {"text": f"{i}: {answer}"},
                         "sft": {"prompt": f"What ({i})?", "response": answer}}.get(
                stage, {"prompt": f"What ({i})?", "chosen": chosen, "rejected": rejected}))
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        make = {"pretrain": pretrain.text_rows, "sft": sft.conversation_rows}.get(stage, pair_rows)
        found[name] = make(tokenizer, str(path), 24 if stage == "pretrain" else 64).table
    return found


def rows_of(own: Job) -> tuple[list[dict], list[dict]]:
    """Rows with a loss, and rows with one on held-out data, of metrics.jsonl, without what a clock gave."""
    rows = [json.loads(line) for line in own.metrics.read_text().splitlines()]
    for row in rows:
        for clock in ("seconds", "eval_seconds", "wall_time"):
            row.pop(clock, None)
    return [row for row in rows if "loss" in row], [row for row in rows if "eval_loss" in row]


@pytest.mark.parametrize(("stage", "lora"), CASES, ids=IDS)
def test_a_run_that_broke_off_goes_on_as_if_it_had_not(stage: str, lora, base: Path, tmp_path: Path) -> None:
    noise = {"neftune_alpha": 5.0} if stage == "sft" else {}
    own = job(stage, base, tmp_path / "run", lora, every=2, eval_every=1, **noise)
    data = tables(stage, own, tmp_path)
    whole = LOOPS[stage](own, data)
    steps, evaluations = rows_of(own)
    weights = load_file(own.model / "model.safetensors")
    saved = sorted(path.name for path in own.checkpoints.iterdir())
    assert len(steps) == len(evaluations) - 1 == whole["steps"] >= 6 and saved[:2] == ["step-000002", "step-000004"]
    for name in saved[1:]:
        shutil.rmtree(own.checkpoints / name)
    again = LOOPS[stage](own, data)
    times = {"train_seconds": 0, "merge": None}
    assert again | times == whole | times
    assert rows_of(own) == (steps, evaluations)
    assert all(tensor.equal(weights[name]) for name, tensor in load_file(own.model / "model.safetensors").items())


@pytest.mark.parametrize(("stage", "lora"), CASES, ids=IDS)
def test_the_best_weights_are_saved_and_patience_ends_the_run(stage: str, lora, base: Path, tmp_path: Path) -> None:
    own = job(stage, base, tmp_path / "run", lora, eval_every=2, patience=2, epochs=40.0, schedule="constant")
    outcome = LOOPS[stage](own, tables(stage, own, tmp_path, against=1))
    _, evaluations = rows_of(own)
    losses = [row["eval_loss"] for row in evaluations]
    best = losses.index(min(losses))
    assert [row["step"] for row in evaluations] == list(range(0, outcome["steps"] + 1, 2))
    assert len(losses) == best + 3 and outcome["steps"] < 120
    assert outcome["best_step"] == 2 * best > 0 and outcome["eval_loss"] == pytest.approx(min(losses), rel=1e-4)
    assert not own.best.exists()


@pytest.mark.parametrize(("stage", "lora"), [("pretrain", None), ("dpo", LORA)], ids=["pretrain", "dpo"])
def test_a_run_that_makes_nothing_better_says_so(stage: str, lora, base: Path, tmp_path: Path) -> None:
    # The first step of the warm-up has no learning rate yet: its weights are the base's, and those after it are worse.
    own = job(stage, base, tmp_path / "run", lora, eval_every=1, patience=2, warmup_ratio=0.2, lr=1.0)
    with pytest.raises(TrainingError, match="training made nothing better") as error:
        LOOPS[stage](own, tables(stage, own, tmp_path, against=4))
    _, evaluations = rows_of(own)
    assert evaluations[0]["eval_loss"] == evaluations[1]["eval_loss"] < evaluations[2]["eval_loss"]
    assert f"{evaluations[0]['eval_loss']:.6f}" in error.value.limit and "training.lr" in error.value.remedy
    assert not own.model.exists()


def first_losses(base: Path, folder: Path, **training) -> float:
    own = job("sft", base, folder, LORA, batch_size=12, micro_batch_size=12, max_steps=1,
              warmup_ratio=0.0, **training)
    return LOOPS["sft"](own, tables("sft", own, folder))["loss_first"]


def test_packed_rows_have_the_loss_of_the_rows_they_hold(base: Path, tmp_path: Path) -> None:
    plain, packed = first_losses(base, tmp_path / "a"), first_losses(base, tmp_path / "b", packing=True)
    assert packed == pytest.approx(plain, rel=1e-6)


def test_noise_on_the_embeddings_is_in_the_training_loss(base: Path, tmp_path: Path) -> None:
    plain, noisy = first_losses(base, tmp_path / "a"), first_losses(base, tmp_path / "b", neftune_alpha=100.0)
    assert abs(noisy - plain) > 1e-3


def test_a_checkpoint_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    own = job("sft", base, tmp_path / "run", LORA, every=2)
    data = tables("sft", own, tmp_path)
    LOOPS["sft"](own, data)
    other = job("sft", base, tmp_path / "run", LORA | {"rank": 2}, every=2)
    with pytest.raises(CheckpointError, match="holds other tensors than those that train"):
        LOOPS["sft"](other, data)
