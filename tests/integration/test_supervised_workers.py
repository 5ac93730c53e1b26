"""One worker or two, plain or under DeepSpeed's ZeRO: the same losses."""

from __future__ import annotations

from pathlib import Path

import pytest

from medrl.config.base import build_config
from medrl.config.supervised import DpoConfig, RewardConfig, SftConfig
from tests.integration.supervised import LORA, conversations, metrics, pairs, save_base, values, write

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base") / "policy")


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_one_and_two_workers_have_one_loss_curve(ray_cluster, base: Path, tmp_path: Path, lora: dict | None) -> None:
    from medrl.stages.sft import run_sft

    data = {"train": write(tmp_path / "train.jsonl", conversations(24)),
            "eval": write(tmp_path / "eval.jsonl", conversations(5))}

    def curve(workers: int, micro_batch_size: int) -> list[float]:
        report = run_sft(build_config(SftConfig, values(
            tmp_path, base, f"sft{workers}", data, lora, scaling={"workers": workers},
            training={"epochs": 2.0, "micro_batch_size": micro_batch_size, "lr": 1e-3})))
        return [row[key] for row in metrics(report) for key in ("loss", "grad_norm")] + [report["eval_loss"]]

    assert curve(2, 2) == pytest.approx(curve(1, 8), rel=1e-4)


@pytest.mark.parametrize(("stage", "zero_stages"), [("sft", (0, 1, 2)), ("reward", (2,)), ("dpo", (2,))])
def test_sharded_optimizers_have_the_loss_curve_of_plain_workers(
        ray_cluster, base: Path, tmp_path: Path, stage: str, zero_stages: tuple[int, ...]) -> None:
    from medrl.stages.dpo import run_dpo
    from medrl.stages.reward import run_reward
    from medrl.stages.sft import run_sft

    kind, run = {"sft": (SftConfig, run_sft), "reward": (RewardConfig, run_reward), "dpo": (DpoConfig, run_dpo)}[stage]
    rows = {"train": conversations(16), "eval": conversations(5)} if stage == "sft" else {
        "train": pairs(16), "eval": pairs(21)[16:]}
    data = {name: write(tmp_path / f"{name}.jsonl", part) for name, part in rows.items()}

    def curve(zero_stage: int | None) -> list[float]:
        training = {"epochs": 2.0, "micro_batch_size": 2, "lr": 1e-3, "eval_every": 2, "zero_stage": zero_stage}
        report = run(build_config(kind, values(
            tmp_path, base, f"{stage}-{zero_stage}", data, LORA, training=training, scaling={"workers": 2})))
        return [row[key] for row in metrics(report) for key in ("loss", "eval_loss") if key in row]

    plain = curve(None)
    for zero_stage in zero_stages:
        assert curve(zero_stage) == pytest.approx(plain, rel=1e-4), zero_stage
